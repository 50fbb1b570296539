package cloudfoundry_test

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/cloudfoundry/loggregator/transport/access/cloudfoundry"
)

// Ids of what there is in the stand-in.
const (
	webID   = "11111111-0000-4000-8000-000000000001" // ann's, in dev
	apiID   = "11111111-0000-4000-8000-000000000002" // ann's, in dev
	otherID = "22222222-0000-4000-8000-000000000003" // bob's, in prod, is called web, too
	dbID    = "33333333-0000-4000-8000-000000000004" // a service instance of ann's
	devID   = "aaaaaaaa-0000-4000-8000-000000000005"
	prodID  = "aaaaaaaa-0000-4000-8000-000000000006"
	acmeID  = "bbbbbbbb-0000-4000-8000-000000000007" // of dev
	evilID  = "bbbbbbbb-0000-4000-8000-000000000008" // of prod
	nobody  = "99999999-0000-4000-8000-000000000009" // there is no such thing
)

// resource is a thing of the Cloud Controller, and who sees it.
type resource struct {
	kind, id, name string
	space, org     string
	seen           []string
}

// platform is a stand-in for a UAA and a Cloud Controller, in one server.
type platform struct {
	*httptest.Server
	t testing.TB

	mu        sync.Mutex
	resources []resource
	keys      []jose.JSONWebKey
	asked     []string // of the Cloud Controller
	keysAsked int
	broken    int    // answer this status
	answer    string // answer this

	slow    string // is answered when the channel is closed
	release chan struct{}
	waiting atomic.Int64
}

var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	rsaKey2  = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	evilsKey = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func public(key crypto.Signer, id string) jose.JSONWebKey {
	return jose.JSONWebKey{Key: key.Public(), KeyID: id, Use: "sig", Algorithm: "RS256"}
}

func newPlatform(t testing.TB) *platform {
	p := &platform{t: t, keys: []jose.JSONWebKey{public(rsaKey(), "key-1")}, resources: []resource{
		{"organizations", acmeID, "acme", "", "", []string{"ann", "bob"}}, // bob is a user of the org, no more
		{"organizations", evilID, "evil", "", "", []string{"bob"}},
		{"spaces", devID, "dev", "", acmeID, []string{"ann"}},
		{"spaces", prodID, "prod", "", evilID, []string{"bob"}},
		{"apps", webID, "web", devID, acmeID, []string{"ann"}},
		{"apps", apiID, "api", devID, acmeID, []string{"ann"}},
		{"apps", otherID, "web", prodID, evilID, []string{"bob"}},
		{"service_instances", dbID, "db", devID, acmeID, []string{"ann"}},
	}}
	p.Server = httptest.NewServer(http.HandlerFunc(p.serve))
	t.Cleanup(p.Close)
	return p
}

// serve answers as the documentation of the Cloud Controller's API v3 says: a list
// holds what the token's bearer may see, and nothing tells of the rest.
func (p *platform) serve(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	slow, release := p.slow, p.release
	p.mu.Unlock()
	if slow != "" && r.Header.Get("Authorization") == "Bearer "+slow {
		p.waiting.Add(1)
		select {
		case <-release:
		case <-r.Context().Done(): // who asked waits no more
		}
		p.waiting.Add(-1)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.broken != 0:
		w.WriteHeader(p.broken)
		return
	case p.answer != "":
		fmt.Fprint(w, p.answer)
		return
	}
	if r.URL.Path == "/token_keys" {
		p.keysAsked++
		json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: p.keys})
		return
	}
	p.asked = append(p.asked, r.URL.RequestURI())
	kind, ok := strings.CutPrefix(r.URL.Path, "/v3/")
	if !ok {
		w.WriteHeader(404)
		return
	}
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	parsed, err := jwt.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	var c struct {
		User string `json:"user_name"`
	}
	if err != nil || parsed.UnsafeClaimsWithoutVerification(&c) != nil {
		w.WriteHeader(401)
		return
	}
	is := func(param, value string) bool {
		return !r.URL.Query().Has(param) || slices.Contains(strings.Split(r.URL.Query().Get(param), ","), value)
	}
	list := []map[string]string{}
	for _, x := range p.resources {
		if x.kind == kind && slices.Contains(x.seen, c.User) && is("guids", strings.ToLower(x.id)) && is("names", x.name) &&
			is("space_guids", x.space) && is("organization_guids", x.org) {
			list = append(list, map[string]string{"guid": x.id, "name": x.name})
		}
	}
	total := len(list)
	if per, _ := strconv.Atoi(r.URL.Query().Get("per_page")); len(list) > per {
		list = list[:per]
	}
	json.NewEncoder(w).Encode(map[string]any{"pagination": map[string]any{"total_results": total}, "resources": list})
}

// questions are what the Cloud Controller was asked since the last time.
func (p *platform) questions() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := p.asked
	p.asked = nil
	return asked
}

func (p *platform) set(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
}

func (p *platform) authorizer(o *cloudfoundry.Options) *cloudfoundry.Authorizer {
	p.t.Helper()
	a, err := cloudfoundry.New(p.URL, p.URL+"/", o)
	if err != nil {
		p.t.Fatal(err)
	}
	return a
}

// claims of a token that a user of that name has got.
func (p *platform) claims(user string, scopes ...string) map[string]any {
	return map[string]any{
		"iss": p.URL + "/oauth/token", "sub": user + "-id", "aud": []string{"cf", "cloud_controller"},
		"exp": time.Now().Add(10 * time.Minute).Unix(), "iat": time.Now().Unix(), "jti": "0123",
		"user_id": user + "-id", "user_name": user, "client_id": "cf", "scope": append([]string{"cloud_controller.read"}, scopes...),
	}
}

// with are claims with some others.
func with(c map[string]any, changes ...any) map[string]any {
	for i := 0; i < len(changes); i += 2 {
		if changes[i+1] == nil {
			delete(c, changes[i].(string))
			continue
		}
		c[changes[i].(string)] = changes[i+1]
	}
	return c
}

func sign(key any, alg jose.SignatureAlgorithm, id string, claims any) string {
	signer := must(jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, (&jose.SignerOptions{}).WithHeader("kid", id).WithType("JWT")))
	return must(jwt.Signed(signer).Claims(claims).Serialize())
}

// token is one of the platform's own.
func (p *platform) token(user string, scopes ...string) string {
	return sign(rsaKey(), jose.RS256, "key-1", p.claims(user, scopes...))
}
