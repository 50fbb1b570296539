package interop

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/transport"
)

// pki is a deployment's certificates, as files: RSA, which peers of TLS 1.2 need.
type pki struct {
	t    testing.TB
	dir  string
	key  *rsa.PrivateKey
	cert *x509.Certificate
	n    int64
}

// A key is slow to make, and one is enough for all that belong together.
var (
	ourKey       = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
	strangersKey = sync.OnceValues(func() (*rsa.PrivateKey, error) { return rsa.GenerateKey(rand.Reader, 2048) })
)

func newPKI(t testing.TB, key func() (*rsa.PrivateKey, error)) *pki {
	t.Helper()
	k, err := key()
	if err != nil {
		t.Fatal(err)
	}
	p := &pki{t: t, dir: t.TempDir(), key: k}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "loggregatorCA"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	p.write("ca.crt", "CERTIFICATE", der)
	p.write("key.pem", "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k))
	return p
}

func (p *pki) write(name, kind string, der []byte) string {
	p.t.Helper()
	path := filepath.Join(p.dir, name)
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		p.t.Fatal(err)
	}
	return path
}

func (p *pki) ca() string      { return filepath.Join(p.dir, "ca.crt") }
func (p *pki) keyFile() string { return filepath.Join(p.dir, "key.pem") }

// files are a certificate with these names, its key, and the CA.
func (p *pki) files(names ...string) transport.TLSFiles {
	p.t.Helper()
	p.n++
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1 + p.n), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, p.cert, &p.key.PublicKey, p.key)
	if err != nil {
		p.t.Fatal(err)
	}
	return transport.TLSFiles{CA: p.ca(), Cert: p.write(names[0]+".crt", "CERTIFICATE", der), Key: p.keyFile()}
}

// server is the configuration of a server that has these names and insists on
// certificates of clients, as the daemons make it.
func (p *pki) server(names ...string) *tls.Config {
	p.t.Helper()
	config, err := p.files(names...).Server()
	if err != nil {
		p.t.Fatal(err)
	}
	return config
}
