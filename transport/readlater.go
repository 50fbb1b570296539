package transport

import (
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// later is a ring of a part whose batches wait for what has to come before them,
// and are not held here meanwhile. They are passed over, and read again from the
// tail's cursor when they have their turn.
type later struct {
	head       // the first of them, without what is in it
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
	waiting := p.aside
	if p.has {
		waiting = append(waiting, &p.head)
	}
	for _, h := range waiting {
		if ring := h.batch.Ring; !p.postponed(ring) {
			p.later[ring] = later{head: head{early: h.early, maker: h.maker, upTo: h.upTo, source: h.source}}
		}
		p.passOver(&h.batch)
	}
	p.aside, p.asideBytes = nil, 0
}

// passOver notes that a batch that was postponed is passed over.
func (p *part) passOver(b *envelope.Batch) {
	if b.Stream == 0 {
		return
	}
	if p.passed == nil {
		p.passed = make(map[envelope.StreamID]uint64)
	}
	if first, ok := p.passed[b.Stream]; !ok || b.First < first {
		p.passed[b.Stream] = b.First
	}
}

// given notes that a batch is given, or left out: nothing of its ring waits before it.
func (p *part) given(b *envelope.Batch) {
	delete(p.later, b.Ring)
	delete(p.passed, b.Stream)
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
		return l.early
	}
	return time.Time{}
}

// resume reads again what was postponed and has its turn, when everything else has
// been given.
func (p *part) resume(now time.Time) {
	if len(p.later) == 0 || p.st == nil || p.has || !p.empty.Equal(now) || now.Before(p.laterAt) {
		return
	}
	p.laterAt = now.Add(laterEvery)
	some := false
	for ring, l := range p.later {
		if !l.again && p.t.hasTurn(p, &l.head, now) {
			l.again, some = true, true
			p.later[ring] = l
		}
	}
	if !some {
		return
	}
	if len(p.aside) > 0 {
		p.postpone()
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
func (t *tail) hasTurn(p *part, h *head, now time.Time) bool {
	if next, ok := t.at.Streams[h.maker]; ok && next >= h.upTo {
		return true
	}
	if h.early.IsZero() {
		return !t.past || !t.othersOwe(p)
	}
	return !t.awaits(p, h, now, gapWait)
}
