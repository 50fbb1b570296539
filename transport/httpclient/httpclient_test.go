package httpclient_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

// server is a router behind HTTP.
type server struct {
	*loggregator.Router
	url string
}

func start(t testing.TB) *server {
	t.Helper()
	r := loggregator.New(nil)
	h := httpapi.New(access.NewGate(r, nil, nil), nil)
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		srv.Close()
		r.Close()
	})
	return &server{r, srv.URL}
}

// publish appends lines numbered from first of an application.
func (s *server) publish(t testing.TB, app string, first, n int) {
	t.Helper()
	fixed := envelope.Identity{SourceID: app + "-guid", Tags: map[string]string{envelope.TagAppName: app, envelope.TagSpaceName: "dev"}}.Encode()
	var records []byte
	for i := range n {
		records = envelope.AppendLog(records, fixed, time.Now().UnixNano(), envelope.LogType(i%2), fmt.Appendf(nil, "%s %d", app, first+i))
	}
	if err := s.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: n}); err != nil {
		t.Error(err)
	}
}

func client(t testing.TB, target string, o *httpclient.Options) *httpclient.Client {
	t.Helper()
	if o == nil {
		o = &httpclient.Options{}
	}
	if o.Backoff == nil {
		o.Backoff = func(int) time.Duration { return time.Millisecond }
	}
	c, err := httpclient.New(target, o)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func payloads(b envelope.Batch) (list []string) {
	for e := range b.All() {
		r, _ := e.Route()
		list = append(list, string(r.Payload))
	}
	return list
}

func numbered(app string, first, last int) (list []string) {
	for i := first; i <= last; i++ {
		list = append(list, fmt.Sprintf("%s %d", app, i))
	}
	return list
}

func TestQueriesMeanTheSame(t *testing.T) {
	s := start(t)
	s.publish(t, "web", 1, 10)
	s.publish(t, "db", 1, 10)
	var middle envelope.Cursor
	for b := range s.Batches(t.Context(), envelope.Query{Select: []envelope.Selector{{App: "web"}}, MaxBytes: 1}) {
		if middle.Advance(b); b.Next == 5 {
			break
		}
	}
	for name, q := range map[string]envelope.Query{
		"app":     {Select: []envelope.Selector{{App: "web"}}, History: true},
		"source":  {Select: []envelope.Selector{{SourceID: "db-guid"}}},
		"space":   {Select: []envelope.Selector{{Space: "dev"}}},
		"all":     {Select: envelope.Everything},
		"errors":  {Select: []envelope.Selector{{Stderr: true}}},
		"both":    {Select: []envelope.Selector{{Stdout: true, Stderr: true}}},
		"kinds":   {Select: []envelope.Selector{{Kinds: []envelope.Kind{envelope.KindCounter, envelope.KindGauge}}}},
		"last":    {Select: []envelope.Selector{{App: "web"}}, Last: 3},
		"cursor":  {Select: []envelope.Selector{{App: "web"}}, Cursor: middle},
		"nowhere": {Select: []envelope.Selector{{Org: "none"}}},
	} {
		read := func(src envelope.Source, enough int) (list []string) {
			for b, err := range src.Batches(t.Context(), q) {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				if list = append(list, payloads(b)...); q.Follow && len(list) >= enough {
					break
				}
			}
			slices.Sort(list) // sources come in any order
			return list
		}
		c := client(t, s.url, nil)
		want := read(s, 0)
		if d := cmp.Diff(want, read(c, 0)); d != "" {
			t.Errorf("%s: %s", name, d)
		}
		q.Follow = true
		q.History = q.Cursor.IsZero()
		if d := cmp.Diff(want, read(c, len(want))); d != "" {
			t.Errorf("%s, following: %s", name, d)
		}
	}
}

// cutter passes connections on and cuts each after some bytes of the answer.
func cutter(t testing.TB, target string, after func() int) string {
	t.Helper()
	u, _ := url.Parse(target)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", u.Host)
			if err != nil {
				c.Close()
				continue
			}
			wg.Go(func() { io.Copy(up, c); up.Close() })
			n := after()
			wg.Go(func() {
				io.CopyN(c, up, int64(n))
				c.Close()
				up.Close()
			})
		}
	})
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	return "http://" + ln.Addr().String()
}

// Wherever the connection is cut, each record comes once.
func TestCutsAnywhere(t *testing.T) {
	s := start(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0)) // used by the goroutine that accepts
	var cuts atomic.Int64
	c := client(t, cutter(t, s.url, func() int { cuts.Add(1); return 300 + rng.IntN(60_000) }), nil)
	const n = 5000
	s.publish(t, "web", 1, 10)
	go func() {
		for i := 11; i <= n; i += 10 {
			s.publish(t, "web", i, 10)
		}
	}()
	var got []string
	q := envelope.Query{Select: []envelope.Selector{{App: "web"}}, History: true, Follow: true}
	for b, err := range c.Batches(t.Context(), q) {
		if err != nil || b.Missed > 0 || b.Reset {
			t.Fatalf("%v, %d missed, reset %t", err, b.Missed, b.Reset)
		}
		if got = append(got, payloads(b)...); len(got) >= n {
			break
		}
	}
	if d := cmp.Diff(numbered("web", 1, n), got); d != "" || cuts.Load() < 5 {
		t.Errorf("%d connections, %s", cuts.Load(), d)
	}
}

