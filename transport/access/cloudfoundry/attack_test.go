package cloudfoundry_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/go-jose/go-jose/v4"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// What somebody does who wants to read what is not his: ann's. He is bob, a user
// of the same platform, or nobody at all.

const annsSecret, bobsOwn = "ann's secret", "bob's own"

// rig is a server of the platform's logs.
type rig struct {
	*platform
	router *loggregator.Router
	gate   *access.Gate
	url    string
	audit  *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newRig(t *testing.T) *rig {
	r := &rig{platform: newPlatform(t), router: loggregator.New(nil), audit: &lockedBuffer{}}
	r.gate = access.NewGate(r.router, r.authorizer(nil), &access.Options{Audit: slog.New(slog.NewTextHandler(r.audit, nil))})
	h := httpapi.New(r.gate, nil)
	srv := httptest.NewServer(h)
	r.url = srv.URL
	t.Cleanup(func() {
		h.Close()
		srv.Close()
		if s := r.gate.Stats(); s.Readers != 0 || s.Users != 0 {
			t.Errorf("left over: %+v", s)
		}
		s := r.router.Stats()
		if s.Accepted+s.Marked != s.Evicted+s.Expired+s.Released+s.Held {
			t.Errorf("%+v", s)
		}
		r.router.Close()
	})
	r.say("ann", webID, "web", annsSecret)
	r.say("ann", apiID, "api", annsSecret)
	r.say("bob", otherID, "web", bobsOwn)
	return r
}

// say writes a line as the platform's agents do, with the tags that they put in.
// Bob calls whatever he may name like what is ann's: his application like hers, his
// space and org by the ids of hers.
func (r *rig) say(user, id, app, text string) {
	r.t.Helper()
	tags := map[string]string{envelope.TagAppID: id, envelope.TagAppName: app, envelope.TagSourceType: "APP/PROC/WEB"}
	if user == "ann" {
		maps.Copy(tags, map[string]string{envelope.TagSpaceID: devID, envelope.TagSpaceName: "dev", envelope.TagOrgID: acmeID, envelope.TagOrgName: "acme"})
	} else {
		maps.Copy(tags, map[string]string{envelope.TagSpaceID: prodID, envelope.TagSpaceName: devID, envelope.TagOrgID: evilID, envelope.TagOrgName: acmeID})
	}
	fixed := envelope.Identity{SourceID: id, InstanceID: "0", Tags: tags}.Encode()
	b, err := envelope.Of(envelope.AppendLog(nil, fixed, time.Now().UnixNano(), envelope.Out, []byte(text)))
	if err == nil {
		err = r.router.WriteBatch(context.Background(), b)
	}
	if err != nil {
		r.t.Error(err)
	}
}

// get asks with a token. It returns all of the answer but the date.
func (r *rig) get(token, page, query string, headers ...string) (status int, answer string) {
	r.t.Helper()
	req, err := http.NewRequest(http.MethodGet, r.url+"/v1/"+page+"?"+query, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode == 200 && page == "tail" {
		return 200, "a tail, which has no end"
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	resp.Header.Del("Date")
	return resp.StatusCode, fmt.Sprint(resp.StatusCode, resp.Header, string(body))
}

// tail is a reader's WebSocket. From its return on nothing is missed.
type tail struct {
	mu     sync.Mutex
	lines  []string
	cursor envelope.Cursor
}

func (r *rig) tail(token, query string) *tail {
	r.t.Helper()
	before := r.router.Stats().Readers
	ctx, cancel := context.WithCancel(context.Background())
	c, resp, err := websocket.Dial(ctx, r.url+"/v1/tail?"+query, &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		cancel()
		r.t.Fatalf("%s: %v %v", query, resp, err)
	}
	c.SetReadLimit(-1)
	l := &tail{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			_, m, err := c.Read(ctx)
			if err != nil {
				return
			}
			b, err := envelope.ParseBatch(m)
			if err != nil {
				r.t.Error(err)
				return
			}
			l.mu.Lock()
			l.cursor.Advance(b)
			for e := range b.All() {
				route, _ := e.Route()
				l.lines = append(l.lines, string(route.SourceID)+" "+string(route.Payload))
			}
			l.mu.Unlock()
		}
	}()
	r.t.Cleanup(func() { cancel(); c.CloseNow(); <-done })
	for deadline := time.Now().Add(30 * time.Second); r.router.Stats().Readers == before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatal("the tail does not begin")
		}
	}
	return l
}

