package drain

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// secureSite is a syslog-tls receiver in memory.
type secureSite struct {
	pipes *pipes
	pool  *x509.CertPool
	cert  *x509.Certificate
	got   chan string // messages, and the error that ends a connection
}

func newSecure(t *testing.T, change func(*tls.Config)) *secureSite {
	web := httptest.NewTLSServer(nil) // for its certificate
	web.Close()
	s := &secureSite{pipes: newPipes(), pool: x509.NewCertPool(), cert: web.Certificate(), got: make(chan string, 100)}
	s.pool.AddCert(s.cert)
	config := &tls.Config{Certificates: web.TLS.Certificates}
	if change != nil {
		change(config)
	}
	ln := tls.NewListener(s.pipes, config)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				in := bufio.NewReader(c)
				for {
					m, err := readFrame(in)
					if err != nil {
						s.got <- err.Error()
						return
					}
					s.got <- m
				}
			}()
		}
	}()
	t.Cleanup(func() { s.pipes.Close() })
	return s
}

func TestL10SyslogTLS(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSecure(t, nil), newMemory()
		src.lines(1, 0, 3)
		d := open(t, "syslog-tls://example.com", src, &Options{DialContext: s.pipes.dial, TLS: &tls.Config{RootCAs: s.pool}})
		for range 3 {
			parse(t, <-s.got)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		// L-10: close_notify, or it would be io.ErrUnexpectedEOF.
		if err := <-s.got; err != io.EOF.Error() {
			t.Errorf("the connection ended with %s", err)
		}
		conserve(t, d.Stats(), 3)
	})
}

// TestL01BadCertificate sends nothing to a receiver it does not know.
func TestL01BadCertificate(t *testing.T) {
	for name, c := range map[string]struct {
		host   string
		trust  bool
		change func(*tls.Config)
	}{
		"unknown authority": {host: "example.com"},
		"wrong name":        {host: "other.example.org", trust: true},
		"old version":       {host: "example.com", trust: true, change: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11 }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, src := newSecure(t, c.change), newMemory()
				pool := x509.NewCertPool()
				if c.trust {
					pool = s.pool
				}
				src.lines(1, 0, 3)
				d := open(t, "syslog-tls://"+c.host, src, &Options{DialContext: s.pipes.dial, TLS: &tls.Config{RootCAs: pool}})
				time.Sleep(time.Minute)
				if st := d.Stats(); st.Connects != 0 || !strings.Contains(st.LastError, "tls") {
					t.Errorf("%+v", st)
				}
				for len(s.got) > 0 {
					if m := <-s.got; strings.Contains(m, "seq=") {
						t.Errorf("got %q", m)
					}
				}
			})
		})
	}
}

// TestL02OwnAuthority checks that what one binding trusts no other does.
func TestL02OwnAuthority(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSecure(t, nil), newMemory()
		src.lines(1, 0, 3)
		o := &Options{DialContext: s.pipes.dial, TLS: &tls.Config{RootCAs: x509.NewCertPool()}}
		ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}))
		a, err := Binding{URL: "syslog-tls://example.com", CA: ca}.open(src, o, everything.Cursor)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		b, err := Binding{URL: "syslog-tls://example.com"}.open(src, o, everything.Cursor)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		time.Sleep(time.Minute)
		if s := a.Stats(); s.Delivered != 3 {
			t.Errorf("with its own authority: %+v", s)
		}
		if s := b.Stats(); s.Delivered != 0 || s.Connects != 0 {
			t.Errorf("with nobody's: %+v", s)
		}
	})
}

// TestL08HandshakeHangs is a receiver that accepts and says nothing.
func TestL08HandshakeHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, src := newPipes(), newMemory()
		go func() {
			for {
				c, err := p.Accept()
				if errors.Is(err, io.EOF) || err != nil {
					return
				}
				go io.Copy(io.Discard, c)
			}
		}()
		start := time.Now()
		d := open(t, "syslog-tls://example.com", src, &Options{DialContext: p.dial})
		for d.Stats().Failures == 0 {
			time.Sleep(time.Second)
		}
		if took := time.Since(start); took > dialTimeout+time.Second {
			t.Errorf("gave up after %v", took)
		}
		d.Close()
		p.Close()
	})
}

// TestL12WriteHangs is a receiver that takes the handshake and then nothing: a
// connection on which a write was given up is not used again, and what was on it
// comes whole on the next.
func TestL12WriteHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, src := newSecure(t, nil), newMemory()
		conns := 0
		d := open(t, "syslog-tls://example.com", src, &Options{TLS: &tls.Config{RootCAs: s.pool}, MaxAge: -1,
			DialContext: func(ctx ctx, network, addr string) (net.Conn, error) {
				c, err := s.pipes.dial(ctx, network, addr)
				if conns++; conns == 1 && err == nil {
					c = &stuck{Conn: c}
				}
				return c, err
			}})
		time.Sleep(time.Second)
		start := time.Now()
		src.lines(1, 0, 300)
		for next := 0; next < 300; {
			if m := <-s.got; strings.Contains(m, "seq=") {
				parse(t, m)
				var n int
				if fmt.Sscanf(m[strings.LastIndex(m, "seq="):], "seq=%d", &n); n != next && n != 0 {
					t.Fatalf("%q where %d should be", m, next)
				}
				next = n + 1
			}
		}
		if took := time.Since(start); took < writeTimeout || took > writeTimeout+7*time.Second || conns != 2 {
			t.Errorf("after %v over %d connections", took, conns)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 300)
	})
}

// stuck takes no more than one large record.
type stuck struct {
	net.Conn
	full  bool
	until time.Time
}

func (c *stuck) SetWriteDeadline(t time.Time) error {
	c.until = t
	return c.Conn.SetWriteDeadline(t)
}

func (c *stuck) Write(p []byte) (int, error) {
	switch {
	case c.full:
		time.Sleep(time.Until(c.until))
		return 0, os.ErrDeadlineExceeded
	case len(p) > 4_000: // more than the handshake writes
		c.full = true
		return len(p), nil
	}
	return c.Conn.Write(p)
}
