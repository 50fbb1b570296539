package loggregator

import (
	"context"
	"errors"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// ErrClosed is what a Router answers after Close, and the error that ends the
// sequences of its readers then.
var ErrClosed = errors.New("loggregator: router is closed")

// Options configure a Router. The zero value is useful.
type Options struct {
	// Budget in bytes for all records and their bookkeeping:
	// ringbuf.DefaultBudget (256 MiB) if zero, never less than ringbuf.MinBudget.
	Budget int64

	// MaxAge after which a record may go: one hour if zero.
	MaxAge time.Duration

	// Dir, if not empty, is a directory in which the rings are kept in files mapped
	// into memory, so that the hour outlives the process, killed or not. It is made
	// if it does not exist, and one process at a time can use it. See Open.
	Dir string
}

// Router keeps the recent records of every source and hands them to whoever
// wants them. It is an envelope.Writer and an envelope.Source, for any number of
// goroutines.
type Router struct {
	store  *ringbuf.Store
	maxAge time.Duration

	// mu guards what is known of sources and subscriptions. Publishing holds it
	// for reading; only a new source, a source that moves, and readers that come
	// or go hold it for writing.
	mu      sync.RWMutex
	sources map[string]*source
	subs    map[*subscription]struct{}
	wanted  map[key]map[*subscription]struct{} // by the narrowest thing each selector asks for
	groups  map[string]*group
	members uint64 // members of groups there have been
	closed  bool

	counts counts
	late   lateQueue

	ending chan struct{} // closed by Shutdown: readers end when they have read all
	done   chan struct{} // closed by Close: readers end at once
	gone   chan struct{} // closed when the last reader has gone after ending
	wg     sync.WaitGroup
}

// counts are the door's counters. They are ever growing numbers of records.
type counts struct {
	accepted, repeated, lost, marked      atomic.Uint64
	malformed, tooLarge, badSource, mixed atomic.Uint64
	noRoom, delivered, missed             atomic.Uint64

	lostFor [envelope.Reasons]atomic.Uint64
}

// New makes a Router and starts one goroutine that gives up what is too old and
// forgets sources that are empty; Close or Shutdown ends it.
//
// It panics if Options name a directory that cannot be used; Open says so.
// Without a directory nothing can go wrong.
func New(o *Options) *Router {
	r, err := Open(o)
	if err != nil {
		panic(err)
	}
	return r
}

// WriteBatch checks each record once, copies those that pass into their sources'
// rings, and wakes the readers that match. It does not wait for readers and does
// not block on I/O; ctx is not looked at.
//
// Records that fail the check are counted (Stats) and dropped one by one. What
// one WriteBatch brought of one source stays together and in order.
//
// A batch with a Stream is of one source; records of another one in it are
// refused. What was taken before is dropped, and numbers that are left out are
// told in the source's own stream.
func (r *Router) WriteBatch(_ context.Context, b envelope.Batch) error {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if r.closed {
		return ErrClosed
	}
	if src := r.alike(&b); src != nil {
		r.append(src, &b)
		return nil
	}
	w := inbound{r: r, batch: b, missed: b.Missed, upTo: b.First}
	number := b.First
	for rest := b.Records; len(rest) > 0; {
		size, count := w.alike(rest, number)
		if count == 0 {
			e, tail, err := envelope.Next(rest)
			if err != nil {
				r.counts.malformed.Add(1)
				break
			}
			size, count = len(rest)-len(tail), 1
			route, err := e.Check(w.tags)
			if err != nil {
				r.refuse(err)
				w.flush()
			} else {
				w.add(rest[:size], e, number, &route)
			}
		}
		number += uint64(count)
		rest = rest[size:]
	}
	w.flush()
	if w.missed > 0 { // nothing arrived that would say of which source they were
		r.lost(w.missed, b.Reason)
	}
	return nil
}

// alike is the source of all records of the batch, if that can be told at a
// glance: nobody has numbered them, and they say what their source always says.
// Nearly all that a program's own emitter brings is so, a record at a time, and
// taking a third off it is worth a way of its own.
func (r *Router) alike(b *envelope.Batch) *source {
	if b.Stream != 0 {
		return nil
	}
	e, _, _ := envelope.Next(b.Records)
	src := r.sources[string(e.PeekSourceID())]
	if src == nil {
		return nil
	}
	if size, count := src.place.Load().fixed.Run(b.Records); size < len(b.Records) || count != b.Count {
		return nil
	}
	return src
}

// lost counts records that never came.
func (r *Router) lost(n uint64, why envelope.Reason) {
	r.counts.lost.Add(n)
	r.counts.lostFor[min(why, envelope.Reasons-1)].Add(n)
}

func (r *Router) refuse(err error) {
	switch {
	case errors.Is(err, envelope.ErrTooLarge):
		r.counts.tooLarge.Add(1)
	case errors.Is(err, envelope.ErrSourceID):
		r.counts.badSource.Add(1)
	default:
		r.counts.malformed.Add(1)
	}
}

// inbound is a batch on its way in. It gathers records of one source that follow
// each other, so that each ring is locked once for them.
type inbound struct {
	r      *Router
	batch  envelope.Batch
	missed uint64
	upTo   uint64  // number after the last record that was appended
	owner  *source // of the first records of a numbered batch

	src  *source // of the record that was looked at last, as far as known
	tags []byte  // that a record of it had, or is expected to have

	group   *source // of the records gathered, as far as known
	id      []byte  // their source id
	records []byte
	count   int
	first   uint64
	fixed   envelope.Fixed // what the last of them says beside time and text; nil: not known
	last    []byte         // the last one that was checked; nil: group knows what they say
	route   envelope.Route // of that one
}

// alike takes the records that say the same as the one before them, or as their
// source is known to say: those need no check. If there are none, w knows then
// what the next record most likely is.
func (w *inbound) alike(rest []byte, number uint64) (size, count int) {
	if size, count = w.fixed.Run(rest); count > 0 {
		w.gather(rest[:size], count, number, w.id)
		return size, count
	}
	e, _, _ := envelope.Next(rest)
	id := e.PeekSourceID()
	if w.src == nil || string(id) != w.src.id {
		if w.src, w.tags = w.r.sources[string(id)], nil; w.src != nil {
			w.tags = w.src.place.Load().tags
		}
	}
	if w.src == nil {
		return 0, 0
	}
	fixed := w.src.place.Load().fixed
	if size, count = fixed.Run(rest); count > 0 && w.gather(rest[:size], count, number, id) {
		w.fixed = fixed
	}
	return size, count
}

// add takes a record that passed the check.
func (w *inbound) add(record []byte, e envelope.Envelope, number uint64, route *envelope.Route) {
	w.tags = route.Tags
	if w.gather(record, 1, number, route.SourceID) {
		w.last, w.route, w.fixed = record, *route, envelope.FixedOf(e, route)
	}
}

// gather puts records of one source to those before them. It reports false if
// they are refused, and counted.
func (w *inbound) gather(records []byte, count int, number uint64, id []byte) bool {
	if w.count > 0 && string(w.id) == string(id) {
		w.records = w.records[:len(w.records)+len(records)] // they lie next to each other
		w.count += count
		return true
	}
	w.flush()
	if w.owner != nil && w.owner.id != string(id) {
		w.r.counts.mixed.Add(uint64(count))
		return false
	}
	w.group, w.id, w.records, w.count, w.first, w.last = w.src, id, records, count, number, nil
	return true
}

// flush appends what was gathered.
func (w *inbound) flush() {
	if w.count == 0 {
		return
	}
	count, src := w.count, w.group
	w.count, w.fixed = 0, nil
	if w.last != nil {
		src = w.r.sourceOf(src, &w.route, w.last)
	}
	if src == nil {
		w.r.counts.noRoom.Add(uint64(count))
		return
	}
	b := envelope.Batch{Records: w.records, Count: count, Missed: w.missed, Reason: w.batch.Reason}
	if w.batch.Stream != 0 {
		w.owner = src
		b.Stream, b.First, b.Next, b.From = w.batch.Stream, w.first, w.first+uint64(count), w.batch.From
		b.Begin, b.Told = w.batch.Begin, w.batch.Told
		b.Ring, b.Position = w.batch.Ring, w.batch.Position-(w.batch.Next-b.Next)
		if refused := w.first - w.upTo; refused > 0 { // those just before
			if b.Missed == 0 {
				b.Reason = envelope.ReasonRefused
			}
			b.Missed += refused
		}
		w.upTo = b.Next
	}
	w.r.append(src, &b)
	w.missed, w.batch.Reason, w.batch.From, w.batch.Begin, w.batch.Told = 0, 0, 0, 0, 0
}

// append puts records of a source into its ring, and wakes its readers.
func (r *Router) append(src *source, b *envelope.Batch) {
	done := src.ring.Append(*b, src)
	c := &r.counts
	c.accepted.Add(done.Accepted)
	if done != (ringbuf.Appended{Accepted: done.Accepted}) {
		c.repeated.Add(done.Repeated)
		c.noRoom.Add(done.Refused)
		c.marked.Add(done.Marked)
		if done.Lost > 0 {
			why := envelope.ReasonUnknown // of those that nobody spoke of
			if b.Missed == 0 {
				why = b.Reason
			}
			r.lost(done.Said, b.Reason)
			r.lost(done.Lost-done.Said, why)
		}
	}
	src.notify()
}

// sourceOf finds or makes the source of a record, and takes note of what its tags
// say. guess is the source, or another one, or nil. The caller holds r.mu for
// reading, which is let go for a moment where something is new. Nil means that
// there is no room for one more source.
func (r *Router) sourceOf(guess *source, route *envelope.Route, record []byte) *source {
	src := guess
	if src == nil || src.id != string(route.SourceID) {
		src = r.sources[string(route.SourceID)]
	}
	if src != nil && src.knows(route, record) {
		return src
	}
	r.mu.RUnlock()
	defer r.mu.RLock()
	return r.learn(string(route.SourceID), route, record)
}

// learn makes a source, or takes note of where it belongs now.
func (r *Router) learn(id string, route *envelope.Route, record []byte) *source {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	src := r.sources[id]
	if src == nil {
		for r.store.Full() {
			empty, ok := r.store.Empty().(*source)
			if !ok {
				return nil
			}
			r.forget(empty)
		}
		src = &source{r: r, id: id}
		ring, err := r.store.NewRing(id, src)
		if err != nil {
			return nil
		}
		src.ring = ring
		r.sources[id] = src
		r.place(src, placeOf(place{}, record), route, record)
		return src
	}
	r.place(src, placeOf(src.place.Load().place, record), route, record)
	return src
}

// housekeeping gives up what is too old and wakes the readers of sources that
// have many.
func (r *Router) housekeeping() {
	tick := time.NewTicker(min(max(r.maxAge/64, 100*time.Millisecond), 30*time.Second))
	defer tick.Stop()
	rest := time.NewTimer(0)
	defer rest.Stop()
	wake := r.late.wake
	for {
		select {
		case <-wake:
			r.late.deliver()
			rest.Reset(lateRest)
			wake = nil
		case <-rest.C:
			wake = r.late.wake
		case now := <-tick.C:
			r.store.Trim(now)
			r.forgetIdle(now)
		case <-r.done:
			return
		}
	}
}

// forgetIdle forgets sources whose records have all gone and who have said
// nothing since for as long again.
func (r *Router) forgetIdle(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for src := range maps.Values(r.sources) {
		if first, next := src.ring.Bounds(); first != next {
			src.emptySince = time.Time{}
		} else if src.emptySince.IsZero() {
			src.emptySince = now
		} else if now.Sub(src.emptySince) >= r.maxAge {
			r.forget(src)
		}
	}
}

// Known reports whether there is a source that any of the selectors describes.
func (r *Router) Known(sel []envelope.Selector) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for i := range sel {
		if id := sel[i].SourceID; id != "" {
			if src := r.sources[id]; src != nil && src.place.Load().matches(id, &sel[i]) {
				return true
			}
			continue
		}
		for id, src := range r.sources {
			if src.place.Load().matches(id, &sel[i]) {
				return true
			}
		}
	}
	return false
}

