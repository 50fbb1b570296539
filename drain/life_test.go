package drain

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

func TestT13IdleConnectionIsClosed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		src.lines(1, 0, 10)
		time.Sleep(DefaultMaxIdle - time.Second)
		if s := d.Stats(); s.State != Connected {
			t.Errorf("%+v", s)
		}
		time.Sleep(2 * time.Second)
		if s := d.Stats(); s.State != Idle || s.Failures != 0 {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Hour)
		src.lines(1, 10, 20)
		synctest.Wait()
		if len(rcv.texts()) != 20 || len(rcv.dials) != 2 {
			t.Errorf("%d lines at once after an hour, %d connections", len(rcv.texts()), len(rcv.dials))
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 20)
		if s.Resent != 0 || s.Connects != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// flow sends twenty lines a second for a while and checks that each came once
// and in order.
func flow(t *testing.T, d *Drain, src *memory, rcv *receiver, lasts time.Duration) Stats {
	t.Helper()
	n := int(lasts / (50 * time.Millisecond))
	for i := range n {
		src.lines(1, i, i+1)
		time.Sleep(50 * time.Millisecond)
	}
	if err := d.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, m := range rcv.texts() {
		if want := fmt.Sprintf("ring=1 seq=%d", i); m != want {
			t.Fatalf("%s where %s should be", m, want)
		}
	}
	s := d.Stats()
	conserve(t, s, uint64(n))
	if len(rcv.messages) != n || s.Resent != 0 || s.Failures != 0 {
		t.Errorf("%d messages of %d, %+v", len(rcv.messages), n, s)
	}
	return s
}

func TestT14MaxAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		var ages []time.Duration
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		s := flow(t, d, src, rcv, 35*time.Minute)
		for i, at := range rcv.dials[1:] {
			ages = append(ages, at.Sub(rcv.dials[i]))
		}
		if s.Moves < 2 || s.Connects != s.Moves+1 || slices.Min(ages) < 8*time.Minute || slices.Max(ages) > 12*time.Minute+time.Second {
			t.Errorf("ages %v, %+v", ages, s)
		}
	})
}

// TestT14NoOther keeps an old connection while there is no new one.
func TestT14NoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		synctest.Wait()
		rcv.set(errors.New("no"))
		if s := flow(t, d, src, rcv, 20*time.Minute); s.Connects != 1 || len(rcv.dials) < 5 {
			t.Errorf("%d attempts, %+v", len(rcv.dials), s)
		}
	})
}

// town is a network in memory: names, and addresses that answer, hang or refuse.
type town struct {
	mu     sync.Mutex
	names  map[string][]netip.Addr
	broken error
	rcv    *receiver
	hangs  map[string]bool
	dialed []string
	asked  int
}

func (n *town) lookup(_ context.Context, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked++
	if n.broken != nil {
		return nil, n.broken
	}
	return n.names[host], nil
}

func (n *town) connect(ctx context.Context, network, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dialed = append(n.dialed, addr)
	hangs := n.hangs[addr]
	n.mu.Unlock()
	if hangs {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	c, err := n.rcv.dial(ctx, network, addr)
	return located{c, net.TCPAddrFromAddrPort(netip.MustParseAddrPort(addr))}, err
}

type located struct {
	net.Conn
	addr net.Addr
}

func (l located) RemoteAddr() net.Addr { return l.addr }

func (n *town) set(host string, addrs ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names == nil {
		n.names = make(map[string][]netip.Addr)
	}
	n.names[host] = nil
	for _, a := range addrs {
		n.names[host] = append(n.names[host], netip.MustParseAddr(a))
	}
}

func (n *town) options(r rules) *Options {
	own := &dialer{rules: r, lookup: n.lookup, connect: n.connect}
	return &Options{own: own, DialContext: own.dial, MaxAge: -1}
}

func TestD01NameMeansAnotherHost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, n := newMemory(), &town{rcv: newReceiver()}
		n.set("host", "192.0.2.1")
		d := open(t, "syslog://host", src, n.options(rules{}))
		synctest.Wait()
		n.set("host", "192.0.2.2", "192.0.2.3")
		s := flow(t, d, src, n.rcv, 5*time.Minute)
		if s.Moves != 1 || !slices.Equal(n.dialed, []string{"192.0.2.1:514", "192.0.2.2:514"}) {
			t.Errorf("dialed %v, %+v", n.dialed, s)
		}
	})
}

