package loggregator

import (
	"iter"
	"slices"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Sources yields what is known of each source that any of the selectors describes,
// in no order, those without a record held included. What selectors ask of single
// records is not looked at. It costs about a microsecond a source, and holds no
// lock while the loop's body runs.
func (r *Router) Sources(sel []envelope.Selector) iter.Seq[envelope.SourceInfo] {
	return func(yield func(envelope.SourceInfo) bool) {
		r.mu.RLock()
		var some []*source
		for src := range r.candidates(sel) {
			p := src.place.Load()
			if slices.ContainsFunc(sel, func(s envelope.Selector) bool { return p.matches(src.id, &s) }) {
				some = append(some, src)
			}
		}
		r.mu.RUnlock()
		buf := make([]byte, 0, 4<<10)
		for _, src := range some {
			if !yield(src.info(buf)) {
				return
			}
		}
	}
}

func (s *source) info(buf []byte) envelope.SourceInfo {
	p := s.place.Load()
	first, next := s.ring.Bounds()
	info := envelope.SourceInfo{
		SourceID: s.id, Ring: s.ring.ID(),
		App: p.app, AppID: p.appID, Space: p.space, SpaceID: p.spaceID, Org: p.org, OrgID: p.orgID,
		Held: next - first, Gone: first - 1, Bytes: s.ring.Bytes(),
	}
	if info.Held > 0 {
		info.Oldest, info.Newest = s.timeAt(first, buf), s.timeAt(next-1, buf)
	}
	return info
}

// timeAt is the timestamp of the record at a position, or of the oldest one held
// if that is gone.
func (s *source) timeAt(position uint64, buf []byte) int64 {
	at := s.ring.Reader(position)
	e, _, err := envelope.Next(at.Read(buf).Records)
	if err != nil {
		return 0
	}
	route, _ := e.Route()
	return route.Timestamp
}