func (l *tail) seen() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// until waits until the tail has seen text.
func (l *tail) until(t *testing.T, text string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !strings.Contains(strings.Join(l.seen(), "\n"), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%q never came: %q", text, l.seen())
		}
	}
}

func (l *tail) knowsNothingOf(t *testing.T, text string) {
	t.Helper()
	if got := strings.Join(l.seen(), "\n"); strings.Contains(got, text) {
		t.Errorf("it has seen %q", got)
	}
}

func TestUsersReadTheirOwn(t *testing.T) {
	r := newRig(t)
	ann, bob := r.token("ann"), r.token("bob")
	for _, query := range []string{"app=web", "app=" + webID, "source_id=" + webID, "space=dev", "space=" + devID, "org=acme", "", "app=web&space=dev&org=acme"} {
		if status, answer := r.get(ann, "recent", query); status != 200 || !strings.Contains(answer, annsSecret) || strings.Contains(answer, bobsOwn) {
			t.Errorf("ann asks for %q: %s", query, answer)
		}
	}
	for _, query := range []string{"app=web", "app=" + otherID, "space=prod", "org=evil", ""} {
		if status, answer := r.get(bob, "recent", query); status != 200 || strings.Contains(answer, annsSecret) || !strings.Contains(answer, bobsOwn) {
			t.Errorf("bob asks for %q: %s", query, answer)
		}
	}
	if status, answer := r.get(r.token("root", "logs.admin"), "recent", "app=web"); status != 200 || !strings.Contains(answer, annsSecret) || !strings.Contains(answer, bobsOwn) {
		t.Errorf("root: %s", answer)
	}
}

// By id, name, space, org, and combinations: the answer is the one for what is not
// there, to the byte.
func TestAnothersIsNotThere(t *testing.T) {
	r := newRig(t)
	bob := r.token("bob")
	for _, tt := range [][2]string{ // what is ann's, and what is nobody's
		{"app=api", "app=nope"},
		{"app=" + webID, "app=" + nobody},
		{"source_id=" + webID, "source_id=" + nobody},
		{"source_id=" + dbID, "source_id=" + nobody},
		{"space=dev", "space=nope"},
		{"space=" + devID, "space=" + nobody},
		{"org=acme", "org=nope"}, // he is in it, but sees no space of it
		{"org=" + acmeID, "org=" + nobody},
		{"app=web&space=dev", "app=web&space=nope"},
		{"app=" + otherID + "&space=" + devID, "app=" + otherID + "&space=" + nobody},
		{"app=web&app=api", "app=web&app=nope"},
		{"app=" + otherID + "&source_id=" + webID, "app=" + otherID + "&source_id=" + nobody},
		{"app=api&wait=true", "app=nope&wait=true"},
		{"source_id=gorouter", "source_id=nope"},
		{"app=" + strings.ToUpper(webID), "app=" + strings.ToUpper(nobody)},
		{"app=api&lines=10&stream=out", "app=nope&lines=10&stream=out"},
	} {
		for _, page := range []string{"recent", "tail"} {
			for _, accept := range []string{"text/plain", "application/x-ndjson", "application/x-protobuf"} {
				status, answer := r.get(bob, page, tt[0], "Accept", accept)
				_, unknown := r.get(bob, page, tt[1], "Accept", accept)
				replaced := answer
				for _, key := range []string{"app", "space", "org", "source_id"} {
					theirs, nobodys := param(tt[0], key), param(tt[1], key)
					for i := range theirs {
						replaced = strings.ReplaceAll(replaced, `"`+theirs[i]+`\"`, `"`+nobodys[i]+`\"`) // in JSON
						replaced = strings.ReplaceAll(replaced, `"`+theirs[i]+`"`, `"`+nobodys[i]+`"`)
					}
				}
				unknown, replaced = withoutLength(unknown), withoutLength(replaced)
				if status != 404 || replaced != unknown || strings.Contains(answer, annsSecret) {
					t.Errorf("%s of %s as %s:\n%s\n%s", page, tt[0], accept, replaced, unknown)
				}
			}
		}
	}
	if n := strings.Count(r.audit.String(), `decision=denied user="bob bob-id"`); n != 16*2*3*2 {
		t.Errorf("the audit has %d denials of bob:\n%.1000s", n, r.audit.String())
	}
}

func param(query, key string) []string {
	v, _ := url.ParseQuery(query)
	return v[key]
}

