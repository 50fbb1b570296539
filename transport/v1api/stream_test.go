package v1api

import (
	"context"
	"encoding/binary"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/pipenet"
)

// TestRefusals is the contract's table of statuses.
func TestRefusals(t *testing.T) {
	src := &script{}
	users := book{"admin": {User: "admin"}, "user": {User: "user", Select: []envelope.Selector{{SourceID: guid}}},
		"nobody": {User: "nobody", Select: []envelope.Selector{{SourceID: "x"}}}}
	strict := New(access.NewGate(src, users, nil), nil)
	down := New(access.NewGate(src, authorizer(func() (access.Grant, error) { return access.Grant{}, errors.New("connection refused") }), nil), nil)
	denied := New(access.NewGate(src, authorizer(func() (access.Grant, error) { return access.Grant{}, access.ErrDenied }), nil), nil)
	gate := access.NewGate(src, nil, &access.Options{MaxReaders: 1})
	gate.Admit(context.Background(), "", envelope.Everything)
	full := New(gate, nil)
	closed := New(access.NewGate(src, nil, nil), nil)
	closed.Close()
	any := New(access.NewGate(src, nil, nil), &Options{AnyID: true})
	app := "/apps/" + guid
	const none, invalid = "You are not authorized. authorization not provided", "You are not authorized. invalid authorization"
	for _, tt := range []struct {
		name         string
		h            *Handler
		method, path string
		token        string
		status       int
		body         string
	}{
		{"id that is no GUID, before the token", strict, "GET", "/apps/web/stream", "", 401, ""},
		{"id that is nearly a GUID", strict, "GET", "/apps/" + guid[:35] + "g/stream", "admin", 401, ""},
		{"id that is no GUID, recent logs", strict, "GET", "/apps/web/recentlogs", "admin", 401, ""},
		{"any id", any, "GET", "/apps/web/recentlogs", "", 200, "--"},
		{"no token", strict, "GET", app + "/stream", "", 401, none},
		{"invalid token", strict, "GET", app + "/stream", "other", 401, invalid},
		{"not allowed", strict, "GET", app + "/stream", "nobody", 404, "not known here\n"},
		{"not allowed, recent logs", strict, "GET", app + "/recentlogs", "nobody", 404, "not known here\n"},
		{"not allowed, container metrics", strict, "GET", app + "/containermetrics", "nobody", 404, "not known here\n"},
		{"it cannot be asked", down, "GET", app + "/stream", "admin", 500, access.ErrUnavailable.Error() + "\n"},
		{"no room", full, "GET", app + "/stream", "", 503, "too many readers: 1 are being served"},
		{"shut down", closed, "GET", app + "/stream", "", 503, "the server is shutting down"},
		{"not a handshake", strict, "GET", app + "/stream", "user", 400, "this page is a WebSocket\n"},
		{"allowed", strict, "GET", app + "/recentlogs", "user", 200, "--"},
		{"firehose, no token", strict, "GET", "/firehose/n", "", 401, none},
		{"firehose, invalid token", strict, "GET", "/firehose/n", "other", 401, invalid},
		{"firehose, not allowed", denied, "GET", "/firehose/n", "other", 401, invalid},
		{"firehose, not a handshake", strict, "GET", "/firehose/n?", "admin", 400, "this page is a WebSocket\n"},
		{"firehose without a name", strict, "GET", "/firehose/", "admin", 404, "404 page not found\n"},
		{"firehose with too many", strict, "GET", "/firehose/a/b", "admin", 404, "404 page not found\n"},
		{"other page of an app", strict, "GET", app + "/else", "admin", 404, "404 page not found\n"},
		{"other page", strict, "GET", "/", "admin", 404, "404 page not found\n"},
		{"no cookies", strict, "POST", "/set-cookie", "admin", 405, "this page takes GET\n"},
		{"not GET", strict, "POST", app + "/recentlogs", "admin", 405, "this page takes GET\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(tt.method, tt.path, nil)
			if tt.token != "" {
				r.Header.Set("Authorization", "bearer "+tt.token)
			}
			w := httptest.NewRecorder()
			tt.h.ServeHTTP(w, r)
			if got := w.Body.String(); w.Code != tt.status || got != tt.body && (tt.body == "" || !strings.HasPrefix(got, tt.body)) {
				t.Errorf("%d %q, want %d %q", w.Code, got, tt.status, tt.body)
			}
			if basic := w.Header().Get("WWW-Authenticate") == "Basic"; basic != strings.HasPrefix(tt.body, "You") {
				t.Errorf("header %v", w.Header())
			}
			if n := tt.h.gate.Stats().Readers; n != 0 && tt.h != full || tt.h.readers.Len() != 0 {
				t.Errorf("%d readers are left", n)
			}
		})
	}
}

