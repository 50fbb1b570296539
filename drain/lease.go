package drain

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// A drain that several processes share writes under a lease only, see Shared. Its
// end is looked at before every write and every request, and ends a write that
// hangs.

// leasePoll is how often a lease that has ended is looked at.
const leasePoll = 20 * time.Millisecond

// lease is what a shared drain has besides.
type lease struct {
	until func() time.Time // it may write
	taken envelope.Cursor  // everything before it was acknowledged; empty: the feed's good is all there is
}

// end is nil where there is no end.
func (l *lease) end() func() time.Time {
	if l == nil {
		return nil
	}
	return l.until
}

// reset makes good all there is.
func (l *lease) reset() {
	if l != nil {
		l.taken = envelope.Cursor{}
	}
}

// begin makes taken what it means.
func (l *lease) begin(good envelope.Cursor) {
	if l.taken.IsZero() {
		l.taken = clone(good)
	}
}

// errLeaving ends the attempts to send what another will send.
var errLeaving = errors.New("drain: left to another")

// leased reports whether the drain may write now.
func (d *Drain) leased() bool {
	l := d.feed.lease
	return l == nil || time.Now().Before(l.until())
}

// leave ends the drain so that another can take over where it stops: it writes
// nothing more, waits for what it wrote to be acknowledged, and closes. When ctx
// ends first, what was not acknowledged comes again.
func (d *Drain) leave(ctx context.Context) {
	d.leaving.Store(true)
	d.once.Do(func() { close(d.flush) })
	d.wake()
	select {
	case <-d.done:
	case <-ctx.Done():
		d.Close()
	}
}

// taken is the place up to which everything was acknowledged, and what was missed
// before it and is yet to be told. It is further than Cursor, which leaves out what
// the receiver may not have read: that this process ends is no reason to send it
// again.
func (d *Drain) taken() (envelope.Cursor, gap) {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	if l := d.feed.lease; l != nil && !l.taken.IsZero() {
		return clone(l.taken), d.feed.owe
	}
	return clone(d.feed.good), d.feed.owe
}

// take0 notes where a ring begins that is not in taken yet.
func (f *feed) take0(ring envelope.StreamID, start uint64) {
	l := f.lease
	l.begin(f.good)
	if l.taken.Rings == nil {
		l.taken.Rings = make(map[envelope.StreamID]uint64)
	}
	if _, ok := l.taken.Rings[ring]; !ok {
		l.taken.Rings[ring] = start
	}
}

// untake puts back a chunk that was not written.
func (f *feed) untake(c *chunk) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if next := f.cur; next != nil {
		c.buf = slices.Concat(c.buf, next.buf)
		c.entries = append(c.entries, next.entries...)
		next.free()
	}
	f.cur = c
}

// discard forgets a chunk that is not to be written: it was not read.
func (s *sender) discard(c *chunk) {
	if c == nil {
		return
	}
	s.feed.mu.Lock()
	s.feed.untell(nil, c.entries)
	for i := range c.entries {
		e := &c.entries[i]
		s.feed.pending -= min(s.feed.pending, e.records+e.filtered+e.refused)
	}
	s.feed.mu.Unlock()
	c.free()
}

// plus adds what a drain did in its lives before. What is of the moment stays.
func (s Stats) plus(before *Stats) Stats {
	s.Accepted += before.Accepted
	s.Delivered += before.Delivered
	s.Missed += before.Missed
	s.Filtered += before.Filtered
	s.Refused += before.Refused
	s.Resent += before.Resent
	s.Resets += before.Resets
	s.Shortened += before.Shortened
	s.Bytes += before.Bytes
	s.Connects += before.Connects
	s.Failures += before.Failures
	s.Moves += before.Moves
	if s.LastGap == nil {
		s.LastGap = before.LastGap
	}
	if s.LastSent.IsZero() {
		s.LastSent = before.LastSent
	}
	return s
}
