package transport

import (
	"cmp"
	"maps"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxRings bounds each half of what is kept of rings.
const maxRings = 100_000

// positions is where a link stands in each ring, 0 in those it has not read. A
// link and its Source live and die together.
type positions = aged[uint64]

// aged is what a link keeps of each ring or stream.
//
// Sources come and go for as long as a process runs, and nobody tells when a
// ring is gone for good. So when the young half is full it becomes the old one,
// whose rings have all been silent since: those are forgotten. One that speaks
// again after so many others would be sent from its oldest record on, should
// the connection break, and counted as missed what went before that.
type aged[V any] struct {
	young, old map[envelope.StreamID]V
	half       int // most of each; 0 means maxRings
}

func (p *aged[V]) get(id envelope.StreamID) V {
	if v, ok := p.young[id]; ok {
		return v
	}
	return p.old[id]
}

func (p *aged[V]) set(id envelope.StreamID, v V) {
	if len(p.young) >= cmp.Or(p.half, maxRings) {
		if _, ok := p.young[id]; !ok {
			p.young, p.old = nil, p.young
		}
	}
	if p.young == nil {
		p.young = make(map[envelope.StreamID]V)
	}
	p.young[id] = v
}

// all is a copy, for whoever goes on while the link does.
func (p *aged[V]) all() map[envelope.StreamID]V {
	m := make(map[envelope.StreamID]V, len(p.young)+len(p.old))
	maps.Copy(m, p.old)
	maps.Copy(m, p.young)
	return m
}
