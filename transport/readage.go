package transport

import (
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// agePeriod is longer than a server holds records.
	agePeriod = 7 * 24 * time.Hour
	// fewPositions are not worth forgetting.
	fewPositions = 1024
)

// ages bounds a cursor that lives for months: sources come and go, each with a ring
// and makers of its own. It forgets the positions of those of which nothing was
// heard for one to two periods: their rings hold nothing any more.
type ages struct {
	began time.Time // of the current period
	age   uint32
	seen  map[envelope.StreamID]uint32 // the period in which something came last
	marks []envelope.StreamID          // rings that stand for a server's life, of which nothing comes
}

// mark keeps the position of a ring.
func (a *ages) mark(ring envelope.StreamID) {
	if !slices.Contains(a.marks, ring) {
		a.marks = append(a.marks, ring)
	}
}

// note is called after c has been advanced past b.
func (a *ages) note(c *envelope.Cursor, b *envelope.Batch, now time.Time) {
	if len(c.Rings)+len(c.Streams) < fewPositions {
		return
	}
	if a.seen == nil {
		a.seen, a.began = make(map[envelope.StreamID]uint32), now
	}
	a.seen[b.Ring], a.seen[b.Stream] = a.age, a.age
	if now.Sub(a.began) < agePeriod {
		return
	}
	a.age++
	a.began = now
	for _, positions := range []map[envelope.StreamID]uint64{c.Rings, c.Streams} {
		for id := range positions {
			switch was, ok := a.seen[id]; {
			case slices.Contains(a.marks, id):
			case !ok: // from before there were as many
				a.seen[id] = a.age - 1
			case a.age-was >= 2:
				delete(positions, id)
				delete(a.seen, id)
			}
		}
	}
}
