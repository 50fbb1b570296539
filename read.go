package loggregator

import (
	"container/heap"
	"context"
	"errors"
	"math"
	"slices"
	"sync"

	"github.com/cloudfoundry/loggregator/envelope"
)

// errStopped means that the reader left its loop.
var errStopped = errors.New("stopped")

// buffers are what readers copy records into, while they have some.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// mergeMemory bounds what a reader that merges sources by time holds of all of
// them together, in bytes, as long as that leaves minMerge for each.
const (
	mergeMemory = 4 << 20
	minMerge    = 4 << 10
	maxMerge    = 64 // sources with news that a reader who follows merges at a time
)

func (s *subscription) run(ctx context.Context, feeds []*feed, yield func(envelope.Batch) bool) error {
	if s.q.Follow {
		if !yield(envelope.Batch{Ring: s.markID, Position: s.markAt}) {
			return errStopped
		}
		for _, f := range feeds {
			if !yield(envelope.Batch{Ring: f.src.ring.ID(), Position: f.at.Position()}) {
				return errStopped
			}
		}
	}
	if err := s.backlog(ctx, feeds, yield); err != nil || !s.q.Follow {
		return err
	}
	if !yield(envelope.Batch{Ring: s.markID, Position: s.markAt}) {
		return errStopped
	}
	for _, f := range feeds {
		s.mark(f) // what came since, and feeds that ended meanwhile
	}
	queue := feeds[:0:0]
	for {
		var err error
		if queue, err = s.take(ctx, queue); err != nil {
			return err
		}
		if s.q.ByTime && len(queue) > 1 {
			for chunk := range slices.Chunk(queue, maxMerge) {
				if err := s.merge(ctx, chunk, 0, yield); err != nil {
					return err
				}
			}
		} else {
			for _, f := range queue {
				if err := s.turn(f, yield); err != nil {
					return err
				}
			}
		}
		for _, f := range queue {
			if err := s.settle(f, yield); err != nil {
				return err
			}
		}
	}
}

// backlog yields what is there at the start.
func (s *subscription) backlog(ctx context.Context, feeds []*feed, yield func(envelope.Batch) bool) error {
	for _, f := range feeds {
		_, f.limit = f.src.ring.Bounds()
	}
	defer func() {
		for _, f := range feeds {
			f.limit = math.MaxUint64
		}
	}()
	skip := uint64(0)
	if !s.q.Until.IsZero() {
		if err := s.byTime(ctx, feeds); err != nil {
			return err
		}
	} else if s.q.Last > 0 && s.q.Cursor.IsZero() {
		skip = s.surplus(ctx, feeds)
	}
	if skip > 0 || s.q.ByTime && len(feeds) > 1 {
		return s.merge(ctx, feeds, skip, yield)
	}
	for _, f := range feeds {
		for more := true; more; {
			if err := ctx.Err(); err != nil {
				return err
			}
			if s.closed() {
				return ErrClosed
			}
			was := f.at.Position()
			if err := s.turn(f, yield); err != nil {
				return err
			}
			at := f.at.Position()
			more = at != was && at < f.bound()
		}
		if !s.q.Follow {
			if err := s.tellRest(f, yield); err != nil {
				return err
			}
		}
	}
	return nil
}

// surplus is how many of the records in reach are more than the query's Last.
func (s *subscription) surplus(ctx context.Context, feeds []*feed) uint64 {
	total := uint64(0)
	for _, f := range feeds {
		if f.filter == nil {
			total += f.bound() - min(f.at.Position(), f.bound())
			continue
		}
		total += s.rewind(ctx, f)
	}
	return total - min(total, uint64(s.q.Last))
}

// rewind moves a feed, of which a filter leaves records out, on to where the last
// ones begin that the query wants, or somewhat before, and returns how many it wants
// from there on. It looks back in steps that grow: the last hundred errors of a
// million lines are mostly near the end.
func (s *subscription) rewind(ctx context.Context, f *feed) (count uint64) {
	oldest, from := f.at.Position(), f.bound()
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for step := max(2*uint64(s.q.Last), 256); from > oldest && count < uint64(s.q.Last) && ctx.Err() == nil; step *= 2 {
		end := from
		from = max(oldest, end-min(end, step))
		for at := f.src.ring.Reader(from); at.Position() < end; {
			b := at.Read(sized(buf, s.q.MaxBytes))
			start := b.Position - uint64(b.Count)
			if b.Count == 0 || start >= end {
				break
			}
			b = first(b, int(min(uint64(b.Count), end-start)))
			f.keep(&b)
			count += uint64(b.Count)
		}
	}
	if from > oldest {
		f.at = f.src.ring.Reader(from)
	}
	return count
}

// sized is the first size bytes of buf's capacity, for which it grows if needed.
func sized(buf *[]byte, size int) []byte {
	if cap(*buf) < size {
		*buf = make([]byte, 0, size)
	}
	return (*buf)[:0:size]
}

