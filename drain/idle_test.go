package drain

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

func heapInUse() (bytes int64) {
	for range 4 {
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestI05IdleDrains has drains that sent a line once. With a source that can wake
// them they take 4 KiB each, and no goroutine; their idle connections were closed.
func TestI05IdleDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		src := newMemory()
		// The runtime keeps a descriptor for each goroutine that there was.
		hold := make(chan struct{})
		for range 5 * n {
			go func() { <-hold }()
		}
		synctest.Wait()
		close(hold)
		synctest.Wait()
		o := (&Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go func() {
				var buf [1024]byte
				for {
					if _, err := there.Read(buf[:]); err != nil {
						return
					}
				}
			}()
			return here, nil
		}}).withDefaults()
		drains := make([]*Drain, n)
		before := heapInUse()
		for i := range drains {
			d, err := Open(fmt.Sprintf("syslog://receiver-%d", i), src, everything, o)
			if err != nil {
				t.Fatal(err)
			}
			drains[i] = d
		}
		src.lines(1, 0, 1)
		time.Sleep(DefaultMaxIdle + time.Minute)
		goroutines := runtime.NumGoroutine()
		each := (heapInUse() - before) / n
		t.Logf("%d goroutines, %d bytes each", goroutines, each)
		if goroutines > 20 || each > 4<<10 && !raceEnabled {
			t.Errorf("%d bytes each, %d goroutines", each, goroutines)
		}
		src.lines(1, 1, 2)
		synctest.Wait()
		for _, d := range drains {
			if s := d.Stats(); s.Delivered != 2 || s.Connects != 2 || s.Resent != 0 {
				t.Fatalf("woken: %+v", s)
			}
		}
		time.Sleep(time.Hour)
		for i, d := range drains { // asleep again
			if i%2 == 0 {
				if err := d.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			} else {
				d.Close()
			}
			conserve(t, d.Stats(), 2)
		}
	})
}

// TestSleepLosesNothing has drains that fall asleep and are woken at any moment.
func TestSleepLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial, MaxIdle: 3 * time.Second})
		n := 0
		for i := range 300 {
			src.lines(1, n, n+3)
			n += 3
			time.Sleep(restTime + time.Duration(i-150)*20*time.Microsecond)
			if i%7 == 0 { // its connection breaks while it may sleep
				rcv.mu.Lock()
				rcv.conns[len(rcv.conns)-1].Close()
				rcv.mu.Unlock()
			}
			if i%50 == 0 {
				time.Sleep(time.Hour)
			}
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		for i, m := range rcv.texts() {
			if m != fmt.Sprintf("ring=1 seq=%d", i) {
				t.Fatalf("%s where %d should be", m, i)
			}
		}
		s := d.Stats()
		conserve(t, s, uint64(n))
		if s.Resent != 0 || len(rcv.messages) != n {
			t.Errorf("%d messages, %+v", len(rcv.messages), s)
		}
	})
}
