package transport_test

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// overTCP is a reader of src over loopback.
func overTCP(t testing.TB, src envelope.Source, eo *transport.EgressOptions, ro *transport.ReaderOptions) (*transport.Egress, *transport.Reader) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e := transport.NewEgress(src, eo)
	go e.Serve(ln)
	t.Cleanup(func() { e.Close() })
	r, err := transport.NewReader("tcp://"+ln.Addr().String(), ro)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return e, r
}

// eventually waits for a condition that a loaded machine may take long for.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within half a minute: %s", what)
		}
	}
}

// resident is what the program's memory and goroutines are now.
func resident() (bytes int64, goroutines int) {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse), runtime.NumGoroutine()
}

// Ten thousand readers of applications that say nothing, over one connection: what
// they cost both ends together, the goroutines that range over the sequences
// included.
func TestIdleReaders(t *testing.T) {
	readers := 10_000
	if raceDetector {
		readers = 1000
	}
	router := loggregator.New(nil)
	defer router.Close()
	for i := range readers {
		say(t, router, fmt.Sprint("app-", i), 0, 1)
	}
	e, r := overTCP(t, router, &transport.EgressOptions{RestAfter: 50 * time.Millisecond}, nil)
	eventually(t, "connected", func() bool { return r.Stats().Connected == 1 })
	select1 := func(i int) envelope.Query {
		return envelope.Query{Select: selectSource(fmt.Sprint("app-", i)), Last: 10, Follow: true}
	}

	bytes, goroutines := resident()
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var lines, last atomic.Int64
	for i := range readers {
		running.Go(func() {
			for b, err := range r.Batches(ctx, select1(i)) {
				if err != nil {
					return
				}
				if b.Count > 0 && lines.Add(int64(b.Count)) > int64(readers) {
					last.Add(1)
				}
			}
		})
	}
	eventually(t, "all asleep", func() bool { return e.Stats().Asleep == readers && lines.Load() == int64(readers) })
	more, grown := resident()
	t.Logf("a sequence that waits takes %d bytes at both ends, and %.2f goroutines", (more-bytes)/int64(readers), float64(grown-goroutines)/float64(readers))
	if !raceDetector && (more-bytes)/int64(readers) > 16<<10 {
		t.Errorf("%d bytes each", (more-bytes)/int64(readers))
	}
	if grown-goroutines > readers+50 {
		t.Errorf("%d goroutines for %d sequences", grown-goroutines, readers)
	}
	for i := range readers { // each of them wakes, for its own
		say(t, router, fmt.Sprint("app-", i), 1, 1)
	}
	eventually(t, "all woken", func() bool { return lines.Load() == int64(2*readers) && last.Load() == int64(readers) })
	cancel()
	running.Wait()
	eventually(t, "all ended", func() bool { return e.Stats().Queries == 0 && router.Stats().Readers == 0 })

	// Those who let themselves be woken have no goroutine either.
	var woken atomic.Int64
	var cursor envelope.Cursor
	for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
		if err != nil {
			t.Fatal(err)
		}
		cursor.Advance(b)
	}
	bytes, goroutines = resident()
	var stops []func()
	for i := range readers {
		q := select1(i)
		for s := range router.Sources(q.Select) {
			q.Cursor.Rings = map[envelope.StreamID]uint64{s.Ring: cursor.Rings[s.Ring]}
		}
		stops = append(stops, r.Wake(q, func() { woken.Add(1) }))
	}
	eventually(t, "all asleep", func() bool { return e.Stats().Asleep == readers })
	more, grown = resident()
	t.Logf("a reader that sleeps takes %d bytes at both ends, and %.2f goroutines", (more-bytes)/int64(readers), float64(grown-goroutines)/float64(readers))
	if !raceDetector && (more-bytes)/int64(readers) > 8<<10 {
		t.Errorf("%d bytes each", (more-bytes)/int64(readers))
	}
	if grown-goroutines > 50 {
		t.Errorf("%d goroutines", grown-goroutines)
	}
	say(t, router, "app-7", 2, 1)
	eventually(t, "one woken", func() bool { return woken.Load() == 1 })
	for _, stop := range stops {
		stop()
	}
	eventually(t, "all ended", func() bool { return e.Stats().Queries == 0 })
	if woken.Load() != 1 {
		t.Errorf("%d woken", woken.Load())
	}
	if s := router.Stats(); s.Readers != 0 {
		t.Errorf("%d readers left", s.Readers)
	}
}
