package drain_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
)

// BenchmarkHTTPS sends lines of 200 bytes with six tags from a router over TLS
// to a receiver in the same process that throws them away. What both ends take
// of the processor is reported.
func BenchmarkHTTPS(b *testing.B) {
	for _, scheme := range []string{"https-batch", "https-logplex"} {
		b.Run(scheme, func(b *testing.B) {
			const lines = 100_000
			server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.Copy(io.Discard, r.Body)
			}))
			defer server.Close()
			roots := x509.NewCertPool()
			roots.AddCert(server.Certificate())
			router := loggregator.New(nil)
			defer router.Close()
			var batch envelope.Batch
			for range lines {
				batch.Records = envelope.AppendLog(batch.Records, identity.Encode(), time.Now().UnixNano(), envelope.Out, bytes.Repeat([]byte{'x'}, 200))
				batch.Count++
			}
			if err := router.WriteBatch(b.Context(), batch); err != nil {
				b.Fatal(err)
			}
			url := scheme + strings.TrimPrefix(server.URL, "https")
			cpu := cpuTime()
			b.ReportAllocs()
			for b.Loop() {
				d, err := drain.Open(url, router, all, &drain.Options{TLS: &tls.Config{RootCAs: roots}})
				if err != nil {
					b.Fatal(err)
				}
				if err := d.Shutdown(b.Context()); err != nil {
					b.Fatal(err)
				}
				if s := d.Stats(); s.Delivered != lines || s.Missed != 0 {
					b.Fatalf("%+v", s)
				}
			}
			total := float64(lines * b.N)
			b.ReportMetric(total/b.Elapsed().Seconds(), "lines/s")
			b.ReportMetric(float64(cpuTime()-cpu)/total/1000, "cpu-s/M")
		})
	}
}
