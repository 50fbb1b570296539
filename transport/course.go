package transport

import "github.com/cloudfoundry/loggregator/envelope"

// course is what a session has read of one ring. A server tells what is missing
// by the numbers of its makers, and a link what it knows better: what it missed,
// and up to which number all is accounted for, because it was acknowledged, told
// as missed, or went to another server (envelope.Batch.From). That is said where
// a maker's numbers do not go on as they were sent last.
type course struct {
	fresh  bool                         // nothing of it was sent in this session
	born   bool                         // nor earlier, when the session began with it
	began  bool                         // the empty batch has come that says where a sequence begins, and nothing else
	stream envelope.StreamID            // maker of the last batch
	next   uint64                       // its next number
	others map[envelope.StreamID]uint64 // next numbers of the makers before that one
}

// maxOthers bounds the makers that a course remembers beside those of which
// something was acknowledged.
const maxOthers = 4096

// follow completes what the batch says of missing records, as the server shall
// hear it. The lock is held.
func (s *session) follow(b *envelope.Batch, e *entry) {
	if b.Ring == 0 { // a Source that says nothing of rings means the stream itself
		b.Ring, b.Position = b.Stream, b.Next
	}
	c := s.courses.get(b.Ring)
	if c == nil {
		c = &course{fresh: true, born: s.l.acked.get(b.Ring) == 0}
		if b.Ring != 0 {
			s.courses.set(b.Ring, c)
		}
	}
	if b.Count == 0 && b.Missed == 0 {
		c.began = c.fresh
		if s.l.acked.get(b.Ring) == 0 && c.fresh {
			b.Ring = 0 // where it would begin is not yet to be passed
		}
		return
	}
	if before := b.Position - uint64(b.Count); c.fresh && b.Ring != 0 && s.l.acked.get(b.Ring) == 0 && before > 1 && b.Position > uint64(b.Count) {
		// A ring may have been made and have overflowed before the link came to
		// read it. Positions begin at 1, and a link is there as long as its Source,
		// so what lies before the first one read was lost to it.
		b.Missed = max(b.Missed, before-1)
	}
	e.missed = b.Missed
	if b.Missed > 0 && b.Reason == envelope.ReasonUnknown {
		if b.Reason = s.l.opts.Reason; c.began {
			b.Reason = envelope.ReasonLink
		}
	}
	e.why = min(b.Reason, envelope.Reasons-1)
	c.fresh, c.began = false, false
	if b.Stream != 0 {
		s.account(b, c)
	}
}

// account says up to which number of its maker all is accounted for before b.
func (s *session) account(b *envelope.Batch, c *course) {
	begin := b.Begin
	b.Begin, b.From = 0, 0
	if s.datagrams { // of which nothing is known to have arrived
		if c.born {
			b.Begin = begin
		}
		c.set(b.Stream, b.Next)
		return
	}
	if next := c.number(b.Stream); next != b.First && !s.l.resumed[b.Ring] {
		b.From = max(next, s.l.numbers.get(b.Stream))
		switch {
		case b.Stream == b.Ring && b.Position == b.Next: // so far the ring has but one maker
			b.From = b.First - min(b.First, b.Missed)
		case b.From != 0:
		case b.Stream == b.Ring:
			b.From = b.First
		default:
			b.Begin = begin
		}
	}
	c.set(b.Stream, b.Next)
}

// number is the next number of a maker, 0 if it is not known.
func (c *course) number(stream envelope.StreamID) uint64 {
	if stream == c.stream {
		return c.next
	}
	return c.others[stream]
}

func (c *course) set(stream envelope.StreamID, next uint64) {
	if c.stream != stream {
		if c.stream != 0 {
			if len(c.others) >= maxOthers {
				clear(c.others)
			}
			if c.others == nil {
				c.others = make(map[envelope.StreamID]uint64)
			}
			c.others[c.stream] = c.next
		}
		c.stream = stream
	}
	c.next = next
}
