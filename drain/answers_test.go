package drain

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

func TestH04SameRequestAgain(t *testing.T) {
	for _, scheme := range []string{"https", "https-batch", "https-logplex"} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, func(n int, _ string, w http.ResponseWriter) {
				if n < 3 {
					w.WriteHeader(500 + n)
				}
			})
			src := newMemory()
			src.lines(1, 0, 1)
			o := s.options()
			o.Backoff = func(int) time.Duration { return 0 }
			d := open(t, scheme+"://example.com", src, o)
			if err := d.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			conserve(t, d.Stats(), 1)
			list := s.requests()
			if len(list) != 4 {
				t.Fatalf("%d requests", len(list))
			}
			for i, a := range list[1:] {
				first := list[0]
				if a.at.Sub(list[i].at) < 100*time.Millisecond || a.body != first.body || len(a.r.Header.Get("Idempotency-Key")) != 32 ||
					a.r.Header.Get("Idempotency-Key") != first.r.Header.Get("Idempotency-Key") || a.r.Header.Get("Logplex-Msg-Count") != first.r.Header.Get("Logplex-Msg-Count") {
					t.Errorf("after %v: %v", a.at.Sub(list[i].at), a.r.Header)
				}
			}
		})
	}
}

func TestH09H10HeldAndDisabled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var status atomic.Int32
		status.Store(401)
		s := newSite(t, func(_ int, _ string, w http.ResponseWriter) { w.WriteHeader(int(status.Load())) })
		src, app := newMemory(), new(told)
		src.lines(1, 0, 10)
		o := s.options()
		o.Tell = app
		d, err := Open("https-batch://user:secret@example.com/secret", src, shopOnly, o)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		time.Sleep(time.Hour)
		if st, n := d.Stats(), len(s.requests()); st.State != Held || n < 12 || n > 61 {
			t.Errorf("%d requests, %+v", n, st)
		}
		lines, _ := app.all()
		if len(lines) == 0 || len(lines) > 12 || !strings.Contains(lines[0], "401 Unauthorized: it refuses the credentials") || strings.Contains(lines[0], "secret") {
			t.Errorf("%q", lines)
		}
		status.Store(410)
		time.Sleep(23 * time.Hour)
		if st := d.Stats(); st.State != Held {
			t.Errorf("%+v", st)
		}
		time.Sleep(3 * time.Hour)
		before := len(s.requests())
		time.Sleep(10 * time.Hour)
		if st, n := d.Stats(), len(s.requests())-before; st.State != Disabled || n > 11 || n < 9 {
			t.Errorf("%d requests, %+v", n, st)
		}
		status.Store(200)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 10)
		if st.Delivered != 10 {
			t.Errorf("%+v", st)
		}
	})
}

// TestH15ClosedWhenUsed has a receiver that closes a connection it had kept open
// at the moment it is used again: no failure, nothing twice.
func TestH15ClosedWhenUsed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		src := newMemory()
		o := s.options()
		dial := o.DialContext
		var last atomic.Pointer[onceClosed]
		o.DialContext = func(ctx ctx, network, addr string) (net.Conn, error) {
			c, err := dial(ctx, network, addr)
			last.Store(&onceClosed{Conn: c})
			return last.Load(), err
		}
		d := open(t, "https-batch://example.com", src, o)
		src.lines(1, 0, 1)
		time.Sleep(time.Second)
		last.Load().armed.Store(true)
		src.lines(1, 1, 2)
		time.Sleep(time.Second)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 2)
		if st.Failures != 0 || len(s.requests()) != 2 || st.Connects != 2 {
			t.Errorf("%d requests, %+v", len(s.requests()), st)
		}
	})
}

// onceClosed is a connection that its peer closes just when it is written to.
type onceClosed struct {
	net.Conn
	armed atomic.Bool
}

func (c *onceClosed) Write(p []byte) (int, error) {
	if c.armed.Load() {
		c.Conn.Close()
		return 0, errors.New("broken pipe")
	}
	return c.Conn.Write(p)
}

func TestH17Gzip(t *testing.T) {
	for _, refuses := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var got strings.Builder
			packed, plain := 0, 0
			s := newSite(t, nil)
			s.Server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				body := io.Reader(r.Body)
				if r.Header.Get("Content-Encoding") == "gzip" {
					packed++
					if refuses {
						w.WriteHeader(http.StatusUnsupportedMediaType)
						return
					}
					var err error
					if body, err = gzip.NewReader(r.Body); err != nil {
						t.Error(err)
					}
				} else {
					plain++
				}
				io.Copy(&got, body)
			})
			src := newMemory()
			d := open(t, "https-batch://example.com?gzip=true", src, s.options())
			for i := range 5 {
				src.lines(1, 100*i, 100*i+100)
				time.Sleep(time.Second)
			}
			if err := d.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			st := d.Stats()
			conserve(t, st, 500)
			if st.Delivered != 500 || strings.Count(got.String(), "\n") != 500 || refuses && (packed != 1 || plain < 5) || !refuses && plain > 0 {
				t.Errorf("%d packed, %d plain, %d lines, %+v", packed, plain, strings.Count(got.String(), "\n"), st)
			}
		})
	}
}

func TestH18Versions(t *testing.T) {
	for _, two := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newSite(t, nil)
			var version atomic.Int32
			s.Server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { version.Store(int32(r.ProtoMajor)) })
			if two {
				s.Server.TLS.NextProtos = []string{"h2"}
			}
			src := newMemory()
			src.lines(1, 0, 3)
			d := open(t, httpsURL, src, s.options())
			if err := d.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			conserve(t, d.Stats(), 3)
			if v := version.Load(); !two && v != 1 {
				t.Errorf("HTTP/%d", v)
			}
		})
	}
}

