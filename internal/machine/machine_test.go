// Package machine measures what the machine itself allows, for what Loggregator
// does most: copying records, and sending them over loopback. Run these beside
// its own benchmarks; the distance between the two is what its code costs.
package machine

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"os"
	"testing"
	"time"
)

// record is the size of a line of 200 bytes with six tags on the wire.
const record = 480

// report says the same figure in records.
func report(b *testing.B, bytes int) {
	records := float64(bytes) / record
	b.SetBytes(int64(bytes))
	b.ReportMetric(float64(b.N)*records/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/records, "ns/record")
}

// BenchmarkCopy copies records into memory of 256 MiB, which no cache holds.
func BenchmarkCopy(b *testing.B) {
	memory := make([]byte, 256<<20)
	clear(memory) // touched before
	from := make([]byte, record)
	at := 0
	for b.Loop() {
		if at+record > len(memory) {
			at = 0
		}
		at += copy(memory[at:], from)
	}
	report(b, record)
}

// BenchmarkFirstTouch writes to memory that the system has yet to give.
func BenchmarkFirstTouch(b *testing.B) {
	const size = 16 << 20
	for b.Loop() {
		memory := make([]byte, size)
		for i := 0; i < size; i += os.Getpagesize() {
			memory[i] = 1
		}
	}
	report(b, size)
}

// BenchmarkTCP writes 64 KiB at a time to a reader in the same process.
func BenchmarkTCP(b *testing.B) {
	stream(b, func(c net.Conn) net.Conn { return c }, func(c net.Conn) net.Conn { return c })
}

// BenchmarkTLS does so through TLS 1.3.
func BenchmarkTLS(b *testing.B) {
	cert := certificate(b)
	stream(b,
		func(c net.Conn) net.Conn { return tls.Client(c, &tls.Config{InsecureSkipVerify: true}) },
		func(c net.Conn) net.Conn { return tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}) })
}

func stream(b *testing.B, client, server func(net.Conn) net.Conn) {
	const size = 64 << 10
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	ended := make(chan int64, 1)
	go func() {
		c, err := ln.Accept()
		if err != nil {
			ended <- 0
			return
		}
		defer c.Close()
		n, _ := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{server(c)}, make([]byte, 256<<10))
		ended <- n
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	c := client(raw)
	buf := make([]byte, size)
	cpu := cpuTime()
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
	c.Close()
	if n := <-ended; n != int64(b.N)*size {
		b.Errorf("%d bytes arrived of %d", n, int64(b.N)*size)
	}
	report(b, size)
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N)/(size/float64(record)), "cpu-ns/record")
}

func certificate(b *testing.B) tls.Certificate {
	b.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		b.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		b.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
