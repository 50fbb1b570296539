package logcache

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// load is a router with a hundred thousand logs of one source, and lines of 200
// bytes of a thousand others as fast as the rate says until it is stopped.
func load(b *testing.B, perSecond int) (*loggregator.Router, *Server) {
	r := loggregator.New(nil)
	s := New(access.NewGate(r, nil, nil), &Options{Sources: r})
	b.Cleanup(func() { s.Close(); r.Close() })
	text := []byte(strings.Repeat("x", 200))
	fixed := make([]envelope.Fixed, 1000)
	for i := range fixed {
		fixed[i] = envelope.Identity{SourceID: fmt.Sprintf("5f6c7a1e-3a3b-4c1d-9e2f-%012d", i), InstanceID: "0", Tags: map[string]string{
			"source_type": "APP/PROC/WEB", "app_name": "shop", "space_name": "production", "organization_name": "acme", "process_type": "web",
		}}.Encode()
	}
	write := func(f envelope.Fixed, n int) {
		var batch envelope.Batch
		for range n {
			batch.Records = envelope.AppendLog(batch.Records, f, time.Now().UnixNano(), envelope.Out, text)
		}
		batch.Count = n
		r.WriteBatch(context.Background(), batch)
	}
	for range 1000 {
		write(fixed[0], 100)
	}
	if perSecond > 0 {
		ctx, stop := context.WithCancel(context.Background())
		var wg sync.WaitGroup
		b.Cleanup(func() { stop(); wg.Wait() })
		wg.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := 0; ; i++ {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				for k := range perSecond / 200 / 10 {
					write(fixed[(i*17+k)%len(fixed)], 10)
				}
			}
		})
	}
	return r, s
}

// BenchmarkRead is `cf logs --recent` over HTTP, the last thousand of a hundred
// thousand lines as JSON, and a page of `cf logs`, from the client's side, alone and
// while 200,000 lines a second come in of other sources and the same one.
func BenchmarkRead(b *testing.B) {
	for _, rate := range []int{0, 200_000} {
		for _, test := range []struct {
			name, query string
			records     int
		}{
			{"recent", "descending=true&envelope_types=LOG&limit=1000&start_time=-6795364578871345152", 1000},
			{"last", "descending=true&limit=1&start_time=-6795364578871345152", 1},
			{"page", "envelope_types=LOG&start_time=%d", 100},
		} {
			b.Run(fmt.Sprintf("%s/ingest=%d", test.name, rate), func(b *testing.B) {
				start := time.Now().UnixNano()
				r, s := load(b, rate)
				web := httptest.NewServer(s)
				defer web.Close()
				url := web.URL + "/api/v1/read/5f6c7a1e-3a3b-4c1d-9e2f-000000000000?" + test.query
				if test.name == "page" {
					url = fmt.Sprintf(url, start)
				}
				get := func() int64 {
					res, err := http.Get(url)
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if err != nil || res.StatusCode != 200 {
						b.Fatal(err, res.Status)
					}
					return n
				}
				b.SetBytes(get())
				b.ReportAllocs()
				before := s.Stats().Records
				var took []time.Duration
				for b.Loop() {
					at := time.Now()
					get()
					took = append(took, time.Since(at))
				}
				slices.Sort(took)
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "p99-ms")
				stats := s.Stats()
				if n := float64(stats.Records-before) / float64(len(took)); n < float64(test.records) {
					b.Errorf("%g records an answer", n)
				}
				b.ReportMetric(float64(r.Stats().Missed+stats.Missed), "missed")
			})
		}
	}
}

// BenchmarkAnswer is the same without a network: what the server does for it, and
// the processor time of that.
func BenchmarkAnswer(b *testing.B) {
	_, s := load(b, 0)
	for _, query := range []string{"descending=true&envelope_types=LOG&limit=1000", "limit=100&start_time=1"} {
		b.Run(query, func(b *testing.B) {
			w := &discard{header: http.Header{}}
			r := httptest.NewRequest("GET", "/api/v1/read/5f6c7a1e-3a3b-4c1d-9e2f-000000000000?"+query, nil)
			s.ServeHTTP(w, r)
			b.SetBytes(w.n)
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				s.ServeHTTP(w, r)
			}
			b.ReportMetric(float64(cpuTime()-cpu)/1e6/float64(b.N), "cpu-ms/op")
		})
	}
}

type discard struct {
	header http.Header
	n      int64
}

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) WriteHeader(int)             {}
func (d *discard) Write(p []byte) (int, error) { d.n += int64(len(p)); return len(p), nil }

// TestAnswerAllocates little, whatever the number of envelopes.
func TestAnswerAllocates(t *testing.T) {
	c := newCache(t, nil, nil)
	for i := range int64(2000) {
		c.write(logLine("a", i+1, "text"))
	}
	w := &discard{header: http.Header{}}
	r := httptest.NewRequest("GET", "/api/v1/read/a?limit=1000&descending=true", nil)
	if n := testing.AllocsPerRun(20, func() { c.ServeHTTP(w, r) }); n > 100 && !raceEnabled {
		t.Errorf("%g allocations for a thousand envelopes", n)
	}
}
