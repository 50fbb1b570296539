package transport_test

import (
	"bytes"
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// BenchmarkOverload offers a link as many records of 480 bytes as a goroutine can
// write into a router, or only what the link can carry, and reports what arrives:
// what is too much must be told as missed, and cost what arrives nothing.
//
// Both ends share the machine with who writes, so what arrives is less by the
// processor time that writing takes.
func BenchmarkOverload(b *testing.B) {
	for name, paced := range map[string]bool{"paced": true, "flat out": false} {
		b.Run(name, func(b *testing.B) {
			from := loggregator.New(&loggregator.Options{Budget: 64 << 20})
			to := loggregator.New(&loggregator.Options{Budget: 64 << 20})
			server := transport.NewServer(to, nil)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go server.Serve(ln)
			l, err := transport.NewLink("tcp://"+ln.Addr().String(), from, nil)
			if err != nil {
				b.Fatal(err)
			}
			// One who follows everything, told what is missing.
			ctx, cancel := context.WithCancel(b.Context())
			var wg sync.WaitGroup
			var seen, missed uint64
			wg.Go(func() {
				for batch, err := range to.Batches(ctx, envelope.Query{Select: envelope.Everything, History: true, Follow: true}) {
					if err != nil {
						return
					}
					for e := range batch.All() {
						if n, _, ok := e.Missed(); ok {
							missed += n
						} else {
							seen++
						}
					}
					missed += batch.Missed
				}
			})
			f := envelope.Identity{SourceID: "shop", InstanceID: "0", Tags: map[string]string{
				envelope.TagAppName: "shop", envelope.TagSpaceName: "production",
			}}.Encode()
			var batch envelope.Batch
			for range 100 {
				batch.Records = envelope.AppendLog(batch.Records, f, time.Now().UnixNano(), envelope.Out, bytes.Repeat([]byte("x"), 480-len(f)-20))
				batch.Count++
			}
			b.SetBytes(int64(len(batch.Records)))
			made := uint64(0)
			for b.Loop() {
				if err := from.WriteBatch(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				made += 100
				for paced && behind(l, made) > 50_000 {
					time.Sleep(50 * time.Microsecond)
				}
			}
			arrived := to.Stats().Accepted
			b.ReportMetric(float64(arrived)/b.Elapsed().Seconds(), "arrive/s")
			b.ReportMetric(float64(made)/b.Elapsed().Seconds(), "offered/s")
			if err := l.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(to.Stats().Lost)/float64(made)*100, "%missed")
			to.Shutdown(b.Context()) // lets who follows read to the end
			cancel()
			wg.Wait()
			if seen+missed != made {
				b.Errorf("made %d, seen %d, told as missed %d", made, seen, missed)
			}
			l.Close()
			server.Close()
			from.Close()
		})
	}
}
