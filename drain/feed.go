package drain

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	chunkSize  = 64 << 10       // what one write carries, about
	chunkReady = 16 << 10       // what a write that follows another at once must have
	batchSize  = 32 << 10       // of records asked of the source
	agePeriod  = 72 * time.Hour // longer than a source holds records
)

// entry is a run of records of one ring on their way to the receiver: how many,
// and where in the ring to go back to if they don't arrive.
type entry struct {
	ring, stream envelope.StreamID
	start        uint64 // position of the ring before the run, and
	position     uint64 // after it
	next         uint64 // of the stream, after it

	records  uint64 // formatted, for the first time
	again    uint64 // formatted, and known delivered already
	filtered uint64
	refused  uint64
	missed   uint64
	resets   uint64

	lost *loss // what is missed, for those who are to be told of it
	told *gap  // in a message that is among the run's

	bytes   int
	end     uint64    // bytes written on the connection up to the end of the run
	oldest  int64     // timestamp of the first record
	settled time.Time // when it was known to be received
}

// chunk is what the next write carries.
type chunk struct {
	buf     []byte
	entries []entry
}

var chunks = sync.Pool{New: func() any { return new(chunk) }}

func (c *chunk) free() {
	if cap(c.buf) > 2*bodySize {
		c.buf = nil
	}
	c.buf, c.entries = c.buf[:0], c.entries[:0]
	chunks.Put(c)
}

// feed is the half of a drain that reads: it ranges over the source, formats
// into the current chunk, and waits while that is full. Batches are formatted
// whole and at once, so none of the source's memory is kept.
type feed struct {
	target *target
	format Formatter
	lease  *lease // of a drain that is shared
	opened time.Time
	full   int // bytes from which on a chunk takes no more batches

	ready chan struct{} // the chunk has something, or enough, for the writer
	space chan struct{} // the chunk was taken

	mu       sync.Mutex
	cur      *chunk                       // nil: empty
	counted  map[envelope.StreamID]uint64 // ring to the position up to which Stats know its records
	good     envelope.Cursor              // everything before it is known to be received
	pending  uint64                       // records rendered and not settled
	owed     uint64                       // records to be read again after going back
	previous int64                        // timestamp of the last record formatted
	untold   gap                          // of which the receiver was not told yet
	owe      gap                          // the same, as far as good has come, or what the lease has taken: for whoever goes on from there
	toldAt   time.Time                    // when it was told last
	away     bool                         // the receiver is not there, or does not take anything
	backAt   time.Time                    // when it came back last
	tell     bool                         // losses are told to applications, too

	// Owned by whoever runs the feed.
	read envelope.Cursor
	seen map[envelope.StreamID]uint32 // the age in which a ring or stream was seen last
	age  uint32
	aged time.Time // when it began
}

// run reads until the sequence ends, and gives the error that ended it.
func (f *feed) run(ctx context.Context, src envelope.Source, q envelope.Query) error {
	for b, err := range src.Batches(ctx, q) {
		if err != nil {
			return err
		}
		if !f.put(ctx, b) {
			return ctx.Err()
		}
		f.read.Advance(b)
		f.seen[b.Ring], f.seen[b.Stream] = f.age, f.age
		if now := time.Now(); now.Sub(f.aged) >= agePeriod {
			f.aged = now
			f.nextAge()
		}
	}
	return ctx.Err()
}

// nextAge forgets the positions of rings and streams of which nothing was heard
// for one to two periods: they are gone, and each source that comes back begins
// a new one. What would be lost by forgetting one that is not gone is that after
// a failure its records are sent again, if it still holds any.
func (f *feed) nextAge() {
	f.age++
	old := func(id envelope.StreamID, _ uint64) bool { return f.age-f.seen[id] >= 2 }
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, positions := range []map[envelope.StreamID]uint64{
		f.counted, f.good.Rings, f.good.Streams, f.read.Rings, f.read.Streams,
	} {
		maps.DeleteFunc(positions, old)
	}
	if f.lease != nil {
		maps.DeleteFunc(f.lease.taken.Rings, old)
		maps.DeleteFunc(f.lease.taken.Streams, old)
	}
	maps.DeleteFunc(f.seen, func(_ envelope.StreamID, age uint32) bool { return f.age-age >= 2 })
}

// put formats b; false means that ctx ended first and nothing of b was taken.
func (f *feed) put(ctx context.Context, b envelope.Batch) bool {
	for {
		f.mu.Lock()
		if f.cur == nil || len(f.cur.buf) < f.full && len(f.cur.entries) < maxEntries/4 {
			break
		}
		f.mu.Unlock()
		select {
		case <-f.space:
		case <-ctx.Done():
			return false
		}
	}
	if f.cur == nil {
		f.cur = chunks.Get().(*chunk)
	}
	c := f.cur
	wasEmpty, wasSmall := len(c.entries) == 0, len(c.buf) < chunkReady
	f.render(c, b)
	notify := wasEmpty || wasSmall && len(c.buf) >= chunkReady
	f.mu.Unlock()
	if notify {
		signal(f.ready)
	}
	return true
}