func TestD05NameServerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, n := newMemory(), &town{rcv: newReceiver()}
		n.set("host", "192.0.2.1")
		d := open(t, "syslog://host", src, n.options(rules{}))
		synctest.Wait()
		n.mu.Lock()
		n.broken = &net.DNSError{Err: "server misbehaving", Name: "host"}
		n.mu.Unlock()
		if s := flow(t, d, src, n.rcv, 5*time.Minute); s.Moves != 0 || s.Connects != 1 || n.asked < 4 {
			t.Errorf("asked %d times, %+v", n.asked, s)
		}
		d = open(t, "syslog://host", src, n.options(rules{}))
		time.Sleep(time.Minute)
		if s := d.Stats(); s.Cause != CauseName {
			t.Errorf("%+v", s)
		}
	})
}

func TestD03D04D08D10D11Dialing(t *testing.T) {
	internal := InternalNetworks()
	for name, c := range map[string]struct {
		host   string
		addrs  []string
		hangs  string
		rules  rules
		dialed string        // that answered; "": denied
		within time.Duration // until it did
		never  string        // must not be dialled
	}{
		"D-03 the first is dead":          {host: "host:514", addrs: []string{"192.0.2.1", "192.0.2.2"}, hangs: "192.0.2.1:514", dialed: "192.0.2.2:514", within: dialStagger},
		"D-04 IPv6 alone":                 {host: "host:514", addrs: []string{"2001:db8::1"}, dialed: "[2001:db8::1]:514"},
		"D-04 IPv6 as it is":              {host: "[2001:db8::1]:6514", dialed: "[2001:db8::1]:6514"},
		"D-04 IPv6 is dead":               {host: "host:514", addrs: []string{"192.0.2.1", "2001:db8::1"}, hangs: "[2001:db8::1]:514", dialed: "192.0.2.1:514", within: dialStagger},
		"D-08 a private and a public one": {host: "host:514", addrs: []string{"10.0.0.1", "8.8.8.8"}, rules: rules{deny: internal}, dialed: "8.8.8.8:514", never: "10.0.0.1:514"},
		"D-08 a private one":              {host: "host:514", addrs: []string{"::ffff:10.0.0.1"}, rules: rules{deny: internal}, never: "10.0.0.1:514"},
		"D-10 allowed":                    {host: "host:514", addrs: []string{"10.1.2.3"}, rules: rules{deny: internal, allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}, dialed: "10.1.2.3:514"},
		"D-10 not allowed":                {host: "host:514", addrs: []string{"10.2.2.3"}, rules: rules{deny: internal, allow: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}}, never: "10.2.2.3:514"},
		"D-11 a port":                     {host: "host:22", addrs: []string{"8.8.8.8"}, rules: rules{ports: [][2]uint16{{443, 443}, {514, 514}, {1024, 65535}}}, never: "8.8.8.8:22"},
		"D-11 another port":               {host: "host:6514", addrs: []string{"8.8.8.8"}, rules: rules{ports: [][2]uint16{{443, 443}, {514, 514}, {1024, 65535}}}, dialed: "8.8.8.8:6514"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := &town{rcv: newReceiver(), hangs: map[string]bool{c.hangs: true}}
				n.set("host", c.addrs...)
				own := n.options(c.rules).own
				start := time.Now()
				conn, err := own.dial(t.Context(), "tcp", c.host)
				if c.never != "" && slices.Contains(n.dialed, c.never) {
					t.Errorf("dialled %v", n.dialed)
				}
				if c.dialed == "" {
					if !errors.Is(err, ErrDenied) {
						t.Errorf("%v", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				if got := conn.RemoteAddr().String(); got != c.dialed || time.Since(start) > c.within {
					t.Errorf("%s after %v", got, time.Since(start))
				}
			})
		})
	}
}

// site in memory with certificates of our own.
func tlsSite(t *testing.T, ca *authority, config *tls.Config, name string, valid time.Duration) *secureSite {
	return newSecure(t, func(c *tls.Config) {
		pair, err := tls.X509KeyPair(ca.issue(name, valid))
		if err != nil {
			t.Fatal(err)
		}
		c.ClientAuth, c.ClientCAs, c.VerifyConnection = config.ClientAuth, config.ClientCAs, config.VerifyConnection
		c.Certificates = []tls.Certificate{pair}
	})
}