// withoutLength is an answer without the length of what was asked for in it.
func withoutLength(answer string) string {
	before, rest, ok := strings.Cut(answer, "Content-Length:[")
	if !ok {
		return answer
	}
	_, after, _ := strings.Cut(rest, "]")
	return before + after
}

// A cursor says where to go on, not what to read.
func TestAnothersCursor(t *testing.T) {
	r := newRig(t)
	anns := r.tail(r.token("ann"), "")
	r.say("ann", webID, "web", "first")
	anns.until(t, "first")
	anns.mu.Lock()
	cursor := anns.cursor.Clone()
	anns.mu.Unlock()
	r.say("ann", webID, "web", annsSecret)
	r.say("bob", otherID, "web", bobsOwn)
	for id := range cursor.Rings { // from the beginning
		cursor.Rings[id] = 1
	}
	bobs := r.tail(r.token("bob"), "cursor="+cursor.String())
	bobs.until(t, bobsOwn)
	r.say("ann", webID, "web", annsSecret)
	r.say("bob", otherID, "web", "the end")
	bobs.until(t, "the end")
	bobs.knowsNothingOf(t, annsSecret)
	if status, answer := r.get(r.token("bob"), "recent", "app=api&cursor="+cursor.String()); status != 404 || strings.Contains(answer, annsSecret) {
		t.Errorf("%s", answer)
	}
	if status, answer := r.get(r.token("bob"), "recent", "cursor="+cursor.String()); status != 200 || strings.Contains(answer, annsSecret) {
		t.Errorf("%s", answer)
	}
}

// A shard name is its user's own: nobody gets into another's group, where he would
// take from him what he reads.
func TestAnothersShard(t *testing.T) {
	r := newRig(t)
	anns := r.tail(r.token("ann"), "shard=s")
	var bobs []*tail
	for _, name := range []string{"s", `"ann ann-id"s`, `"ann ann-id"`, "ann"} {
		bobs = append(bobs, r.tail(r.token("bob"), "shard="+url.QueryEscape(name)))
	}
	root := r.tail(r.token("root", "doppler.firehose"), "shard=s")
	for i := range 20 {
		r.say("ann", webID, "web", fmt.Sprintf("%s %d", annsSecret, i))
		r.say("ann", apiID, "api", fmt.Sprintf("%s %d", annsSecret, i))
	}
	r.say("ann", webID, "web", "end of web")
	r.say("ann", apiID, "api", "end of api")
	r.say("bob", otherID, "web", "end of bob's")
	for _, l := range []*tail{anns, root} {
		l.until(t, "end of web")
		l.until(t, "end of api")
		if n := strings.Count(strings.Join(l.seen(), "\n"), annsSecret); n != 40 {
			t.Errorf("%d of 40 lines", n)
		}
	}
	for _, l := range bobs {
		l.until(t, "end of bob's")
		l.knowsNothingOf(t, "ann's")
	}
}

