package loggregator

import "github.com/cloudfoundry/loggregator/envelope"

// Behind is how many records of the sources that sel describes come after the
// positions in their rings that at gives: what a reader that stands there has
// still to read, or to miss. A source that at does not know counts with all it
// holds. What selectors ask of single records is not looked at. Without a source
// id in each selector it walks over all sources.
func (r *Router) Behind(sel []envelope.Selector, at map[envelope.StreamID]uint64) (records uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for src := range r.candidates(sel) {
		place := src.place.Load()
		for i := range sel {
			if !place.matches(src.id, &sel[i]) {
				continue
			}
			first, next := src.ring.Bounds()
			from, known := at[src.ring.ID()]
			if !known {
				from = first
			}
			records += next - min(from, next)
			break
		}
	}
	return records
}
