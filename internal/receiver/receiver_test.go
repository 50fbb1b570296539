package receiver

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

const hello = "<14>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop 0d1e2f30-1111-4222-8333-444455556666 [APP/PROC/WEB/0] - [tags@47450 app_name=\"shop\"] hello\n"

func framed(messages ...string) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "%d %s", len(m), m)
	}
	return b.String()
}

// log is what a receiver reported.
type log struct {
	mu       sync.Mutex
	texts    []string
	lines    []string
	problems []string
}

func (l *log) report(m Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Text != nil {
		l.texts = append(l.texts, string(m.Text))
		l.lines = append(l.lines, m.Line())
	}
	l.problems = append(l.problems, m.Problems...)
}

func start(t *testing.T, o Options) (*Receiver, *log) {
	t.Helper()
	l := new(log)
	o.Report = l.report
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r, err := New(ln, &o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, l
}

func secure(t *testing.T) (*tls.Config, *tls.Config) {
	t.Helper()
	cert, ca, err := SelfSigned(time.Hour, "127.0.0.1", "localhost")
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(ca) {
		t.Fatal("the CA is no PEM")
	}
	return &tls.Config{Certificates: []tls.Certificate{cert}}, &tls.Config{RootCAs: pool, ServerName: "localhost"}
}

// send writes text and waits until the receiver has closed, or has read it all.
func send(t *testing.T, r *Receiver, text string, config *tls.Config) {
	t.Helper()
	raw, err := net.Dial("tcp", r.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	c, half := raw, raw.(interface{ CloseWrite() error })
	if config != nil {
		s := tls.Client(raw, config)
		c, half = s, s
	}
	io.WriteString(c, text)
	half.CloseWrite()
	io.Copy(io.Discard, c)
}

func TestStreamProblems(t *testing.T) {
	long := strings.Replace(hello, "app_name", strings.Repeat("n", 33), 1)
	for name, tc := range map[string]struct {
		text     string
		messages int
		problem  string // of one, or none
	}{
		"good":            {framed(hello, hello), 2, ""},
		"nothing":         {"", 0, ""},
		"LF framing":      {hello, 1, "there is no length in front"},
		"back to lengths": {hello + framed(hello), 2, "there is no length in front"},
		"not RFC 5424":    {framed("hello\n"), 1, "no RFC 5424: expecting a priority value within angle brackets [col 0], near \"hello\\n\""},
		"PRI -1":          {framed(strings.Replace(hello, "<14>", "<-1>", 1)), 1, "no RFC 5424"},
		"long name":       {framed(long), 1, "no RFC 5424"},
		"no LF":           {framed(strings.TrimSuffix(hello, "\n")), 1, "there is no LF at the end"},
		"NUL":             {framed(strings.Replace(hello, "hello", "a\x00b", 1)), 1, "it holds a NUL byte"},
		"empty":           {framed("", hello), 0, `no length of a message: "0"`},
		"leading zero":    {"0" + framed(hello), 0, `no length of a message: "0`},
		"no length":       {"x" + framed(hello), 0, `no length of a message: "x"`},
		"torn":            {framed(hello, hello)[:200], 1, "the connection ended in the middle of a message"},
		"torn length":     {framed(hello) + "12", 1, "the connection ended in the middle of a message"},
		"too long":        {"99999999 " + hello, 0, "a message is longer than 2097152 bytes"},
		"HTTP":            {"POST /x HTTP/1.1\r\nHost: h\r\n\r\n", 0, "the peer speaks HTTP"},
		"TLS":             {"\x16\x03\x01\x02\x00\x01", 0, "the peer speaks TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			r, l := start(t, Options{})
			send(t, r, tc.text, nil)
			if err := r.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			wrong := 0
			if tc.problem != "" {
				wrong = 1
			}
			if len(l.texts) != tc.messages || len(l.problems) != wrong || wrong > 0 && !strings.HasPrefix(l.problems[0], tc.problem) {
				t.Errorf("%d messages, problems %q", len(l.texts), l.problems)
			}
			if s := r.Stats(); s.Messages != uint64(tc.messages) || s.Problems != uint64(wrong) || s.Connections != 1 {
				t.Errorf("%+v", s)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	server, client := secure(t)
	r, l := start(t, Options{TLS: server})
	send(t, r, framed(hello), client)
	send(t, r, framed(hello), nil)                       // clear text
	send(t, r, "", &tls.Config{ServerName: "localhost"}) // does not trust it
	r.Shutdown(t.Context())
	if len(l.texts) != 1 || l.lines[0] != "hello" || len(l.problems) != 2 {
		t.Fatalf("%q %q", l.texts, l.problems)
	}
	if !strings.Contains(l.problems[0], "clear text") || !strings.Contains(l.problems[1], "bad certificate") {
		t.Errorf("%q", l.problems)
	}
}

func TestHTTPS(t *testing.T) {
	server, config := secure(t)
	herokus := "<190>1 2026-02-03T04:05:06+00:00 host app web.1 - State changed"
	logplex := func(count string) http.Header {
		return http.Header{"Content-Type": {"application/logplex-1"}, "Logplex-Msg-Count": {count}, "Logplex-Frame-Id": {"1"}, "Logplex-Drain-Token": {"d.1"}}
	}
	plain := http.Header{"Content-Type": {"text/plain"}}
	for name, tc := range map[string]struct {
		header   http.Header
		body     string
		messages int
		problem  string
	}{
		"one":           {plain, hello, 1, ""},
		"batch":         {plain, hello + hello, 2, ""},
		"LF inside":     {plain, strings.Replace(hello, "hello", "a\n<b>\n<14> c", 1) + hello, 2, ""},
		"empty":         {plain, "", 0, "the body is empty"},
		"kind":          {http.Header{"Content-Type": {"text/html"}}, hello, 1, `the content type is "text/html"`},
		"logplex":       {logplex("2"), framed(herokus, herokus), 2, ""},
		"count":         {logplex("3"), framed(herokus), 1, `the header Logplex-Msg-Count says "3", and the body has 1 messages`},
		"no frame id":   {http.Header{"Content-Type": {"application/logplex-1"}, "Logplex-Msg-Count": {"1"}, "Logplex-Drain-Token": {"d.1"}}, framed(herokus), 1, "there is no header Logplex-Frame-Id"},
		"short header":  {logplex("1"), framed("<190>1 2026-02-03T04:05:06+00:00 host"), 1, "no message of Heroku's form"},
		"torn counting": {logplex("1"), framed(herokus, herokus)[:100], 1, "the body's octet counting is broken after 1 messages"},
	} {
		t.Run(name, func(t *testing.T) {
			r, l := start(t, Options{TLS: server, HTTPS: true})
			client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
			defer client.CloseIdleConnections()
			req, _ := http.NewRequest("POST", "https://"+r.Addr()+"/x", strings.NewReader(tc.body))
			req.Header = tc.header
			resp, err := client.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			wrong := 0
			if tc.problem != "" {
				wrong = 1
			}
			if resp.StatusCode != 200 || len(l.texts) != tc.messages || len(l.problems) != wrong || wrong > 0 && !strings.HasPrefix(l.problems[0], tc.problem) {
				t.Errorf("%s, %d messages, problems %q", resp.Status, len(l.texts), l.problems)
			}
		})
	}
}

func TestMisbehaviour(t *testing.T) {
	server, config := secure(t)
	read := func(c net.Conn) error {
		c.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, err := io.Copy(io.Discard, c)
		return err
	}
	t.Run("refuse", func(t *testing.T) {
		r, l := start(t, Options{Fault: Fault{Refuse: true}})
		if c, err := net.Dial("tcp", r.Addr()); err == nil {
			c.Close()
			t.Error("it listens")
		}
		if err := r.Misbehave(Fault{}); err != nil {
			t.Fatal(err)
		}
		send(t, r, framed(hello), nil)
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for r.Stats().Connections < 2 {
			time.Sleep(time.Millisecond)
		}
		r.Misbehave(Fault{Refuse: true})
		if read(c) == nil {
			t.Error("the connection was not reset")
		}
		r.Close()
		if len(l.texts) != 1 {
			t.Errorf("%d messages", len(l.texts))
		}
	})
	t.Run("close", func(t *testing.T) {
		r, _ := start(t, Options{Fault: Fault{Close: true}})
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := read(c); err != nil {
			t.Error(err)
		}
	})
	t.Run("stall", func(t *testing.T) {
		r, l := start(t, Options{Fault: Fault{Stall: true}})
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
		long := framed(strings.Replace(hello, "hello", strings.Repeat("x", 1<<20), 1))
		sent := 0
		for err == nil && sent < 64 {
			_, err = io.WriteString(c, long)
			sent++
		}
		if err == nil {
			t.Error("64 MiB were taken")
		}
		r.Misbehave(Fault{})
		c.Close()
		r.Shutdown(t.Context())
		if len(l.texts) != sent-1 {
			t.Errorf("%d messages after the stall, %d sent whole", len(l.texts), sent-1)
		}
	})
	t.Run("crawl", func(t *testing.T) {
		r, l := start(t, Options{Fault: Fault{Crawl: 10 * len(framed(hello))}})
		begin := time.Now()
		send(t, r, framed(hello, hello, hello), nil)
		if d := time.Since(begin); d < 200*time.Millisecond {
			t.Errorf("three messages in %v", d)
		}
		r.Shutdown(t.Context())
		if len(l.texts) != 3 {
			t.Errorf("%d messages", len(l.texts))
		}
	})
	t.Run("reset", func(t *testing.T) {
		r, l := start(t, Options{Fault: Fault{Reset: int64(len(framed(hello)) + 5)}})
		c, err := net.Dial("tcp", r.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, framed(hello, hello))
		if read(c) == nil {
			t.Error("the connection was not reset")
		}
		r.Shutdown(t.Context())
		if len(l.texts) != 1 || len(l.problems) != 1 || !strings.Contains(l.problems[0], "reset in the middle") {
			t.Errorf("%d messages, %q", len(l.texts), l.problems)
		}
	})
	t.Run("status", func(t *testing.T) {
		r, l := start(t, Options{TLS: server, HTTPS: true, Fault: Fault{Status: 503, RetryAfter: 30 * time.Second}})
		client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		defer client.CloseIdleConnections()
		resp, err := client.Post("https://"+r.Addr(), "text/plain", strings.NewReader(hello))
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 503 || resp.Header.Get("Retry-After") != "30" || len(l.texts) != 0 || r.Stats().Requests != 1 {
			t.Errorf("%s %q %d", resp.Status, resp.Header, len(l.texts))
		}
	})
}

func TestHTTPSNeedsTLS(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(ln, &Options{HTTPS: true}); err == nil {
		t.Error("no error")
	}
}

// Whatever comes, the parts are what was sent.
func FuzzSplitPlain(f *testing.F) {
	f.Add([]byte(hello + hello))
	f.Add([]byte("\n<14>1 \n<\n<999>1 x\n<14>2 "))
	f.Fuzz(func(t *testing.T, body []byte) {
		parts := splitPlain(bytes.Clone(body))
		if !bytes.Equal(bytes.Join(parts, nil), body) {
			t.Errorf("%q", parts)
		}
		for _, p := range parts {
			if len(p) == 0 {
				t.Error("an empty part")
			}
		}
	})
}