func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return pool
}

// TestL04CertificatesAreReadAtEachHandshake has a certificate that is replaced
// while the drain runs.
func TestL04CertificatesAreReadAtEachHandshake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, src := newAuthority(t), newMemory()
		var mu sync.Mutex
		var shown []string
		s := tlsSite(t, ca, &tls.Config{ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.pool(),
			VerifyConnection: func(c tls.ConnectionState) error {
				mu.Lock()
				defer mu.Unlock()
				shown = append(shown, c.PeerCertificates[0].Subject.CommonName)
				return nil
			}}, "example.com", time.Hour*24*300)
		asked := 0
		d := open(t, "syslog-tls://example.com", src, &Options{DialContext: s.pipes.dial, GetTLS: func() (*tls.Config, error) {
			if asked++; asked == 2 {
				return nil, errors.New("the key cannot be read")
			}
			pair, err := tls.X509KeyPair(ca.issue(fmt.Sprintf("client-%d", asked), time.Hour*24*300))
			return &tls.Config{RootCAs: ca.pool(), Certificates: []tls.Certificate{pair}}, err
		}})
		for i := range 15 * 60 {
			src.lines(1, i, i+1)
			<-s.got
			time.Sleep(time.Second)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		st := d.Stats()
		conserve(t, st, 15*60)
		if st.Resent != 0 || st.Moves != 1 || !slices.Equal(shown, []string{"client-1", "client-3"}) {
			t.Errorf("%v, %+v", shown, st)
		}
	})
}

func TestL01L07Handshakes(t *testing.T) {
	for name, c := range map[string]struct {
		host, name string
		valid      time.Duration
		config     *tls.Config
		ok         bool
		query      string
		says       string
	}{
		"L-01 expired":            {host: "example.com", name: "example.com", valid: -time.Minute, says: "expired"},
		"L-01 wrong name":         {host: "example.com", name: "example.org", valid: time.Hour, says: "example.org"},
		"L-07 TLS 1.1":            {host: "example.com", name: "example.com", valid: time.Hour, config: &tls.Config{MaxVersion: tls.VersionTLS11}, says: "version"},
		"L-07 CBC":                {host: "example.com", name: "example.com", valid: time.Hour, config: &tls.Config{MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}}, says: "handshake failure"},
		"L-07 TLS 1.2 ECDSA":      {host: "example.com", name: "example.com", valid: time.Hour, config: &tls.Config{MaxVersion: tls.VersionTLS12}, ok: true},
		"L-07 1.3":                {host: "example.com", name: "example.com", valid: time.Hour, config: &tls.Config{MinVersion: tls.VersionTLS13}, ok: true},
		"L-07 ECDSA, strict":      {host: "example.com", name: "example.com", valid: time.Hour, config: &tls.Config{MaxVersion: tls.VersionTLS12}, query: "?ssl-strict-internal=true", says: "handshake failure"},
		"L-11 an address":         {host: "192.0.2.7", name: "192.0.2.7", valid: time.Hour, ok: true},
		"L-01 not the other name": {host: "192.0.2.7", name: "example.com", valid: time.Hour, says: "192.0.2.7"},
	} {
		t.Run(name, func(t *testing.T) {
			ca, src := newAuthority(t), newMemory()
			names := make(chan string, 100)
			config := new(tls.Config)
			if c.config != nil {
				config = c.config.Clone()
			}
			config.GetConfigForClient = func(h *tls.ClientHelloInfo) (*tls.Config, error) { names <- h.ServerName; return nil, nil }
			pair, err := tls.X509KeyPair(ca.issue(c.name, c.valid))
			if err != nil {
				t.Fatal(err)
			}
			config.Certificates = []tls.Certificate{pair}
			addr, got := listen(t, config)
			src.lines(1, 0, 3)
			failed := make(chan struct{}, 1)
			d := open(t, "syslog-tls://"+c.host+c.query, src, &Options{
				DialContext: toward(addr), TLS: &tls.Config{RootCAs: ca.pool()},
				Backoff: func(int) time.Duration { failed <- struct{}{}; return time.Hour },
			})
			if c.ok {
				for range 3 {
					parse(t, <-got)
				}
				if err := d.Shutdown(t.Context()); err != nil {
					t.Fatal(err)
				}
			} else {
				<-failed
				d.Close()
			}
			st := d.Stats()
			if c.ok && st.Expires.IsZero() || !c.ok && (st.Connects != 0 || st.Cause != CauseTLS || !strings.Contains(st.LastError, c.says)) || len(got) > 0 && strings.Contains(<-got, "seq=") {
				t.Errorf("%+v", st)
			}
			if c.ok {
				conserve(t, st, 3)
			}
			want := c.host
			if c.host == "192.0.2.7" {
				want = "" // RFC 6066, section 3: no address
			}
			if name := <-names; name != want {
				t.Errorf("server name %q", name)
			}
		})
	}
}

