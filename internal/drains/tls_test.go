package drains

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/internal/receiver"
)

// Certificates are read again when they have changed, and those from before stay
// in use while what is there is none.
func TestTLSFilesAreReadAgain(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	changes := time.Now().Add(-time.Hour)
	put := func(name string, text []byte) {
		t.Helper()
		if err := os.WriteFile(path(name), text, 0o600); err != nil {
			t.Fatal(err)
		}
		changes = changes.Add(time.Minute) // the clock of file systems is coarse
		if err := os.Chtimes(path(name), changes, changes); err != nil {
			t.Fatal(err)
		}
	}
	issue := func() *x509.Certificate {
		t.Helper()
		pair, text, err := receiver.SelfSigned(time.Hour, "127.0.0.1")
		if err != nil {
			t.Fatal(err)
		}
		key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		put("ca", text)
		put("cert", text)
		put("key", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}))
		return pair.Leaf
	}
	first := issue()
	var log bytes.Buffer
	f := &tlsFiles{ca: path("ca"), cert: path("cert"), key: path("key"), log: slog.New(slog.NewTextHandler(&log, nil))}
	uses := func(cert *x509.Certificate) bool {
		t.Helper()
		f.looked = time.Time{}
		config, err := f.current()
		if err != nil {
			t.Fatal(err)
		}
		_, err = cert.Verify(x509.VerifyOptions{Roots: config.RootCAs})
		return err == nil && config.Certificates[0].Leaf.Equal(cert)
	}
	if !uses(first) {
		t.Fatal("the first is not used")
	}
	second := issue()
	f.looked = time.Now()
	if config, _ := f.current(); !config.Certificates[0].Leaf.Equal(first) {
		t.Error("they are looked at more than once a second")
	}
	if !uses(second) || uses(first) {
		t.Error("the second is not used")
	}
	put("ca", []byte("rubbish"))
	for range 2 { // read, and not read again
		if !uses(second) {
			t.Error("rubbish is used")
		}
	}
	if n := strings.Count(log.String(), "cannot be used"); n != 1 {
		t.Errorf("rubbish is told of %d times", n)
	}
	if third := issue(); !uses(third) {
		t.Error("the third is not used")
	}
}
