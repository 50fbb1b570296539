package transport

import (
	"maps"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxRings bounds each half of positions.
const maxRings = 100_000

// positions is where a link stands in each ring, 0 in those it has not read. A
// link and its Source live and die together, so the makers' numbers need not be
// kept.
//
// Sources come and go for as long as a process runs, and nobody tells when a
// ring is gone for good. So when the young half is full it becomes the old one,
// whose rings have all been silent since: those are forgotten. One that speaks
// again after so many others would be sent from its oldest record on, should
// the connection break, and counted as missed what went before that.
type positions struct {
	young, old map[envelope.StreamID]uint64
}

func (p *positions) get(ring envelope.StreamID) uint64 {
	if position, ok := p.young[ring]; ok {
		return position
	}
	return p.old[ring]
}

func (p *positions) set(ring envelope.StreamID, position uint64) {
	if _, ok := p.young[ring]; !ok && len(p.young) >= maxRings {
		p.young, p.old = nil, p.young
	}
	if p.young == nil {
		p.young = make(map[envelope.StreamID]uint64)
	}
	p.young[ring] = position
}

// all is a copy, for whoever goes on while the link does.
func (p *positions) all() map[envelope.StreamID]uint64 {
	m := make(map[envelope.StreamID]uint64, len(p.young)+len(p.old))
	maps.Copy(m, p.old)
	maps.Copy(m, p.young)
	return m
}