// listen is a receiver on loopback, over TLS if config is not nil; it gives what
// it reads, as messages.
func listen(t *testing.T, config *tls.Config) (addr string, got chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	addr, got = ln.Addr().String(), make(chan string, 1000)
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
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
						return
					}
					got <- m
				}
			}()
		}
	}()
	return addr, got
}

// toward dials addr, whatever is asked for.
func toward(addr string) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, addr)
	}
}

// told is a Writer that keeps the lines that applications are told.
type told struct {
	mu    sync.Mutex
	lines []string
	at    []time.Time
}

func (w *told) WriteBatch(_ context.Context, b envelope.Batch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e, err := range b.All() {
		r, _ := e.Route()
		sourceType, _ := e.Tag(envelope.TagSourceType)
		app, _ := e.Tag(envelope.TagAppName)
		if err != nil || string(sourceType) != "LGR" || r.LogType != envelope.Err || string(r.InstanceID) != "0" {
			return errors.New("not a line of ours")
		}
		w.lines = append(w.lines, fmt.Sprintf("%s/%s: %s", r.SourceID, app, r.Payload))
		w.at = append(w.at, time.Now())
	}
	return nil
}

// all gives what was told so far.
func (w *told) all() ([]string, []time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.lines), slices.Clone(w.at)
}

var shopOnly = envelope.Query{Select: []envelope.Selector{{SourceID: shop.SourceID}}, History: true}

func TestL05CertificatesThatEndSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ca, src, app := newAuthority(t), newMemory(), new(told)
		s := tlsSite(t, ca, &tls.Config{}, "example.com", 40*24*time.Hour)
		var log lockedBuffer
		d, err := Open("syslog-tls://example.com", src, shopOnly, &Options{
			DialContext: s.pipes.dial, TLS: &tls.Config{RootCAs: ca.pool()}, Tell: app, MaxIdle: time.Minute,
			Logger: slog.New(slog.NewTextHandler(&log, nil)),
		})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for i := range 39*24 + 12 {
			src.lines(1, i, i+1)
			for m := range s.got {
				if strings.Contains(m, "seq=") {
					break
				}
			}
			time.Sleep(time.Hour)
		}
		lines, at := app.all()
		if len(lines) != 3 || strings.Count(log.String(), "a certificate ends soon") != 3 {
			t.Fatalf("%q\n%s", lines, log.String())
		}
		for i, days := range []int{10, 33, 39} {
			if got := int(at[i].Sub(at[0]).Hours()/24+0.5) + 10; got != days || !strings.Contains(lines[i], "/shop: A certificate of the syslog drain with url syslog-tls://example.com:6514 ends on ") {
				t.Errorf("day %d: %s", got, lines[i])
			}
		}
	})
}

func TestL09WrongProtocol(t *testing.T) {
	clear, _ := listen(t, nil)
	says := func(text string) string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		go func() {
			if c, err := ln.Accept(); err == nil {
				c.Read(make([]byte, 10))
				c.Write([]byte(text))
				c.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, c)
				c.Close()
			}
		}()
		return ln.Addr().String()
	}
	for url, c := range map[string]struct{ addr, says string }{
		"syslog-tls://a": {clear, "EOF"}, // it waits for a length, and closes
		"syslog-tls://b": {says("220 this is something else\r\n"), "the receiver does not speak TLS"},
		"syslog://c":     {says("\x15\x03\x01\x00\x02\x02\x46"), "the receiver speaks TLS"}, // an alert: wrong version,
	} {
		src := newMemory()
		src.lines(1, 0, 3)
		failed := make(chan struct{}, 1)
		d := open(t, url, src, &Options{DialContext: toward(c.addr), Backoff: func(int) time.Duration { failed <- struct{}{}; return time.Hour }})
		<-failed
		d.Close()
		if s := d.Stats(); s.Cause != CauseTLS || !strings.Contains(s.LastError, c.says) || s.Delivered > 0 && url != "syslog://c" {
			t.Errorf("%s: %+v", url, s)
		}
	}
}

