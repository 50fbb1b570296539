package transport

import "github.com/cloudfoundry/loggregator/envelope"

// Acked is where the server's acknowledgements stand, ring by ring: what the
// Source holds before it need not be kept for this link.
func (l *Link) Acked() envelope.Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return envelope.Cursor{Rings: l.acked.all()}
}
