// Package cloudfoundry lets users of a Cloud Foundry read the logs of what they
// may see there.
//
// A token of the platform's UAA is checked by its signature, with the UAA's own
// keys. Who has the scope doppler.firehose or logs.admin reads everything, under
// the names that the logs themselves carry. For everybody else the Cloud Controller
// is asked, with his own token: names become the ids of what he may see, and he is
// granted these ids, so that what others are called leads nowhere.
//
//   - An application, by name or id, alone or within a space or an org: those of
//     that name that he may see.
//   - A source id: if it is the id of an application or a service instance that he
//     may see.
//   - A space, by name or id: if he may see it.
//   - An org: the spaces of it that he may see.
//   - Everything: all applications and service instances that he may see, up to
//     Options.MaxSources. Those that are made later are not among them.
//
// What has the form of an id, 8-4-4-4-12 hexadecimal digits, is an id and never a
// name. A source id of another form, as platform components have, is for those with
// the scopes only.
//
// The Cloud Controller's answers are kept for Options.CacheFor. While it, or the
// UAA, cannot be asked, nobody is granted what is not in them.
package cloudfoundry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/access/internal/jwt"
)

// Options of an Authorizer. The zero value is useful.
type Options struct {
	// Issuer is what tokens name as theirs. Default the UAA's address with
	// /oauth/token behind, as the UAA itself has it.
	Issuer string

	// Audiences of which a token must have one. Default cloud_controller, doppler
	// and logs.
	Audiences []string

	// AdminScopes let their bearer read everything. Default doppler.firehose and
	// logs.admin.
	AdminScopes []string

	// CacheFor is how long answers of the Cloud Controller are kept, and with them
	// rights that were taken back. Default 30 seconds.
	CacheFor time.Duration

	// MaxSources bounds the applications that one who asks for everything, or for
	// a name, is granted, and the spaces of an org. Default 1000, at most 5000.
	MaxSources int

	// Skew is how much the UAA's clock may differ from this machine's. Default 30
	// seconds.
	Skew time.Duration

	// TLS is for requests to the UAA and the Cloud Controller. Default the
	// system's CAs.
	TLS *tls.Config
}

func (o *Options) withDefaults(uaa string) Options {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.Issuer == "" {
		opt.Issuer = uaa + "/oauth/token"
	}
	if len(opt.Audiences) == 0 {
		opt.Audiences = []string{"cloud_controller", "doppler", "logs"}
	}
	if len(opt.AdminScopes) == 0 {
		opt.AdminScopes = []string{"doppler.firehose", "logs.admin"}
	}
	if opt.CacheFor <= 0 {
		opt.CacheFor = 30 * time.Second
	}
	if opt.MaxSources <= 0 {
		opt.MaxSources = 1000
	}
	opt.MaxSources = min(opt.MaxSources, 5000) // the most that the Cloud Controller lists at once
	if opt.Skew <= 0 {
		opt.Skew = jwt.DefaultSkew
	}
	return opt
}

// Authorizer is an access.Authorizer. It has no goroutines of its own.
type Authorizer struct {
	opt      Options
	verifier jwt.Verifier
	cc       controller
}

// New makes an Authorizer of the Cloud Foundry whose Cloud Controller is at api, as
// https://api.sys.example.com, and whose UAA is at uaa, as
// https://uaa.sys.example.com. Nobody is asked before the first token comes.
func New(api, uaa string, o *Options) (*Authorizer, error) {
	api, err := jwt.Base(api)
	if err != nil {
		return nil, fmt.Errorf("cloudfoundry: the address of the Cloud Controller: %w", err)
	}
	if uaa, err = jwt.Base(uaa); err != nil {
		return nil, fmt.Errorf("cloudfoundry: the address of the UAA: %w", err)
	}
	opt := o.withDefaults(uaa)
	client := jwt.NewClient(opt.TLS)
	keysAt := func(context.Context) (string, error) { return uaa + "/token_keys", nil }
	return &Authorizer{
		opt: opt,
		verifier: jwt.Verifier{
			Issuer: opt.Issuer, Audiences: slices.Clone(opt.Audiences), Skew: opt.Skew,
			Keys: jwt.NewKeys(client, keysAt),
		},
		cc: newController(api, client, opt.CacheFor, opt.MaxSources),
	}, nil
}

// claims are those of a UAA token that matter beyond its validity.
type claims struct {
	Scope    []string `json:"scope"`
	UserID   string   `json:"user_id"`
	UserName string   `json:"user_name"`
	ClientID string   `json:"client_id"`
}

// user is for the audit: the id is what cannot be chosen.
func (c *claims) user() string {
	switch {
	case c.UserID == "":
		return "client " + c.ClientID
	case len(c.UserName) > 128 || c.UserName == "":
		return c.UserID
	}
	return c.UserName + " " + c.UserID
}

// Authorize implements access.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	var c claims
	valid, err := a.verifier.Verify(ctx, token, &c)
	if err != nil {
		return access.Grant{}, err
	}
	if c.UserID == "" && c.ClientID == "" || strings.HasSuffix(valid.ID, "-r") { // how the UAA marks refresh tokens
		return access.Grant{}, fmt.Errorf("%w: it is no access token; send the one that cf oauth-token shows", access.ErrToken)
	}
	grant := access.Grant{User: c.user(), Expires: valid.Expires}
	if slices.ContainsFunc(c.Scope, func(s string) bool { return slices.Contains(a.opt.AdminScopes, s) }) {
		grant.Select = sel
		return grant, nil
	}
	r := resolution{cc: &a.cc, ctx: ctx, user: grant.User, token: token, max: a.opt.MaxSources, asks: maxAsks}
	if err := r.look(sel); err != nil {
		return grant, explained(err)
	}
	for i := range sel {
		before := len(r.granted)
		if err := r.grant(&sel[i]); err != nil {
			return grant, explained(err)
		}
		if len(r.granted) == before {
			return grant, access.ErrDenied
		}
	}
	grant.Select = r.granted
	return grant, nil
}

// explained is an error of a request to the Cloud Controller as one of access.
func explained(err error) error {
	if s, ok := errors.AsType[*jwt.StatusError](err); ok {
		switch s.Status {
		case http.StatusUnauthorized:
			return fmt.Errorf("%w: the Cloud Controller does not take it; log in again", access.ErrToken)
		case http.StatusForbidden, http.StatusNotFound:
			return access.ErrDenied
		}
	}
	return err
}