// turn yields one batch of f, and queues f again if it has more.
func (s *subscription) turn(f *feed, yield func(envelope.Batch) bool) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	b, ok := s.read(f, sized(buf, s.q.MaxBytes))
	if !ok {
		return nil
	}
	count := uint64(b.Count)
	if f.filter != nil || f.window != nil {
		f.keep(&b)
	}
	if !yield(b) {
		return errStopped
	}
	if held, _ := f.at.Behind(); held > 0 && s.q.Follow {
		s.mark(f)
		s.lags = s.lags || held >= count
	}
	return nil
}

// read takes the next batch of f, from where and up to where the query wants it.
// It is false if there is nothing to tell.
func (s *subscription) read(f *feed, buf []byte) (envelope.Batch, bool) {
	if f.window != nil {
		f.seek()
	}
	from := f.at.Position()
	if from >= f.bound() || f.gone {
		return envelope.Batch{}, false
	}
	b := f.at.Read(buf)
	if b.Count == 0 {
		return envelope.Batch{}, false
	}
	// Only now: a source that moves away says so before its next record is there.
	until := f.bound()
	if b.Position > until {
		// Only at the very end of what was there at the start, or of what a
		// source said before it moved away.
		start := b.Position - uint64(b.Count)
		if start >= until && s.q.Follow && f.limit < f.until.Load() {
			// The rest of what was there has been given up. It is told with the
			// next record, which is there to be read next: alone, nobody would know
			// what source it is of.
			f.at = f.src.ring.Reader(from)
			return envelope.Batch{}, false
		}
		if start >= until { // the rest has been given up
			b.Missed = until - from
			b.Records, b.Count, b.Next, b.Stream = nil, 0, 0, 0
		} else {
			b = first(b, int(until-start))
		}
		b.Position = until
		f.at = f.src.ring.Reader(until)
	}
	if f.resumed != nil {
		s.resume(f, &b)
	}
	if f.resumed[b.Stream] {
		f.skipBefore = 0 // from here on all is new to the reader
	}
	if f.skipBefore != 0 {
		f.skipOld(&b)
	}
	if s.foreign {
		b.Reset, s.foreign = true, false
	}
	return b, true
}

// first is the first n records of b.
func first(b envelope.Batch, n int) envelope.Batch {
	if n >= b.Count {
		return b
	}
	rest := b.Records
	for range n {
		_, rest, _ = envelope.Next(rest)
	}
	b.Records = b.Records[:len(b.Records)-len(rest)]
	b.Position -= uint64(b.Count - n)
	b.Next -= uint64(b.Count - n)
	b.Count = n
	return b
}

// after is b without its first n records. What was missed before them stays
// with them.
func after(b envelope.Batch, n int) envelope.Batch {
	if n >= b.Count {
		b.Records, b.First, b.Count, b.Told = nil, b.Next, 0, 0
		return b
	}
	if n > 0 {
		b.Told = 0
	}
	for range n {
		_, b.Records, _ = envelope.Next(b.Records)
	}
	b.First += uint64(n)
	b.Count -= n
	return b
}

// resume leaves out what the cursor has seen, and counts what its reader has
// lost with the ring it came from.
func (s *subscription) resume(f *feed, b *envelope.Batch) {
	next, known := s.q.Cursor.Streams[b.Stream]
	if !known || f.resumed[b.Stream] {
		return
	}
	switch {
	case b.Next <= next:
		*b = after(*b, b.Count)
		return // the place is further on
	case b.First < next:
		*b = after(*b, int(next-b.First))
	case b.First > next:
		// The record just before this batch may tell of a part of the gap.
		b.Missed += b.First - next - min(b.Told, b.First-next)
	}
	f.resumed[b.Stream] = true
}

// skipOld leaves out the leading records that are older than what was asked for.
func (f *feed) skipOld(b *envelope.Batch) {
	n := 0
	for e, err := range b.All() {
		if err != nil {
			break
		}
		if r, err := e.Route(); err != nil || r.Timestamp >= f.skipBefore {
			f.skipBefore = 0
			break
		}
		n++
	}
	if n > 0 {
		*b = after(*b, n)
	}
	b.Missed = 0 // nobody asked for what came before
}

// keep moves the records that the filter wants together, in the batch's own
// memory, which is the reader's copy.
func (f *feed) keep(b *envelope.Batch) {
	kept, count := b.Records[:0], 0
	for rest := b.Records; len(rest) > 0; {
		e, tail, err := envelope.Next(rest)
		if err != nil {
			break
		}
		if route, err := e.Route(); err == nil && f.wants(e, &route) {
			kept = append(kept, rest[:len(rest)-len(tail)]...)
			count++
		}
		rest = tail
	}
	b.Records, b.Count = kept, count
}

func (f *feed) wants(e envelope.Envelope, route *envelope.Route) bool {
	if f.window != nil && !f.window.holds(route.Timestamp) {
		return false
	}
	if f.filter == nil {
		return true
	}
	for i := range f.filter {
		if f.filter[i].MatchRecord(e, route) {
			return true
		}
	}
	return false
}