// Names change hands. Who follows one follows what it was when he asked.
func TestStaleNames(t *testing.T) {
	r := newRig(t)
	byApp := r.tail(r.token("bob"), "app=web")
	bySpace := r.tail(r.token("bob"), "space=prod")
	// Ann calls her space prod, and makes a new application that is called web, and
	// one that is called like the id of bob's.
	r.set(func() {
		for i := range r.resources {
			if r.resources[i].id == devID {
				r.resources[i].name = "prod"
			}
		}
		r.resources = append(r.resources, resource{"apps", nobody, "web", devID, acmeID, []string{"ann"}})
	})
	for _, name := range []string{"web", otherID} {
		tags := map[string]string{
			envelope.TagAppID: nobody, envelope.TagAppName: name, envelope.TagSpaceID: devID, envelope.TagSpaceName: "prod",
			envelope.TagOrgID: acmeID, envelope.TagOrgName: "evil",
		}
		b, _ := envelope.Of(envelope.AppendLog(nil, envelope.Identity{SourceID: nobody, Tags: tags}.Encode(), time.Now().UnixNano(), envelope.Out, []byte(annsSecret)))
		if err := r.router.WriteBatch(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		for _, query := range []string{"app=web", "app=" + otherID, "space=prod", "org=evil", "space=" + prodID, ""} {
			if _, answer := r.get(r.token("bob"), "recent", query); strings.Contains(answer, annsSecret) {
				t.Errorf("%s: %s", query, answer)
			}
		}
	}
	r.say("bob", otherID, "web", "the end")
	for _, l := range []*tail{byApp, bySpace} {
		l.until(t, "the end")
		l.knowsNothingOf(t, annsSecret)
	}
}

// Everything for one who may read a part is that part, also as it goes on.
func TestEverythingIsOnesOwn(t *testing.T) {
	r := newRig(t)
	bobs := r.tail(r.token("bob"), "since=1h&order=source")
	bobs.until(t, bobsOwn)
	r.say("ann", webID, "web", annsSecret)
	r.say("ann", nobody, "new", annsSecret)
	r.say("bob", otherID, "web", "the end")
	bobs.until(t, "the end")
	bobs.knowsNothingOf(t, annsSecret)
}

// Tokens that are none.
func TestForgedTokens(t *testing.T) {
	r := newRig(t)
	key := rsaKey()
	unsigned := func(alg string, claims map[string]any) string {
		part := func(v string) string { return base64.RawURLEncoding.EncodeToString([]byte(v)) }
		return part(`{"alg":"`+alg+`","typ":"JWT","kid":"key-1"}`) + "." + part(string(must(json.Marshal(claims)))) + "."
	}
	pkix := must(x509.MarshalPKIXPublicKey(&key.PublicKey))
	text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})
	pkcs1 := x509.MarshalPKCS1PublicKey(&key.PublicKey)
	good := r.token("ann")
	parts := strings.Split(good, ".")
	bobs := strings.Split(r.token("bob"), ".")
	rs := func(claims map[string]any) string { return sign(key, jose.RS256, "key-1", claims) }
	embedded := func() string { // its own key along with it
		signer := must(jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: evilsKey()}, &jose.SignerOptions{EmbedJWK: true}))
		return must(must(signer.Sign(must(json.Marshal(r.claims("ann"))))).CompactSerialize())
	}
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	for _, tt := range []struct{ name, token, want string }{
		{"none", "", "there is none"},
		{"rubbish", "rubbish", "no signed JSON Web Token"},
		{"opaque", "0123456789abcdef0123456789abcdef", "no signed JSON Web Token"},
		{"expired", rs(with(r.claims("ann"), "exp", time.Now().Add(-time.Minute).Unix())), "it has expired; log in again"},
		{"without end", rs(with(r.claims("ann"), "exp", nil)), "does not say when it expires"},
		{"of tomorrow", rs(with(r.claims("ann"), "iat", time.Now().Add(time.Hour).Unix())), "not valid yet"},
		{"not before tomorrow", rs(with(r.claims("ann"), "nbf", time.Now().Add(time.Hour).Unix())), "not valid yet"},
		{"unsigned", parts[0] + "." + parts[1] + ".", "signature"},
		{"in two parts", parts[0] + "." + parts[1], "no signed JSON Web Token"},
		{"alg:none", unsigned("none", r.claims("ann")), "signed in a way that is not taken"},
		{"alg:None", unsigned("None", r.claims("ann")), "signed in a way that is not taken"},
		{"without alg", unsigned("", r.claims("ann")), ""},
		{"HS256 with the public key", sign(text, jose.HS256, "key-1", r.claims("ann")), "signed in a way that is not taken"},
		{"HS256 with the public key in DER", sign(pkix, jose.HS256, "key-1", r.claims("ann")), "signed in a way that is not taken"},
		{"HS256 with the public key in PKCS 1", sign(pkcs1, jose.HS512, "key-1", r.claims("ann")), "signed in a way that is not taken"},
		{"somebody's own key by its name", sign(evilsKey(), jose.RS256, "key-1", r.claims("ann")), "signature is not the issuer's"},
		{"somebody's own key without a name", sign(evilsKey(), jose.RS256, "", r.claims("ann")), "signature is not the issuer's"},
		{"somebody's own key along with it", embedded(), "signature is not the issuer's"},
		{"a key that is not there", sign(evilsKey(), jose.RS256, "../../dev/null", r.claims("ann")), "a key that its issuer does not have"},
		{"a small key", sign(small, jose.RS256, "key-1", r.claims("ann")), "signature is not the issuer's"},
		{"wrong issuer", rs(with(r.claims("ann"), "iss", "https://uaa.evil.test/oauth/token")), "of another issuer"},
		{"no issuer", rs(with(r.claims("ann"), "iss", nil)), "of another issuer"},
		{"an issuer like it", rs(with(r.claims("ann"), "iss", r.URL+"/oauth/token/")), "of another issuer"},
		{"wrong audience", rs(with(r.claims("ann"), "aud", []string{"shop"})), "audience must have one of"},
		{"an id token", rs(with(r.claims("ann"), "aud", "cf")), "audience must have one of"},
		{"no audience", rs(with(r.claims("ann"), "aud", nil)), "audience must have one of"},
		{"a refresh token", rs(with(r.claims("ann"), "jti", "0123-r")), "no access token"},
		{"nobody's", rs(with(r.claims("ann"), "user_id", nil, "client_id", nil)), "no access token"},
		{"another's claims with one's own signature", parts[0] + "." + parts[1] + "." + bobs[2], "signature is not the issuer's"},
		{"with scopes put in", parts[0] + "." + base64.RawURLEncoding.EncodeToString(must(json.Marshal(r.claims("bob", "doppler.firehose")))) + "." + parts[2], "signature is not the issuer's"},
		{"with something behind", good + ".x", "no signed JSON Web Token"},
		{"huge", strings.Repeat("x", 20<<10), "longer than 16 KiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, page := range []string{"recent", "tail"} {
				for _, query := range []string{"app=web", "", "app=" + webID, "app=nope"} {
					status, answer := r.get(tt.token, page, query)
					if status != 401 || !strings.Contains(answer, tt.want) || strings.Contains(answer, annsSecret) {
						t.Errorf("%s?%s: %s", page, query, answer)
					}
				}
			}
		})
	}
	if s := r.gate.Stats(); s.Admitted != 0 {
		t.Errorf("%+v", s)
	}
	if n := len(r.questions()); n > 0 {
		t.Errorf("the Cloud Controller was asked %d times with them", n)
	}
}

