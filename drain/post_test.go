package drain

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// pipes is a listener whose connections are in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newPipes() *pipes { return &pipes{conns: make(chan net.Conn), closed: make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	here, there := net.Pipe()
	select {
	case p.conns <- there:
		return here, nil
	case <-p.closed:
		return nil, errors.New("connection refused")
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// site is an HTTPS receiver in memory.
type site struct {
	*httptest.Server
	pipes *pipes

	mu     sync.Mutex
	answer func(n int, body string, w http.ResponseWriter) // n counts requests from 0; nil: 200
	asked  []asked
}

type asked struct {
	at   time.Time
	r    *http.Request
	body string
}

func newSite(t *testing.T, answer func(n int, body string, w http.ResponseWriter)) *site {
	s := &site{pipes: newPipes(), answer: answer}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		n := len(s.asked)
		s.asked = append(s.asked, asked{time.Now(), r, string(body)})
		s.mu.Unlock()
		if s.answer != nil {
			s.answer(n, string(body), w)
		}
	}))
	s.Server.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Server.Listener.Close()
	s.Server.Listener = s.pipes
	s.Server.StartTLS()
	t.Cleanup(s.Server.Close)
	return s
}

func (s *site) options() *Options {
	o := &Options{DialContext: s.pipes.dial}
	o.TLS = s.Server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	o.TLS.ServerName = ""
	return o
}

func (s *site) requests() []asked {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]asked(nil), s.asked...)
}

const httpsURL = "https://user:secret@example.com/in?token=a%2Fb"

func TestH01OneRequestForEachMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSite(t, nil), newMemory()
		src.lines(1, 0, 3)
		src.append(1, envelope.AppendGauge(nil, shop.Encode(), stamp, envelope.Metric{Name: []byte("a")}, envelope.Metric{Name: []byte("b")}))
		d := open(t, httpsURL+"&drain-data=all", src, s.options())
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		list := s.requests()
		if len(list) != 5 {
			t.Fatalf("%d requests", len(list))
		}
		for i, a := range list {
			user, password, _ := a.r.BasicAuth()
			if a.r.Method != "POST" || a.r.URL.String() != "/in?token=a%2Fb&drain-data=all" || user != "user" || password != "secret" ||
				a.r.Header.Get("Content-Type") != "text/plain" || a.r.Host != "example.com" {
				t.Errorf("%s %s %v", a.r.Method, a.r.URL, a.r.Header)
			}
			parse(t, a.body)
			if want := fmt.Sprintf("seq=%d\n", i); i < 3 && !strings.HasSuffix(a.body, want) {
				t.Errorf("%q", a.body)
			}
		}
		conserve(t, d.Stats(), 4)
	})
}

func TestH02Batch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSite(t, nil), newMemory()
		d := open(t, "https-batch://example.com/", src, s.options())
		for i := range 2000 {
			src.lines(1, i, i+1)
			time.Sleep(time.Millisecond)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		list := s.requests()
		n := 0
		for _, a := range list {
			for line := range strings.Lines(a.body) {
				if !strings.HasSuffix(line, fmt.Sprintf("seq=%d\n", n)) {
					t.Fatalf("%q where %d should be", line, n)
				}
				n++
			}
		}
		if n != 2000 || len(list) > 60 {
			t.Errorf("%d lines in %d requests", n, len(list))
		}
		conserve(t, d.Stats(), 2000)
	})
}

