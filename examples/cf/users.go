package main

import (
	"crypto/rand"
	"log"
	"net/http"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// login gives tokens for a password, or for the refresh token that came with them.
func (c *cf) login(w http.ResponseWriter, r *http.Request) {
	name := r.PostFormValue("username")
	user, known := c.Users[name]
	switch r.PostFormValue("grant_type") {
	case "password":
		known = known && user.Password == r.PostFormValue("password")
	case "refresh_token":
		name = c.user(r.PostFormValue("refresh_token"), "refresh")
		user, known = c.Users[name]
	default:
		known = false
	}
	if !known {
		say(w, 401, object{"error": "unauthorized", "error_description": "Bad credentials"})
		return
	}
	say(w, 200, object{"token_type": "bearer", "expires_in": 600, "scope": "cloud_controller.read", "jti": "1",
		"access_token": c.token(name, user.Scopes, "cloud_controller", 10*time.Minute), "refresh_token": c.token(name, nil, "refresh", 24*time.Hour)})
}

func (c *cf) token(user string, scopes []string, audience string, good time.Duration) string {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: c.key}, (&jose.SignerOptions{}).WithHeader("kid", "key-1").WithType("JWT"))
	if err != nil {
		log.Fatal(err)
	}
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(object{"iss": c.base + "/oauth/token", "sub": user, "user_id": user, "user_name": user, "origin": "uaa",
		"client_id": "cf", "cid": "cf", "aud": []string{"cf", audience}, "scope": append([]string{"cloud_controller.read"}, scopes...),
		"iat": now.Unix(), "exp": now.Add(good).Unix(), "jti": rand.Text()}).Serialize()
	if err != nil {
		log.Fatal(err)
	}
	return token
}

// user is whose token it is, or empty.
func (c *cf) user(token, audience string) string {
	var claims struct {
		jwt.Claims
		User string `json:"user_name"`
	}
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil || parsed.Claims(c.key.Public(), &claims) != nil || claims.Validate(jwt.Expected{AnyAudience: jwt.Audience{audience}, Time: time.Now()}) != nil {
		return ""
	}
	return claims.User
}
