package syslogin

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/big"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/internal/taken"
)

// certificate is one for localhost, and who trusts it.
func certificate(t testing.TB) (*tls.Config, *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// TestSockets: over every kind of socket, until Shutdown.
func TestSockets(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	const total = 100
	tests := []struct {
		network string
		tls     bool
		local   bool
	}{{"tcp", false, false}, {"tcp", true, false}, {"unix", false, true}, {"udp", false, false}, {"unixgram", false, true}}
	for _, test := range tests {
		t.Run(fmt.Sprintf("%s/tls=%v", test.network, test.tls), func(t *testing.T) {
			if runtime.GOOS == "windows" && strings.HasPrefix(test.network, "unix") {
				t.Skip("no unix sockets here")
			}
			address := "127.0.0.1:0"
			if test.local {
				address = filepath.Join(t.TempDir(), "log")
			}
			dst := taken.New(t)
			o := &Options{}
			if test.tls {
				o.TLS = serverTLS
			}
			s := NewServer(dst, o)
			result := make(chan error, 1)
			datagrams := test.network == "udp" || test.network == "unixgram"
			if datagrams {
				pc, err := net.ListenPacket(test.network, address)
				if err != nil {
					t.Fatal(err)
				}
				address = pc.LocalAddr().String()
				go func() { result <- s.ServePacket(pc) }()
			} else {
				ln, err := net.Listen(test.network, address)
				if err != nil {
					t.Fatal(err)
				}
				address = ln.Addr().String()
				go func() { result <- s.Serve(ln) }()
			}
			c, err := net.Dial(test.network, address)
			if err == nil && test.tls {
				c = tls.Client(c, clientTLS)
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range total {
				m := fmt.Sprintf("<14>Jan  2 03:04:05 tag[%d]: hello %d", i, i)
				if !datagrams {
					m += "\x00" // as the C library writes to a stream
				}
				if _, err := io.WriteString(c, m); err != nil {
					t.Fatal(err)
				}
			}
			dst.Wait(total)
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
			if err := <-result; err != ErrClosed {
				t.Error(err)
			}
			c.Close()
			for i, r := range dst.Take() {
				host := "127.0.0.1"
				if test.local {
					host = "localhost"
				}
				if r.Source != "tag" || r.Instance != host || r.Text != fmt.Sprintf("hello %d", i) || !strings.Contains(r.Tags, fmt.Sprintf("procid=%d ", i)) {
					t.Fatalf("record %d: %+v", i, r)
				}
			}
			conserve(t, s)
			if st := s.Stats(); st.RFC3164 != total || datagrams && st.Datagrams != total || len(st.Refused) > 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestSenders: datagrams that name no host are told apart by who sent them.
func TestSenders(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dst := taken.New(t)
	s := NewServer(dst, nil)
	result := make(chan error, 1)
	go func() { result <- s.ServePacket(pc) }()
	for i := range 6 {
		from := fmt.Sprintf("127.0.0.%d", 1+i%2)
		c, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(from)}, pc.LocalAddr().(*net.UDPAddr))
		if err != nil {
			s.Close()
			t.Skip("this system has but one loopback address: ", err)
		}
		io.WriteString(c, "hello from "+from)
		c.Close()
	}
	dst.Wait(6)
	s.Close()
	<-result
	for _, r := range dst.Take() {
		if r.Text != "hello from "+r.Source {
			t.Errorf("%+v", r)
		}
	}
	conserve(t, s)
}

// TestTLS: what is not TLS on a TLS port is refused and named; others go on. A
// listener that brings its own TLS serves as well.
func TestTLS(t *testing.T) {
	serverTLS, clientTLS := certificate(t)
	for _, own := range []bool{false, true} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		dst := taken.New(t)
		o := &Options{MessageTimeout: time.Second}
		if own {
			ln = tls.NewListener(ln, serverTLS)
		} else {
			o.TLS = serverTLS
		}
		s := NewServer(dst, o)
		result := make(chan error, 1)
		go func() { result <- s.Serve(ln) }()
		var wg sync.WaitGroup
		for _, send := range []string{"<14>1 - - a - - - hello\n", "", "\x16\x03\x01"} { // plain, silent, half a hello
			wg.Go(func() {
				bad, err := net.Dial("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				io.WriteString(bad, send)
				io.Copy(io.Discard, bad) // until it is closed
				bad.Close()
			})
		}
		wg.Wait()
		good, err := tls.Dial("tcp", address, clientTLS)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(good, "<14>1 - - a - - - hello\n")
		good.Close()
		dst.Wait(1)
		s.Shutdown(t.Context())
		<-result
		if st := s.Stats(); st.Refused["handshake"] != 3 || st.Messages != 1 || st.Accepted != 4 {
			t.Errorf("%+v", st)
		}
	}
}

func TestAllocs(t *testing.T) {
	s := NewServer(discard{}, nil)
	in := newIntake(s, false, "10.0.0.1")
	r := framer{in: &in, limit: s.opts.MaxMessage, buf: make([]byte, 64<<10)}
	stream := []byte("<14>1 2026-02-03T04:05:06Z web-1 shop 17 - [meta@1 k=\"v\"] hello\n46 <13>Jan  2 03:04:05 web-2 cron[9]: hello again")
	in.begin()
	if n := testing.AllocsPerRun(100, func() {
		copy(r.buf, stream)
		r.start, r.end = 0, len(stream)
		r.consume()
		in.flush()
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	in.end()
	if st := s.Stats(); st.Records != 2*101 {
		t.Errorf("%+v", st)
	}
}

// BenchmarkDatagrams is what a message costs over UDP, its sending included.
func BenchmarkDatagrams(b *testing.B) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	s := NewServer(discard{}, nil)
	result := make(chan error, 1)
	go func() { result <- s.ServePacket(pc) }()
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		b.Fatal(err)
	}
	message := []byte(`<14>1 2026-02-03T04:05:06.123456Z web-1 shop 17 - [meta@1 k="v"] at=info method=GET path="/orders/17" host=shop.example.com request_id=8601b555 fwd="204.204.204.204" connect=1ms service=18ms status=200 bytes=13`)
	b.SetBytes(int64(len(message)))
	b.ReportAllocs()
	sent := uint64(0)
	for b.Loop() {
		if _, err := c.Write(message); err != nil {
			b.Fatal(err)
		}
		// No more on the way than a socket has room for.
		for sent++; sent-s.counts.datagrams.Load() > 500; {
			runtime.Gosched()
		}
	}
	for deadline := time.Now().Add(time.Second); s.counts.datagrams.Load() < sent && time.Now().Before(deadline); {
		runtime.Gosched()
	}
	s.Close()
	<-result
	c.Close()
	b.ReportMetric(float64(sent-s.Stats().Records), "lost")
}