func TestH03H04H06H09H10H11H12Status(t *testing.T) {
	for _, c := range []struct {
		status   int
		header   string        // Retry-After
		first    int           // requests that are answered with status
		min, max time.Duration // until all is delivered
	}{
		{status: 500, first: 3, max: time.Second},
		{status: 502, first: 1, max: time.Second},
		{status: 503, first: 20, min: 30 * time.Second, max: 10 * time.Minute},
		{status: 503, first: 1, header: "30", min: 30 * time.Second, max: 31 * time.Second},
		{status: 429, first: 2, header: "30", min: time.Minute, max: 61 * time.Second},
		{status: 429, first: 1, header: "Sat, 01 Jan 2000 00:01:00 GMT", min: 59 * time.Second, max: 61 * time.Second},
		{status: 408, first: 1, max: time.Second},
		{status: 425, first: 1, max: time.Second},
		{status: 401, first: 2, min: 2 * time.Minute, max: 10 * time.Minute},
		{status: 403, first: 1, min: time.Minute, max: 5 * time.Minute},
		{status: 404, first: 1, min: time.Minute, max: 5 * time.Minute},
		{status: 410, first: 1, min: time.Minute, max: 5 * time.Minute},
		{status: 301, first: 1, min: time.Minute, max: 5 * time.Minute},
		{status: 307, first: 1, min: time.Minute, max: 5 * time.Minute},
		{status: 400, first: 1, min: time.Minute, max: 5 * time.Minute}, // nothing was ever accepted
		{status: 201, first: 1, max: time.Second},
		{status: 204, first: 1, max: time.Second},
	} {
		t.Run(fmt.Sprint(c.status, c.header), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := newSite(t, func(n int, body string, w http.ResponseWriter) {
					if n < c.first {
						if c.header != "" {
							w.Header().Set("Retry-After", c.header)
						}
						w.Header().Set("Location", "http://127.0.0.1/")
						w.WriteHeader(c.status)
					}
				})
				src := newMemory()
				src.lines(1, 0, 10)
				start := time.Now()
				var logged lockedBuffer
				o := s.options()
				o.Logger = slog.New(slog.NewTextHandler(&logged, nil))
				d := open(t, "https-batch"+strings.TrimPrefix(httpsURL, "https"), src, o)
				synctest.Wait()
				if c.status >= 300 {
					state := Waiting
					if c.min >= time.Minute && c.header == "" {
						state = Held
					}
					if st := d.Stats(); st.State != state || st.Cause != CauseAnswer || !strings.Contains(st.LastError, fmt.Sprint(c.status)) || strings.Contains(st.LastError, "secret") {
						t.Errorf("%+v", st)
					}
				}
				if err := d.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(start); took < c.min || took > c.max {
					t.Errorf("took %v", took)
				}
				st := d.Stats()
				conserve(t, st, 10)
				if st.Delivered != 10 {
					t.Errorf("%+v", st)
				}
				list := s.requests()
				if last := list[len(list)-1]; strings.Count(last.body, "\n") != 10 {
					t.Errorf("%q", last.body)
				}
				if strings.Contains(logged.String(), "secret") || strings.Contains(logged.String(), "a%2Fb") {
					t.Error("a secret in the log")
				}
			})
		})
	}
}

func TestH07TooLargeIsSplit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := 0
		s := newSite(t, func(n int, body string, w http.ResponseWriter) {
			if len(body) > 2000 {
				w.WriteHeader(http.StatusRequestEntityTooLarge)
				return
			}
			got += strings.Count(body, "\n")
		})
		src := newMemory()
		src.lines(1, 0, 100)
		src.append(1, envelope.AppendLog(nil, shop.Encode(), stamp, envelope.Out, bytes.Repeat([]byte{'x'}, 5000)))
		src.lines(1, 100, 200)
		d := open(t, "https-batch://example.com", src, s.options())
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 201)
		if st.Delivered != 200 || st.Refused != 1 || got != 200 {
			t.Errorf("%d lines, %+v", got, st)
		}
		if n := len(s.requests()); n > 60 {
			t.Errorf("%d requests: the limit is not remembered", n)
		}
	})
}

func TestH08OneMessageIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := 0
		s := newSite(t, func(n int, body string, w http.ResponseWriter) {
			if strings.Contains(body, "seq=50\n") {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			got += strings.Count(body, "\n")
		})
		src := newMemory()
		d := open(t, "https-batch://example.com", src, s.options())
		src.lines(1, 0, 1)
		time.Sleep(time.Second)
		src.lines(1, 1, 100)
		start := time.Now()
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 100)
		if st.Delivered != 99 || st.Refused != 1 || got != 99 || time.Since(start) > time.Second {
			t.Errorf("%d lines, %+v after %v", got, st, time.Since(start))
		}
	})
}

