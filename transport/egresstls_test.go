package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

func TestEgressTLS(t *testing.T) {
	server, roots := certificate(t)
	stranger, _ := certificate(t)
	dir := t.TempDir()
	files := TLSFiles{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	store(t, files, server)
	mutual, err := files.Server()
	if err != nil {
		t.Fatal(err)
	}
	good := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{server}, ServerName: "localhost"}
	for _, test := range []struct {
		name   string
		server EgressOptions
		client *tls.Config
		reason string // why it is refused; empty: it is not
	}{
		{"mutual", EgressOptions{TLS: mutual}, good, ""},
		{"name", EgressOptions{TLS: mutual, Names: []string{"other", "localhost"}}, good, ""},
		{"wrong name", EgressOptions{TLS: mutual, Names: []string{"other"}}, good, "peer"},
		{"no certificate", EgressOptions{TLS: mutual}, &tls.Config{RootCAs: roots, ServerName: "localhost"}, "handshake"},
		{"stranger's certificate", EgressOptions{TLS: mutual}, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{stranger}}, "handshake"},
		{"TLS 1.2", EgressOptions{TLS: mutual}, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{server}, MaxVersion: tls.VersionTLS12}, "handshake"},
		{"no TLS", EgressOptions{TLS: mutual}, &tls.Config{}, "handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := newRings(10)
			src.add(1, 100)
			e := NewEgress(src, &test.server)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go e.Serve(ln)
			defer e.Close()
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(30 * time.Second))
			if test.client.ServerName != "" {
				nc = tls.Client(nc, test.client)
			}
			nc.Write(helloFrame())
			in := frames{in: bufio.NewReader(nc), max: maxAnswer}
			f, err := in.next()
			if test.reason == "" {
				if err != nil || string(f.body) != greeting {
					t.Errorf("%+v, %v", f, err)
				}
				return
			}
			if err == nil {
				t.Errorf("greeted: %+v", f)
			}
			for deadline := time.Now().Add(30 * time.Second); e.Stats().Refused[test.reason] != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("refused %v, want %s", e.Stats().Refused, test.reason)
				}
			}
		})
	}

	// The Reader's side checks names and versions, too, and takes what is in the
	// files now.
	current, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	src := newRings(10)
	src.add(1, 100)
	e := NewEgress(src, &EgressOptions{TLS: mutual})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go e.Serve(ln)
	defer e.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for addr, want := range map[string]bool{"tls://localhost:" + port: true, "tls://127.0.0.1:" + port: true, "tls://127.0.0.2:" + port: false} {
		o := ReaderOptions{CurrentTLS: current, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
		}}
		if !want {
			o.TellAfter = time.Millisecond
		}
		r, err := NewReader(addr, &o)
		if err != nil {
			t.Fatal(err)
		}
		records := 0
		var failed error
		for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
			records += b.Count
			failed = err
		}
		if want != (failed == nil) || want != (records == 100) {
			t.Errorf("%s: %d records, %v", addr, records, failed)
		}
		if !want && (!errors.Is(failed, ErrAway) || !strings.Contains(failed.Error(), "certificate")) {
			t.Errorf("%s: %v", addr, failed)
		}
		r.Close()
	}
}

// From another machine nobody reads without a certificate.
func TestEgressFromElsewhere(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "10.0.0.1": false, "2001:db8::1": false} {
		if got := isLocal(&net.TCPAddr{IP: net.ParseIP(address)}); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	for _, insecure := range []bool{false, true} {
		e := NewEgress(newRings(1), &EgressOptions{Insecure: insecure})
		a, b := faultnet.Pipe(faultnet.Faults{})
		go func() {
			a.Write(helloFrame())
			io.Copy(io.Discard, a)
		}()
		c := newEgressConn(e, elsewhere{b})
		if f := c.handshake(); (f == nil) != insecure || f != nil && f.reason != reasonPeer {
			t.Errorf("insecure %v: %v", insecure, f)
		}
		a.Close()
		e.Close()
	}
}

type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

// Certificates that are replaced, the authority with them, cost no connection; the
// next one is made with the new ones.
func TestCertificatesAreReplacedWhileReadersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		files := TLSFiles{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
		first, _ := certificate(t)
		store(t, files, first)
		server, err := files.Server()
		if err != nil {
			t.Fatal(err)
		}
		client, err := files.Client()
		if err != nil {
			t.Fatal(err)
		}
		network, src := &faultnet.Network{}, newRings(10)
		e := startEgress(t, network, src, &EgressOptions{TLS: server, Names: []string{"localhost"}})
		r, err := NewReader("tls://localhost:1", &ReaderOptions{CurrentTLS: client, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return network.DialContext(ctx, "", "server:1")
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan int, 100)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for b, err := range r.Batches(ctx, everythingFollowed()) {
				if err != nil {
					return
				}
				got <- b.Count
			}
		}()
		src.add(1, 5)
		if n := <-got; n != 5 {
			t.Errorf("%d records", n)
		}
		second, _ := certificate(t)
		store(t, files, second)
		later := time.Now().Add(time.Hour)
		for _, f := range []string{files.Cert, files.Key, files.CA} {
			os.Chtimes(f, later, later)
		}
		time.Sleep(time.Minute)
		src.add(1, 6)
		if n := <-got; n != 6 || r.Stats().Reconnects != 0 {
			t.Errorf("%d records, %+v", n, r.Stats())
		}
		network.Reset("server:1")
		src.add(1, 7)
		if n := <-got; n != 7 || r.Stats().Reconnects != 1 {
			t.Errorf("%d records, %+v", n, r.Stats())
		}
		if s := e.Stats(); len(s.Refused) > 1 || s.Refused["handshake"] > 0 { // what was reset is one
			t.Errorf("%+v", s)
		}
		cancel()
		<-done
		r.Close()
		src.end() // wakes who waits there
	})
}
