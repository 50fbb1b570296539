package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// rig is a server with its router.
type rig struct {
	*loggregator.Router
	url string
	h   *httpapi.Handler
}

// allow is an Authorizer: an error refuses, else everything that is asked for is
// granted.
type allow func(token string, sel []envelope.Selector) error

func (a allow) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	return access.Grant{User: "me", Select: sel}, a(token, sel)
}

func start(t testing.TB, a access.Authorizer, o *access.Options) rig {
	t.Helper()
	r := loggregator.New(nil)
	h := httpapi.New(access.NewGate(r, a, o), nil)
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		srv.Close()
		r.Close()
	})
	return rig{r, srv.URL, h}
}

func identity(app string) envelope.Fixed {
	return envelope.Identity{SourceID: app + "-guid", InstanceID: "0", Tags: map[string]string{
		envelope.TagAppID: app + "-id", envelope.TagAppName: app, envelope.TagSourceType: "APP/PROC/WEB",
		envelope.TagSpaceName: "dev", envelope.TagOrgName: "acme",
	}}.Encode()
}

var testTime = time.Date(2013, 4, 5, 20, 14, 58, 123456789, time.UTC)

// lineTime is when an app writes its line n: a millisecond apart, db in between.
func lineTime(app string, n int) time.Time {
	at := testTime.Add(time.Duration(n) * time.Millisecond)
	if app == "db" {
		at = at.Add(time.Millisecond / 2)
	}
	return at
}

// publish appends n numbered lines of app, every third an error.
func (r rig) publish(t testing.TB, app string, first, n int) {
	t.Helper()
	var records []byte
	for i := range n {
		typ := envelope.Out
		if (first+i)%3 == 0 {
			typ = envelope.Err
		}
		records = envelope.AppendLog(records, identity(app), lineTime(app, first+i).UnixNano(), typ, fmt.Appendf(nil, "%s %d", app, first+i))
	}
	if err := r.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: n}); err != nil {
		t.Error(err)
	}
}

// output is a standard output that can be waited on.
type output struct {
	mu      sync.Mutex
	b       bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{}, 1)} }

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.changed <- struct{}{}:
	default:
	}
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// until waits until the output is as it should be.
func (o *output) until(t testing.TB, what string, ok func(string) bool) string {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		if s := o.String(); ok(s) {
			return s
		}
		select {
		case <-o.changed:
		case <-deadline:
			t.Fatalf("no %s in %.2000q", what, o.String())
		}
	}
}

func (o *output) contains(t testing.TB, part string) string {
	t.Helper()
	return o.until(t, part, func(s string) bool { return strings.Contains(s, part) })
}

// command is a cf-logs that runs.
type command struct {
	stdout, stderr *output
	stop           func()
	err            chan error
}

func begin(t testing.TB, args ...string) *command {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	c := &command{stdout: newOutput(), stderr: newOutput(), stop: cancel, err: make(chan error, 1)}
	go func() { c.err <- run(ctx, args, c.stdout, c.stderr) }()
	return c
}

// interrupt ends it as Ctrl-C does.
func (c *command) interrupt(t testing.TB) {
	t.Helper()
	c.stop()
	err := <-c.err
	var said bytes.Buffer
	if status := daemon.Status("cf-logs", err, &said); status != 130 || said.Len() > 0 {
		t.Errorf("status %d, %q after an interrupt", status, said.String())
	}
}

func text(app string, n int) string {
	stream := "OUT"
	if n%3 == 0 {
		stream = "ERR"
	}
	return lineTime(app, n).Local().Format(envelope.TextTime) +
		fmt.Sprintf(" [APP/PROC/WEB/0] %s %s %d\n", stream, app, n)
}

func texts(app string, first, last int) string {
	var b strings.Builder
	for n := first; n <= last; n++ {
		b.WriteString(text(app, n))
	}
	return b.String()
}

// noCF keeps the tester's own cf client out of the tests.
func noCF(t testing.TB) {
	t.Setenv("CF_HOME", t.TempDir())
	t.Setenv("LOGGREGATOR_TOKEN", "")
	t.Setenv("LOGGREGATOR_TARGET", "")
}

