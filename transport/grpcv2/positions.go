package grpcv2

import (
	"maps"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxRings bounds each half of positions.
const maxRings = 100_000

// positions is where a link stands in each ring, 0 in those it has not read.
// Sources come and go, and nobody tells when a ring is gone for good. So when the
// young half is full it becomes the old one, and those that have been silent
// since the one before are forgotten.
type positions struct{ young, old map[envelope.StreamID]uint64 }

func (p *positions) get(ring envelope.StreamID) uint64 {
	if at, ok := p.young[ring]; ok {
		return at
	}
	return p.old[ring]
}

func (p *positions) set(ring envelope.StreamID, at uint64) {
	if _, ok := p.young[ring]; !ok && len(p.young) >= maxRings {
		p.young, p.old = nil, p.young
	}
	if p.young == nil {
		p.young = make(map[envelope.StreamID]uint64)
	}
	p.young[ring] = at
}

// all is a copy.
func (p *positions) all() map[envelope.StreamID]uint64 {
	m := make(map[envelope.StreamID]uint64, len(p.young)+len(p.old))
	maps.Copy(m, p.old)
	maps.Copy(m, p.young)
	return m
}
