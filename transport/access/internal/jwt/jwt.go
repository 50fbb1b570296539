// Package jwt checks tokens that an issuer has signed: JSON Web Tokens (RFC 7519)
// with the issuer's published keys (RFC 7517). The cryptography is go-jose's; here
// is what must hold besides a signature, and how keys are come by.
package jwt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cloudfoundry/loggregator/transport/access"
)

// DefaultSkew is how much the clocks of an issuer and this machine may differ.
const DefaultSkew = 30 * time.Second

// algorithms that are taken: those of which only the issuer has the secret. So a
// public key is no secret to sign with, and "none" is none.
var algorithms = []jose.SignatureAlgorithm{
	jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512,
	jose.ES256, jose.ES384, jose.ES512, jose.EdDSA,
}

// Verifier checks tokens of one issuer.
type Verifier struct {
	Issuer    string        // as the claim iss says it, to the letter
	Audiences []string      // of which one must be in the claim aud
	Skew      time.Duration // added to the time in which a token is valid
	Keys      *Keys
}

// Token is what a token says that was found valid.
type Token struct {
	ID      string
	Subject string
	Expires time.Time // with the skew
}

// Verify checks token and reads its claims into claims. Errors about the token
// wrap access.ErrToken and are for its bearer; others say that it could not be
// checked.
func (v *Verifier) Verify(ctx context.Context, token string, claims any) (Token, error) {
	parsed, err := jwt.ParseSigned(token, algorithms)
	if _, ok := errors.AsType[*jose.ErrUnexpectedSignatureAlgorithm](err); ok {
		return Token{}, refuse("it is signed in a way that is not taken; take one that is signed with the issuer's private key")
	}
	if err != nil || len(parsed.Headers) != 1 {
		return Token{}, refuse("it is no signed JSON Web Token; log in for one")
	}
	keys, err := v.Keys.find(ctx, parsed.Headers[0].KeyID)
	if err != nil {
		return Token{}, err
	}
	var c jwt.Claims
	if !slices.ContainsFunc(keys, func(key jose.JSONWebKey) bool { return parsed.Claims(key.Key, &c, claims) == nil }) {
		return Token{}, refuse("its signature is not the issuer's, or its claims cannot be read; log in again")
	}
	err = c.ValidateWithLeeway(jwt.Expected{Issuer: v.Issuer, AnyAudience: v.Audiences}, v.Skew)
	switch {
	case errors.Is(err, jwt.ErrExpired):
		return Token{}, refuse("it has expired; log in again")
	case errors.Is(err, jwt.ErrInvalidIssuer):
		return Token{}, refuse(fmt.Sprintf("it is of another issuer than %s; log in there", v.Issuer))
	case errors.Is(err, jwt.ErrInvalidAudience):
		return Token{}, refuse(fmt.Sprintf("it is not meant for reading logs: its audience must have one of %q", v.Audiences))
	case errors.Is(err, jwt.ErrNotValidYet), errors.Is(err, jwt.ErrIssuedInTheFuture):
		return Token{}, refuse("it is not valid yet; are the clocks right?")
	case err != nil:
		return Token{}, refuse("it is not valid; log in again")
	case c.Expiry == nil || c.Issuer == "" || c.Subject == "":
		return Token{}, refuse("it does not say when it expires, who issued it, or whose it is")
	}
	return Token{ID: c.ID, Subject: c.Subject, Expires: c.Expiry.Time().Add(v.Skew)}, nil
}

func refuse(why string) error { return fmt.Errorf("%w: %s", access.ErrToken, why) }