// TestT08R04AppIsTold counts the lines an application is told of an outage.
func TestT08R04AppIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv, app := newMemory(), newReceiver(), new(told)
		rcv.refuse = errors.New("connection refused")
		d, err := Open("syslog://user:secret@host/secret?x=secret", src, shopOnly, &Options{DialContext: rcv.dial, Tell: app})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		src.lines(1, 0, 10)
		time.Sleep(time.Hour)
		rcv.set(nil)
		time.Sleep(time.Minute)
		lines, at := app.all()
		if n := len(lines); n < 10 || n > 14 || strings.Contains(strings.Join(lines, ""), "secret") ||
			lines[0] != shop.SourceID+"/: Failed to connect to syslog://host:514: connection refused" && lines[0] != shop.SourceID+"/shop: Failed to connect to syslog://host:514: connection refused" ||
			lines[n-1] != shop.SourceID+"/shop: The syslog drain with url syslog://host:514 is connected again" {
			t.Errorf("%q", lines)
		}
		for i := range at[1:] {
			if at[i+1].Sub(at[i]) < noticeInterval {
				t.Errorf("told twice within %v", at[i+1].Sub(at[i]))
			}
		}
		conserve(t, d.Stats(), 10)
	})
	synctest.Test(t, func(t *testing.T) { // flapping each second for ten minutes
		src, rcv, app := newMemory(), newReceiver(), new(told)
		d, err := Open("syslog://host", src, shopOnly, &Options{DialContext: rcv.dial, Tell: app})
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		for i := range 600 {
			src.lines(1, i, i+1)
			time.Sleep(500 * time.Millisecond)
			rcv.set(errors.New("connection refused"))
			rcv.mu.Lock()
			for _, c := range rcv.conns {
				c.Close()
			}
			rcv.mu.Unlock()
			time.Sleep(500 * time.Millisecond)
			rcv.set(nil)
		}
		if lines, _ := app.all(); len(lines) > 20 {
			t.Errorf("%d lines in ten minutes", len(lines))
		}
	})
}

// TestR01AppIsTold has losses that the application is told of in its own stream,
// once, with the exact number; those of other applications are not told to it,
// and nobody is told of a drain of everything.
func TestR01AppIsTold(t *testing.T) {
	for _, all := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			src, rcv, app := newMemory(), newReceiver(), new(told)
			src.keep = 100
			rcv.refuse = errors.New("connection refused")
			q := shopOnly
			if all {
				q = everything
			}
			d, err := Open("syslog://user:secret@host", src, q, &Options{DialContext: rcv.dial, Tell: app})
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			const total = 12345
			for i := range total / 5 {
				src.lines(1, 5*i, 5*i+5)
				time.Sleep(100 * time.Millisecond)
			}
			rcv.set(nil)
			time.Sleep(5 * time.Minute)
			if err := d.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			s := d.Stats()
			conserve(t, s, total)
			var lost uint64
			lines, _ := app.all()
			for _, line := range lines {
				var n uint64
				if _, text, ok := strings.Cut(line, "/shop: "); ok && strings.Contains(text, " messages lost for application "+shop.SourceID+" in user provided syslog drain with url syslog://host:514, from 2026-") {
					fmt.Sscan(text, &n)
					if !strings.HasSuffix(text, ": the receiver was away") {
						t.Error(text)
					}
				}
				lost += n
			}
			if all {
				if len(lines) > 0 {
					t.Errorf("%q", lines)
				}
			} else if lost != s.Missed || lost == 0 {
				t.Errorf("told of %d: %q, %+v", lost, lines, s)
			}
		})
	}
}