func TestErrors(t *testing.T) {
	closed := httptest.NewServer(nil)
	closed.Close()
	answer := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	proto := func(w http.ResponseWriter) { w.Header().Set("Content-Type", "application/x-protobuf") }
	for name, tc := range map[string]struct {
		target    string
		says      string
		temporary bool
		is        error
	}{
		"nobody there": {closed.URL, "cannot be reached: connection refused", true, syscall.ECONNREFUSED},
		"another page": {answer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, "<html>")
		}), "is it a Loggregator server?", false, httpclient.ErrForeign},
		"not found":   {answer(http.NotFound), "404 page not found", false, nil},
		"unavailable": {answer(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }), `answered "503 Service Unavailable"`, true, nil},
		"torn":        {answer(func(w http.ResponseWriter, _ *http.Request) { proto(w); w.Write([]byte{100, 1}) }), "broke before the end", true, io.ErrUnexpectedEOF},
		"too long":    {answer(func(w http.ResponseWriter, _ *http.Request) { proto(w); w.Write([]byte{0xff, 0xff, 0xff, 0xff, 1}) }), "no batch of logs", false, httpclient.ErrForeign},
		"no batch":    {answer(func(w http.ResponseWriter, _ *http.Request) { proto(w); w.Write([]byte{2, 0xff, 0xff}) }), "no batch of logs", false, httpclient.ErrForeign},
	} {
		var err error
		for _, e := range client(t, tc.target, nil).Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
			err = e
		}
		if err == nil || !strings.Contains(err.Error(), tc.says) || httpclient.Temporary(err) != tc.temporary || tc.is != nil && !errors.Is(err, tc.is) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, q := range []envelope.Query{{}, {Select: make([]envelope.Selector, 2)}, {Select: []envelope.Selector{{SourceID: "a", App: "b"}}}} {
		for _, err := range client(t, closed.URL, nil).Batches(t.Context(), q) {
			if err != httpclient.ErrQuery {
				t.Errorf("%+v: %v", q.Select, err)
			}
		}
	}
	for _, target := range []string{"", "127.0.0.1:8080", "ftp://h", "http://"} {
		if _, err := httpclient.New(target, nil); err == nil {
			t.Errorf("%q is taken", target)
		}
	}
}

// A server that is away is told of once, however many read from it, and no
// password is.
func TestServerAway(t *testing.T) {
	var mu sync.Mutex
	var log bytes.Buffer
	away := true
	s := start(t)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if away {
			w.WriteHeader(503)
			return
		}
		http.Redirect(w, r, s.url+r.URL.String(), http.StatusTemporaryRedirect)
	}))
	defer srv.Close()
	target, _ := url.Parse(srv.URL)
	target.User = url.UserPassword("me", "secret")
	tries := make(chan struct{}, 1000)
	c := client(t, target.String(), &httpclient.Options{
		Logger:  slog.New(slog.NewTextHandler(&locked{&mu, &log}, nil)),
		Backoff: func(int) time.Duration { tries <- struct{}{}; return time.Millisecond },
	})
	s.publish(t, "web", 1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for b := range c.Batches(ctx, envelope.Query{Select: envelope.Everything, History: true, Follow: true}) {
				if b.Count > 0 {
					return
				}
			}
			t.Error("nothing came")
		})
	}
	for range 50 {
		<-tries
	}
	if err := c.Err(); err == nil || strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "503") {
		t.Errorf("Err is %v", err)
	}
	mu.Lock()
	away = false
	mu.Unlock()
	wg.Wait()
	if err := c.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	text := log.String()
	if strings.Count(text, "not reached") != 1 || strings.Count(text, "reached again") != 1 || strings.Contains(text, "secret") {
		t.Errorf("%s", text)
	}
}

type locked struct {
	mu *sync.Mutex
	w  io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(p)
}

// A cursor that no address can hold goes another way.
func TestLongCursor(t *testing.T) {
	s := start(t)
	var c envelope.Cursor
	for i := range uint64(20_000) {
		c.Advance(envelope.Batch{Ring: envelope.StreamID(i + 1), Position: 1 << 40})
	}
	s.publish(t, "web", 1, 3)
	var got []string
	reset := false
	for b, err := range client(t, s.url, nil).Batches(t.Context(), envelope.Query{Select: envelope.Everything, Cursor: c}) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, payloads(b)...)
		reset = reset || b.Reset
	}
	if d := cmp.Diff(numbered("web", 1, 3), got); d != "" || !reset {
		t.Errorf("reset %t, %s", reset, d)
	}
}

func TestLeavingEndsTheRequest(t *testing.T) {
	s := start(t)
	s.publish(t, "web", 1, 1)
	for range client(t, s.url, nil).Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true, Follow: true}) {
		break
	}
	for deadline := time.Now().Add(10 * time.Second); s.Stats().Readers > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the server still serves")
		}
	}
}

// brief is an Authorizer of tokens that do not live long.
type brief time.Duration

func (b brief) Authorize(_ context.Context, _ string, sel []envelope.Selector) (access.Grant, error) {
	return access.Grant{User: "u", Select: sel, Expires: time.Now().Add(time.Duration(b))}, nil
}

// A stream that ends because the token did says so, and is not taken up again.
func TestTokenExpires(t *testing.T) {
	r := loggregator.New(nil)
	defer r.Close()
	h := httpapi.New(access.NewGate(r, brief(100*time.Millisecond), nil), nil)
	defer h.Close()
	srv := httptest.NewServer(h)
	defer srv.Close()
	c, err := httpclient.New(srv.URL, &httpclient.Options{Header: http.Header{"Authorization": {"Bearer token"}}})
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range c.Batches(t.Context(), envelope.Query{Select: envelope.Everything, Follow: true}) {
		last = err
	}
	a, ok := errors.AsType[*httpclient.AnswerError](last)
	if !ok || a.Status != http.StatusUnauthorized || a.Reason != access.ErrExpired.Error() || httpclient.Temporary(last) {
		t.Errorf("%v", last)
	}
}