func TestLastTenThenFollows(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 100)
	c := begin(t, "--app=web", "--target="+r.url)
	c.stdout.contains(t, text("web", 100))
	for n := 101; n <= 110; n++ {
		r.publish(t, "web", n, 1)
		c.stdout.contains(t, text("web", n))
	}
	c.interrupt(t)
	if got := c.stdout.String(); got != texts("web", 91, 110) {
		t.Errorf("%s", got)
	}
	if said := c.stderr.String(); said != "" {
		t.Errorf("stderr: %q", said)
	}
}

func TestRecent(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 100)
	r.publish(t, "db", 1, 3)
	// A metric is no log line.
	r.WriteBatch(t.Context(), envelope.Batch{Count: 1, Records: envelope.AppendCounter(nil, identity("web"), 1, "requests", 1, 1)})
	both := ""
	for n := 1; n <= 3; n++ {
		both += "web " + text("web", n) + "db " + text("db", n)
	}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--app=web"}, texts("web", 1, 100)},
		{[]string{"--app=web-id"}, texts("web", 1, 100)},
		{[]string{"-app", "db", "--lines=2"}, texts("db", 2, 3)},
		{[]string{"--app=db", "--stderr"}, texts("db", 3, 3)},
		{[]string{"--app=db", "--stdout"}, texts("db", 1, 2)},
		{[]string{"--app=db", "--stdout", "--stderr"}, texts("db", 1, 3)},
		{[]string{"--app=db", "--instance=1"}, ""},
		{[]string{"--app=db", "--instance=0"}, texts("db", 1, 3)},
		{[]string{"--app=db", "--since=2013-04-05T20:14:58.126Z"}, texts("db", 3, 3)},
		{[]string{"--app=db", "--since=1h"}, ""},
	} {
		var stdout, stderr bytes.Buffer
		err := run(t.Context(), append(tt.args, "--recent", "--target="+r.url), &stdout, &stderr)
		if err != nil || stdout.String() != tt.want || stderr.Len() > 0 {
			t.Errorf("%q: %v, %q\n%s", tt.args, err, stderr.String(), stdout.String())
		}
	}
	for _, arg := range []string{"--space=dev", "--org=acme"} {
		var stdout bytes.Buffer
		if err := run(t.Context(), []string{arg, "--recent", "--target=" + r.url}, &stdout, io.Discard); err != nil || !strings.HasPrefix(stdout.String(), both) {
			t.Errorf("%s: %v\n%s", arg, err, stdout.String())
		}
	}
	var stdout bytes.Buffer
	if err := run(t.Context(), []string{"--app=db", "--recent", "--json", "--lines=1", "--target", r.url}, &stdout, io.Discard); err != nil ||
		!strings.HasPrefix(stdout.String(), `{"timestamp":"2013-04-05T20:14:58.126956789Z","source_id":"db-guid","instance_id":"0","type":"log","stream":"ERR","text":"db 3",`) {
		t.Errorf("%v: %s", err, stdout.String())
	}
}

func TestLinesZeroBeginsNow(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 100)
	c := begin(t, "--app=web", "--lines=0", "--target="+r.url)
	for r.Router.Stats().Readers == 0 {
		time.Sleep(time.Millisecond)
	}
	r.publish(t, "web", 101, 1)
	c.stdout.contains(t, text("web", 101))
	c.interrupt(t)
	if got := c.stdout.String(); got != text("web", 101) {
		t.Errorf("%s", got)
	}
}

func TestWaitsForAnApp(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	c := begin(t, "--app=new", "--wait", "--target="+r.url)
	for r.Router.Stats().Readers == 0 {
		time.Sleep(time.Millisecond)
	}
	r.publish(t, "new", 1, 2)
	c.stdout.contains(t, texts("new", 1, 2))
	c.interrupt(t)
}

