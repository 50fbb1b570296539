package drain_test

import (
	"bytes"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
)

// BenchmarkManyDrains sends lines of 200 bytes with six tags from a router over
// loopback, a connection for each drain: many drains of one application, and many
// applications with a drain each.
func BenchmarkManyDrains(b *testing.B) {
	for _, c := range []struct{ apps, drains, lines int }{{1, 100, 2000}, {1000, 1, 100}} {
		b.Run(fmt.Sprintf("apps=%d/drains=%d", c.apps, c.drains), func(b *testing.B) {
			addr := discard(b)
			router := loggregator.New(nil)
			defer router.Close()
			var f drain.Formatter
			var sent int64
			for app := range c.apps {
				id := identity
				id.SourceID = fmt.Sprintf("app-%d", app)
				var records []byte
				for range c.lines {
					records = envelope.AppendLog(records, id.Encode(), time.Now().UnixNano(), envelope.Out, bytes.Repeat([]byte{'x'}, 200))
				}
				batch, err := envelope.Of(records)
				if err != nil {
					b.Fatal(err)
				}
				if err := router.WriteBatch(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
				e, _, _ := envelope.Next(records)
				sent += int64(c.drains * c.lines * len(f.AppendFrames(nil, e)))
			}
			b.SetBytes(sent)
			b.ReportAllocs()
			var missed uint64
			for b.Loop() {
				var wg sync.WaitGroup
				var mu sync.Mutex
				for app := range c.apps {
					for range c.drains {
						d, err := drain.Open("syslog://"+addr, router, envelope.Query{
							Select: []envelope.Selector{{SourceID: fmt.Sprintf("app-%d", app)}}, History: true,
						}, nil)
						if err != nil {
							b.Fatal(err)
						}
						wg.Go(func() {
							if err := d.Shutdown(b.Context()); err != nil {
								b.Error(err)
							}
							s := d.Stats()
							if s.Delivered+s.Missed != uint64(c.lines) {
								b.Errorf("%+v", s)
							}
							mu.Lock()
							missed += s.Missed
							mu.Unlock()
						})
					}
				}
				wg.Wait()
			}
			b.ReportMetric(float64(c.apps*c.drains*c.lines*b.N)/b.Elapsed().Seconds(), "lines/s")
			b.ReportMetric(float64(missed)/float64(b.N), "missed/op")
		})
	}
}

// discard is a receiver that throws everything away.
func discard(b *testing.B) (addr string) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				buf := make([]byte, 64<<10)
				for {
					if _, err := c.Read(buf); err != nil {
						return
					}
				}
			}()
		}
	}()
	return ln.Addr().String()
}
