package loggregator

import (
	"context"
	"iter"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// subscription is one sequence of Batches being ranged over: a set of feeds, one
// for each source it follows, of which those with news are queued.
//
// All of it but the queue belongs to the goroutine that ranges.
type subscription struct {
	r *Router
	q envelope.Query

	feeds map[*source]*feed // guarded by Router.mu

	group  *group // that shares the sources; nil: none
	member uint64 // number of this member

	onNews func() // of one that sleeps: called instead of queueing

	mu    sync.Mutex
	queue []*feed
	wake  chan struct{} // capacity 1
	taken time.Time     // when it was last, for Query.Gather
	lags  bool          // as much is left of a source as was read: nothing need gather

	markID  envelope.StreamID // which rings were there at the start
	markAt  uint64
	foreign bool // the cursor is of another process, and says nothing of the makers of records
}

// feed is one source as one subscription reads it.
type feed struct {
	sub    *subscription
	src    *source
	slot   int // in source.feeds
	at     ringbuf.Reader
	until  atomic.Uint64 // position at which this feed ends: its source moved away or is gone
	limit  uint64        // position up to which to read for now
	moving atomic.Bool   // to another member of the group
	gone   bool          // has moved there; may still be queued
	queued bool          // guarded by subscription.mu

	filter []envelope.Selector // a record must match one of these; nil: all do

	// A feed that resumes in another ring than it began in starts at the oldest
	// record and leaves out, for each maker, what the cursor has seen.
	resumed map[envelope.StreamID]bool // makers whose place was found; nil: not resuming

	skipBefore int64 // leave out leading records with older timestamps; 0: none

	// Of a query by time: which timestamps, and the zones of the ring that may hold
	// some. nil: any other query.
	window *window
	zones  zones
	zone   int // the next of them
}

// Batches implements envelope.Source. A reader that does not keep up falls
// behind in the rings and is told what it missed; it slows down nobody. The
// sequence of a reader that follows ends with ctx's error or ErrClosed; that of
// one that does not ends without one.
//
// A reader that follows is first given empty batches by which it knows where it
// starts: one for the router and one for each source there is. From then on its
// cursor is whole. After what is there at the start, the one for the router comes
// once more.
func (r *Router) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		if q.MaxBytes <= 0 {
			q.MaxBytes = 64 << 10
		}
		if !q.Until.IsZero() {
			q.Follow = false
		}
		q.Cursor = q.Cursor.Clone() // its owner will move it on while we look things up
		s := &subscription{r: r, q: q, wake: make(chan struct{}, 1), feeds: make(map[*source]*feed)}
		feeds, err := s.open()
		if err != nil {
			yield(envelope.Batch{}, err)
			return
		}
		defer s.close()
		err = s.run(ctx, feeds, func(b envelope.Batch) bool {
			r.counts.delivered.Add(uint64(b.Count))
			r.counts.missed.Add(b.Missed)
			return yield(b, nil)
		})
		if err != nil && err != errStopped {
			yield(envelope.Batch{}, err)
		}
	}
}

