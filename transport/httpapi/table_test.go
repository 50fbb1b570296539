package httpapi_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ingest publishes lines of 200 bytes of many apps, rate a second, until stop is
// called, which returns how many that were.
func (r rig) ingest(apps, rate int) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	n := 0
	wg.Go(func() {
		line := []byte(strings.Repeat("x", 200))
		ids := make([]envelope.Fixed, apps)
		for i := range ids {
			ids[i] = identity(fmt.Sprint("app-", i))
		}
		var records []byte
		for start, tick := time.Now(), time.NewTicker(time.Millisecond); ctx.Err() == nil; {
			<-tick.C
			for due := int(time.Since(start).Seconds() * float64(rate)); n < due; n += 100 {
				records = records[:0]
				for range 100 {
					records = envelope.AppendLog(records, ids[n/100%apps], time.Now().UnixNano(), envelope.Out, line)
				}
				r.WriteBatch(ctx, envelope.Batch{Records: records, Count: 100})
			}
		}
	})
	return func() int {
		cancel()
		wg.Wait()
		return n
	}
}

// report reports the median and the 99th percentile of times.
func report(b *testing.B, times []time.Duration) {
	slices.Sort(times)
	b.ReportMetric(float64(times[len(times)/2].Microseconds())/1000, "p50-ms")
	b.ReportMetric(float64(times[len(times)*99/100].Microseconds())/1000, "p99-ms")
}

// BenchmarkRecent1000 reads the last 1,000 lines of an app, idle and while
// 200,000 lines a second of others come in.
func BenchmarkRecent1000(b *testing.B) {
	for _, rate := range []int{0, 200_000} {
		for _, accept := range []string{"application/x-protobuf", "application/x-ndjson", "text/plain"} {
			b.Run(fmt.Sprintf("ingest=%d/%s", rate, accept), func(b *testing.B) {
				r := start(b, 256<<20)
				var records []byte
				for range 100 {
					records = envelope.AppendLog(records, identity("web"), time.Now().UnixNano(), envelope.Out, []byte(strings.Repeat("x", 200)))
				}
				for range 20 {
					r.WriteBatch(b.Context(), envelope.Batch{Records: records, Count: 100})
				}
				if rate > 0 {
					stop := r.ingest(100, rate)
					began := time.Now()
					defer func() {
						b.ReportMetric(float64(stop())/time.Since(began).Seconds(), "ingest/s")
					}()
				}
				var times []time.Duration
				b.ReportAllocs()
				for b.Loop() {
					began := time.Now()
					req, _ := http.NewRequest(http.MethodGet, r.url+"/v1/recent?app=web&lines=1000", nil)
					req.Header.Set("Accept", accept)
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.Copy(io.Discard, resp.Body)
					resp.Body.Close()
					if err != nil || n < 1000*200 {
						b.Fatalf("%d bytes, %v", n, err)
					}
					times = append(times, time.Since(began))
				}
				report(b, times)
			})
		}
	}
}

// BenchmarkWriteToClient is the time from a program's write to its line at a
// client, alone and while 200,000 other lines a second come in, of which another
// client follows all.
func BenchmarkWriteToClient(b *testing.B) {
	for _, rate := range []int{0, 200_000} {
		b.Run(fmt.Sprintf("ingest=%d", rate), func(b *testing.B) { writeToClient(b, rate) })
	}
}

func writeToClient(b *testing.B, rate int) {
	r := start(b, 256<<20)
	r.publish(b, "web", 1, 1, 1)
	c := dial(b, r.url+"/v1/tail?app=web&lines=1")
	read := func() {
		for {
			_, p, err := c.Read(context.Background())
			if err != nil {
				b.Fatal(err)
			}
			if batch, _ := envelope.ParseBatch(p); batch.Count > 0 {
				return
			}
		}
	}
	read()
	if rate > 0 {
		busy := dial(b, r.url+"/v1/tail?space=dev")
		go func() {
			for {
				_, rd, err := busy.Reader(context.Background())
				if err != nil {
					return
				}
				io.Copy(io.Discard, rd)
			}
		}()
		stop := r.ingest(100, rate)
		began := time.Now()
		defer func() { b.ReportMetric(float64(stop())/time.Since(began).Seconds(), "ingest/s") }()
	}
	var times []time.Duration
	for b.Loop() {
		sent := time.Now()
		r.publish(b, "web", 1, 1, 1)
		read()
		times = append(times, time.Since(sent))
	}
	report(b, times)
	b.ReportMetric(float64(r.Handler.Stats().Missed), "missed")
}