// TestI07CatchUpIsBounded has a backlog of half an hour.
func TestI07CatchUpIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		rcv.refuse = errors.New("connection refused")
		const perSecond = 100_000
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial, CatchUp: perSecond})
		src.lines(1, 0, 10_000)
		time.Sleep(time.Minute)
		rcv.set(nil)
		for d.Stats().Delivered == 0 {
			time.Sleep(10 * time.Millisecond)
		}
		start, before := time.Now(), d.Stats().Bytes
		for d.Stats().Delivered < 10_000 {
			time.Sleep(10 * time.Millisecond)
		}
		s := d.Stats()
		if rate := float64(s.Bytes-before) / time.Since(start).Seconds(); rate > 1.1*perSecond || rate < 0.8*perSecond {
			t.Errorf("%.0f bytes a second", rate)
		}
		time.Sleep(time.Second)
		start = time.Now()
		src.lines(1, 0, 10_000) // no backlog: as fast as it comes
		for d.Stats().Delivered < 20_000 {
			time.Sleep(time.Millisecond)
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("took %v when nothing was behind", took)
		}
		rcv.set(errors.New("connection refused"))
		rcv.mu.Lock()
		rcv.conns[0].Close()
		rcv.mu.Unlock()
		src.lines(1, 0, 10_000)
		time.Sleep(time.Minute)
		rcv.set(nil)
		if err := d.Shutdown(t.Context()); err != nil { // which is not bounded
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 30_000)
	})
}

// TestD02OldHostDies has a name that means another host when the old one is gone:
// the next attempt goes there.
func TestD02OldHostDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, n := newMemory(), &town{rcv: newReceiver()}
		n.set("host", "192.0.2.1")
		d := open(t, "syslog://host", src, n.options(rules{}))
		src.lines(1, 0, 10)
		time.Sleep(time.Second)
		n.set("host", "192.0.2.2")
		n.rcv.mu.Lock()
		n.rcv.conns[0].Close()
		n.rcv.mu.Unlock()
		synctest.Wait()
		src.lines(1, 10, 20)
		time.Sleep(time.Second)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 20)
		n.mu.Lock()
		defer n.mu.Unlock()
		if !slices.Equal(n.dialed, []string{"192.0.2.1:514", "192.0.2.2:514"}) || len(n.rcv.texts()) != 20 {
			t.Errorf("dialled %v, %d messages", n.dialed, len(n.rcv.texts()))
		}
	})
}

// TestD06ResolverHangs has a resolver that does not answer for one name: other
// drains do not wait for it.
func TestD06ResolverHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, n := newMemory(), &town{rcv: newReceiver()}
		n.set("good", "192.0.2.1")
		o := n.options(rules{})
		o.own.lookup = func(ctx context.Context, host string) ([]netip.Addr, error) {
			if host == "bad" {
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return n.lookup(ctx, host)
		}
		bad := open(t, "syslog://bad", src, o)
		good := open(t, "syslog://good", src, o)
		src.lines(1, 0, 10)
		time.Sleep(dialTimeout + time.Millisecond)
		if g, b := good.Stats(), bad.Stats(); g.Delivered != 10 || b.Failures != 1 || b.Cause != CauseTimeout {
			t.Errorf("%+v\n%+v", g, b)
		}
	})
}

// TestDefaults holds the defaults that users may rely on.
func TestDefaults(t *testing.T) {
	o := (*Options)(nil).withDefaults()
	for name, c := range map[string][2]any{
		"dial":            {dialTimeout, 10 * time.Second},
		"HTTP headers":    {headerTimeout, 10 * time.Second},
		"keepalive":       {keepAlive.Idle, 15 * time.Second},
		"idle, TCP":       {o.MaxIdle, 4 * time.Minute},
		"age":             {o.MaxAge, 10 * time.Minute},
		"batch":           {bodySize, 512 << 10},
		"batch pace":      {batchPace <= time.Second, true},
		"notices":         {noticeInterval, 30 * time.Second},
		"TLS":             {o.TLS.MinVersion, uint16(tls.VersionTLS12)},
		"user timeout":    {userTimeout <= 30*time.Second, true},
		"state to an app": {repeatInterval, 5 * time.Minute},
	} {
		if c[0] != c[1] {
			t.Errorf("%s: %v, want %v", name, c[0], c[1])
		}
	}
	for failures, most := range []time.Duration{50 * time.Millisecond, 100 * time.Millisecond, 200 * time.Millisecond} {
		for range 100 {
			if d := o.Backoff(failures); d < 0 || d > most {
				t.Errorf("pause %d: %v", failures, d)
			}
		}
	}
	for range 100 {
		if d := o.Backoff(50); d > 30*time.Second {
			t.Errorf("pause %v", d)
		}
	}
}