type authorizer func() (access.Grant, error)

func (a authorizer) Authorize(context.Context, string, []envelope.Selector) (access.Grant, error) {
	return a()
}

// What is in a stream, by the contract's routing key, and in what filter.
func TestWhatStreams(t *testing.T) {
	all := []string{"log", "error nats", "counter counter", "value value", "container 0 1", "request"}
	kinds := []envelope.Kind{envelope.KindCounter, envelope.KindGauge, envelope.KindTimer}
	for _, tt := range []struct {
		path  string
		want  []string
		sel   envelope.Selector
		shard string
	}{
		{"/apps/" + guid + "/stream", []string{"log", "container 0 1", "request"}, envelope.Selector{SourceID: guid}, ""},
		{"/firehose/a", all, envelope.Selector{}, "firehose/a"},
		{"/firehose/a%2Fb?", all, envelope.Selector{}, "firehose/a/b"},
		{"/firehose/a?filter-type=else", all, envelope.Selector{}, "firehose/a"},
		// The selection leaves the rest to the source, which this one does not look at.
		{"/firehose/a?filter-type=logs", []string{"log"}, envelope.Selector{Kinds: []envelope.Kind{envelope.KindLog}}, "firehose/a"},
		{"/firehose/a?filter-type=metrics", all, envelope.Selector{Kinds: kinds}, "firehose/a"},
	} {
		t.Run(tt.path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{batches: []envelope.Batch{everyKind()}, more: make(chan envelope.Batch)}
				close(src.more)
				h := New(access.NewGate(src, nil, nil), nil)
				defer h.Close()
				n := pipenet.New()
				n.Serve(t, h)
				s, _ := dial(t, n, tt.path, nil)
				var got []string
				for m := s.message(t); m != "close 1000 "; m = s.message(t) {
					if got = append(got, m); len(got) > 10 {
						t.Fatalf("%q", got)
					}
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Error(d)
				}
				synctest.Wait()
				if st := h.Stats(); st.Records != 7 || st.Skipped != 7-uint64(len(tt.want)) || st.Envelopes != uint64(len(tt.want)) || st.Readers != 0 {
					t.Errorf("%+v", st)
				}
				q := src.queries[0]
				if d := cmp.Diff([]envelope.Selector{tt.sel}, q.Select); d != "" || q.Shard != tt.shard || !q.Follow {
					t.Errorf("%+v", q)
				}
			})
		})
	}
}

func TestMissed(t *testing.T) {
	gap := lines(11, 1)
	gap.Missed, gap.Reason = 10, envelope.ReasonLink
	more := envelope.Batch{Missed: 2, Reset: true}
	ofApp, unknown := "LGR 10 lines are missing here: link down too long of "+guid, "lines are missing here, their number is not known: the server was started anew of "
	slow := "LGR 2 lines are missing here: this reader was too slow, or away for too long of "
	const c1, c2 = "doppler TruncatingBuffer.DroppedMessages +10 =10", "doppler TruncatingBuffer.DroppedMessages +2 =12"
	for _, tt := range []struct {
		path string
		want []string
	}{
		{"/apps/" + guid + "/stream", []string{ofApp, "line 11", "LGR " + unknown + guid, slow + guid}},
		{"/firehose/a", []string{ofApp, c1, "line 11", "LGR " + unknown + "loggregator", slow + "loggregator", c2}},
		{"/firehose/a?filter-type=logs", []string{ofApp, "line 11", "LGR " + unknown + "loggregator", slow + "loggregator"}},
		{"/firehose/a?filter-type=metrics", []string{c1, "line 11", c2}},
	} {
		t.Run(tt.path, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{batches: []envelope.Batch{gap, more}, more: make(chan envelope.Batch)}
				close(src.more)
				h := New(access.NewGate(src, nil, nil), nil)
				defer h.Close()
				n := pipenet.New()
				n.Serve(t, h)
				s, _ := dial(t, n, tt.path, nil)
				var got []string
				for m := s.message(t); m != "close 1000 "; m = s.message(t) {
					if got = append(got, m); len(got) > 10 {
						t.Fatalf("%q", got)
					}
				}
				if d := cmp.Diff(tt.want, got); d != "" {
					t.Error(d)
				}
				if st := h.Stats(); st.Missed != 12 || st.Untold != 0 || st.Records != 1 || st.Skipped != 0 {
					t.Errorf("%+v", st)
				}
			})
		})
	}
}

