package loggregator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// benchLine and benchTags are the record that all benchmarks use: a line of 200
// bytes and six tags, 480 bytes on the wire.
var benchLine = []byte(strings.Repeat("x", 200))

func benchApp(i int) envelope.Fixed {
	return envelope.Identity{SourceID: fmt.Sprintf("5f6c7a1e-3a3b-4c1d-9e2f-%012d", i), InstanceID: "0", Tags: map[string]string{
		envelope.TagAppName: "shop-frontend-" + fmt.Sprint(i), envelope.TagSpaceName: "production", envelope.TagOrgName: "acme",
		envelope.TagAppID:      fmt.Sprintf("5f6c7a1e-3a3b-4c1d-9e2f-%012d", i),
		envelope.TagSourceType: "APP/PROC/WEB", "process_type": "web",
	}}.Encode()
}

func benchBatch(f envelope.Fixed, n int) envelope.Batch {
	var b envelope.Batch
	for i := range n {
		b.Records = envelope.AppendLog(b.Records, f, 1_700_000_000_000_000_000+int64(i), envelope.Out, benchLine)
	}
	b.Count = n
	return b
}

// reportRecords reports time and, of all threads together, processor time.
func reportRecords(b *testing.B, perOp int, cpu int64) {
	b.ReportMetric(float64(cpuTime()-cpu)/float64(b.N)/float64(perOp), "cpu-ns/record")
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(perOp), "ns/record")
	b.ReportMetric(float64(b.N)*float64(perOp)/b.Elapsed().Seconds(), "records/s")
}

// BenchmarkPublish writes batches of 100 into 1,000 sources in turn.
func BenchmarkPublish(b *testing.B) {
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			r := New(nil)
			defer r.Close()
			batches := make([]envelope.Batch, 1000)
			for i := range batches {
				batches[i] = benchBatch(benchApp(i), size)
			}
			b.SetBytes(int64(len(batches[0].Records)))
			b.ReportAllocs()
			i := 0
			cpu := cpuTime()
			for b.Loop() {
				if err := r.WriteBatch(b.Context(), batches[i%len(batches)]); err != nil {
					b.Fatal(err)
				}
				i++
			}
			reportRecords(b, size, cpu)
		})
	}
}