func TestH13NoAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(n int, _ string, _ http.ResponseWriter) {
			if n == 0 {
				time.Sleep(time.Minute)
			}
		})
		src := newMemory()
		src.lines(1, 0, 1)
		d := open(t, httpsURL, src, s.options())
		start := time.Now()
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < headerTimeout || took > headerTimeout+time.Second {
			t.Errorf("took %v", took)
		}
		conserve(t, d.Stats(), 1)
		time.Sleep(time.Minute) // the handler that hangs
	})
}

// TestH14LongAnswer has an answer without end, which is not read.
func TestH14LongAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(_ int, _ string, w http.ResponseWriter) {
			for {
				if _, err := w.Write(make([]byte, 10_000)); err != nil {
					return
				}
			}
		})
		src := newMemory()
		src.lines(1, 0, 3)
		d := open(t, httpsURL, src, s.options())
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 3)
		if n := len(s.requests()); n != 3 {
			t.Errorf("%d requests", n)
		}
	})
}

func TestHTTPSDeadReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSite(t, nil), newMemory()
		s.pipes.Close()
		src.lines(1, 0, 10)
		d := open(t, httpsURL, src, s.options())
		time.Sleep(time.Hour)
		st := d.Stats()
		if st.State != Waiting || !strings.Contains(st.LastError, "connection refused") || strings.Contains(st.LastError, "secret") || st.Failures > 400 {
			t.Errorf("%+v", st)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		left, ok := errors.AsType[*UndeliveredError](d.Shutdown(ctx))
		if !ok || left.Records != 10 {
			t.Errorf("%v", left)
		}
	})
}

func TestK01Logplex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSite(t, func(n int, _ string, w http.ResponseWriter) {
			if n == 0 {
				w.WriteHeader(503)
			}
		})
		src := newMemory()
		src.lines(1, 0, 3)
		id := shop
		id.Tags = map[string]string{"source_type": "RTR"}
		src.append(1, envelope.AppendLog(nil, id.Encode(), stamp, envelope.Out, []byte("GET /")))
		d := open(t, "https-logplex://example.com/x", src, s.options())
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 4)
		list := s.requests()
		if len(list) != 2 || list[0].body != list[1].body || list[0].r.Header.Get("Logplex-Frame-Id") != list[1].r.Header.Get("Logplex-Frame-Id") {
			t.Fatalf("a retry differs: %+v", list)
		}
		h := list[1].r.Header
		if h.Get("Content-Type") != "application/logplex-1" || h.Get("Logplex-Msg-Count") != "4" || len(h.Get("Logplex-Frame-Id")) != 32 ||
			len(h.Get("Logplex-Drain-Token")) != 38 || !strings.HasPrefix(h.Get("Logplex-Drain-Token"), "d.") {
			t.Errorf("%v", h)
		}
		messages := unframe(t, []byte(list[1].body))
		want := "<190>1 2026-02-03T04:05:06.000007+00:00 host app web.0 - ring=1 seq=0\n"
		router := "<158>1 2026-02-03T04:05:06.000007+00:00 host heroku router - GET /\n"
		if messages[0] != want || messages[3] != router {
			t.Errorf("%q", messages)
		}
	})
}

func TestHTTPSChecksCertificates(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSite(t, nil), newMemory()
		src.lines(1, 0, 1)
		o := s.options()
		o.TLS.RootCAs = x509.NewCertPool()
		d := open(t, "https://example.com", src, o)
		time.Sleep(time.Minute)
		if st := d.Stats(); !strings.Contains(st.LastError, "certificate") || len(s.requests()) != 0 {
			t.Errorf("%+v", st)
		}
	})
}