func TestErrorsAreOneSentence(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	strict := start(t, allow(nil), nil)
	closed := httptest.NewServer(nil)
	closed.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "<html>hello") }))
	defer page.Close()
	full := start(t, nil, &access.Options{MaxReaders: 1})
	full.publish(t, "web", 1, 1)
	hold := begin(t, "--app=web", "--target="+full.url)
	hold.stdout.contains(t, text("web", 1))
	defer hold.interrupt(t)
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"--app=nope", "--target=" + r.url}, `app "nope" is not known at ` + r.url + `: it has not logged lately; --wait waits for it`},
		{[]string{"--app=nope", "--recent", "--target=" + r.url}, `app "nope" is not known at ` + r.url + `: it has not logged lately`},
		{[]string{"--space=nope", "--recent", "--target=" + r.url}, `space "nope" is not known at ` + r.url + `: it has not logged lately`},
		{[]string{"--app=web", "--target=" + strict.url}, strict.url + ` wants a token: log in with cf login, or set $LOGGREGATOR_TOKEN`},
		{[]string{"--app=web", "--recent", "--target=" + strict.url}, strict.url + ` wants a token: log in with cf login, or set $LOGGREGATOR_TOKEN`},
		{[]string{"--app=web", "--target=" + closed.URL}, `cannot reach ` + closed.URL + `: connection refused; is the server running, is --target right?`},
		{[]string{"--app=web", "--recent", "--target=" + closed.URL}, `cannot reach ` + closed.URL + `: connection refused; is the server running, is --target right?`},
		{[]string{"--app=web", "--target=" + other.URL}, other.URL + `: 404 page not found`},
		{[]string{"--app=web", "--target=" + page.URL}, page.URL + ` answered "200 OK": is it a Loggregator server?`},
		{[]string{"--app=web", "--recent", "--target=" + page.URL}, page.URL + ` sent what is no batch of logs: is it a Loggregator server?`},
		{[]string{"--app=web", "--target=" + full.url}, full.url + `: too many readers: 1 are being served, which is the limit; try again later`},
		{[]string{"--app=web", "--target=localhost:8080"}, `--target takes an address like http://127.0.0.1:8080`},
		{[]string{"--app=web", "--space=dev"}, `--app, --space and --org exclude each other: give one of them`},
		{[]string{"--space", "dev"}, `unexpected "dev": a space is named with an equals sign, --space=dev`},
		{[]string{"--org", "dev"}, `unexpected "dev": an org is named with an equals sign, --org=dev`},
		{[]string{"web"}, `unexpected "web": an application is named with --app=web`},
		{[]string{"--app=web", "--since=1h", "--lines=3"}, `--since and --lines exclude each other: give one of them`},
		{[]string{"--app=web", "--since=tomorrow"}, `--since takes a duration like 10m or a time like 2006-01-02T15:04:05Z, not "tomorrow"`},
		{[]string{"--app=web", "--lines=few"}, `invalid value "few" for flag -lines: it takes a number; -help explains`},
		{[]string{"--recnt"}, `flag provided but not defined: -recnt; -help explains`},
		{[]string{"--space"}, `no space is targeted: the cf client has not been used here; name one with --space=NAME`},
	} {
		var stdout, stderr bytes.Buffer
		status := daemon.Status("cf-logs", run(t.Context(), tt.args, &stdout, &stderr), &stderr)
		if want := "cf-logs: " + tt.want + "\n"; status != 1 || stderr.String() != want || stdout.Len() > 0 {
			t.Errorf("%q: status %d\ngot  %swant %sstdout %q", tt.args, status, stderr.String(), want, stdout.String())
		}
	}
}

func TestHelpTeaches(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if err := run(t.Context(), []string{"-help"}, &stdout, &stderr); err != nil || stderr.Len() > 0 {
		t.Errorf("%v %q", err, stderr.String())
	}
	for _, want := range []string{"cf-logs --app=web --recent", "-since", "LOGGREGATOR_HTTP", "-- 123 lines missed --"} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in %s", want, stdout.String())
		}
	}
}

func TestTargetFromTheEnvironment(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 1)
	t.Setenv("LOGGREGATOR_TARGET", r.url+"/")
	var stdout bytes.Buffer
	if err := run(t.Context(), []string{"--app=web", "--recent"}, &stdout, io.Discard); err != nil || stdout.String() != text("web", 1) {
		t.Errorf("%v %q", err, stdout.String())
	}
}

