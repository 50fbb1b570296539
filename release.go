package loggregator

import "github.com/cloudfoundry/loggregator/envelope"

// End is the cursor behind everything the Router holds now. Rings that hold
// nothing are not in it.
func (r *Router) End() envelope.Cursor {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := envelope.Cursor{Rings: make(map[envelope.StreamID]uint64, len(r.sources))}
	for _, src := range r.sources {
		if first, next := src.ring.Bounds(); first != next {
			c.Rings[src.ring.ID()] = next
		}
	}
	return c
}

// Begin is the cursor before everything the Router holds now.
func (r *Router) Begin() envelope.Cursor {
	r.mu.RLock()
	defer r.mu.RUnlock()
	c := envelope.Cursor{Rings: make(map[envelope.StreamID]uint64, len(r.sources))}
	for _, src := range r.sources {
		c.Rings[src.ring.ID()], _ = src.ring.Bounds()
	}
	return c
}

// Release gives up what lies before the cursor, so that a Router whose records
// are there for one reader keeps its budget for what that reader has not seen.
// Without it, a source that is suddenly loud gives up records of its own before
// others give up what everybody has read. Up to 2 KiB of each source stay.
func (r *Router) Release(c envelope.Cursor) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	for _, src := range r.sources {
		if position, ok := c.Rings[src.ring.ID()]; ok {
			src.ring.Release(position)
		}
	}
}