func TestKeepalive(t *testing.T) {
	start := func(t *testing.T, o *Options) (*Handler, *script, *socket) {
		src := &script{more: make(chan envelope.Batch)}
		h := New(access.NewGate(src, nil, nil), o)
		n := pipenet.New()
		n.Serve(t, h)
		s, _ := dial(t, n, "/apps/"+guid+"/stream", nil)
		return h, src, s
	}
	ping := func(t *testing.T, s *socket, since time.Time, after time.Duration) []byte {
		t.Helper()
		op, p, err := s.frame(t)
		if err != nil || op != opPing || time.Since(since) != after {
			t.Fatalf("opcode %d after %v, %v; want a ping after %v", op, time.Since(since), err, after)
		}
		return p
	}
	t.Run("answered", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, _, s := start(t, nil)
			begin := time.Now()
			p := ping(t, s, begin, 0) // at once
			time.Sleep(29 * time.Second)
			s.send(opPong, p)
			p = ping(t, s, begin, 44*time.Second) // 15 s after the answer
			s.send(opPong, p)
			s.send(opBinary, []byte("what a client says is nothing"))
			ping(t, s, begin, 59*time.Second)
			h.Close()
			if st := h.Stats(); st.Silent+st.Stalled != 0 {
				t.Errorf("%+v", st)
			}
		})
	})
	t.Run("lost", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, _, s := start(t, nil)
			begin := time.Now()
			ping(t, s, begin, 0)
			op, p, err := s.frame(t)
			if err != nil || op != opClose || binary.BigEndian.Uint16(p) != 1008 ||
				string(p[2:]) != "Client did not respond to ping before keep-alive timeout expired." || time.Since(begin) != 30*time.Second {
				t.Errorf("opcode %d %q after %v, %v", op, p, time.Since(begin), err)
			}
			s.Close()
			for h.Stats().Readers > 0 {
				time.Sleep(time.Second)
			}
			if st := h.Stats(); st.Silent != 1 || st.Stalled != 0 {
				t.Errorf("%+v", st)
			}
			h.Close()
		})
	})
	t.Run("not answered, but all is taken", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, src, s := start(t, nil)
			begin := time.Now()
			ping(t, s, begin, 0)
			go func() {
				for range 20 {
					time.Sleep(10 * time.Second)
					src.more <- lines(1, 10)
				}
			}()
			for n := 0; n < 200; {
				op, p, err := s.frame(t)
				if err != nil || op == opClose {
					t.Fatalf("%q after %v: %v", p, time.Since(begin), err)
				}
				if op == opBinary {
					n++
				}
			}
			h.Close()
		})
	})
	t.Run("takes nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, src, _ := start(t, nil)
			begin, done := time.Now(), make(chan bool)
			go func() {
				for i := range 20 {
					select {
					case src.more <- lines(i*1000, 1000):
					case <-done:
					}
				}
			}()
			for h.Stats().Readers > 0 {
				time.Sleep(time.Second)
			}
			if d, st := time.Since(begin), h.Stats(); d > 62*time.Second || st.Stalled != 1 {
				t.Errorf("after %v: %+v", d, st)
			}
			if n := h.gate.Stats().Readers; n != 0 {
				t.Errorf("%d readers are left", n)
			}
			h.Close()
			close(done)
		})
	})
	t.Run("says too much", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, _, s := start(t, nil)
			go func() {
				for range 10_000 {
					s.send(opBinary, make([]byte, 100))
				}
			}()
			for {
				op, p, err := s.frame(t)
				if err != nil || op == opClose && binary.BigEndian.Uint16(p) != 1008 {
					t.Fatalf("opcode %d %q, %v", op, p, err)
				}
				if op == opClose {
					break
				}
			}
			s.Close()
			synctest.Wait()
			if st := h.Stats(); st.Readers != 0 || st.Flooded != 1 {
				t.Errorf("%+v", st)
			}
			h.Close()
		})
	})
	t.Run("leaves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			h, _, s := start(t, nil)
			p := ping(t, s, time.Now(), 0)
			s.send(opPong, p)
			s.send(opClose, []byte{0x03, 0xe8})
			if op, p, err := s.frame(t); err != nil || op != opClose {
				t.Errorf("opcode %d %q, %v", op, p, err)
			}
			s.Close()
			synctest.Wait()
			if st := h.Stats(); st.Readers != 0 || st.Silent+st.Stalled != 0 {
				t.Errorf("%+v", st)
			}
			h.Close()
		})
	})
}

func TestShutdownWritesOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{batches: []envelope.Batch{lines(1, 3)}}
		h := New(access.NewGate(src, nil, nil), nil)
		n := pipenet.New()
		n.Serve(t, h)
		s, _ := dial(t, n, "/apps/"+guid+"/stream", nil)
		for h.Stats().Records < 3 {
			time.Sleep(time.Millisecond)
		}
		done := make(chan error)
		go func() { done <- h.Shutdown(context.Background()) }()
		for _, want := range []string{"line 1", "line 2", "line 3", "close 1000 "} {
			if got := s.message(t); got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		s.Close()
		if err := <-done; err != nil || h.Stats().Readers != 0 || h.gate.Stats().Readers != 0 {
			t.Errorf("%v, %+v", err, h.Stats())
		}
		h.Close()
	})
}

// A page of another site is refused, since the browser would send the cookie; a
// noaa client says its own address.
func TestOrigin(t *testing.T) {
	for origin, want := range map[string]int{
		"": 101, "wss://doppler": 101, "https://doppler": 101, "https://evil.example.com": 403, "null": 403,
	} {
		synctest.Test(t, func(t *testing.T) {
			h := New(access.NewGate(&script{}, nil, nil), nil)
			n := pipenet.New()
			n.Serve(t, h)
			header := http.Header{}
			if origin != "" {
				header.Set("Origin", origin)
			}
			if _, resp := dial(t, n, "/firehose/a", header); resp.StatusCode != want {
				t.Errorf("%q: %d", origin, resp.StatusCode)
			}
			h.Close()
			if n := h.gate.Stats().Readers; n != 0 {
				t.Errorf("%d readers are left", n)
			}
		})
	}
}

func TestToken(t *testing.T) {
	for _, tt := range []struct{ header, cookie, want string }{
		{"bearer abc", "", "abc"},
		{"Bearer abc", "bearer other", "abc"},
		{"abc", "", "abc"},
		{"", "bearer%20abc", "abc"},
		{"", "abc", "abc"},
		{"", "bearer+abc", "abc"},
		{"", "%zz", ""},
		{"Basic abc", "bearer%20other", ""},
		{"", "", ""},
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if tt.header != "" {
			r.Header.Set("Authorization", tt.header)
		}
		if tt.cookie != "" {
			r.Header.Set("Cookie", "a=b; authorization="+tt.cookie)
		}
		if got := tokenOf(r); got != tt.want {
			t.Errorf("%+v: %q", tt, got)
		}
	}
}

