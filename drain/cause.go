package drain

import (
	"context"
	"errors"
	"net"
	"os"
)

// Cause is the class of a drain's last failure: a label for metrics.
type Cause string

const (
	CauseNone    Cause = ""
	CauseName    Cause = "name"    // the host name cannot be resolved
	CauseDenied  Cause = "denied"  // the Options forbid the address
	CauseConnect Cause = "connect" // no connection
	CauseTimeout Cause = "timeout" // no answer, or nothing was taken
	CauseTLS     Cause = "tls"     // certificates, or no TLS where it should be
	CauseClosed  Cause = "closed"  // the receiver ended the connection
	CauseAnswer  Cause = "answer"  // of an HTTPS receiver, other than 2xx
	CauseSource  Cause = "source"  // the source ended
)

func causeOf(err error) Cause {
	if _, ok := errors.AsType[*tlsError](err); ok || errors.Is(err, errTLS) {
		return CauseTLS
	}
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		return CauseName
	}
	if _, ok := errors.AsType[*answerError](err); ok {
		return CauseAnswer
	}
	if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() || errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return CauseTimeout
	}
	switch {
	case errors.Is(err, ErrDenied):
		return CauseDenied
	case errors.Is(err, errPeerClosed):
		return CauseClosed
	case errors.Is(err, errSourceEnded):
		return CauseSource
	}
	if e, ok := errors.AsType[*net.OpError](err); ok && e.Op != "dial" {
		return CauseClosed
	}
	return CauseConnect
}
