package logcachecf

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	client "code.cloudfoundry.org/go-log-cache/v2"
	"code.cloudfoundry.org/go-log-cache/v2/rpc/logcache_v1"
	"code.cloudfoundry.org/go-loggregator/v9/rpc/loggregator_v2"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/access/cloudfoundry"
	"github.com/cloudfoundry/loggregator/transport/logcache"
)

// start builds a command of this repository, runs it until the test ends, and
// returns the words of the line of its output that begins with first, by which it
// says that it listens.
func start(t *testing.T, first, pkg string, args ...string) []string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "program")
	build := exec.Command("go", "build", "-o", program, pkg)
	build.Dir = "../../.."
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	cmd := exec.Command(program, args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	said := ""
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if words := strings.Fields(lines.Text()); len(words) > 1 && words[0] == first {
			go io.Copy(io.Discard, out)
			return words
		}
		said += lines.Text() + "\n"
	}
	t.Fatalf("%s has ended:\n%s", pkg, said)
	return nil
}

// world is Log Cache's API, where users of the stand-in read what they see there.
type world struct {
	api   string
	write func(t *testing.T, records []byte)
}

// front is where Log Cache is reached: there before what serves it.
func front(t *testing.T) (address string, serve func(http.Handler)) {
	var handler http.Handler
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
	t.Cleanup(web.Close)
	return web.URL, func(h http.Handler) { handler = h }
}

