package transport

import (
	"math"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// seam looks at the numbers of a batch's maker, whose records may have gone to
// several servers: the batch may repeat what was given, or come too early. The
// latter it reports, as long as another server may have what is missing; then it is
// missed. It may be asked of the same batch again: only pass makes it so.
//
// A query by time leaves out what lies between the stretches that it reads, so that
// its numbers say nothing; what two servers hold it gives twice.
func (t *tail) seam(p *part, h *head, now time.Time) (early bool) {
	b := &h.batch
	h.extra, h.spare = 0, t.spare[b.Ring]
	if t.doubt(p, h, now) {
		return true
	}
	if b.Stream == 0 || b.Stream == b.Ring || !t.q.Until.IsZero() {
		return false
	}
	next, ok := t.at.Streams[b.Stream]
	if ok && b.First < next && b.Next > b.First {
		t.trim(h, next)
		return false
	}
	switch {
	case !ok && b.First > 1 && !(t.merging && t.past):
		// The first that is seen of this maker, which may have begun elsewhere.
		h.maker, h.upTo = b.Stream, b.First
		if t.past && t.othersOwe(p) {
			return true
		}
		t.begin(p, h, now)
		return t.awaits(p, h, now, 0)
	case !ok || t.q.Shard != "":
	default:
		gap := b.First - next
		gap -= min(gap, b.Told)
		known := b.Missed + h.spare
		if gap > known {
			h.maker, h.upTo = b.Stream, b.First
			t.begin(p, h, now)
			if t.awaits(p, h, now, gapWait) {
				return true
			}
		}
		h.extra, h.spare = gap-min(gap, known), known-min(gap, known)
	}
	return false
}

// begin notes since when h waits, and has the other servers show that they are there.
func (t *tail) begin(p *part, h *head, now time.Time) {
	if !h.early.IsZero() {
		return
	}
	h.source = firstSource(&h.batch)
	if h.early = p.waits(h); !h.early.IsZero() {
		return
	}
	h.early = now
	for i := range t.parts {
		if o := &t.parts[i]; o != p && o.st != nil {
			o.sound()
		}
	}
}

// sound asks the server for an answer, behind what it has sent until then.
func (p *part) sound() {
	p.st.s.ping()
	p.barrier, p.sounded = p.st.s.pings.Load(), p.taken
}

// pass notes what seam has found of a batch that is given now.
func (t *tail) pass(h *head, b *envelope.Batch) {
	b.Missed += h.extra
	h.extra = 0
	t.keep(b.Ring, h.spare)
	if b.Stream == 0 || b.Stream == b.Ring || b.Next == b.First || !t.q.Until.IsZero() {
		return
	}
	switch next, seen := t.at.Streams[b.Stream]; {
	case !seen && b.First > 1:
		t.holes.dig(b.Stream, 1, b.First)
	case b.First < next:
		t.holes.fill(b.Stream, b.First, b.Next)
		b.Stream = 0 // whose cursor is further on
	}
}

// trim leaves out of a batch, which begins before what was given last of its maker,
// what was given before.
func (t *tail) trim(h *head, next uint64) {
	b := &h.batch
	from, to := t.holes.within(b.Stream, b.First, b.Next, next)
	switch n := int(from - b.First); {
	case from >= b.Next: // all of it
		t.r.repeated.Add(uint64(b.Count))
		b.Records, b.Count, b.Missed, b.Stream = nil, 0, 0, 0
		h.time = math.MinInt64
		return
	case !exact(b): // which records those are is not known
		return
	case n > 0:
		t.r.repeated.Add(uint64(n))
		*b = without(*b, n)
		b.Missed = 0
		h.note()
	}
	if to < b.Next {
		h.cut = int(to - b.First)
	}
}

// othersOwe reports whether another server than p's has yet to give of what was held at the
// start.
func (t *tail) othersOwe(p *part) bool {
	for i := range t.parts {
		if o := &t.parts[i]; o != p && o.owes() {
			return true
		}
	}
	return false
}

// keep notes how many records a server has told to be missed in a ring that are not
// of the maker before whose batch it told it: they are of one that comes later.
func (t *tail) keep(ring envelope.StreamID, n uint64) {
	if n == 0 {
		delete(t.spare, ring)
		return
	}
	if t.spare == nil {
		t.spare = make(map[envelope.StreamID]uint64)
	}
	t.spare[ring] = n
}

// awaits reports whether another server than p may yet bring what h waits for: it is
// known to have it, or more of the source; or it has not said, and has not been seen
// with nothing to give, so long after h has begun to wait and after it has answered; or
// it has gone a moment ago, or come and not yet given what it had then.
func (t *tail) awaits(p *part, h *head, now time.Time, long time.Duration) bool {
	waited := now.Sub(h.early)
	late := waited >= maxGapWait+t.r.opts.TellAfter
	for i := range t.parts {
		o := &t.parts[i]
		if o == p {
			continue
		}
		if waited >= long {
			if more, sure := t.inquire(o, h); sure && !more {
				continue
			} else if sure && waited < maxLag {
				return true
			}
		}
		switch {
		case o.brings(h) && waited < maxLag:
			return true
		case o.over && !o.has:
		case o.st == nil && !o.has:
			if !o.told && !late {
				return true
			}
		case o.full():
			if !late {
				return true
			}
		case o.has || !o.current || o.empty.Before(h.early.Add(long)) || o.answered < o.barrier:
			if o.has && waited < maxLag || !late {
				return true
			}
		case o.st != nil && o.taken-o.sounded > min(t.r.opts.Window, firstWindow)/4 && !late:
			// It may have had more than it had credit for.
			o.sound()
			return true
		}
	}
	return false
}

// brings reports whether the part has some of what h waits for, and has only to have
// its turn.
func (p *part) brings(h *head) bool {
	for _, a := range p.aside {
		if a.batch.Stream == h.maker && a.batch.First < h.upTo {
			return true
		}
	}
	if p.has && p.head.batch.Stream == h.maker && p.head.batch.First < h.upTo {
		return true
	}
	first, ok := p.passed[h.maker]
	return ok && first < h.upTo
}
