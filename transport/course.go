package transport

import "github.com/cloudfoundry/loggregator/envelope"

// course is what a session has read of one ring. With it, what is missing before
// a batch is told to the server exactly once: either in the batch's Missed, or by
// the record that told of it in the ring, or it is not missing but went to
// another server. That the numbers of a batch's maker have a gap there does not
// say which of these it is; so From says that this link has answered for it.
//
// In a ring of one maker all positions are numbers, and there is nothing to
// compare. In one that several makers share, the ring has given up records of all
// of them when it says how many were missed. As the makers' next records come
// along, the gaps in their numbers show whose those were: credit is how many
// have not yet shown. A gap beyond that, and beyond what the record before it
// tells, is one whose record is itself among the missed; it is counted here.
//
// A server knows from the numbers of a maker what came before and comes again.
// Of a ring of several makers it also gets the positions, by which it knows of
// what is said to be missing whether it was said before, or came.
type course struct {
	fresh  bool                         // nothing of it was sent in this session
	began  bool                         // the empty batch has come that says where a sequence begins, and nothing else
	stream envelope.StreamID            // maker of the last batch
	next   uint64                       // its next number
	others map[envelope.StreamID]uint64 // next numbers of the makers before that one
	credit uint64
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
		c = &course{fresh: true}
		if b.Ring != 0 {
			c.credit = s.l.credits.get(b.Ring)
			s.courses.set(b.Ring, c)
		}
	}
	if b.Count == 0 && b.Missed == 0 {
		c.began = c.fresh
		if s.l.acked.get(b.Ring) == 0 && c.fresh {
			b.Ring = 0 // where it would begin is not yet to be passed
		}
		e.credit = c.credit
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
	c.fresh, c.began = false, false
	if b.Stream != 0 {
		s.account(b, c)
	}
	e.credit = c.credit
}

// account sets the batch's From, and adds to its Missed what nobody else will
// tell of.
func (s *session) account(b *envelope.Batch, c *course) {
	begin, whole := b.From, b.Stream == b.Ring && b.Position == b.Next // so far the ring has but one maker
	b.From = 0
	next := c.number(b.Stream)
	switch {
	case whole:
		if next != b.First {
			b.From = 1
		}
	case next == b.First:
		c.credit += b.Missed
	default:
		c.credit += b.Missed
		b.From = 1
		if next = max(next, s.l.numbers.get(b.Stream)); next == 0 {
			if next, b.From = begin, begin; b.Stream == b.Ring {
				next, b.From = b.First, 1
			}
		}
		if next == 0 {
			break
		}
		gap := b.First - min(b.First, next)
		gap -= min(gap, b.Told)
		shown := min(gap, c.credit)
		c.credit -= shown
		if b.Untold = gap - shown; b.Untold > 0 {
			b.From = next + b.Untold
		}
	}
	b.Told = 0
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

// settleCredit notes the credit of a ring as far as it is acknowledged. The lock
// is held.
func (l *Link) settleCredit(ring envelope.StreamID, credit uint64) {
	if credit == 0 && !l.credited {
		return
	}
	l.credited = true
	if ring != 0 && l.credits.get(ring) != credit {
		l.credits.set(ring, credit)
	}
}
