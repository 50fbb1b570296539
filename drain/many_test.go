package drain

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// fileOf writes a binding file of n drains to h0, h1, …
func fileOf(t *testing.T, path string, n int, more ...Binding) {
	t.Helper()
	list := make([]Binding, 0, n+len(more))
	for i := range n {
		list = append(list, Binding{SourceID: fmt.Sprint("app-", i), URL: fmt.Sprint("syslog://h", i)})
	}
	text, err := json.Marshal(map[string][]Binding{"drains": append(list, more...)})
	if err != nil {
		t.Fatal(err)
	}
	bindings(t, path, string(text))
}

// dials counts connections, whose other ends nobody reads.
type dials struct {
	mu    sync.Mutex
	count map[string]int
}

func (d *dials) dial(_ context.Context, _, addr string) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.count == nil {
		d.count = make(map[string]int)
	}
	d.count[addr]++
	here, _ := net.Pipe()
	return here, nil
}

// Ten thousand drains that have nothing to send cost little, and one more or one
// less concerns no other.
func TestI05B09TenThousandIdleDrains(t *testing.T) {
	n := 10_000
	if testing.Short() || raceEnabled {
		n = 1000
	}
	path := filepath.Join(t.TempDir(), "drains.json")
	synctest.Test(t, func(t *testing.T) {
		memory := func() (goroutines int, bytes uint64) {
			synctest.Wait()
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return runtime.NumGoroutine(), m.HeapAlloc + m.StackInuse
		}
		goroutines, bytes := memory()
		fileOf(t, path, n)
		var d dials
		s, err := OpenSet(newMemory(), &SetOptions{Drains: &Options{DialContext: d.dial}, NoTest: true}, File(path))
		if err != nil {
			t.Fatal(err)
		}
		moreGoroutines, moreBytes := memory()
		moreGoroutines -= goroutines
		moreBytes -= bytes
		t.Logf("%d drains: %.1f goroutines and %d bytes each, connected", n, float64(moreGoroutines)/float64(n), moreBytes/uint64(n))
		if moreGoroutines > 3*n+20 || moreBytes > uint64(n)*(40<<10) {
			t.Errorf("%d goroutines, %d bytes", moreGoroutines, moreBytes)
		}

		fileOf(t, path, n-1, Binding{SourceID: "new", URL: "syslog://new"}) // the last one goes
		changed := time.Now()
		time.Sleep(1100 * time.Millisecond)
		synctest.Wait()
		if time.Since(changed) > 2*time.Second || d.count["new:514"] != 1 {
			t.Errorf("new is connected %d times after %v", d.count["new:514"], time.Since(changed))
		}
		for addr, k := range d.count {
			if k != 1 {
				t.Errorf("%s was connected %d times", addr, k)
			}
		}
		if len(s.Status()) != n {
			t.Errorf("%d drains", len(s.Status()))
		}

		// Connections that idle are closed, not all at once.
		time.Sleep(2 * DefaultMaxIdle)
		idleGoroutines, idleBytes := memory()
		t.Logf("idle: %.1f goroutines and %d bytes each", float64(idleGoroutines-goroutines)/float64(n), (idleBytes-bytes)/uint64(n))
		ended := time.Now()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(ended); d > time.Second {
			t.Errorf("shut down after %v", d)
		}
		if left, _ := memory(); left > goroutines {
			t.Errorf("%d goroutines are left", left-goroutines)
		}
	})
}

// delays are how long lines took to each of many receivers.
type delays struct {
	mu   sync.Mutex
	list map[string][]time.Duration
	bad  map[string]func(net.Conn)
}

func (d *delays) dial(_ context.Context, _, addr string) (net.Conn, error) {
	here, there := net.Pipe()
	host, _, _ := strings.Cut(addr, ":")
	if bad := d.bad[host]; bad != nil {
		go bad(there)
		return here, nil
	}
	go func() {
		defer there.Close()
		in := bufio.NewReader(there)
		for {
			m, err := readFrame(in)
			if err != nil {
				return
			}
			var sent int64
			_, text, _ := strings.Cut(m, "sent=")
			fmt.Sscanf(text, "%d", &sent)
			d.mu.Lock()
			d.list[host] = append(d.list[host], time.Since(time.Unix(0, sent)))
			d.mu.Unlock()
		}
	}()
	return here, nil
}

func hangs(net.Conn) {}

func crawls(c net.Conn) {
	var b [1]byte
	for {
		if _, err := c.Read(b[:]); err != nil {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

func flaps(c net.Conn) {
	io.CopyN(io.Discard, c, 100)
	c.Close()
}

// p99 lets n drains take 50 lines a second each, and gives the 99th percentile of
// how long those to good receivers took.
func (d *delays) p99(t *testing.T, n int) (p99 time.Duration) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drains.json")
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		fileOf(t, path, n)
		s, err := OpenFile(path, src, &Options{DialContext: d.dial})
		if err != nil {
			t.Fatal(err)
		}
		const lines = 25
		fixed := shop.Encode()
		for range lines {
			src.append(1, envelope.AppendLog(nil, fixed, stamp, envelope.Out, fmt.Appendf(nil, "sent=%d", time.Now().UnixNano())))
			time.Sleep(20 * time.Millisecond)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		s.Close()
		time.Sleep(time.Second) // for those who crawl to see it
		var all []time.Duration
		for i := range n {
			host := fmt.Sprint("h", i)
			if d.bad[host] == nil && len(d.list[host]) != lines {
				t.Errorf("%s got %d lines of %d", host, len(d.list[host]), lines)
			}
			all = append(all, d.list[host]...)
		}
		slices.Sort(all)
		p99 = all[len(all)*99/100]
	})
	return p99
}

// One that hangs, one that crawls and one that flaps among a thousand change
// nothing for the others. The clock is the test's, so this is about who waits for
// whom; BenchmarkBesideBadDrains is about processors.
func TestI01BadDrainsHoldUpNobody(t *testing.T) {
	n := 1000
	if testing.Short() || raceEnabled {
		n = 100
	}
	good := (&delays{list: map[string][]time.Duration{}}).p99(t, n)
	beside := (&delays{list: map[string][]time.Duration{}, bad: map[string]func(net.Conn){"h3": hangs, "h50": crawls, "h97": flaps}}).p99(t, n)
	t.Logf("p99 of %d: %v, beside bad ones %v", n, good, beside)
	if good > 5*time.Millisecond || beside > good*11/10 {
		t.Errorf("p99 %v, beside bad ones %v", good, beside)
	}
}
