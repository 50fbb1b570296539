package oidc

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// issuer is a stand-in for one.
type issuer struct {
	*httptest.Server
	key    *ecdsa.PrivateKey
	called string // what its discovery document says it is called
}

func newIssuer(t *testing.T) *issuer {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuer{key: key}
	i.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/realm/.well-known/openid-configuration":
			json.NewEncoder(w).Encode(map[string]string{"issuer": i.called, "jwks_uri": i.URL + "/keys"})
		case "/keys":
			// One of a kind that nobody knows spoils none of the others.
			set := map[string]any{"keys": []any{
				map[string]string{"kty": "XYZ", "kid": "strange"},
				jose.JSONWebKey{Key: key.Public(), KeyID: "k", Use: "sig", Algorithm: "ES256"},
			}}
			json.NewEncoder(w).Encode(set)
		default:
			w.WriteHeader(404)
		}
	}))
	i.called = i.URL + "/realm"
	t.Cleanup(i.Close)
	return i
}

func (i *issuer) token(t *testing.T, claims map[string]any) string {
	all := map[string]any{"iss": i.URL + "/realm", "aud": "logs", "sub": "u-1", "exp": time.Now().Add(time.Hour).Unix()}
	for k, v := range claims {
		all[k] = v
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", "k"))
	if err != nil {
		t.Fatal(err)
	}
	s, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const rules = `{"rules":[
	{"claim":"groups","value":"operators","read":"everything"},
	{"claim":"groups","value":"*","read":[{"org":"{value}"}]},
	{"claim":"realm_access.roles","value":"shop-dev","read":[{"app":"shop"}]},
	{"claim":"https://acme.test/space","value":"*","read":[{"space_id":"{value}"}]},
	{"claim":"scope","value":"logs.read","read":[{"source_id":"gorouter"}]}]}`

func TestClaims(t *testing.T) {
	i := newIssuer(t)
	parsed, err := parseRules([]byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(i.URL+"/realm", []string{"logs", "other"}, parsed, nil)
	if err != nil {
		t.Fatal(err)
	}
	type C = map[string]any
	type S = envelope.Selector
	for _, tt := range []struct {
		name   string
		claims C
		want   []S // of everything; nil: denied
	}{
		{"no claim", C{}, nil},
		{"a group", C{"groups": []string{"acme"}}, []S{{Org: "acme"}}},
		{"one group, no list", C{"groups": "acme"}, []S{{Org: "acme"}}},
		{"two groups", C{"groups": []string{"acme", "evil"}}, []S{{Org: "acme"}, {Org: "evil"}}},
		{"a group without a name", C{"groups": []string{""}}, nil},
		{"a group that is no word", C{"groups": []any{7, nil, C{"x": "operators"}}}, nil},
		{"everything", C{"groups": []string{"operators"}}, []S{{}, {Org: "operators"}}},
		{"a claim within a claim", C{"realm_access": C{"roles": []string{"shop-dev"}}}, []S{{App: "shop"}}},
		{"another value", C{"realm_access": C{"roles": []string{"shop-dev2"}}}, nil},
		{"a claim whose name has dots", C{"https://acme.test/space": "s-1"}, []S{{Space: "s-1", IDs: true}}},
		{"a scope", C{"scope": "openid logs.read"}, []S{{SourceID: "gorouter"}}},
		{"a scope that is like it", C{"scope": "openid logs.read.not"}, nil},
	} {
		got, err := a.Authorize(t.Context(), i.token(t, tt.claims), envelope.Everything)
		if (tt.want == nil) != errors.Is(err, access.ErrDenied) || got.User != "u-1" {
			t.Errorf("%s: %+v %v", tt.name, got, err)
		}
		if d := cmp.Diff(tt.want, got.Select); d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	for _, tt := range []struct {
		name   string
		claims C
		want   string
	}{
		{"of another issuer", C{"iss": "https://evil.test"}, "of another issuer"},
		{"for others", C{"aud": []string{"shop"}}, "audience must have one of"},
		{"expired", C{"exp": time.Now().Add(-time.Minute).Unix()}, "expired"},
		{"for ever", C{"exp": nil}, "does not say when it expires"},
		{"not yet", C{"nbf": time.Now().Add(time.Hour).Unix()}, "not valid yet"},
		{"nobody's", C{"sub": ""}, "whose it is"},
	} {
		_, err := a.Authorize(t.Context(), i.token(t, tt.claims), envelope.Everything)
		if !errors.Is(err, access.ErrToken) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
	// Clocks differ.
	if _, err := a.Authorize(t.Context(), i.token(t, C{"exp": time.Now().Add(-5 * time.Second).Unix(), "groups": "acme"}), envelope.Everything); err != nil {
		t.Errorf("within the skew: %v", err)
	}
}

func TestUserClaim(t *testing.T) {
	i := newIssuer(t)
	a, err := New(i.URL+"/realm", []string{"logs"}, []Rule{{"sub", "*", access.Permits{{}}}}, &Options{UserClaim: "email"})
	if err != nil {
		t.Fatal(err)
	}
	g, err := a.Authorize(t.Context(), i.token(t, map[string]any{"email": "ann@acme.test"}), envelope.Everything)
	if err != nil || g.User != "ann@acme.test" {
		t.Errorf("%+v %v", g, err)
	}
	if _, err := a.Authorize(t.Context(), i.token(t, nil), envelope.Everything); !errors.Is(err, access.ErrToken) {
		t.Errorf("%v", err)
	}
}

// An issuer that says it is another is not believed.
func TestDiscovery(t *testing.T) {
	i := newIssuer(t)
	i.called = "https://evil.test"
	a, err := New(i.URL+"/realm", []string{"logs"}, []Rule{{"sub", "*", access.Permits{{}}}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = a.Authorize(t.Context(), i.token(t, nil), envelope.Everything)
	if err == nil || errors.Is(err, access.ErrToken) || !strings.Contains(err.Error(), "another issuer") {
		t.Errorf("%v", err)
	}
}

func TestWhatIsNotTaken(t *testing.T) {
	good := []Rule{{"sub", "*", access.Permits{{}}}}
	for _, tt := range []struct {
		issuer    string
		audiences []string
		rules     []Rule
		want      string
	}{
		{"login", []string{"a"}, good, "it is an address like"},
		{"http://login.test", []string{"a"}, good, "must begin with https://"},
		{"https://login.test", nil, good, "without an audience"},
		{"https://login.test", []string{""}, good, "without an audience"},
		{"https://login.test", []string{"a"}, nil, "without rules"},
		{"https://login.test", []string{"a"}, []Rule{{"", "*", access.Permits{{}}}}, "rule 1: it names no claim"},
		{"https://login.test", []string{"a"}, []Rule{{"sub", "", access.Permits{{}}}}, "it names no value"},
		{"https://login.test", []string{"a"}, []Rule{{"sub", "*", nil}}, "it lets nobody read"},
	} {
		if _, err := New(tt.issuer, tt.audiences, tt.rules, nil); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v", tt, err)
		}
	}
	for _, text := range []string{"", "{}", `{"rules":[{}]}`, `{"rules":[{"claim":"a","value":"b","read":[{}]}]}`, rules + "{", strings.Replace(rules, "claim", "claims", 1)} {
		if _, err := parseRules([]byte(text)); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}
