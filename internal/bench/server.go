package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// serverEnv makes this program our server, with these files: CA, certificate, key.
const serverEnv = "BENCH_SERVER"

// runServer says on standard output where it listens.
func runServer() error {
	files := strings.Split(os.Getenv(serverEnv), ",")
	config, err := transport.TLSFiles{CA: files[0], Cert: files[1], Key: files[2]}.Server()
	if err != nil {
		return err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(ln.Addr())
	router := loggregator.New(nil)
	gate := access.NewGate(router, nil, &access.Options{BytesPerSecond: -1})
	return grpcv2.NewServer(router, gate, &grpcv2.Options{TLS: config}).Serve(ln)
}

// makePKI makes a CA, and one certificate for everybody.
func makePKI(dir string) (files [3]string, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return files, err
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotAfter: ca.NotAfter, DNSNames: grpcv2.ServerNames,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return files, err
	}
	write := func(i int, name, kind string, der []byte) {
		files[i] = filepath.Join(dir, name)
		if e := os.WriteFile(files[i], pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); e != nil {
			err = e
		}
	}
	write(2, "key.pem", "PRIVATE KEY", keyDER)
	for i, template := range []*x509.Certificate{ca, leaf} {
		der, e := x509.CreateCertificate(rand.Reader, template, ca, &key.PublicKey, key)
		if e != nil {
			return files, e
		}
		write(i, [...]string{"ca.crt", "leaf.crt"}[i], "CERTIFICATE", der)
	}
	return files, err
}