func TestManifest(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "manifest.yml")
	for _, tt := range []struct{ manifest, want, err string }{
		{"applications:\n- name: web\n  memory: 1G\n", "web", ""},
		{"---\napplications:\n- name: web\n  env: {A: ((b))}\n", "web", ""},
		{"applications:\n- name: web\n- name: db\n", "", "has several applications (web, db): choose one with --app=APP_NAME"},
		{"applications: []\n", "", "names no application: name an application with --app=APP_NAME"},
		{"", "", "names no application"},
		{"applications: {", "", "cannot be read"},
	} {
		if err := os.WriteFile(path, []byte(tt.manifest), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := manifestApp(path)
		if got != tt.want || (err == nil) != (tt.err == "") || err != nil && (!strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: %q, %v", tt.manifest, got, err)
		}
	}
	if _, err := manifestApp(filepath.Join(dir, "none.yml")); err == nil || !strings.HasPrefix(err.Error(), "there is no ") {
		t.Errorf("%v", err)
	}

	// And in place.
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 1)
	t.Chdir(dir)
	os.WriteFile("manifest.yml", []byte("applications: [{name: web}]"), 0o600)
	var stdout bytes.Buffer
	if err := run(t.Context(), []string{"--recent", "--target=" + r.url}, &stdout, io.Discard); err != nil || stdout.String() != text("web", 1) {
		t.Errorf("%v %q", err, stdout.String())
	}
}

func TestTargetedSpaceAndToken(t *testing.T) {
	noCF(t)
	r := start(t, allow(func(token string, sel []envelope.Selector) error {
		if token != "t0ken" || sel[0].App == "secret" {
			return fmt.Errorf("%w: it has expired; log in again", access.ErrToken)
		}
		return nil
	}), nil)
	config := logIn(t, r.url)
	r.publish(t, "web", 1, 1)
	for _, flag := range []string{"--space", "--org", "--space=dev"} {
		var stdout bytes.Buffer
		if err := run(t.Context(), []string{flag, "--recent", "--target=" + r.url}, &stdout, io.Discard); err != nil || stdout.String() != "web "+text("web", 1) {
			t.Errorf("%s: %v %q", flag, err, stdout.String())
		}
	}
	err := run(t.Context(), []string{"--app=secret", "--target=" + r.url}, io.Discard, io.Discard)
	if err == nil || err.Error() != r.url+" refused the token: it has expired; log in again" {
		t.Errorf("%v", err)
	}
	os.WriteFile(config, []byte(`{}`), 0o600)
	err = run(t.Context(), []string{"--space"}, io.Discard, io.Discard)
	if err == nil || err.Error() != "no space is targeted: use cf target, or name one with --space=NAME" {
		t.Errorf("%v", err)
	}
}

// logIn makes a cf client's config.json with a login at api.
func logIn(t *testing.T, api string) string {
	home := t.TempDir()
	t.Setenv("CF_HOME", home)
	os.Mkdir(filepath.Join(home, ".cf"), 0o700)
	config := filepath.Join(home, ".cf", "config.json")
	os.WriteFile(config, []byte(`{"Target":"`+api+`","DopplerEndPoint":"wss://doppler.sys.acme.test:443","AccessToken":"bearer t0ken","SpaceFields":{"GUID":"x","Name":"dev"},"OrganizationFields":{"Name":"acme"}}`), 0o600)
	return config
}

func TestClosedPipeEndsQuietly(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 1000)
	for _, args := range [][]string{{"--recent"}, {}} {
		pr, pw, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		pr.Close()
		var stderr bytes.Buffer
		err = run(t.Context(), append(args, "--app=web", "--target="+r.url), pw, &stderr)
		if status := daemon.Status("cf-logs", err, &stderr); status != 0 || stderr.Len() > 0 {
			t.Errorf("%q: status %d, %q", args, status, stderr.String())
		}
		pw.Close()
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip(err)
	}
	defer full.Close()
	err = run(t.Context(), []string{"--recent", "--app=web", "--target=" + r.url}, full, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "write to standard output") {
		t.Errorf("full disk: %v", err)
	}
}