// settle ends a feed whose source has gone or moved away.
func (s *subscription) settle(f *feed, yield func(envelope.Batch) bool) error {
	until := f.until.Load()
	if f.gone {
		return nil
	}
	if until == math.MaxUint64 {
		if f.moving.Load() {
			s.handOver(f)
		}
		return nil
	}
	if held, _ := f.at.Behind(); held > 0 && f.at.Position() < until {
		s.mark(f) // not read to its end yet
		return nil
	}
	if err := s.tellRest(f, yield); err != nil {
		return err
	}
	s.r.mu.Lock()
	defer s.r.mu.Unlock()
	if s.feeds[f.src] == f {
		f.src.detach(f)
		delete(s.feeds, f.src)
	}
	if s.wants(f.src) && s.r.sources[f.src.id] == f.src { // it came back meanwhile
		s.follow(f.src, until)
	}
	return nil
}

// tellRest tells what a feed that ends has missed at its end.
func (s *subscription) tellRest(f *feed, yield func(envelope.Batch) bool) error {
	until := f.bound()
	from := f.at.Position()
	if from >= until || until == math.MaxUint64 {
		return nil
	}
	b := envelope.Batch{Missed: until - from, Ring: f.src.ring.ID(), Position: until}
	f.at = f.src.ring.Reader(until)
	if !yield(b) {
		return errStopped
	}
	return nil
}

// merge yields what the feeds hold now, the oldest record first, leaving out the
// first skip records. Records of one source keep their order, whatever their
// timestamps.
func (s *subscription) merge(ctx context.Context, feeds []*feed, skip uint64, yield func(envelope.Batch) bool) error {
	size := min(s.q.MaxBytes, max(minMerge, mergeMemory/len(feeds)))
	var m merging
	for _, f := range feeds {
		_, next := f.src.ring.Bounds()
		h := &head{feed: f, end: min(next, f.bound()), buf: make([]byte, 0, size)}
		more, err := s.fill(h, yield)
		if err != nil {
			return err
		}
		if more {
			m = append(m, h)
		}
	}
	heap.Init(&m)
	for len(m) > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		if s.closed() {
			return ErrClosed
		}
		// As many records as come before every other source's next one.
		h := m[0]
		limit := int64(math.MaxInt64)
		for _, other := range m[1:min(3, len(m))] {
			limit = min(limit, other.time)
		}
		n, rest := 0, h.batch.Records
		for len(rest) > 0 && (n == 0 || h.time <= limit) {
			_, rest, _ = envelope.Next(rest)
			n++
			h.note(rest)
		}
		part := first(h.batch, n)
		h.batch.Missed, h.batch.Reset = 0, false
		covered := part.Count == h.batch.Count
		h.batch = after(h.batch, n)
		if h.feed.filter != nil || h.feed.window != nil {
			h.feed.keep(&part)
		}
		if k := min(skip, uint64(part.Count)); k > 0 {
			part = after(part, int(k))
			part.Missed = 0
			skip -= k
		}
		if !yield(part) {
			return errStopped
		}
		if covered {
			more, err := s.fill(h, yield)
			if err != nil {
				return err
			}
			if !more {
				heap.Pop(&m)
				continue
			}
		}
		heap.Fix(&m, 0)
	}
	for _, f := range feeds {
		if !s.q.Follow {
			if err := s.tellRest(f, yield); err != nil {
				return err
			}
		} else if held, _ := f.at.Behind(); held > 0 {
			s.mark(f)
		}
	}
	return nil
}

// head is a source in a merge: the batch it is at, and the time of its first
// record.
type head struct {
	feed  *feed
	end   uint64 // read up to here
	buf   []byte
	batch envelope.Batch
	time  int64
}

// fill reads on until there is a record. Batches of which the query wants none
// only move the position.
func (s *subscription) fill(h *head, yield func(envelope.Batch) bool) (bool, error) {
	for h.feed.at.Position() < h.end {
		b, ok := s.read(h.feed, h.buf)
		if !ok {
			return false, nil
		}
		if b.Count > 0 {
			h.batch = b
			h.note(b.Records)
			return true, nil
		}
		if !yield(b) {
			return false, errStopped
		}
	}
	return false, nil
}

// note reads the time of the first record.
func (h *head) note(records []byte) {
	if len(records) == 0 {
		return
	}
	e, _, err := envelope.Next(records)
	if err != nil {
		return
	}
	if r, err := e.Route(); err == nil {
		h.time = r.Timestamp
	}
}

// merging is a heap of sources by the time of their next record.
type merging []*head

func (m merging) Len() int           { return len(m) }
func (m merging) Less(i, j int) bool { return m[i].time < m[j].time }
func (m merging) Swap(i, j int)      { m[i], m[j] = m[j], m[i] }
func (m *merging) Push(x any)        { *m = append(*m, x.(*head)) }
func (m *merging) Pop() any {
	old := *m
	h := old[len(old)-1]
	*m = old[:len(old)-1]
	return h
}
