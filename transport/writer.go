package transport

import (
	"context"

	"github.com/cloudfoundry/loggregator/envelope"
)

// WriteBatch hands a batch to the Writer as if it had come over a connection:
// within ServerOptions.SourceRate, and counted in Limited. So other doors to the
// same Writer are behind the same limit. When the Server has been shut down there
// is no limit, and the Writer decides.
func (s *Server) WriteBatch(ctx context.Context, b envelope.Batch) error {
	if !s.conns.Enter() { // what is not taken is told before the end
		return s.w.WriteBatch(ctx, b)
	}
	defer s.conns.Leave()
	return s.hand(ctx, b)
}
