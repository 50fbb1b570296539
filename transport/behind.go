package transport

import "github.com/cloudfoundry/loggregator/envelope"

// Behind is how many records of the sources that sel describes the servers hold
// after the positions in their rings that at gives, as Router.Behind counts them:
// a source that at does not know counts with all that is held. Servers that are
// away, or do not answer within ReaderOptions.AskTimeout, count nothing.
func (r *Reader) Behind(sel []envelope.Selector, at map[envelope.StreamID]uint64) (records uint64) {
	return r.behind(r.remotes, sel, at)
}

func (r *Reader) behind(remotes []*remote, sel []envelope.Selector, at map[envelope.StreamID]uint64) (records uint64) {
	for _, m := range remotes {
		r.sources(m, sel, func(s envelope.SourceInfo) bool {
			next := s.Gone + 1 + s.Held // the first record ever was number 1
			from, known := at[s.Ring]
			if !known {
				from = s.Gone + 1
			}
			records += next - min(from, next)
			return true
		})
	}
	return records
}
