// Package oidc lets the bearers of tokens of an OpenID Connect issuer read: any
// that publishes what OpenID Connect Discovery 1.0, section 4, asks for, as
// Keycloak, Dex, Entra ID, Okta and many others do.
//
// Tokens are JSON Web Tokens. Their signature is checked with the issuer's keys,
// which are found by its discovery document and may change; so are issuer, audience
// and time. Rules say which claims let one read what.
package oidc

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
	// UserClaim is the claim that names the user, for the audit and the limits of
	// each user; it must be one that users cannot choose. Default sub, which every
	// token has.
	UserClaim string

	// Skew is how much the issuer's clock may differ from this machine's. Default
	// 30 seconds.
	Skew time.Duration

	// TLS is for requests to the issuer. Default the system's CAs.
	TLS *tls.Config
}

// Authorizer is an access.Authorizer. It has no goroutines of its own.
type Authorizer struct {
	rules    []Rule
	user     string
	issuer   string
	client   *http.Client
	verifier jwt.Verifier
}

// New makes an Authorizer for tokens of the issuer, as https://login.example.com/realm,
// to the letter as tokens name it, that are meant for one of the audiences. The
// issuer is not asked before the first token comes.
func New(issuer string, audiences []string, rules []Rule, o *Options) (*Authorizer, error) {
	if _, err := jwt.Base(issuer); err != nil {
		return nil, fmt.Errorf("oidc: the issuer: %w", err)
	}
	if len(audiences) == 0 || slices.Contains(audiences, "") {
		return nil, errors.New("oidc: without an audience, tokens that the issuer made for others would do; name it as the claim aud has it")
	}
	if len(rules) == 0 {
		return nil, errors.New("oidc: without rules nobody may read")
	}
	for i := range rules {
		if err := rules[i].check(); err != nil {
			return nil, fmt.Errorf("oidc: rule %d: %w", i+1, err)
		}
	}
	a := &Authorizer{rules: slices.Clone(rules), user: "sub", issuer: issuer}
	skew := jwt.DefaultSkew
	var config *tls.Config
	if o != nil {
		config = o.TLS
		if o.UserClaim != "" {
			a.user = o.UserClaim
		}
		if o.Skew > 0 {
			skew = o.Skew
		}
	}
	a.client = jwt.NewClient(config)
	a.verifier = jwt.Verifier{Issuer: issuer, Audiences: slices.Clone(audiences), Skew: skew, Keys: jwt.NewKeys(a.client, a.keysAt)}
	return a, nil
}

// keysAt is where the issuer has its keys.
func (a *Authorizer) keysAt(ctx context.Context) (string, error) {
	var doc struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	if err := jwt.GetJSON(ctx, a.client, strings.TrimRight(a.issuer, "/")+"/.well-known/openid-configuration", "", &doc); err != nil {
		return "", err
	}
	if doc.Issuer != a.issuer { // section 4.3
		return "", fmt.Errorf("%s says that it is another issuer; its name must be the same to the letter", jwt.Host(a.issuer))
	}
	if _, err := jwt.Base(doc.Keys); err != nil {
		return "", fmt.Errorf("where %s has its keys: %w", jwt.Host(a.issuer), err)
	}
	return doc.Keys, nil
}

// Authorize implements access.Authorizer.
func (a *Authorizer) Authorize(ctx context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	claims := make(map[string]any)
	valid, err := a.verifier.Verify(ctx, token, &claims)
	if err != nil {
		return access.Grant{}, err
	}
	grant := access.Grant{User: valid.Subject, Expires: valid.Expires}
	if a.user != "sub" {
		if name := values(claims, a.user); len(name) == 1 {
			grant.User = name[0]
		} else {
			return access.Grant{}, fmt.Errorf("%w: it has no claim %s that says whose it is", access.ErrToken, a.user)
		}
	}
	var allowed []envelope.Selector
	for i := range a.rules {
		if allowed = a.rules[i].appendTo(allowed, claims); len(allowed) > access.MaxSelect {
			return grant, fmt.Errorf("%w: your claims are more than %d rights to read", access.ErrUserBusy, access.MaxSelect)
		}
	}
	grant.Select, err = access.Within(sel, allowed)
	return grant, err
}
