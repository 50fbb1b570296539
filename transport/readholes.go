package transport

import "github.com/cloudfoundry/loggregator/envelope"

// holes are, of makers, the numbers below those that were given last that were
// neither given nor told as missed: of a maker who was seen first in the middle,
// what came before may come yet, from another server.
type holes map[envelope.StreamID][]run

// run is numbers of one maker, from first and before next.
type run struct {
	stream      envelope.StreamID
	first, next uint64
}

// maxHoles bounds the holes of one maker; those beyond are forgotten, and what
// fills them counts as a repeat.
const maxHoles = 16

func (h *holes) dig(stream envelope.StreamID, first, next uint64) {
	if *h == nil {
		*h = make(holes)
	}
	(*h)[stream] = append((*h)[stream], run{stream, first, next})
}

// within is the first run of numbers from first and before next that is not given
// yet; given is the number after those that were given last. If there is none, from
// is next.
func (h holes) within(stream envelope.StreamID, first, next, given uint64) (from, to uint64) {
	from, to = max(first, given), next
	for _, r := range h[stream] {
		if lo, hi := max(first, r.first), min(next, r.next); lo < hi && lo < from {
			from, to = lo, hi
		}
	}
	return min(from, next), to
}

// left is how many of these numbers are not given yet.
func (h holes) left(of envelope.Numbers, given uint64) (n uint64) {
	n = of.Next - min(max(of.First, given), of.Next)
	for _, r := range h[of.Stream] {
		if lo, hi := max(of.First, r.first), min(of.Next, r.next, given); lo < hi {
			n += hi - lo
		}
	}
	return n
}

// fill takes numbers that are given out of the holes.
func (h holes) fill(stream envelope.StreamID, first, next uint64) {
	var left []run
	for _, r := range h[stream] {
		for _, rest := range [...]run{{stream, r.first, min(r.next, first)}, {stream, max(r.first, next), r.next}} {
			if rest.first < rest.next && len(left) < maxHoles {
				left = append(left, rest)
			}
		}
	}
	if len(left) == 0 {
		delete(h, stream)
		return
	}
	h[stream] = left
}
