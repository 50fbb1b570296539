// Package access decides who reads what, and how much.
//
// An [Authorizer] says what the bearer of a token may read: [Tokens] of a file,
// those of any OpenID Connect issuer (package oidc), or those of a Cloud Foundry
// (package cloudfoundry). A [Gate] stands between every way of reading and the
// logs. It asks the Authorizer, replaces what was asked for by what was granted,
// and keeps the limits. Whoever reads holds a [Pass], and sees nothing else:
//
//	pass, err := gate.Admit(ctx, access.BearerToken(r), selectors)
//	if err != nil {
//		status, sentence := access.Explain(err)
//		…
//	}
//	defer pass.Close()
//	for batch, err := range pass.Batches(ctx, query) {
//
// # What holds
//
// A pass selects by what was granted alone, so neither a cursor, nor a name that
// has become somebody else's, nor a space with applications of others in it leads
// anywhere else. A shard name is the user's own. Who asks for what he may not
// read gets [ErrDenied], for which a server answers as it does for what is not
// there. A pass ends with its token.
//
// A right that is taken back ends a sequence that has begun with [ErrRevoked], when
// the Authorizer is asked again (Options.Recheck). The next Admit knows of it at
// once, or as soon as the Authorizer does.
package access

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Authorizer says who may read what. It is used by many goroutines at once.
type Authorizer interface {
	// Authorize says what the bearer of token may read of what sel asks for. The
	// token is not empty; sel is not, either, and is not kept.
	//
	// Who asks for what he may read a part of is granted that part, if he names
	// no more than that: everything, a space of which he may read an application.
	// Each selector that names something of which he may read nothing is an error
	// that wraps ErrDenied, whether there is such a thing or not. The Grant that
	// comes with it says the User, if he is known.
	//
	// A token that is no good is an error that wraps ErrToken, and says why and
	// what to do. Any other error means that it cannot be said now: nothing is
	// granted then.
	Authorize(ctx context.Context, token string, sel []envelope.Selector) (Grant, error)
}

// Grant is what somebody may read.
type Grant struct {
	// User is for the audit and the limits of each user. It is not a secret.
	User string

	// Select is what to read in place of what was asked for: never wider than
	// that. Where others choose names, it has ids (envelope.Selector.IDs).
	Select []envelope.Selector

	// Expires is when it ends. Zero: never.
	Expires time.Time
}

// What Admit and sequences end with. The texts of errors that wrap these are
// made for the one who is refused: they say what to do, and hold no secret.
var (
	// ErrToken means that there is no token, or none that is valid.
	ErrToken = errors.New("token refused")
	// ErrDenied means what may not be read. From outside it looks as what is not
	// there.
	ErrDenied = errors.New("not known here")
	// ErrBusy means a limit of the whole server.
	ErrBusy = errors.New("too many readers")
	// ErrUserBusy means a limit of one user. It wraps ErrBusy.
	ErrUserBusy error = userBusy{}
	// ErrUnavailable means that who may read what cannot be asked now.
	ErrUnavailable = errors.New("it cannot be checked now what you may read; try again later")
	// ErrExpired ends a sequence in mid-stream: its token has run out.
	ErrExpired = errors.New("the token has expired; log in again and go on at your cursor")
)

type userBusy struct{}

func (userBusy) Error() string        { return "too many readers of one user" }
func (userBusy) Is(target error) bool { return target == ErrBusy }

// Explain is an error of Admit, or one that ended a sequence, as an HTTP status
// (RFC 9110, section 15) and a sentence for the one who asked. What it does not
// know is 503 and tells nothing.
func Explain(err error) (status int, sentence string) {
	switch {
	case errors.Is(err, ErrToken), errors.Is(err, ErrExpired):
		return http.StatusUnauthorized, err.Error()
	case errors.Is(err, ErrDenied):
		return http.StatusNotFound, ErrDenied.Error()
	case errors.Is(err, ErrUserBusy):
		return http.StatusTooManyRequests, err.Error()
	case errors.Is(err, ErrBusy):
		return http.StatusServiceUnavailable, err.Error()
	}
	return http.StatusServiceUnavailable, ErrUnavailable.Error()
}

// BearerToken is the token of a request's header Authorization (RFC 6750, section
// 2.1), or empty. A request with two such headers has none.
func BearerToken(r *http.Request) string {
	values := r.Header.Values("Authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

type peerKey struct{}

// WithPeer returns a context for Admit that says who asks, by his network
// address, for the audit.
func WithPeer(ctx context.Context, addr string) context.Context {
	return context.WithValue(ctx, peerKey{}, addr)
}
