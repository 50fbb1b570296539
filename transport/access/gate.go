package access

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Source is what is read: a router, or a link to some.
type Source interface {
	envelope.Source

	// Known reports whether a source that is held now matches. What the
	// selectors ask of single records is not looked at.
	Known(sel []envelope.Selector) bool
}

// Defaults of Options.
const (
	DefaultMaxReaders     = 10_000
	DefaultMaxPerUser     = 100
	DefaultMaxSelectors   = 20_000
	DefaultBytesPerSecond = 256 << 20
	DefaultRecheck        = 5 * time.Minute
)

// MaxToken bounds a token, in bytes.
const MaxToken = 16 << 10

// MaxBatch bounds the batches that a query may ask for, in bytes.
const MaxBatch = 1 << 20

// Options of a Gate. The zero value is useful.
type Options struct {
	// MaxReaders bounds the passes there are at a time. Default 10,000.
	MaxReaders int

	// MaxPerUser bounds those of one user, if there is an Authorizer. Default
	// 100; negative: any number.
	MaxPerUser int

	// MaxSelectors bounds the selectors in all the passes of one user, of which each
	// takes some hundreds of bytes in a router. Default 20,000; negative: any number.
	MaxSelectors int

	// BytesPerSecond bounds what one sequence yields, in bytes of records; as much
	// may come at once. A reader who wants more is held back, which makes him slow:
	// what the rings give up meanwhile he is told as missed. Default 256 MiB;
	// negative: any number.
	BytesPerSecond int64

	// Recheck is about how often the Authorizer is asked again for readers that
	// follow, so that rights which are taken back end what has begun. Default 5
	// minutes; negative: never.
	Recheck time.Duration

	// Origins are hosts whose web pages may open WebSockets here, with patterns as
	// path.Match has them, as "*.example.com". A browser lets any page open one
	// anywhere, so that without this a page from elsewhere could read what its
	// visitor may. Default the host of the request only.
	Origins []string

	// Hosts are names by which clients may ask for this server where nobody needs
	// a token and it listens on loopback. There a name is how a web page from
	// elsewhere gets at it: its own, resolved to 127.0.0.1 when the page is there.
	// Default localhost and addresses.
	Hosts []string

	// Audit gets a line for every decision: who asked for what, from where, and
	// what came of it. Default none.
	Audit *slog.Logger

	// Logger is told when who may read what cannot be found out, once a minute at
	// most. Default none.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.MaxReaders <= 0 {
		opt.MaxReaders = DefaultMaxReaders
	}
	if opt.MaxPerUser == 0 {
		opt.MaxPerUser = DefaultMaxPerUser
	}
	if opt.MaxSelectors == 0 {
		opt.MaxSelectors = DefaultMaxSelectors
	}
	if opt.BytesPerSecond == 0 {
		opt.BytesPerSecond = DefaultBytesPerSecond
	}
	if opt.Recheck == 0 {
		opt.Recheck = DefaultRecheck
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// Gate is what every way of reading goes through, so that rights and limits are
// the same for all. It has no goroutines of its own, and needs no closing.
type Gate struct {
	src Source
	a   Authorizer
	opt Options

	mu      sync.Mutex
	readers int
	users   map[string]use
	toldAt  time.Time // when Logger was told last

	admitted, badToken, denied, busy, userBusy, unavailable, foreign, expired, heldBack atomic.Uint64
}

// use is what a user has of the Gate.
type use struct{ passes, selectors int }

// NewGate makes a Gate before src. Without an Authorizer everybody reads
// everything.
func NewGate(src Source, a Authorizer, o *Options) *Gate {
	return &Gate{src: src, a: a, opt: o.withDefaults(), users: make(map[string]use)}
}

// Restricted reports whether there is an Authorizer.
func (g *Gate) Restricted() bool { return g.a != nil }

// Stats are a Gate's figures. All but the first two only grow.
type Stats struct {
	Readers int // passes there are
	Users   int // who hold them

	Admitted    uint64 // passes given
	BadToken    uint64 // refused: no valid token
	Denied      uint64 // refused: asked for what they may not read
	Busy        uint64 // refused: MaxReaders
	UserBusy    uint64 // refused: MaxPerUser, MaxSelectors
	Unavailable uint64 // refused: it could not be found out what they may read

	Foreign  uint64 // requests refused because they came from web pages from elsewhere
	Expired  uint64 // sequences ended in mid-stream because their token did, or their rights
	HeldBack uint64 // pauses that BytesPerSecond made
}

// Stats returns the figures.
func (g *Gate) Stats() Stats {
	g.mu.Lock()
	readers, users := g.readers, len(g.users)
	g.mu.Unlock()
	return Stats{
		Readers: readers, Users: users,
		Admitted: g.admitted.Load(), BadToken: g.badToken.Load(), Denied: g.denied.Load(),
		Busy: g.busy.Load(), UserBusy: g.userBusy.Load(), Unavailable: g.unavailable.Load(),
		Foreign: g.foreign.Load(), Expired: g.expired.Load(), HeldBack: g.heldBack.Load(),
	}
}

// Admit lets the bearer of token in, to read what he may of what sel asks for, which
// is kept and not to be changed.
// The Pass must be closed. See ErrToken and its like for the errors, and Explain
// for what to answer. It blocks as long as the Authorizer does, at most until ctx
// ends.
func (g *Gate) Admit(ctx context.Context, token string, sel []envelope.Selector) (*Pass, error) {
	pass, err := g.decide(ctx, sel, func() (Grant, error) { return g.authorize(ctx, token, sel) })
	if err == nil && g.a != nil {
		pass.token, pass.asked = strings.Clone(token), sel // not what may be the whole header of a request
	}
	return pass, err
}

// AdmitAs lets somebody in who is known by something else than a token, such as
// the certificate of a connection: grant says who it is, and what to read. The
// limits are the same.
func (g *Gate) AdmitAs(ctx context.Context, grant Grant) (*Pass, error) {
	return g.decide(ctx, grant.Select, func() (Grant, error) { return grant, nil })
}

func (g *Gate) decide(ctx context.Context, sel []envelope.Selector, authorize func() (Grant, error)) (*Pass, error) {
	pass, user, err := g.admit(authorize)
	switch {
	case err == nil:
		g.admitted.Add(1)
	case errors.Is(err, ErrToken):
		g.badToken.Add(1)
	case errors.Is(err, ErrDenied):
		g.denied.Add(1)
	case errors.Is(err, ErrUserBusy):
		g.userBusy.Add(1)
	case errors.Is(err, ErrBusy):
		g.busy.Add(1)
	case ctx.Err() != nil: // he has left
	default:
		g.unavailable.Add(1)
		g.tell(err)
		err = errors.Join(ErrUnavailable, err)
	}
	g.audit(ctx, user, sel, pass, err)
	return pass, err
}

func (g *Gate) admit(authorize func() (Grant, error)) (*Pass, string, error) {
	g.mu.Lock()
	full := g.readers >= g.opt.MaxReaders
	g.mu.Unlock()
	if full { // before anybody is asked
		return nil, "", g.tooMany()
	}
	grant, err := authorize()
	if err != nil {
		return nil, grant.User, err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.readers >= g.opt.MaxReaders {
		return nil, grant.User, g.tooMany()
	}
	if g.a != nil {
		u := g.users[grant.User]
		if g.opt.MaxPerUser > 0 && u.passes >= g.opt.MaxPerUser {
			return nil, grant.User, fmt.Errorf("%w: you are reading %d times already, which is the limit; end one of them", ErrUserBusy, g.opt.MaxPerUser)
		}
		if n := u.selectors + len(grant.Select); g.opt.MaxSelectors > 0 && n > g.opt.MaxSelectors {
			return nil, grant.User, fmt.Errorf("%w: with this you would read %d applications at once, and the limit is %d; ask for less, or end some", ErrUserBusy, n, g.opt.MaxSelectors)
		}
		g.users[grant.User] = use{u.passes + 1, u.selectors + len(grant.Select)}
	}
	g.readers++
	return &Pass{g: g, grant: grant}, grant.User, nil
}

func (g *Gate) tooMany() error {
	return fmt.Errorf("%w: %d are being served, which is the limit; try again later", ErrBusy, g.opt.MaxReaders)
}

// authorize asks the Authorizer.
func (g *Gate) authorize(ctx context.Context, token string, sel []envelope.Selector) (Grant, error) {
	switch {
	case g.a == nil:
		return Grant{Select: sel}, nil
	case token == "":
		return Grant{}, fmt.Errorf("%w: there is none; send one as Authorization: Bearer TOKEN", ErrToken)
	case len(token) > MaxToken:
		return Grant{}, fmt.Errorf("%w: it is longer than %d KiB", ErrToken, MaxToken>>10)
	case len(sel) == 0:
		return Grant{}, ErrDenied
	}
	grant, err := g.a.Authorize(ctx, token, sel)
	switch {
	case err != nil:
		return Grant{User: grant.User}, err
	case len(grant.Select) == 0:
		return grant, ErrDenied
	case !grant.Expires.IsZero() && !time.Now().Before(grant.Expires):
		return Grant{User: grant.User}, fmt.Errorf("%w: it has expired; log in again", ErrToken)
	}
	return grant, nil
}

// Known reports whether anything held now is what the bearer of token may read
// of sel: where a request names several things, each may be asked for. It is for
// one who was admitted.
func (g *Gate) Known(ctx context.Context, token string, sel []envelope.Selector) bool {
	grant, err := g.authorize(ctx, token, sel)
	return err == nil && g.src.Known(grant.Select)
}

// tell says in the log that the Authorizer fails.
func (g *Gate) tell(err error) {
	now := time.Now()
	g.mu.Lock()
	old := g.toldAt.IsZero() || now.Sub(g.toldAt) >= time.Minute
	if old {
		g.toldAt = now
	}
	g.mu.Unlock()
	if old {
		g.opt.Logger.Error("it cannot be found out who may read what: readers are refused", "error", err)
	}
}
