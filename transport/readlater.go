package transport

import (
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// later is a ring of a part whose batches wait for what has to come before them,
// and are not held here meanwhile. They are passed over, and read again from the
// tail's cursor when they have their turn.
type later struct {
	since time.Time         // as head.early
	maker envelope.StreamID // of what they wait for
	upTo  uint64
	again bool // they come again
}

// laterEvery is how often it is looked whether rings have their turn.
const laterEvery = 100 * time.Millisecond

// postpone gives up the batches that are put aside, and those that follow in their
// rings. Two servers that are both read far behind may have many of which the other
// has what comes before: if these were waited for, neither would bring anything.
func (p *part) postpone() {
	if p.later == nil {
		p.later = make(map[envelope.StreamID]later)
	}
	for _, h := range append(p.aside, &p.head) {
		if ring := h.batch.Ring; !p.postponed(ring) {
			p.later[ring] = later{since: h.early, maker: h.maker, upTo: h.upTo}
		}
	}
	p.aside, p.asideBytes = nil, 0
}

func (p *part) postponed(ring envelope.StreamID) bool {
	if len(p.later) == 0 {
		return false
	}
	l, ok := p.later[ring]
	return ok && !l.again
}

// waits is since when h has waited if it was postponed; zero: it was not.
func (p *part) waits(h *head) time.Time {
	if l, ok := p.later[h.batch.Ring]; ok && l.maker == h.maker && l.upTo == h.upTo {
		return l.since
	}
	return time.Time{}
}

// resume reads again what was postponed and has its turn, when everything else has
// been given.
func (p *part) resume(now time.Time) {
	if len(p.later) == 0 || p.st == nil || p.has || len(p.aside) > 0 || !p.empty.Equal(now) || now.Before(p.laterAt) {
		return
	}
	p.laterAt = now.Add(laterEvery)
	some := false
	for ring, l := range p.later {
		if !l.again && p.t.hasTurn(p, l, now) {
			l.again, some = true, true
			p.later[ring] = l
		}
	}
	if !some {
		return
	}
	s := p.st.s
	p.st.cancel()
	freeBuffer(p.buf)
	p.buf, p.rest, p.willCaught = nil, nil, false
	p.forget()
	// The cursor of a hundred thousand rings is more than a megabyte.
	p.laterAt = now.Add(laterEvery + time.Duration(len(p.t.at.Rings))*10*time.Microsecond)
	p.open(s)
}

// hasTurn reports whether what was postponed has its turn.
func (t *tail) hasTurn(p *part, l later, now time.Time) bool {
	if next, ok := t.at.Streams[l.maker]; ok && next >= l.upTo {
		return true
	}
	if l.since.IsZero() {
		return !t.past || !t.othersOwe(p)
	}
	return !t.awaits(p, l.since, now, gapWait)
}
