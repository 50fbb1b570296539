package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/freeport"
	"github.com/cloudfoundry/loggregator/internal/receiver"
	"github.com/cloudfoundry/loggregator/transport"
)

var missing = regexp.MustCompile(`-- (\d+) lines? missed: .* --`)

// TestProtectedIngest sends over TLS, more than one source may.
func TestProtectedIngest(t *testing.T) {
	dir := t.TempDir()
	file := func(name string, pems ...[]byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, bytes.Join(pems, nil), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	cert, ca, err := receiver.SelfSigned(time.Hour, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	certFile := file("cert.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	keyFile := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
	caFile := file("ca.pem", ca)

	ingest, people := freeport.Addr(), freeport.Addr()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	said := &strings.Builder{}
	go func() {
		ended <- run(ctx, []string{
			"-ingest", ingest, "-ingest-cert", certFile, "-ingest-key", keyFile, "-source-rate", "100000", "-source-burst", "100000",
			"-ingest-udp=", "-v1-udp=", "-grpc=", "-egress=", "-ops=", "-http", people, "-grace", "5s",
		}, said, io.Discard)
	}()

	router := loggregator.New(nil)
	defer router.Close()
	files := transport.TLSFiles{CA: caFile}
	current, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	link, err := transport.NewLink("tls://"+ingest, router, &transport.LinkOptions{CurrentTLS: current})
	if err != nil {
		t.Fatal(err)
	}
	defer link.Close()
	e := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	const lines = 2000 // of 400 bytes and a little: several times the burst
	text := strings.Repeat("x", 400)
	for range lines {
		e.Log(envelope.Out, text)
	}
	flushed, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := link.Flush(flushed); err != nil {
		t.Fatal(err, link.Stats())
	}
	// What is told of the rest comes with the next line that is taken, or within a
	// second.
	seen, told := 0, 0
	for end := time.Now().Add(20 * time.Second); seen+told != lines && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		resp, err := http.Get("http://" + people + "/v1/recent?source_id=shop")
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			t.Fatal(err)
		}
		seen, told = strings.Count(string(body), text), 0
		for _, m := range missing.FindAllStringSubmatch(string(body), -1) {
			n, _ := strconv.Atoi(m[1])
			told += n
		}
	}
	if seen+told != lines || told == 0 {
		t.Errorf("of %d lines %d were taken, and %d told as missing for the limit", lines, seen, told)
	}

	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if !strings.Contains(said.String(), "tls://"+ingest) {
		t.Errorf("it said\n%s", said)
	}
}