func TestSetCookie(t *testing.T) {
	// The stock one answers any page; here it is one that may read.
	gate := access.NewGate(&script{}, nil, &access.Options{Origins: []string{"apps.example.com"}})
	h := New(gate, &Options{CookieDomain: "doppler.example.com"})
	r := httptest.NewRequest(http.MethodPost, "/set-cookie", strings.NewReader("CookieName=authorization&CookieValue=abc"))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	r.Header.Set("Origin", "https://evil.example.com")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 403 || len(w.Header()["Set-Cookie"])+len(w.Header()["Access-Control-Allow-Origin"]) > 0 {
		t.Errorf("a page from elsewhere: %d %v", w.Code, w.Header())
	}
	for _, tt := range []struct {
		name, body string
		status     int
	}{
		{"both", "CookieName=authorization&CookieValue=bearer%2520abc", 200},
		{"no name", "CookieValue=abc", 400},
		{"no value", "CookieName=authorization", 400},
		{"no cookie's name", "CookieName=a%0ab&CookieValue=abc", 400},
		{"too long", "CookieName=a&CookieValue=" + strings.Repeat("x", maxCookie), 400},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodPost, "/set-cookie", strings.NewReader(tt.body))
			r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			r.Header.Set("Origin", "https://apps.example.com")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != tt.status {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
			head := w.Header()
			if head.Get("Access-Control-Allow-Origin") != "https://apps.example.com" || head.Get("Access-Control-Allow-Credentials") != "true" {
				t.Errorf("%v", head)
			}
			want := "authorization=bearer%20abc; Domain=doppler.example.com; HttpOnly; Secure; SameSite=Lax"
			if tt.status == 200 && head.Get("Set-Cookie") != want || tt.status != 200 && head.Get("Set-Cookie") != "" {
				t.Errorf("%q", head.Get("Set-Cookie"))
			}
		})
	}
}

// A firehose is as wide as what its reader may read, and its name is the reader's
// own.
func TestFirehoseOfAUser(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{}
		users := book{"t": {User: "user", Select: []envelope.Selector{{SourceID: guid}}}}
		h := New(access.NewGate(src, users, nil), nil)
		n := pipenet.New()
		n.Serve(t, h)
		if s, resp := dial(t, n, "/firehose/a", http.Header{"Authorization": {"bearer t"}}); s == nil {
			t.Fatal(resp.Status)
		}
		synctest.Wait()
		h.Close()
		q := src.queries[0]
		if d := cmp.Diff([]envelope.Selector{{SourceID: guid}}, q.Select); d != "" || !strings.Contains(q.Shard, "user") || !strings.HasSuffix(q.Shard, "firehose/a") {
			t.Errorf("%+v", q)
		}
	})
}

// FuzzPath looks for a request that is answered by more than it asks for.
func FuzzPath(f *testing.F) {
	f.Add("/apps/" + guid + "/recentlogs?limit=3")
	f.Add("/firehose/a?filter-type=logs")
	f.Add("/apps/%2e%2e/containermetrics")
	f.Fuzz(func(t *testing.T, target string) {
		r, err := http.NewRequest(http.MethodGet, "http://doppler"+target, nil)
		if err != nil || !strings.HasPrefix(target, "/") {
			return
		}
		src := &script{batches: []envelope.Batch{everyKind()}}
		h := New(access.NewGate(src, nil, nil), nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		for _, q := range src.queries {
			id := strings.ToLower(q.Select[0].SourceID)
			if len(q.Select) != 1 || len(id) != 36 || !strings.Contains(strings.ToLower(r.URL.Path), id) || q.Follow || q.Last < 0 || q.Last > maxLimit {
				t.Fatalf("%q: %+v", target, q)
			}
		}
		if w.Code == 200 && len(src.queries) != 1 {
			t.Fatalf("%q: %s", target, w.Body)
		}
	})
}

// Whoever waits for the answer to who may read what does not hold up the end.
func TestCloseWhileItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate(&script{}, slowAuthorizer{}, nil)
		h := New(gate, nil)
		w := httptest.NewRecorder()
		go func() {
			r := httptest.NewRequest(http.MethodGet, "/firehose/a", nil)
			r.Header.Set("Authorization", "bearer t")
			h.ServeHTTP(w, r)
		}()
		synctest.Wait()
		start := time.Now()
		h.Close()
		if time.Since(start) > time.Second || w.Code < 500 || gate.Stats().Readers != 0 {
			t.Errorf("%d after %v", w.Code, time.Since(start))
		}
	})
}

// slowAuthorizer does not answer.
type slowAuthorizer struct{}

func (slowAuthorizer) Authorize(ctx context.Context, _ string, _ []envelope.Selector) (access.Grant, error) {
	<-ctx.Done()
	return access.Grant{}, ctx.Err()
}
