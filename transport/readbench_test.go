package transport_test

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// BenchmarkReader publishes batches of ten records of 480 bytes of one source into
// a router, whose readers follow it over loopback TCP, all in one process. One
// operation is one batch. It holds back while readers are far behind, so that what
// is measured is delivered; what a ring has given up all the same is reported.
func BenchmarkReader(b *testing.B) {
	for _, tails := range []int{1, 20, 1000} {
		b.Run(fmt.Sprintf("tails=%d", tails), func(b *testing.B) {
			router := loggregator.New(nil)
			defer router.Close()
			e, r := overTCP(b, router, nil, nil)
			ctx, cancel := context.WithCancel(b.Context())
			var running sync.WaitGroup
			var got, missed atomic.Uint64
			for range tails {
				running.Go(func() {
					for b, err := range r.Batches(ctx, envelope.Query{Select: selectSource("app"), Follow: true}) {
						if err != nil {
							return
						}
						got.Add(uint64(b.Count))
						missed.Add(b.Missed)
					}
				})
			}
			eventually(b, "all there", func() bool { return e.Stats().Queries == tails && router.Stats().Readers == tails })
			f := envelope.Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{
				envelope.TagAppName: "orders", envelope.TagSpaceName: "production",
			}}.Encode()
			var records []byte
			for range 10 {
				records = envelope.AppendLog(records, f, time.Now().UnixNano(), envelope.Out, bytes.Repeat([]byte("x"), 480-len(f)-20))
			}
			batch, err := envelope.Of(records)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(records) * tails))
			b.ReportAllocs()
			// As many records may be under way as there are at the start, so that from
			// the first operation on what counts is what is delivered.
			ahead := uint64(1000 + 50_000/tails)
			begun, n := time.Now(), uint64(0)
			done := func() uint64 { return (got.Load() + missed.Load()) / uint64(tails) }
			write := func() {
				if err := router.WriteBatch(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				n += 10
			}
			for n < ahead {
				write()
			}
			for b.Loop() {
				write()
				for (tails > 100 || n%640 == 0) && n-min(n, done()) > ahead {
					time.Sleep(50 * time.Microsecond)
				}
			}
			for deadline := time.Now().Add(time.Minute); done() < n && time.Now().Before(deadline); {
				time.Sleep(50 * time.Microsecond)
			}
			elapsed := time.Since(begun)
			b.ReportMetric(float64(got.Load())/elapsed.Seconds(), "records/s")
			b.ReportMetric(float64(missed.Load())/float64(n*uint64(tails))*100, "%missed")
			if got.Load()+missed.Load() != n*uint64(tails) {
				b.Errorf("made %d for each of %d, got %d, missed %d", n, tails, got.Load(), missed.Load())
			}
			cancel()
			running.Wait()
		})
	}
}

// BenchmarkReaderLatency is the way of one record from WriteBatch to a reader over
// loopback TCP, which waits for it. The other one is that of a reader that sleeps at
// the server.
func BenchmarkReaderLatency(b *testing.B) {
	for _, asleep := range []bool{false, true} {
		b.Run(fmt.Sprintf("asleep=%v", asleep), func(b *testing.B) {
			router := loggregator.New(nil)
			defer router.Close()
			o := &transport.EgressOptions{}
			if asleep {
				o.RestAfter = time.Microsecond
			}
			e, r := overTCP(b, router, o, nil)
			ctx, cancel := context.WithCancel(b.Context())
			got, done := make(chan struct{}), make(chan struct{})
			go func() {
				defer close(done)
				for b, err := range r.Batches(ctx, envelope.Query{Select: selectSource("app"), Follow: true}) {
					if err != nil {
						return
					}
					for range b.Count {
						got <- struct{}{}
					}
				}
			}()
			eventually(b, "there", func() bool { return e.Stats().Queries == 1 && router.Stats().Readers == 1 })
			var took time.Duration
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				if asleep {
					for e.Stats().Asleep == 0 {
						time.Sleep(20 * time.Microsecond)
					}
				}
				begun := time.Now()
				say(b, router, "app", n, 1)
				<-got
				took += time.Since(begun)
				n++
			}
			b.ReportMetric(float64(took.Nanoseconds())/float64(n), "ns/record")
			cancel()
			<-done
		})
	}
}
