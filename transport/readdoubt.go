package transport

import (
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// doubt looks at a line by which a server tells that records of a maker are missing,
// as these may have gone to another server: an agent that was started anew does not
// know what its predecessor sent where. It reports whether they may yet come. Those
// that were given are taken from the number that the line tells. A server gives such
// a line in a batch by itself, or two of them.
func (t *tail) doubt(p *part, h *head, now time.Time) (early bool) {
	b := &h.batch
	if b.Count == 0 || b.Count > 2 || t.q.Shard != "" || !t.q.Until.IsZero() {
		return false
	}
	e, rest, err := envelope.Next(b.Records)
	if err != nil {
		return false
	}
	of, ok := e.MissedNumbers()
	if !ok {
		return false
	}
	missing := t.holes.left(of, t.at.Streams[of.Stream])
	if missing > 0 {
		h.maker, h.upTo = of.Stream, of.Next
		t.begin(p, h, now)
		if t.awaits(p, h, now, gapWait) {
			return true
		}
	}
	n, reason, _ := e.Missed()
	switch {
	case n <= missing:
		if b.Count > 1 {
			h.cut = 1 // the other line has its turn
		}
	case missing > 0:
		b.Records = append(retell(e, missing, reason), rest...)
	case b.Count > 1:
		*b = without(*b, 1)
		return t.doubt(p, h, now)
	default:
		b.Records, b.Count = nil, 0
	}
	h.retime(t)
	return false
}

// retell is the record of a line that tells of n missing records instead.
func retell(e envelope.Envelope, n uint64, reason string) []byte {
	r, _ := e.Route()
	f := envelope.Fixed(nil).AppendSource(string(r.SourceID), string(r.InstanceID))
	for k, v := range e.Tags() {
		if name := string(k); name != envelope.TagMissed && name != envelope.TagReason {
			f = f.AppendTag(name, string(v))
		}
	}
	return envelope.AppendMissed(nil, f, r.Timestamp, n, reason)
}
