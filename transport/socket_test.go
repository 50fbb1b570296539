package transport

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// certificate makes one for "localhost", and a pool that trusts it.
func certificate(t testing.TB) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "localhost"},
		DNSNames:     []string{"localhost"},
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// start serves a real listener until the test ends.
func start(t testing.TB, network, address string, w envelope.Writer, o *ServerOptions) (*Server, net.Addr) {
	t.Helper()
	ln, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(w, o)
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	})
	return s, ln.Addr()
}

// TestSockets runs a link over each kind of real socket.
func TestSockets(t *testing.T) {
	cert, pool := certificate(t)
	tests := map[string]struct {
		network, listen string
		server          *ServerOptions
		address         func(a net.Addr) string
	}{
		"tcp":  {"tcp", "127.0.0.1:0", nil, func(a net.Addr) string { return "tcp://" + a.String() }},
		"unix": {"unix", filepath.Join(t.TempDir(), "s"), nil, func(a net.Addr) string { return "unix://" + a.String() }},
		"tls": {"tcp", "127.0.0.1:0", &ServerOptions{TLS: &tls.Config{Certificates: []tls.Certificate{cert}}},
			func(a net.Addr) string { _, port, _ := net.SplitHostPort(a.String()); return "tls://localhost:" + port }},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			src, dst := newRings(50), newSink(t)
			server, addr := start(t, test.network, test.listen, dst, test.server)
			link, err := NewLink(test.address(addr), src, &LinkOptions{TLS: &tls.Config{RootCAs: pool}})
			if err != nil {
				t.Fatal(err)
			}
			for id := range envelope.StreamID(5) {
				src.add(id+1, 20_000)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := link.Flush(ctx); err != nil {
				t.Fatalf("%v; %+v", err, link.Stats())
			}
			src.add(1, 1000)
			if err := server.Shutdown(ctx); err != nil {
				t.Error(err)
			}
			link.Close()
			if s := link.Stats(); s.Acked < 100_000 || s.Acked != dst.taken[1]+80_000 {
				t.Errorf("link %+v, %v", s, dst)
			}
			if s := server.Stats(); len(s.Refused) != 0 {
				t.Errorf("server %+v", s)
			}
		})
	}
}

// A client that speaks clear text to a TLS port, and the other way round.
func TestTLSMismatch(t *testing.T) {
	cert, _ := certificate(t)
	var log lines
	secure, addr := start(t, "tcp", "127.0.0.1:0", newSink(t), &ServerOptions{
		TLS: &tls.Config{Certificates: []tls.Certificate{cert}}, Logger: slog.New(&log),
	})
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	c.Write(message(10))
	io.Copy(io.Discard, c)
	c.Close()
	secure.Close()
	if s := secure.Stats(); s.Refused["handshake"] != 1 || !strings.Contains(log.all[0], "this port is TLS") {
		t.Errorf("%v, %q", s.Refused, log.all)
	}

	clear, addr := start(t, "tcp", "127.0.0.1:0", newSink(t), nil)
	src := newRings(1)
	src.add(1, 1)
	link, err := NewLink("tls://"+addr.String(), src, nil)
	if err != nil {
		t.Fatal(err)
	}
	for clear.Stats().Refused["tls"] == 0 || link.Stats().LastError == "" {
		time.Sleep(time.Millisecond)
	}
	if left, err := link.Shutdown(canceled()); left != 1 || err == nil {
		t.Errorf("%d left, %v", left, err)
	}
	if s := link.Stats(); !strings.Contains(s.LastError, "tls") {
		t.Errorf("stats %+v", s)
	}
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

// Datagrams: a batch each, rubbish counted, Shutdown ends it.
func TestDatagrams(t *testing.T) {
	dst := newSink(t)
	var log lines
	s := NewServer(dst, &ServerOptions{Logger: slog.New(&log)})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.ServePacket(pc) }()
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	datagrams := [][]byte{message(3)[1:], []byte("<14>hello"), []byte("<14>hello"), {}, {0x0a, 0x7f}}
	datagrams[0] = envelope.AppendLog(nil, fixed, 1, envelope.Out, []byte("hello"))
	for i, d := range datagrams {
		c.Write(d)
		for s.Stats().Datagrams != uint64(i+1) {
			time.Sleep(time.Millisecond)
		}
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-served; !errors.Is(err, ErrClosed) {
		t.Errorf("ServePacket: %v", err)
	}
	st := s.Stats()
	if st.Records != 1 || dst.loose != 1 || st.Datagrams != 5 || st.Refused["text"] != 2 || st.Refused["malformed"] != 2 {
		t.Errorf("%+v", st)
	}
	if len(log.all) != 2 || !strings.Contains(log.all[0], "datagram looks like syslog") || !strings.Contains(log.all[0], "remote=127.0.0.1:") {
		t.Errorf("log %q", log.all)
	}
	if err := s.ServePacket(pc); !errors.Is(err, ErrClosed) {
		t.Errorf("afterwards: %v", err)
	}
}

func TestSignedDatagrams(t *testing.T) {
	dst := newSink(t)
	s := NewServer(dst, &ServerOptions{Secrets: [][]byte{[]byte("old"), []byte("new")}})
	b, err := envelope.Of(envelope.AppendLog(nil, fixed, 1, envelope.Out, []byte("hello")))
	if err != nil {
		t.Fatal(err)
	}
	in := &intake{s: s, v: newVerifier(s.opts.Secrets), known: s.newcomers()}
	datagram := func(msg []byte) *fault {
		if f := in.take(msg, netip.AddrPort{}); f != nil {
			return f
		}
		return in.flush()
	}
	for i, test := range []struct {
		datagram []byte
		reason   reason
	}{
		{AppendDatagram(nil, b, []byte("old")), reasons},
		{AppendDatagram([]byte{}, b, []byte("new")), reasons},
		{AppendDatagram(nil, b, []byte("other")), reasonSignature},
		{AppendDatagram(nil, b, nil), reasonSignature},
		{nil, reasonSignature},
		{make([]byte, 32), reasonSignature},
		{append(AppendDatagram(nil, b, []byte("new")), 0), reasonSignature},
		{AppendDatagram(nil, envelope.Batch{Records: []byte("rubbish")}, []byte("new")), reasonText},
	} {
		f := datagram(test.datagram)
		if f == nil != (test.reason == reasons) || f != nil && f.reason != test.reason {
			t.Errorf("%d: %v", i, f)
		}
	}
	if dst.loose != 2 {
		t.Errorf("%d taken", dst.loose)
	}
	prefix := []byte("before")
	if d := AppendDatagram(prefix, b, []byte("new")); string(d[:6]) != "before" || datagram(d[6:]) != nil {
		t.Error("not appended")
	}
	d := AppendDatagram(nil, b, []byte("new"))
	if n := testing.AllocsPerRun(100, func() {
		if f := datagram(d); f != nil {
			t.Fatal(f)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