// open registers the subscription and returns a feed for each source it selects
// now.
func (s *subscription) open() ([]*feed, error) {
	r := s.r
	if len(s.q.Cursor.Streams) == 0 && len(s.q.Cursor.Rings) > 0 {
		// One that has been here may have been elsewhere, too: a cursor keeps
		// the rings of all the servers, and all their lives, that it has read.
		s.foreign = true
		for id := range s.q.Cursor.Rings {
			if r.store.Owns(id) {
				s.foreign = false
				break
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, ErrClosed
	}
	s.markID, s.markAt = r.store.Mark()
	for i := range s.q.Select {
		k := keyOf(&s.q.Select[i])
		if r.wanted[k] == nil {
			r.wanted[k] = make(map[*subscription]struct{})
		}
		r.wanted[k][s] = struct{}{}
	}
	r.subs[s] = struct{}{}
	if s.q.Follow && s.q.Shard != "" && !r.join(s) {
		return nil, nil
	}
	var feeds []*feed
	for src := range r.candidates(s.q.Select) {
		if f := s.newFeed(src); f != nil {
			s.start(f)
			feeds = append(feeds, f)
			if s.q.Follow {
				s.feeds[src] = f
				src.attach(f)
			}
		}
	}
	return feeds, nil
}

// candidates yields each source that a selector may describe, once.
func (r *Router) candidates(sel []envelope.Selector) iter.Seq[*source] {
	return func(yield func(*source) bool) {
		for i := range sel {
			if sel[i].SourceID == "" {
				for _, src := range r.sources {
					if !yield(src) {
						return
					}
				}
				return
			}
		}
		seen := make(map[string]bool, len(sel))
		for i := range sel {
			id := sel[i].SourceID
			if src := r.sources[id]; src != nil && !seen[id] {
				seen[id] = true
				if !yield(src) {
					return
				}
			}
		}
	}
}

// close undoes open.
func (s *subscription) close() {
	r := s.r
	r.mu.Lock()
	defer r.mu.Unlock()
	for src, f := range s.feeds {
		src.detach(f)
	}
	if s.group != nil {
		r.leave(s)
	}
	for i := range s.q.Select {
		k := keyOf(&s.q.Select[i])
		delete(r.wanted[k], s)
		if len(r.wanted[k]) == 0 {
			delete(r.wanted, k)
		}
	}
	delete(r.subs, s)
	if r.closed && len(r.subs) == 0 {
		close(r.gone)
	}
}

// wants reports whether any selector describes the source.
func (s *subscription) wants(src *source) bool {
	p := src.place.Load()
	for i := range s.q.Select {
		if p.matches(src.id, &s.q.Select[i]) {
			return true
		}
	}
	return false
}

// newFeed makes a feed of src, or nil if no selector describes it or the query
// leaves it out. Its reader is not set.
func (s *subscription) newFeed(src *source) *feed {
	f := &feed{sub: s, src: src, limit: math.MaxUint64}
	f.until.Store(math.MaxUint64)
	p := src.place.Load()
	whole, wanted := false, false
	for i := range s.q.Select {
		sel := &s.q.Select[i]
		if !p.matches(src.id, sel) {
			continue
		}
		wanted = true
		if !sel.ByRecord() {
			whole = true
		}
		f.filter = append(f.filter, *sel)
	}
	if !wanted || s.q.Where != nil && !s.q.Where(src.id, src.ring.ID()) {
		return nil
	}
	if whole {
		f.filter = nil
	}
	return f
}

// follow adds a source that has appeared, or come to where the subscription
// looks, from position on. The caller holds r.mu.
func (s *subscription) follow(src *source, position uint64) {
	if !s.q.Follow || s.feeds[src] != nil || s.group != nil && s.group.owner(src) != s {
		return
	}
	f := s.newFeed(src)
	if f == nil {
		return
	}
	if s.q.Cursor.IsZero() {
		f.at = src.ring.Reader(position)
	} else {
		s.start(f)
	}
	s.feeds[src] = f
	src.attach(f)
	s.mark(f)
}

// start sets where a feed of a source that is already there begins. It is the
// place for a query that reads everything held, too, of which run then leaves
// out the beginning.
func (s *subscription) start(f *feed) {
	ring, q := f.src.ring, &s.q
	_, next := ring.Bounds()
	switch {
	case !q.Cursor.IsZero():
		if position, exact, ok := ring.Resume(q.Cursor.Rings); ok {
			f.at = ring.Reader(position)
			s.foreign = s.foreign || !exact
			return
		}
		if mark, ok := q.Cursor.Rings[s.markID]; ok && ring.NewerThan(mark) {
			f.at = ring.Reader(1) // all of it came while the reader was away
			return
		}
		f.at = ring.Reader(0)
		f.resumed = make(map[envelope.StreamID]bool)
		if !q.Since.IsZero() {
			f.at = ring.Reader(ring.Since(q.Since))
			f.skipBefore = q.Since.UnixNano()
		}
	case !q.Until.IsZero():
		f.at = ring.Reader(0)
	case q.Last > 0:
		f.at = ring.Reader(0)
		if f.filter == nil && next > uint64(q.Last) {
			f.at = ring.Reader(max(f.at.Position(), next-uint64(q.Last)))
		}
	case !q.Since.IsZero():
		f.at = ring.Reader(ring.Since(q.Since))
		f.skipBefore = q.Since.UnixNano()
	case q.History || !q.Follow:
		f.at = ring.Reader(0)
	default:
		f.at = ring.Reader(next)
	}
}

// mark queues a feed that has news. It is called by writers.
func (s *subscription) mark(f *feed) {
	if s.onNews != nil {
		s.onNews()
		return
	}
	s.mu.Lock()
	if f.queued {
		s.mu.Unlock()
		return
	}
	f.queued = true
	s.queue = append(s.queue, f)
	first := len(s.queue) == 1
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// take waits for feeds with news and returns all of them. The memory of spare is
// used for the next queue.
func (s *subscription) take(ctx context.Context, spare []*feed) ([]*feed, error) {
	ending := s.r.ending
	clear(spare)
	if s.q.Gather > 0 {
		defer func() { s.taken, s.lags = time.Now(), false }()
		// Meanwhile nobody who writes has to wake it, which is a system call of
		// some 5 µs in the middle of an application's log call.
		if rest := s.q.Gather - time.Since(s.taken); rest > 0 && !s.lags {
			timer := time.NewTimer(rest)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			case <-s.r.done:
			case <-ending:
			}
		}
	}
	for {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if s.closed() {
			return nil, ErrClosed
		}
		s.mu.Lock()
		if len(s.queue) > 0 {
			feeds := s.queue
			s.queue = spare[:0]
			for _, f := range feeds {
				f.queued = false
			}
			s.mu.Unlock()
			return feeds, nil
		}
		s.mu.Unlock()
		if ending == nil {
			return nil, ErrClosed
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
		case <-s.r.done:
		case <-ending:
			ending = nil // once more around: what was appended before is read first
		}
	}
}

func (s *subscription) closed() bool {
	select {
	case <-s.r.done:
		return true
	default:
		return false
	}
}

// bound is the position up to which to read.
func (f *feed) bound() uint64 { return min(f.limit, f.until.Load()) }