// render appends b to the chunk. Records at positions that were counted before
// are being sent again: they are formatted, but not counted twice.
func (f *feed) render(c *chunk, b envelope.Batch) {
	first := b.Position - min(b.Position, uint64(b.Count)) // position of the first record
	if b.Ring == b.Stream && b.Count > 0 {
		first = b.First // exact even where the query left records out
	}
	// What was missed was so in the ring, as its positions say, or before that, on
	// the way to it, as the numbers of its maker do.
	gone := first - min(first, max(f.read.Rings[b.Ring], 1))
	if gone = min(gone, b.Missed); b.Ring == 0 || b.Ring == b.Stream {
		gone = b.Missed
	}
	start := first - min(first, gone)
	again, astray := uint64(0), b.Missed-gone
	if known := f.counted[b.Ring]; b.Ring != 0 && known > 0 {
		if known > first {
			again, astray = min(known-first, uint64(b.Count)), 0
		}
		if known > start {
			gone -= min(gone, known-start)
		}
	}
	missed := gone + astray
	e := entry{
		ring: b.Ring, stream: b.Stream, position: b.Position, next: b.Next,
		start:  start,
		missed: missed,
	}
	if b.Reset {
		e.resets = 1
	}
	if _, ok := f.good.Rings[b.Ring]; !ok && b.Ring != 0 {
		// Where a ring begins is part of the cursor from now on: one that names
		// only some rings would be that of a reader who has not seen the others.
		if f.good.Rings == nil {
			f.good.Rings = make(map[envelope.StreamID]uint64)
		}
		f.good.Rings[b.Ring] = e.start
	}
	if f.lease != nil && b.Ring != 0 {
		f.take0(b.Ring, e.start)
	}
	lost := missed > 0 || b.Reset
	c.buf = slices.Grow(c.buf, len(b.Records)+len(b.Records)/4) // messages are about as long as records
	before := len(c.buf)
	var n uint64
	for env, err := range b.All() {
		if err != nil {
			break
		}
		known := n < again
		n++
		r, err := env.Route()
		if lost && err == nil {
			lost = false
			f.lose(&e, missed, b.Reset, b.Reason, &r)
		}
		if e.oldest == 0 {
			e.oldest = r.Timestamp
		}
		if err != nil || !f.target.filter.wants(env, &r) {
			if !known {
				e.filtered++
			}
			continue
		}
		if f.untold.any() {
			c.buf = f.tellGap(c.buf, &e, f.format.prepare(env, &r))
		}
		if f.target.numbers && b.Next == b.First+uint64(b.Count) {
			f.format.stream, f.format.number = uint64(b.Stream), b.First+n-1
		}
		c.buf = f.format.append(c.buf, env, &r)
		f.previous = r.Timestamp
		if known {
			e.again++
		} else {
			e.records++
		}
	}
	f.format.stream = 0
	if rest := uint64(b.Count) - min(n, uint64(b.Count)); rest > 0 { // a source that hands out torn batches
		e.missed += rest
		f.lose(&e, rest, false, 0, nil)
	}
	if lost {
		f.lose(&e, missed, b.Reset, b.Reason, nil)
	}
	if f.untold.any() {
		c.buf = f.tellGap(c.buf, &e, nil)
	}
	e.bytes = len(c.buf) - before
	f.pending += e.records + e.filtered
	f.owed -= min(f.owed, e.records+e.missed)
	c.add(e)
}

// add puts e at the end, into the last entry if it continues that.
func (c *chunk) add(e entry) {
	if n := len(c.entries); n > 0 {
		last := &c.entries[n-1]
		if last.ring == e.ring && last.stream == e.stream && last.position == e.start && e.lost == nil && e.told == nil {
			last.position, last.next = e.position, e.next
			last.records += e.records
			last.again += e.again
			last.filtered += e.filtered
			last.missed += e.missed
			last.resets += e.resets
			last.bytes += e.bytes
			return
		}
	}
	c.entries = append(c.entries, e)
}

// take gives the chunk to the writer; nil if there is nothing.
func (f *feed) take() *chunk {
	f.mu.Lock()
	c := f.cur
	f.cur = nil
	f.mu.Unlock()
	if c != nil {
		signal(f.space)
	}
	return c
}

// takeEmpty is take if the chunk has no bytes, for when there is no connection.
func (f *feed) takeEmpty() *chunk {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.cur
	if c == nil || len(c.buf) > 0 {
		return nil
	}
	f.cur = nil
	signal(f.space)
	return c
}

// size is how many bytes wait to be taken, and whether anything does: entries
// that were filtered whole have none.
func (f *feed) size() (n int, any bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cur == nil {
		return 0, false
	}
	return len(f.cur.buf), true
}

// rewind gives the cursor to start at again so that every entry comes again: the
// one that is known good, and for rings that are not in it yet the place where
// their first entry began.
func rewind(good envelope.Cursor, entries ...[]entry) envelope.Cursor {
	c := clone(good)
	for _, list := range entries {
		for _, e := range list {
			if _, ok := c.Rings[e.ring]; ok || e.ring == 0 {
				continue
			}
			if c.Rings == nil {
				c.Rings = make(map[envelope.StreamID]uint64)
			}
			c.Rings[e.ring] = e.start
		}
	}
	return c
}

func clone(c envelope.Cursor) envelope.Cursor {
	return envelope.Cursor{Rings: maps.Clone(c.Rings), Streams: maps.Clone(c.Streams)}
}

func (e *entry) advance(c *envelope.Cursor) {
	c.Advance(envelope.Batch{Ring: e.ring, Position: e.position, Stream: e.stream, Next: e.next})
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