// newWorld is one in this process.
func newWorld(t *testing.T) *world {
	address, serve := front(t)
	w := &world{api: start(t, "cf", "./examples/cf", "-listen", "127.0.0.1:0", "-log-cache", address)[3]}
	a, err := cloudfoundry.New(w.api, w.api, nil)
	if err != nil {
		t.Fatal(err)
	}
	router := loggregator.New(nil)
	server := logcache.New(access.NewGate(router, a, nil), &logcache.Options{Sources: router})
	serve(server)
	t.Cleanup(func() {
		server.Close()
		if s := router.Stats(); s.Accepted+s.Marked != s.Evicted+s.Expired+s.Released+s.Held {
			t.Errorf("the router's account: %+v", s)
		}
		router.Close()
	})
	w.write = func(t *testing.T, records []byte) {
		t.Helper()
		b, err := envelope.Of(records)
		if err != nil {
			t.Fatal(err)
		}
		if err := router.WriteBatch(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// newAllInOne is one of two processes: the stand-in, and the all-in-one as the
// README starts it.
func newAllInOne(t *testing.T) *world {
	address, serve := front(t)
	w := &world{api: start(t, "cf", "./examples/cf", "-listen", "127.0.0.1:0", "-log-cache", address)[3]}
	ingest := filepath.Join(t.TempDir(), "ingest")
	words := start(t, "read", "./cmd/loggregator", "-ingest", "unix://"+ingest, "-ingest-udp", "", "-v1-udp", "", "-grpc", "", "-egress", "",
		"-ops", "", "-http", "127.0.0.1:0", "-auth-cf", w.api, "-auth-uaa", w.api)
	target, err := url.Parse(words[1])
	if err != nil {
		t.Fatal(words, err)
	}
	serve(httputil.NewSingleHostReverseProxy(target))
	w.write = func(t *testing.T, records []byte) { send(t, ingest, records) }
	return w
}

// newCluster is one of two servers, which take turns, and a sink.
func newCluster(t *testing.T) *world {
	address, serve := front(t)
	w := &world{api: start(t, "cf", "./examples/cf", "-listen", "127.0.0.1:0", "-log-cache", address)[3]}
	dir := t.TempDir()
	var ingest, egress []string
	for i := range 2 {
		ingest, egress = append(ingest, filepath.Join(dir, fmt.Sprint("in", i))), append(egress, "unix://"+filepath.Join(dir, fmt.Sprint("out", i)))
		start(t, "send", "./cmd/loggregator-server", "-ingest", "unix://"+ingest[i], "-ingest-udp", "", "-v1-udp", "", "-grpc", "",
			"-egress", egress[i], "-ops", "")
	}
	words := start(t, "read", "./cmd/loggregator-sink", "-read", strings.Join(egress, ","), "-grpc", "", "-ops", "",
		"-http", "127.0.0.1:0", "-auth-cf", w.api, "-auth-uaa", w.api)
	target, err := url.Parse(words[1])
	if err != nil {
		t.Fatal(words, err)
	}
	serve(httputil.NewSingleHostReverseProxy(target))
	turn := 0
	w.write = func(t *testing.T, records []byte) {
		send(t, ingest[turn%2], records)
		turn++
	}
	return w
}

// send writes a batch to a socket that takes those of every program.
func send(t *testing.T, socket string, records []byte) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(append(binary.AppendUvarint(nil, uint64(len(records))), records...)); err != nil {
		t.Fatal(err)
	}
}

// cf is the command line client, logged in.
type cf struct {
	t                    *testing.T
	api, login, logCache string
	access, refresh      string
	space                string
	client               *client.Client
	mu                   sync.Mutex
	asked                []string // of Log Cache
	statusOfLog          map[int]int
}

func (c *cf) get(address string, v any) int {
	c.t.Helper()
	r, err := http.NewRequestWithContext(c.t.Context(), "GET", address, nil)
	if err != nil {
		c.t.Fatal(err)
	}
	if c.access != "" {
		r.Header.Set("Authorization", "bearer "+c.access)
	}
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	if err := json.Unmarshal(body, v); res.StatusCode == 200 && err != nil {
		c.t.Fatalf("%s: %v %s", address, err, body)
	}
	return res.StatusCode
}

func (c *cf) token(form url.Values) int {
	c.t.Helper()
	r, _ := http.NewRequestWithContext(c.t.Context(), "POST", c.login+"/oauth/token", strings.NewReader(form.Encode()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.SetBasicAuth("cf", "")
	res, err := http.DefaultClient.Do(r)
	if err != nil {
		c.t.Fatal(err)
	}
	defer res.Body.Close()
	var answer struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Type    string `json:"token_type"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		c.t.Fatal(err)
	}
	if res.StatusCode == 200 && (answer.Type != "bearer" || strings.Count(answer.Access, ".") != 2) {
		c.t.Fatalf("%+v", answer)
	}
	c.access, c.refresh = answer.Access, answer.Refresh
	return res.StatusCode
}

type list struct {
	Pagination *struct{ Next any }
	Resources  []struct{ GUID, Name string }
}

// loginTo is `cf api URL`, `cf login -u USER -p USER`, `cf target -o acme -s SPACE`.
func loginTo(t *testing.T, w *world, user, space string) *cf {
	t.Helper()
	c := &cf{t: t, api: w.api, statusOfLog: map[int]int{}}
	type link struct {
		Href string
		Meta struct{ Version string }
	}
	var root struct{ Links map[string]link }
	if c.get(w.api+"/", &root) != 200 || root.Links["cloud_controller_v3"].Meta.Version < "3.160.0" || root.Links["uaa"].Href == "" {
		t.Fatalf("%+v", root)
	}
	c.login, c.logCache = root.Links["login"].Href, root.Links["log_cache"].Href
	var page struct{ Prompts map[string][]string }
	if c.get(c.login+"/login", &page) != 200 || len(page.Prompts["username"]) != 2 || page.Prompts["password"][0] != "password" {
		t.Fatalf("%+v", page)
	}
	if status := c.token(url.Values{"grant_type": {"password"}, "username": {user}, "password": {"wrong"}}); status != 401 {
		t.Errorf("a wrong password: %d", status)
	}
	if status := c.token(url.Values{"grant_type": {"password"}, "username": {user}, "password": {user}}); status != 200 {
		t.Fatalf("the right password: %d", status)
	}
	var orgs, spaces list
	c.get(c.api+"/v3/organizations?names=acme&page=1&per_page=1", &orgs)
	if len(orgs.Resources) != 1 {
		t.Fatalf("%+v", orgs)
	}
	c.get(c.api+"/v3/spaces?names="+space+"&organization_guids="+orgs.Resources[0].GUID+"&page=1&per_page=1", &spaces)
	if len(spaces.Resources) != 1 || spaces.Pagination == nil {
		t.Fatalf("%+v", spaces)
	}
	c.space = spaces.Resources[0].GUID
	c.client = client.NewClient(c.logCache, client.WithHTTPClient(c))
	return c
}

// Do is cf's HTTP client for Log Cache: the token is read anew for each request.
func (c *cf) Do(r *http.Request) (*http.Response, error) {
	c.mu.Lock()
	c.asked = append(c.asked, r.URL.RequestURI())
	c.mu.Unlock()
	r.Header.Set("Authorization", "bearer "+c.access)
	r.Header.Set("User-Agent", "cf/8.18.4 (go1.26; amd64; linux)")
	res, err := http.DefaultClient.Do(r)
	if err == nil {
		c.mu.Lock()
		c.statusOfLog[res.StatusCode]++
		c.mu.Unlock()
	}
	return res, err
}

// app is the id that cf finds for a name in its space.
func (c *cf) app(name string) string {
	c.t.Helper()
	var apps list
	c.get(c.api+"/v3/apps?names="+strings.ReplaceAll(url.QueryEscape(name), "%2C", "%252C")+"&space_guids="+c.space, &apps)
	if len(apps.Resources) != 1 {
		return ""
	}
	return apps.Resources[0].GUID
}

// recent is `cf logs APP --recent`.
func (c *cf) recent(id string) ([]string, error) {
	es, err := c.client.Read(c.t.Context(), id, time.Time{}, client.WithEnvelopeTypes(logcache_v1.EnvelopeType_LOG), client.WithLimit(1000), client.WithDescending())
	slices.Reverse(es)
	return lines(es), err
}

// follow is `cf logs APP`: it shows lines until show says that it is enough, or an
// error has come five times.
func (c *cf) follow(ctx context.Context, id string, show func([]string) bool) {
	var last int64
	for failed := 0; ; time.Sleep(250 * time.Millisecond) {
		es, err := c.client.Read(ctx, id, time.Time{}, client.WithLimit(1), client.WithDescending())
		if err != nil {
			if failed++; failed == 5 {
				return
			}
		}
		if len(es) > 0 {
			last = es[0].Timestamp
			break
		}
		if ctx.Err() != nil {
			return
		}
	}
	client.Walk(ctx, id, func(es []*loggregator_v2.Envelope) bool { return show(lines(es)) }, c.client.Read,
		client.WithWalkDelay(2*time.Second), client.WithWalkStartTime(time.Unix(0, last).Add(-time.Second)),
		client.WithWalkEnvelopeTypes(logcache_v1.EnvelopeType_LOG), client.WithWalkBackoff(client.NewAlwaysRetryBackoff(250*time.Millisecond)))
}

// lines are as cf prints them, but for the time.
func lines(es []*loggregator_v2.Envelope) (all []string) {
	for _, e := range es {
		if l := e.GetLog(); l != nil {
			all = append(all, fmt.Sprintf("[%s/%s] %s %s", e.Tags["source_type"], e.InstanceId, l.Type, l.Payload))
		}
	}
	return all
}

func fixed(id string) envelope.Fixed {
	return envelope.Identity{SourceID: id, InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"}}.Encode()
}

// TestRecent: the last thousand logs, of one's own application alone, whatever
// others call theirs.
func TestRecent(t *testing.T) {
	w := newWorld(t)
	ann, bob, admin := loginTo(t, w, "ann", "dev"), loginTo(t, w, "bob", "prod"), loginTo(t, w, "admin", "dev")
	annShop, bobShop := ann.app("shop"), bob.app("shop")
	if annShop == "" || bobShop == "" || annShop == bobShop || admin.app("shop") != annShop || ann.app("unknown") != "" || ann.app("a,b") != "" {
		t.Fatalf("%q %q", annShop, bobShop)
	}
	start := time.Now().Add(-time.Minute).UnixNano()
	for i := range int64(1200) {
		w.write(t, envelope.AppendLog(nil, fixed(annShop), start+i, envelope.LogType(i%2), fmt.Append(nil, "ann ", i)))
		if i%3 == 0 {
			w.write(t, envelope.AppendCounter(nil, fixed(annShop), start+i, "requests", 1, 1))
			w.write(t, envelope.AppendLog(nil, fixed(bobShop), start+i, envelope.Out, fmt.Append(nil, "bob ", i)))
		}
	}
	got, err := ann.recent(annShop)
	if err != nil || len(got) != 1000 || got[0] != "[APP/PROC/WEB/0] OUT ann 200" || got[999] != "[APP/PROC/WEB/0] ERR ann 1199" {
		t.Errorf("ann: %d %q %v", len(got), got[:min(len(got), 2)], err)
	}
	if got, err := bob.recent(bobShop); err != nil || len(got) != 400 || !strings.Contains(got[0], "bob 0") {
		t.Errorf("bob: %d %v", len(got), err)
	}
	if got, err := admin.recent(bobShop); err != nil || len(got) != 400 {
		t.Errorf("admin: %d %v", len(got), err)
	}
	for name, test := range map[string]struct {
		c  *cf
		id string
	}{"bob reads ann's": {bob, annShop}, "ann reads bob's": {ann, bobShop}, "ann reads what is not there": {ann, "0c000000-0000-4000-8000-00000000dead"}} {
		if got, err := test.c.recent(test.id); err == nil || len(got) > 0 || !strings.Contains(err.Error(), "404") {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	if got, err := ann.recent(ann.app("search")); err != nil || len(got) != 0 {
		t.Errorf("an application of one's own that has said nothing: %q %v", got, err)
	}
	for _, c := range []*cf{ann, bob, admin} {
		m, err := c.client.Meta(t.Context())
		ids := 0
		for id := range m {
			if c == admin || c == ann && id == annShop || c == bob && id == bobShop {
				ids++
			}
		}
		if want := map[*cf]int{ann: 1, bob: 1, admin: 2}[c]; err != nil || ids != want || len(m) != want {
			t.Errorf("meta: %v %v", m, err)
		}
	}
	want := "/api/v1/read/" + annShop + "?descending=true&envelope_types=LOG&limit=1000&start_time=-6795364578871345152"
	if !slices.Contains(ann.asked, want) {
		t.Errorf("cf asks %q, and here it is %q", want, ann.asked)
	}
}

// TestTail: what is written after `cf logs` has begun is shown once and in order:
// 1500 lines of one timestamp, other kinds between them, and a refreshed token.
func TestTail(t *testing.T) {
	for name, world := range map[string]func(*testing.T) *world{"in process": newWorld, "all in one": newAllInOne, "cluster": newCluster} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testTail(t, world(t))
		})
	}
}

func testTail(t *testing.T, w *world) {
	ann := loginTo(t, w, "ann", "dev")
	shop := ann.app("shop")
	if status := ann.token(url.Values{"grant_type": {"refresh_token"}, "refresh_token": {ann.refresh}}); status != 200 {
		t.Fatalf("refresh: %d", status)
	}
	before := envelope.AppendLog(nil, fixed(shop), time.Now().Add(-10*time.Second).UnixNano(), envelope.Out, []byte("long before"))
	w.write(t, envelope.AppendLog(before, fixed(shop), time.Now().UnixNano(), envelope.Out, []byte("0")))
	const n = 4000
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got []string
	begun := false
	ann.follow(ctx, shop, func(page []string) bool {
		got = append(got, page...)
		if !begun { // the line that was there is shown: now others come
			begun = true
			at := time.Now().UnixNano()
			var records []byte
			for i := 1; i < n; i++ {
				if i <= 1000 || i > 2500 {
					at += 1000
				}
				records = envelope.AppendLog(records, fixed(shop), at, envelope.Out, fmt.Append(nil, i))
				if i%5 == 0 {
					records = envelope.AppendGauge(records, fixed(shop), at, envelope.Metric{Name: []byte("cpu"), Value: 1})
				}
			}
			w.write(t, records)
		}
		return len(got) < n
	})
	if len(got) != n {
		t.Fatalf("%d lines of %d", len(got), n)
	}
	for i, line := range got {
		if want := fmt.Sprint("[APP/PROC/WEB/0] OUT ", i); line != want {
			t.Fatalf("line %d is %q", i, line)
		}
	}
	if ann.statusOfLog[200] == 0 || len(ann.statusOfLog) != 1 {
		t.Errorf("answers: %v", ann.statusOfLog)
	}
	for _, prefix := range []string{
		"/api/v1/info",
		"/api/v1/read/" + shop + "?descending=true&limit=1&start_time=-6795364578871345152",
		"/api/v1/read/" + shop + "?envelope_types=LOG&start_time=",
	} {
		if !slices.ContainsFunc(ann.asked, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			t.Errorf("cf asks %q, and here it is %q", prefix, ann.asked[:3])
		}
	}
}

// TestTailOfAnothers: cf gives up after five errors.
func TestTailOfAnothers(t *testing.T) {
	w := newWorld(t)
	ann, bob := loginTo(t, w, "ann", "dev"), loginTo(t, w, "bob", "prod")
	shop := ann.app("shop")
	w.write(t, envelope.AppendLog(nil, fixed(shop), 1, envelope.Out, []byte("secret")))
	bob.follow(t.Context(), shop, func(page []string) bool {
		t.Errorf("%q", page)
		return false
	})
	if bob.statusOfLog[404] != 5 {
		t.Errorf("answers: %v", bob.statusOfLog)
	}
}