// Stats are a Router's figures. All but the last group only grow, and count
// records unless they say otherwise.
//
// At the door, what came is Accepted, Repeated, or refused for one of the five
// reasons. Of what was accepted, the Marked lines that tell of Lost ones, and what
// was Recovered, Evicted, Expired and Released are gone and Held are there.
type Stats struct {
	Accepted uint64 // copied into a ring
	Repeated uint64 // had been accepted before; dropped
	Lost     uint64 // never came, by their maker's numbers
	Marked   uint64 // lines added that tell of Lost ones

	LostFor [envelope.Reasons]uint64 // Lost, by envelope.Reason

	Malformed   uint64 // refused: not an envelope
	TooLarge    uint64 // refused: above envelope.MaxSize
	BadSourceID uint64 // refused: source id missing, too long or unprintable
	MixedSource uint64 // refused: of another source than its numbered batch
	NoRoom      uint64 // refused: larger than the budget takes, or too many sources

	Evicted uint64 // given up for the budget
	Expired uint64 // given up for their age

	Released uint64 // given up by Release

	Recovered uint64 // found in the directory when it was opened
	DirErrors uint64 // writes to the directory that failed: it will not be whole

	Delivered uint64 // handed to readers, each reader counted
	Missed    uint64 // told to readers as missed, each reader counted

	Held    uint64 // records in the rings now
	Bytes   int64  // their size
	Used    int64  // bytes of the budget that are taken
	Budget  int64
	Sources int
	Readers int // sequences of Batches being ranged over
}

