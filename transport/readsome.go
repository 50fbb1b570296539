package transport

import (
	"context"
	"iter"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Some is some of a Reader's servers: a Source of what these hold, with the
// connections of the Reader. What their numbers skip may be at the others; it is
// told as missed, and does not come when these are read too with the same cursor.
type Some struct {
	r       *Reader
	remotes []*remote
}

// Of gives the servers that are named by their place in the Reader's address, from
// 0.
func (r *Reader) Of(servers ...int) *Some {
	s := &Some{r: r}
	for _, i := range servers {
		s.remotes = append(s.remotes, r.remotes[i])
	}
	return s
}

// Batches is that of Reader.
func (s *Some) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return s.r.batches(ctx, s.remotes, q)
}

// Wake is that of Reader.
func (s *Some) Wake(q envelope.Query, f func()) (stop func()) { return s.r.wake(s.remotes, q, f) }

// Behind is that of Reader.
func (s *Some) Behind(sel []envelope.Selector, at map[envelope.StreamID]uint64) (records uint64) {
	return s.r.behind(s.remotes, sel, at)
}

var _ interface {
	envelope.Source
	envelope.Waker
} = (*Some)(nil)