// BenchmarkPublishMixed writes batches whose 100 records are of as many sources.
func BenchmarkPublishMixed(b *testing.B) {
	r := New(nil)
	defer r.Close()
	var batch envelope.Batch
	for i := range 100 {
		batch.Records = append(batch.Records, benchBatch(benchApp(i), 1).Records...)
		batch.Count++
	}
	b.SetBytes(int64(len(batch.Records)))
	b.ReportAllocs()
	cpu := cpuTime()
	for b.Loop() {
		if err := r.WriteBatch(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	reportRecords(b, 100, cpu)
}

// BenchmarkPublishReaders writes to one source while many readers wait for
// others.
func BenchmarkPublishReaders(b *testing.B) {
	for _, n := range []int{0, 1000, 100_000} {
		b.Run(fmt.Sprintf("idle=%d", n), func(b *testing.B) {
			r := New(nil)
			ctx, cancel := context.WithCancel(b.Context())
			var reading atomic.Int64 // those that were told where they start, and wait now
			for i := range n {
				go func() {
					q := envelope.Query{Select: []envelope.Selector{{SourceID: fmt.Sprint("other-", i)}}, Follow: true}
					for range r.Batches(ctx, q) {
						reading.Add(1)
					}
				}()
			}
			for reading.Load() < int64(n) {
				runtime.Gosched()
			}
			runtime.GC() // what it cost to start them is not the writer's
			batch := benchBatch(benchApp(0), 100)
			b.SetBytes(int64(len(batch.Records)))
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				if err := r.WriteBatch(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			reportRecords(b, 100, cpu)
			b.StopTimer()
			cancel()
			r.Close()
		})
	}
}

// BenchmarkTail writes to one source that many readers follow, and reports what
// they were handed and what they were told they missed.
func BenchmarkTail(b *testing.B) {
	for _, n := range []int{1, 20, 1000} {
		b.Run(fmt.Sprintf("readers=%d", n), func(b *testing.B) {
			r := New(nil)
			defer r.Close()
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			batch := benchBatch(benchApp(0), 100)
			r.WriteBatch(ctx, batch)
			for range n {
				go func() {
					q := envelope.Query{Select: []envelope.Selector{{SourceID: "5f6c7a1e-3a3b-4c1d-9e2f-000000000000"}}, Follow: true}
					for range r.Batches(ctx, q) {
					}
				}()
			}
			for r.Stats().Readers < n {
				runtime.Gosched()
			}
			b.SetBytes(int64(len(batch.Records)))
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				if err := r.WriteBatch(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			s := r.Stats()
			b.ReportMetric(float64(s.Delivered)/b.Elapsed().Seconds(), "read/s")
			b.ReportMetric(float64(s.Missed)/float64(b.N), "missed/op")
			reportRecords(b, 100, cpu)
		})
	}
}

// BenchmarkLast1000 reads the last thousand records of one of 1,000 sources.
func BenchmarkLast1000(b *testing.B) {
	r := New(&Options{Budget: 1 << 30})
	defer r.Close()
	for i := range 1000 {
		batch := benchBatch(benchApp(i), 100)
		for range 15 {
			r.WriteBatch(b.Context(), batch)
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		id := fmt.Sprintf("5f6c7a1e-3a3b-4c1d-9e2f-%012d", rand.IntN(1000))
		n := 0
		for batch, err := range r.Batches(b.Context(), envelope.Query{Select: []envelope.Selector{{SourceID: id}}, Last: 1000}) {
			if err != nil {
				b.Fatal(err)
			}
			n += batch.Count
		}
		if n != 1000 {
			b.Fatalf("%d records", n)
		}
	}
}

// BenchmarkStore publishes a million records of 1,000 sources, as one operation,
// into a router that has room for them, and reports what each takes of memory:
// of its budget, and of what the system has given the process meanwhile.
func BenchmarkStore(b *testing.B) {
	const sources, size, rounds = 1000, 100, 10
	batches := make([]envelope.Batch, sources)
	for i := range batches {
		batches[i] = benchBatch(benchApp(i), size)
	}
	var cpu int64
	for b.Loop() {
		b.StopTimer()
		runtime.GC()
		debug.FreeOSMemory()
		before := resident(b)
		r := New(&Options{Budget: 1 << 30})
		b.StartTimer()
		cpu -= cpuTime()
		for range rounds {
			for i := range batches {
				if err := r.WriteBatch(b.Context(), batches[i]); err != nil {
					b.Fatal(err)
				}
			}
		}
		cpu += cpuTime()
		b.StopTimer()
		s := r.Stats()
		if s.Held != sources*size*rounds {
			b.Fatalf("%+v", s)
		}
		b.ReportMetric(float64(s.Used)/float64(s.Held), "budget-B/record")
		if before > 0 {
			b.ReportMetric(float64(resident(b)-before)/float64(s.Held), "resident-B/record")
		}
		r.Close()
		b.StartTimer()
	}
	b.ReportMetric(float64(cpu)/float64(b.N)/1e6/1e3, "cpu-s/M")
	b.ReportMetric(float64(b.N)*1e6/b.Elapsed().Seconds(), "records/s")
}

// resident is the resident memory of this process in bytes, 0 where it is not
// known.
func resident(b *testing.B) int {
	b.Helper()
	status, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	var size, pages int
	if _, err := fmt.Sscan(string(status), &size, &pages); err != nil {
		b.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// BenchmarkWriteBesideReaders writes 20,000 records a second, ten at a time, to
// one source, and reports how long the writes take without readers and with a
// thousand that follow it.
func BenchmarkWriteBesideReaders(b *testing.B) {
	for _, n := range []int{0, 1000} {
		b.Run(fmt.Sprintf("readers=%d", n), func(b *testing.B) {
			r := New(nil)
			defer r.Close()
			ctx, cancel := context.WithCancel(b.Context())
			defer cancel()
			batch := benchBatch(benchApp(0), 10)
			r.WriteBatch(ctx, batch)
			var reading atomic.Int64
			for range n {
				go func() {
					q := envelope.Query{Select: []envelope.Selector{{SourceID: "5f6c7a1e-3a3b-4c1d-9e2f-000000000000"}}, Follow: true}
					first := true
					for range r.Batches(ctx, q) {
						if first {
							reading.Add(1)
							first = false
						}
					}
				}()
			}
			for reading.Load() < int64(n) {
				runtime.Gosched()
			}
			runtime.GC()
			var times []time.Duration
			start := time.Now()
			for b.Loop() {
				for time.Since(start) < time.Duration(len(times))*500*time.Microsecond {
					time.Sleep(100 * time.Microsecond)
				}
				before := time.Now()
				if err := r.WriteBatch(ctx, batch); err != nil {
					b.Fatal(err)
				}
				times = append(times, time.Since(before))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1000, "p50-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1000, "p99-µs")
			b.ReportMetric(float64(r.Stats().Missed), "missed")
		})
	}
}
