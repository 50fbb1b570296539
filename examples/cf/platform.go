package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/go-jose/go-jose/v4"
)

// cf is the Cloud Controller (here) and the UAA (in users.go).
type cf struct {
	base, logCache string
	key            *rsa.PrivateKey
	Users          map[string]struct {
		Password string
		Scopes   []string
	}
	Resources []struct {
		Kind, GUID, Name, Space, Org string
		SeenBy                       []string `json:"seen_by"`
	}
}

type object = map[string]any

// newCF makes one that is reached at base.
func newCF(world []byte, base, logCache string) (http.Handler, error) {
	c := &cf{base: base, logCache: logCache}
	if err := json.Unmarshal(world, c); err != nil {
		return nil, fmt.Errorf("the world: %w", err)
	}
	var err error
	c.key, err = rsa.GenerateKey(rand.Reader, 2048)
	mux := http.NewServeMux()
	href := func(s string) object { return object{"href": s} }
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		say(w, 200, object{"links": object{"self": href(base), "login": href(base), "uaa": href(base), "log_cache": href(logCache), "logging": href(logCache),
			"cloud_controller_v3": object{"href": base + "/v3", "meta": object{"version": "3.195.0"}}}})
	})
	mux.HandleFunc("GET /login", func(w http.ResponseWriter, r *http.Request) {
		say(w, 200, object{"prompts": object{"username": []string{"text", "Email"}, "password": []string{"password", "Password"}}})
	})
	mux.HandleFunc("GET /token_keys", func(w http.ResponseWriter, r *http.Request) {
		say(w, 200, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: c.key.Public(), KeyID: "key-1", Algorithm: "RS256", Use: "sig"}}})
	})
	mux.HandleFunc("POST /oauth/token", c.login)
	mux.HandleFunc("GET /v3", func(w http.ResponseWriter, r *http.Request) {
		links := object{"self": href(base + "/v3")}
		for _, kind := range []string{"organizations", "spaces", "apps"} {
			links[kind] = href(base + "/v3/" + kind)
		}
		say(w, 200, object{"links": links})
	})
	mux.HandleFunc("GET /v3/{kind}", c.list)
	mux.HandleFunc("GET /v3/{kind}/{guid}", c.list)
	return mux, err
}

func say(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}

// list answers with what the bearer of the token sees, and is asked for.
func (c *cf) list(w http.ResponseWriter, r *http.Request) {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	user := c.user(token, "cloud_controller")
	if user == "" || !strings.EqualFold(scheme, "bearer") {
		say(w, 401, object{"errors": []object{{"code": 1000, "title": "CF-InvalidAuthToken", "detail": "Invalid Auth Token"}}})
		return
	}
	asked := r.URL.Query()
	is := func(param, value string) bool {
		return !asked.Has(param) || slices.ContainsFunc(strings.Split(asked.Get(param), ","), func(s string) bool {
			s, _ = url.PathUnescape(s) // a comma in a name
			return s == value
		})
	}
	if guid := r.PathValue("guid"); guid != "" {
		asked.Set("guids", guid)
	}
	found := []object{}
	for _, x := range c.Resources {
		if x.Kind != r.PathValue("kind") || !slices.Contains(x.SeenBy, user) ||
			!is("guids", x.GUID) || !is("names", x.Name) || !is("space_guids", x.Space) || !is("organization_guids", x.Org) {
			continue
		}
		found = append(found, object{"guid": x.GUID, "name": x.Name, "state": "STARTED", "relationships": object{
			"space": object{"data": object{"guid": x.Space}}, "organization": object{"data": object{"guid": x.Org}}}})
	}
	switch {
	case r.PathValue("guid") == "":
		say(w, 200, object{"pagination": object{"total_results": len(found), "total_pages": 1, "next": nil}, "resources": found})
	case len(found) == 1:
		say(w, 200, found[0])
	default:
		say(w, 404, object{"errors": []object{{"code": 10010, "title": "CF-ResourceNotFound", "detail": "not found"}}})
	}
}