func TestH20NoProxy(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://192.0.2.1:1")
	t.Setenv("ALL_PROXY", "http://192.0.2.1:1")
	synctest.Test(t, func(t *testing.T) {
		s, src := newSite(t, nil), newMemory()
		src.lines(1, 0, 3)
		o := s.options()
		dial := o.DialContext
		o.DialContext = func(ctx ctx, network, addr string) (net.Conn, error) {
			if addr != "example.com:443" {
				t.Errorf("dialled %s", addr)
			}
			return dial(ctx, network, addr)
		}
		d := open(t, httpsURL, src, o)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 3)
	})
}

// TestH05AnOutageOfTenMinutes keeps all and its order.
func TestH05AnOutageOfTenMinutes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var got []string
		s := newSite(t, func(_ int, body string, w http.ResponseWriter) {
			if time.Since(start) < 10*time.Minute {
				w.WriteHeader(503)
				return
			}
			for line := range strings.Lines(body) {
				got = append(got, line[strings.LastIndex(line, "seq="):])
			}
		})
		src := newMemory()
		d := open(t, "https-batch://example.com", src, s.options())
		for i := range 1200 {
			src.lines(1, i, i+1)
			time.Sleep(time.Second)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 1200)
		for i, line := range got {
			if line != fmt.Sprintf("seq=%d\n", i) {
				t.Fatalf("%q at %d", line, i)
			}
		}
		if len(got) != 1200 {
			t.Errorf("%d lines", len(got))
		}
	})
}

func TestK03LossGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		var first string
		s := newSite(t, func(_ int, body string, w http.ResponseWriter) {
			if time.Since(start) < time.Minute {
				w.WriteHeader(503)
			} else if first == "" && strings.Contains(body, "L10") {
				first = body
			}
		})
		src := newMemory()
		src.keep, src.batch = 100, 10
		d := open(t, "https-logplex://example.com", src, s.options())
		src.lines(1, 0, 1)
		synctest.Wait() // it reads
		for i := range 60 {
			for j := range 1000 {
				src.lines(1, 1000*i+j, 1000*i+j+1)
			}
			time.Sleep(time.Second)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 60_001)
		var n uint64
		for _, m := range unframe(t, []byte(first)) {
			if strings.Contains(m, "L10") {
				head, text, _ := strings.Cut(m, "(output buffer overflow): ")
				fmt.Sscan(text, &n)
				if !strings.HasPrefix(head, "<172>1 ") || !strings.Contains(head, " host heroku logplex - Error L10") || !strings.HasSuffix(m, ".\n") {
					t.Errorf("%q", m)
				}
			}
		}
		if st.Missed == 0 || n == 0 || n > st.Missed {
			t.Errorf("told of %d, %+v", n, st)
		}
	})
}

// TestF13OddTagsDelayNobody has tags that cannot be sent as they are.
func TestF13OddTagsDelayNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		synctest.Wait()
		odd := envelope.Identity{SourceID: " \x7f", InstanceID: "a b", Tags: map[string]string{"a b": "\x00", "é]": "]", strings.Repeat("x", 100): "\"", "": ""}}
		start := time.Now()
		for i := range 100 {
			src.append(1, envelope.AppendLog(nil, odd.Encode(), stamp, 7, []byte("odd")))
			src.lines(1, i, i+1)
		}
		rcv.await(200)
		if took := time.Since(start); took > 10*time.Millisecond {
			t.Errorf("took %v", took)
		}
		for _, m := range rcv.messages {
			parse(t, m)
		}
		d.Shutdown(t.Context())
		conserve(t, d.Stats(), 200)
	})
}

// TestH16ResetAfterItWasStored sends what it must again with the same id, once.
func TestH16ResetAfterItWasStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, nil)
		s.answer = func(n int, _ string, w http.ResponseWriter) {
			if n == 0 {
				panic(http.ErrAbortHandler)
			}
		}
		src := newMemory()
		src.lines(1, 0, 50)
		d := open(t, "https-batch://example.com", src, s.options())
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 50)
		list := s.requests()
		if len(list) != 2 || list[0].body != list[1].body || list[0].r.Header.Get("Idempotency-Key") != list[1].r.Header.Get("Idempotency-Key") {
			t.Errorf("%d requests", len(list))
		}
	})
}

// TestR06OneURLForTwo has two applications with one URL: two drains, with numbers
// of their own.
func TestR06I08OneURLForTwo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		good, bad := newReceiver(), newReceiver()
		bad.refuse = errors.New("connection refused")
		src := newMemory()
		a := open(t, "syslog://host", src, &Options{DialContext: good.dial})
		b := open(t, "syslog://host", src, &Options{DialContext: bad.dial})
		src.lines(1, 0, 1000)
		start := time.Now()
		good.await(1000)
		if time.Since(start) > time.Second {
			t.Errorf("the good one took %v", time.Since(start))
		}
		synctest.Wait()
		if s, o := a.Stats(), b.Stats(); s.Delivered != 1000 || s.Failures != 0 || o.Delivered != 0 || o.Failures == 0 {
			t.Errorf("%+v\n%+v", s, o)
		}
	})
}

func TestT14MaxAgeHTTPS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSite(t, nil), newMemory()
		d := open(t, "https-batch://example.com", src, s.options())
		for i := range 1800 {
			src.lines(1, i, i+1)
			time.Sleep(time.Second)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 1800)
		if st.Connects < 5 || st.Connects > 8 || st.Failures != 0 {
			t.Errorf("%+v", st)
		}
	})
}