// A good token in places where none is looked for, or twice.
func TestTokensInOtherPlaces(t *testing.T) {
	r := newRig(t)
	ann := r.token("ann")
	for _, headers := range [][]string{
		{"Cookie", "authorization=bearer%20" + ann},
		{"Proxy-Authorization", "Bearer " + ann},
		{"Sec-WebSocket-Protocol", ann},
		{"Authorization", "Basic " + ann},
		{"Authorization", "Bearer " + r.token("bob"), "Authorization", "Bearer " + ann},
	} {
		if status, answer := r.get("", "recent", "app=web", headers...); status != 401 || strings.Contains(answer, annsSecret) {
			t.Errorf("%q: %s", headers[0], answer)
		}
	}
	if status, _ := r.get("", "recent", "app=web&access_token="+ann); status == 200 {
		t.Error("a token in an address is taken")
	}
	if strings.Contains(r.audit.String(), ann) {
		t.Error("a token is in the audit")
	}
}

// A right that ends, and one that cannot be asked for.
func TestCloudControllerAwayGrantsNothing(t *testing.T) {
	r := newRig(t)
	ann := r.token("ann")
	if status, _ := r.get(r.token("bob"), "recent", "app=web"); status != 200 { // the keys are there
		t.Fatal(status)
	}
	r.set(func() { r.broken = 503 })
	for _, query := range []string{"app=web", "", "space=dev", "org=acme", "source_id=" + webID} {
		status, answer := r.get(ann, "recent", query)
		if status != 503 || !strings.Contains(answer, "cannot be checked now") || strings.Contains(answer, annsSecret) || strings.Contains(answer, "127.0.0.1") {
			t.Errorf("%s: %s", query, answer)
		}
	}
}

func TestTokenEndsTheTail(t *testing.T) {
	p := newRig(t)
	// Past its time, and within the skew for a second more.
	token := sign(rsaKey(), jose.RS256, "key-1", with(p.claims("ann"), "exp", time.Now().Add(-28*time.Second).Unix()))
	c, _, err := websocket.Dial(t.Context(), p.url+"/v1/tail?app=web&since=1h", &websocket.DialOptions{HTTPHeader: http.Header{"Authorization": {"Bearer " + token}}})
	if err != nil {
		if status, answer := p.get(token, "recent", "app=web"); status == 401 && strings.Contains(answer, "expired") {
			t.Skip("the machine was asleep for as long as the token lived")
		}
		t.Fatal(err)
	}
	defer c.CloseNow()
	for err == nil {
		_, _, err = c.Read(t.Context())
	}
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation || !strings.Contains(err.Error(), "the token has expired; log in again") {
		t.Errorf("%v", err)
	}
}