// Stats returns the figures.
func (r *Router) Stats() Stats {
	s := r.store.Stats()
	c := &r.counts
	r.mu.RLock()
	sources, readers := len(r.sources), len(r.subs)
	r.mu.RUnlock()
	var lostFor [envelope.Reasons]uint64
	for why := range lostFor {
		lostFor[why] = c.lostFor[why].Load()
	}
	return Stats{
		LostFor:  lostFor,
		Accepted: c.accepted.Load(), Repeated: c.repeated.Load(), Lost: c.lost.Load(), Marked: c.marked.Load(),
		Malformed: c.malformed.Load(), TooLarge: c.tooLarge.Load(), BadSourceID: c.badSource.Load(),
		MixedSource: c.mixed.Load(), NoRoom: c.noRoom.Load(),
		Evicted: s.Evicted, Expired: s.Expired, Released: s.Released, Recovered: s.Recovered, DirErrors: s.Failed,
		Delivered: c.delivered.Load(), Missed: c.missed.Load(),
		Held: s.Records, Bytes: s.Bytes, Used: s.Used, Budget: s.Budget, Sources: sources, Readers: readers,
	}
}

// Shutdown takes no more batches, lets readers read what there is, which ends
// their sequences with ErrClosed, and closes. If ctx ends first, what readers
// have not read is lost to them, and ctx's error is returned.
func (r *Router) Shutdown(ctx context.Context) error {
	r.mu.Lock()
	if !r.closed {
		r.end()
	}
	r.mu.Unlock()
	var err error
	select {
	case <-r.gone:
	case <-r.done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	return errors.Join(err, r.Close())
}

// end takes no more batches. The caller holds r.mu, so none is under way.
func (r *Router) end() {
	r.closed = true
	r.late.deliver()
	close(r.ending)
	for s := range r.subs {
		if s.onNews != nil {
			s.onNews()
		}
	}
	if len(r.subs) == 0 {
		close(r.gone)
	}
}

// Close ends all readers at once, with ErrClosed, and gives the memory back. It
// may be called more than once.
func (r *Router) Close() error {
	r.mu.Lock()
	if !r.closed {
		r.end()
	}
	select {
	case <-r.done:
	default:
		close(r.done)
	}
	r.mu.Unlock()
	r.wg.Wait()
	return r.store.Close()
}
