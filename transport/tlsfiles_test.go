package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

// store writes a certificate, its key and, as CA, itself.
func store(t *testing.T, f TLSFiles, cert tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})
	for name, data := range map[string][]byte{
		f.Cert: block, f.CA: block,
		f.Key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}),
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// handshake makes one connection and says what either end thinks of it.
func handshake(server, client *tls.Config) (clientErr, serverErr error) {
	a, b := faultnet.Pipe(faultnet.Faults{})
	client = client.Clone()
	client.ServerName = "localhost"
	c, s := tls.Client(a, client), tls.Server(b, server)
	done := make(chan error)
	go func() { done <- s.Handshake() }()
	clientErr = c.Handshake()
	if clientErr != nil {
		a.Close()
	}
	serverErr = <-done
	a.Close()
	b.Close()
	return clientErr, serverErr
}

func TestTLSFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		name := func(s string) string { return filepath.Join(dir, s) }
		one := TLSFiles{Cert: name("cert"), Key: name("key"), CA: name("ca")}
		var log lines
		one.Logger = slog.New(&log)
		if _, err := one.Server(); err == nil {
			t.Error("no files, no error")
		}
		first, _ := certificate(t)
		store(t, one, first)
		server, err := one.Server()
		if err != nil {
			t.Fatal(err)
		}
		client, err := one.Client()
		if err != nil {
			t.Fatal(err)
		}
		if c, s := handshake(server, client()); c != nil || s != nil {
			t.Errorf("%v, %v", c, s)
		}
		old := client()
		if c, s := handshake(server, &tls.Config{RootCAs: old.RootCAs}); s == nil {
			t.Errorf("client without certificate is let in: %v", c)
		}

		// A file that is half written changes nothing.
		later := time.Now().Add(time.Hour)
		if err := os.WriteFile(one.Key, []byte("half a ke"), 0o600); err != nil {
			t.Fatal(err)
		}
		os.Chtimes(one.Key, later, later)
		time.Sleep(2 * time.Second)
		if c, s := handshake(server, client()); c != nil || s != nil {
			t.Errorf("with half a key: %v, %v", c, s)
		}

		// Then both ends have the new ones, and the old ones do no longer.
		second, _ := certificate(t)
		store(t, one, second)
		for _, f := range []string{one.Cert, one.Key, one.CA} {
			os.Chtimes(f, later.Add(time.Hour), later.Add(time.Hour))
		}
		if c, s := handshake(server, old); c != nil || s != nil {
			t.Errorf("within the second: %v, %v", c, s)
		}
		time.Sleep(2 * time.Second)
		if c, s := handshake(server, client()); c != nil || s != nil {
			t.Errorf("after the change: %v, %v", c, s)
		}
		if c, _ := handshake(server, old); c == nil {
			t.Error("the old client trusts the new server")
		}
		if got := log.messages(); strings.Count(got, "cannot be used") != 2 || strings.Count(got, "read again") != 2 {
			t.Errorf("log: %s", got)
		}
	})
}

func TestTLSFilesMissing(t *testing.T) {
	if _, err := (TLSFiles{}).Server(); !errors.Is(err, ErrTLSFiles) {
		t.Errorf("server: %v", err)
	}
	if _, err := (TLSFiles{Cert: "x"}).Client(); !errors.Is(err, ErrTLSFiles) {
		t.Errorf("client: %v", err)
	}
	if _, err := (TLSFiles{CA: "/dev/null"}).Client(); err == nil {
		t.Error("empty CA taken")
	}
	if current, err := (TLSFiles{}).Client(); err != nil || current().RootCAs != nil {
		t.Errorf("client without files: %v", err)
	}
}

// A link takes the certificates that are there when it connects, and verifies a
// server that is named by its IP address too.
func TestLinkCurrentTLS(t *testing.T) {
	dir := t.TempDir()
	f := TLSFiles{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	cert, _ := certificate(t)
	store(t, f, cert)
	config, err := f.Server()
	if err != nil {
		t.Fatal(err)
	}
	current, err := f.Client()
	if err != nil {
		t.Fatal(err)
	}
	src, dst := newRings(10), newSink(t)
	src.add(1, 100)
	_, addr := start(t, "tcp", "127.0.0.1:0", dst, &ServerOptions{TLS: config})
	_, port, _ := net.SplitHostPort(addr.String())
	for _, host := range []string{"localhost", "127.0.0.1"} {
		link, err := NewLink("tls://"+host+":"+port, src, &LinkOptions{CurrentTLS: current})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if left, err := link.Shutdown(ctx); left != 0 || err != nil {
			t.Errorf("%s: %d left, %v, %+v", host, left, err, link.Stats())
		}
		cancel()
	}
	if dst.taken[1] != 100 || dst.repeats != 100 {
		t.Errorf("%v", dst)
	}
}