// A pager that has stopped reading does not keep an interrupt from ending it.
func TestInterruptWithBlockedOutput(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 20_000)
	pr, pw := io.Pipe()
	defer pr.Close()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- run(ctx, []string{"--app=web", "--lines=20000", "--target=" + r.url}, pw, io.Discard) }()
	var one [1]byte
	pr.Read(one[:])
	for before := uint64(0); ; time.Sleep(50 * time.Millisecond) { // until all the way here is full
		now := r.h.Stats().Records
		if now == before {
			break
		}
		before = now
	}
	cancel()
	if err := <-ended; daemon.Status("", err, io.Discard) != 130 {
		t.Errorf("%v", err)
	}
}

func TestConnectionLost(t *testing.T) {
	noCF(t)
	r := start(t, nil, nil)
	r.publish(t, "web", 1, 20)
	p := newProxy(t, r.url)
	c := begin(t, "--app=web", "--target="+p.url)
	c.stdout.contains(t, text("web", 20))
	p.close()
	c.stderr.contains(t, "connection lost, reconnecting\n")
	r.publish(t, "web", 21, 20)
	p.open(t)
	c.stderr.contains(t, "connected again\n")
	c.stdout.contains(t, text("web", 40))
	c.interrupt(t)
	if got := c.stdout.String(); got != texts("web", 11, 40) {
		t.Errorf("%s", got)
	}
	if said := c.stderr.String(); said != "cf-logs: connection lost, reconnecting\ncf-logs: connected again\n" {
		t.Errorf("%q", said)
	}
}

// proxy is a way to the server that can be cut.
type proxy struct {
	url, addr, to string
	mu            sync.Mutex
	ln            net.Listener
	conns         []net.Conn
	budget        func() int // bytes until a connection is cut; nil: none
}

func newProxy(t testing.TB, url string) *proxy {
	p := &proxy{to: strings.TrimPrefix(url, "http://"), addr: "127.0.0.1:0"}
	p.open(t)
	t.Cleanup(p.close)
	return p
}

func (p *proxy) open(t testing.TB) {
	ln, err := net.Listen("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.ln, p.addr = ln, ln.Addr().String()
	p.url = "http://" + p.addr
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", p.to)
			if err != nil {
				c.Close()
				continue
			}
			p.mu.Lock()
			p.conns = append(p.conns, c, s)
			budget := p.budget
			p.mu.Unlock()
			go func() { io.Copy(s, c); s.Close(); c.Close() }()
			go func() {
				if budget != nil {
					io.CopyN(c, s, int64(budget()))
				} else {
					io.Copy(c, s)
				}
				s.Close()
				c.Close()
			}()
		}
	}()
}

func (p *proxy) close() {
	p.ln.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.conns {
		c.Close()
	}
	p.conns = nil
}

func TestColors(t *testing.T) {
	r, err := regexp.Compile(`^\x1b\[33m-- 3 lines missed --\x1b\[0m\n[^\x1b\n]* OUT web 1\n\x1b\[31m[^\x1b\n]* ERR web 3\x1b\[0m\n\x1b\[33m-- 9 lines missed: away --\x1b\[0m\n$`)
	if err != nil {
		t.Fatal(err)
	}
	id := identity("web")
	b := envelope.Batch{Count: 3, Missed: 3}
	b.Records = envelope.AppendLog(b.Records, id, 1, envelope.Out, []byte("web 1"))
	b.Records = envelope.AppendLog(b.Records, id, 1, envelope.Err, []byte("web 3"))
	b.Records = envelope.AppendMissed(b.Records, id, 1, 9, "away")
	p := &printer{loc: time.UTC, color: true}
	dst := p.gap(nil, b)
	for e := range b.All() {
		dst = p.line(dst, e)
	}
	if !r.Match(dst) {
		t.Errorf("%q", dst)
	}
}
