package ringbuf

import (
	"cmp"
	"slices"

	"github.com/cloudfoundry/loggregator/envelope"
)

// origin is what a ring knows of a maker of records.
type origin struct {
	stream envelope.StreamID
	begin  uint64 // number of the first record that it took, or was told of as lost
	next   uint64 // number of the one that comes next; 0: it made none
	at     uint64 // position behind its last record
	saved  bool   // the journal says so, too

	// Of a ring elsewhere in which several makers meet: the position up to which
	// its records came from there, and how many that were missed there have not yet
	// shown as gaps in their makers' numbers.
	reach, hidden uint64
}

// A ring remembers the makers of records, to recognise what they repeat: a few,
// and those whose records it holds, up to a bound.
const (
	fewOrigins = 64
	maxOrigins = 4096
)

// origin finds a maker of records, or where to insert it.
func (r *Ring) origin(stream envelope.StreamID) (int, bool) {
	return slices.BinarySearchFunc(r.origins, stream, func(o origin, stream envelope.StreamID) int {
		return cmp.Compare(o.stream, stream)
	})
}

// expected is the number from which on b's records are missing that are not
// there: at most b.First.
func expected(b *envelope.Batch, from *origin, known bool) uint64 {
	next := b.From
	switch {
	case known:
		next = max(next, from.next)
	case next != 0:
	case b.Begin != 0:
		next = b.Begin
	case several(b):
		next = b.First
	default:
		next = b.First - min(b.First, b.Missed)
	}
	return min(next, b.First)
}

// several reports whether the batch was read from a ring in which several makers
// meet. In a ring of one maker numbers are positions.
func several(b *envelope.Batch) bool {
	return b.Ring != 0 && (b.Ring != b.Stream || b.Position != b.Next)
}

// missed tells what is missing before b: how many of those that b says, and how
// many more by the numbers, of which all are missing, and untold no record tells.
//
// A batch is sent again when its acknowledgement was lost. It says once more then
// what it missed, and some of that may have come before: by numbers, or for a
// ring of several makers by its positions, that is known here. What was missed in
// such a ring was of all its makers, whose gaps show as their next records come.
func (r *Ring) missed(b *envelope.Batch, all, untold uint64) (said, gap uint64) {
	if several(b) {
		beyond := r.reach(b)
		said = min(b.Missed, beyond)
		hop, _ := r.recognise(b.Ring)
		hop.hidden += said
		shown := min(untold, hop.hidden)
		hop.hidden -= shown
		return said, untold - shown
	}
	said = b.Missed
	if b.Ring != 0 {
		said = min(said, all)
	}
	return said, untold - min(untold, said)
}

// recognise finds the origin of that name, or makes one, of which nothing is
// known.
func (r *Ring) recognise(stream envelope.StreamID) (from *origin, known bool) {
	i, known := r.origin(stream)
	if !known {
		i = r.addOrigin(origin{stream: stream, at: r.next})
	}
	return &r.origins[i], r.origins[i].next > 0
}

// reach notes up to where the batch reaches in a ring in which several makers
// meet, and returns how far it begins behind what came from there before.
func (r *Ring) reach(b *envelope.Batch) uint64 {
	if !several(b) {
		return 0
	}
	hop, _ := r.recognise(b.Ring)
	start := b.Position - min(b.Position, uint64(b.Count))
	beyond := start - min(start, hop.reach)
	hop.reach, hop.at = max(hop.reach, b.Position), r.next
	return beyond
}

// addOrigin adds a maker that is not known. If there are many, those that have
// been silent for longest are forgotten if none of their records is held, a few
// at a time.
func (r *Ring) addOrigin(o origin) int {
	for range 4 {
		if len(r.origins) < fewOrigins {
			break
		}
		oldest := 0
		for i := range r.origins {
			if r.origins[i].at < r.origins[oldest].at {
				oldest = i
			}
		}
		if r.origins[oldest].at > r.first && len(r.origins) < maxOrigins {
			break
		}
		r.origins = slices.Delete(r.origins, oldest, oldest+1)
		r.s.used -= originCost
	}
	r.s.used += originCost
	i, _ := r.origin(o.stream)
	r.origins = slices.Insert(r.origins, i, o)
	return i
}
