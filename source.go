package loggregator

import (
	"bytes"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// source is one application or component: its ring, where it belongs, and who
// follows it.
type source struct {
	r     *Router
	id    string
	ring  *ringbuf.Ring
	place atomic.Pointer[placed]
	times timeline
	// unseen counts records whose tags were not seen like this before, checked
	// those that were looked at at all.
	unseen, checked atomic.Uint64

	mu    sync.Mutex
	feeds []*feed
	many  atomic.Int32 // len(feeds), so that nobody's source costs no lock
	late  atomic.Bool  // is in the router's lateQueue

	emptySince time.Time // guarded by Router.mu
}

// place is where a source belongs, by its tags.
type place struct {
	app, appID, space, spaceID, org, orgID string
}

// placed is a place and encoded tags that say so.
type placed struct {
	place
	tags  []byte         // those that were seen first
	other [3][]byte      // an application's parts have different tags
	fixed envelope.Fixed // what a log says that needs no look; tags may be in it
}

// knows reports whether the record's tags say nothing new of the place. They are
// compared encoded, which costs a few nanoseconds. Only tags that were not seen
// like this before are read, and remembered, at the latest after a while: there
// are encoders that write a map in another order each time.
func (s *source) knows(route *envelope.Route, record []byte) bool {
	p := s.place.Load()
	if p.says(route) {
		// An instance that went is not the one to be known by for ever.
		if s.checked.Add(1)%1024 == 0 {
			q := *p
			q.fixed = fixedOf(route, record)
			s.place.CompareAndSwap(p, &q)
		}
		return true
	}
	if placeOf(p.place, record) != p.place {
		return false
	}
	if n := s.unseen.Add(1) - 1; !route.Scattered && (n < 3 || n%64 == 0) {
		q := *p
		q.other[(n+n/64)%3] = bytes.Clone(route.Tags)
		if s.place.CompareAndSwap(p, &q) {
			s.ring.Charge(q.size())
		}
	}
	return true
}

// says reports whether the tags are some that were seen here before.
func (p *placed) says(route *envelope.Route) bool {
	if route.Scattered {
		return false
	}
	if len(route.Tags) == 0 || bytes.Equal(route.Tags, p.tags) {
		return true
	}
	for _, t := range p.other {
		if bytes.Equal(route.Tags, t) {
			return true
		}
	}
	return false
}

// fixedOf is a copy of what a record says that was checked, if its like needs no
// check.
func fixedOf(route *envelope.Route, record []byte) envelope.Fixed {
	e, _, _ := envelope.Next(record)
	return bytes.Clone(envelope.FixedOf(e, route))
}

// placeOf reads a record's tags. What they don't say stays as it was in p: not
// every component knows everything about an application.
func placeOf(p place, record []byte) place {
	e, _, err := envelope.Next(record)
	if err != nil {
		return p
	}
	for k, v := range e.Tags() {
		var field *string
		switch string(k) {
		case envelope.TagAppName:
			field = &p.app
		case envelope.TagAppID:
			field = &p.appID
		case envelope.TagSpaceName:
			field = &p.space
		case envelope.TagSpaceID:
			field = &p.spaceID
		case envelope.TagOrgName:
			field = &p.org
		case envelope.TagOrgID:
			field = &p.orgID
		default:
			continue
		}
		if string(v) != *field && len(v) > 0 {
			*field = string(v)
		}
	}
	return p
}

// size is about how many bytes p takes beyond those that every source does.
func (p *placed) size() int {
	n := len(p.app) + len(p.appID) + len(p.space) + len(p.spaceID) + len(p.org) + len(p.orgID) + len(p.tags) + len(p.fixed)
	for _, t := range p.other {
		n += len(t)
	}
	return max(0, n-ordinaryPlace)
}

// ordinaryPlace is what the ring's own charge allows for, in bytes.
const ordinaryPlace = 400

// matches reports whether the selector describes this place, as far as it looks
// at sources.
func (p *place) matches(id string, s *envelope.Selector) bool {
	if s.IDs {
		return (s.SourceID == "" || s.SourceID == id) &&
			(s.App == "" || s.App == p.appID || p.appID == "" && s.App == id) &&
			(s.Space == "" || s.Space == p.spaceID) &&
			(s.Org == "" || s.Org == p.orgID)
	}
	return (s.SourceID == "" || s.SourceID == id) &&
		(s.App == "" || s.App == p.app || s.App == p.appID || p.app == "" && s.App == id) &&
		(s.Space == "" || s.Space == p.space || s.Space == p.spaceID) &&
		(s.Org == "" || s.Org == p.org || s.Org == p.orgID)
}

// key is one thing that selectors ask for, narrowest first.
type key struct {
	kind  uint8
	value string
}

const (
	bySource = iota
	byApp
	bySpace
	byOrg
	byAll
)

func keyOf(s *envelope.Selector) key {
	switch {
	case s.SourceID != "":
		return key{bySource, s.SourceID}
	case s.App != "":
		return key{byApp, s.App}
	case s.Space != "":
		return key{bySpace, s.Space}
	case s.Org != "":
		return key{byOrg, s.Org}
	}
	return key{byAll, ""}
}

// keys are those under which a selector of this place can be found.
func (p *place) keys(id string) [9]key {
	return [9]key{
		{bySource, id}, {byApp, id}, {byApp, p.app}, {byApp, p.appID},
		{bySpace, p.space}, {bySpace, p.spaceID}, {byOrg, p.org}, {byOrg, p.orgID}, {byAll, ""},
	}
}

// place notes where a source belongs. Readers it has left read up to here, and
// those it has come to from here. The caller holds r.mu.
func (r *Router) place(src *source, p place, route *envelope.Route, record []byte) {
	was := src.place.Load()
	now := &placed{place: p, fixed: fixedOf(route, record)}
	if i := bytes.Index(now.fixed, route.Tags); i >= 0 {
		now.tags = now.fixed[i : i+len(route.Tags) : i+len(route.Tags)]
	} else {
		now.tags = bytes.Clone(route.Tags)
	}
	src.place.Store(now)
	src.ring.Charge(now.size())
	if was != nil && was.place == p {
		return
	}
	_, next := src.ring.Bounds()
	src.mu.Lock()
	for _, f := range src.feeds {
		if was != nil && !f.sub.wants(src) {
			f.until.Store(next)
			f.sub.mark(f)
		}
	}
	src.mu.Unlock()
	for _, k := range p.keys(src.id) {
		for sub := range r.wanted[k] {
			sub.follow(src, next)
		}
	}
}

// forget drops an empty source. Readers that still have to be told of records
// they missed are told. The caller holds r.mu.
func (r *Router) forget(src *source) {
	if !src.ring.Remove() {
		return
	}
	delete(r.sources, src.id)
	_, next := src.ring.Bounds()
	src.mu.Lock()
	defer src.mu.Unlock()
	for _, f := range src.feeds {
		f.until.Store(next)
		f.sub.mark(f)
	}
}

// MarkMissed makes the line that tells of records lost on the way here.
func (s *source) MarkMissed(n uint64, why envelope.Reason, of envelope.Numbers) []byte {
	fixed := envelope.Identity{SourceID: s.id}.Encode()
	fixed = append(fixed, s.place.Load().tags...)
	if of.Stream != 0 {
		fixed = fixed.AppendTag(envelope.TagNumbers, of.String())
	}
	return envelope.AppendMissed(nil, fixed, time.Now().UnixNano(), n, why.String())
}

// manyFeeds is up to how many readers a writer wakes itself. It takes 50 ns for
// each; beyond that the router's own goroutine does it, once for all batches
// that have come meanwhile.
const manyFeeds = 16

// lateRest is for how long that goroutine then lets news gather: a thousand
// readers that wake for each batch of ten records take both of two cores at
// 60,000 records a second, and the writer waits for its turn.
const lateRest = time.Millisecond

// notify wakes the source's readers.
func (s *source) notify() {
	switch n := s.many.Load(); {
	case n == 0:
	case n <= manyFeeds:
		s.wake()
	case !s.late.Swap(true):
		s.r.late.put(s)
	}
}

func (s *source) wake() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.feeds {
		f.sub.mark(f)
	}
}

func (s *source) attach(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f.slot = len(s.feeds)
	s.feeds = append(s.feeds, f)
	s.many.Store(int32(len(s.feeds)))
}

func (s *source) detach(f *feed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := len(s.feeds) - 1
	s.feeds[f.slot] = s.feeds[last]
	s.feeds[f.slot].slot = f.slot
	s.feeds[last] = nil
	s.feeds = s.feeds[:last]
	s.many.Store(int32(last))
}

// lateQueue is the sources whose readers the router's goroutine is to wake. A
// source is in it at most once.
type lateQueue struct {
	mu      sync.Mutex
	sources []*source
	wake    chan struct{}
}

func (q *lateQueue) put(s *source) {
	q.mu.Lock()
	q.sources = append(q.sources, s)
	q.mu.Unlock()
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

func (q *lateQueue) deliver() {
	q.mu.Lock()
	sources := q.sources
	q.sources = nil
	q.mu.Unlock()
	for _, s := range sources {
		s.late.Store(false) // before, so that what is appended from now on comes again
		s.wake()
	}
}
