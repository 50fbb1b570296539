package clock

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		for _, d := range []time.Duration{0, 1, time.Millisecond, step - 1, 1, step, time.Hour} {
			time.Sleep(d)
			if got, want := c.Now(), time.Now().UnixNano(); got != want {
				t.Errorf("%d ns off", got-want)
			}
		}
	})
}

// TestSet sets the time of day back and forth, which the clock notices when it
// next compares.
func TestSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var c Clock
		c.Now()
		for _, by := range []int64{-int64(time.Hour), int64(time.Hour)} {
			c.base.Load().wall += by
			if got := c.Now() - time.Now().UnixNano(); got != by {
				t.Errorf("%d ns off at once, want %d", got, by)
			}
			time.Sleep(step)
			if got := c.Now() - time.Now().UnixNano(); got != 0 {
				t.Errorf("%d ns off after %v", got, step)
			}
		}
	})
}

func TestAllocs(t *testing.T) {
	var c Clock
	if n := testing.AllocsPerRun(1000, func() { c.Now() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkNow(b *testing.B) {
	var c Clock
	b.ReportAllocs()
	for b.Loop() {
		c.Now()
	}
}

func BenchmarkTimeNow(b *testing.B) {
	for b.Loop() {
		time.Now()
	}
}
