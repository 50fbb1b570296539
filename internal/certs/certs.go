// Package certs is a certificate authority for tests and for trying things out
// on one machine. Its certificates are good for a day.
package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// CA signs certificates and writes them to files in a directory.
type CA struct {
	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	made int64
}

// New makes a CA, and File of its certificate in dir.
func New(dir string) (*CA, error) {
	ca := &CA{dir: dir}
	var err error
	ca.key, ca.cert, err = ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "loggregator on this machine"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, nil)
	if err != nil {
		return nil, err
	}
	return ca, write(ca.File(), "CERTIFICATE", ca.cert.Raw)
}

// File is the PEM file of the CA.
func (ca *CA) File() string { return filepath.Join(ca.dir, "ca.pem") }

// Issue writes a certificate for 127.0.0.1 and that name, and its key, to NAME.pem
// and NAME.key, whole at once each as a rotation does.
func (ca *CA) Issue(name string) (cert, key string, err error) {
	k, c, err := ca.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, ca.cert)
	if err != nil {
		return "", "", err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return "", "", err
	}
	cert, key = filepath.Join(ca.dir, name+".pem"), filepath.Join(ca.dir, name+".key")
	return cert, key, errors.Join(write(key, "PRIVATE KEY", der), write(cert, "CERTIFICATE", c.Raw))
}

func (ca *CA) sign(template, parent *x509.Certificate) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	ca.made++
	template.SerialNumber = big.NewInt(ca.made)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour)
	signer := ca.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return key, cert, err
}

func write(path, kind string, der []byte) error {
	if err := os.WriteFile(path+".new", pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
