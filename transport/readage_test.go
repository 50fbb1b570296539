package transport

import (
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

func TestPositionsAge(t *testing.T) {
	var a ages
	var c envelope.Cursor
	now := time.Now()
	give := func(ring, stream envelope.StreamID) {
		b := envelope.Batch{Ring: ring, Position: 10, Stream: stream, Next: 5}
		c.Advance(b)
		a.note(&c, &b, now)
	}
	give(7, 7)
	a.mark(7)
	for range 50 { // weeks, in each of which a hundred sources come and go
		for i := range envelope.StreamID(100) {
			give(1000+envelope.StreamID(now.Unix())+i, 1<<40+envelope.StreamID(now.Unix())+i)
		}
		give(1, 2) // and one goes on
		now = now.Add(agePeriod)
	}
	if n := len(c.Rings) + len(c.Streams); n > fewPositions+1000 || n < 100 {
		t.Errorf("%d positions", n)
	}
	if len(a.seen) > fewPositions+1000 {
		t.Errorf("%d seen", len(a.seen))
	}
	if c.Rings[1] != 10 || c.Streams[2] != 5 || c.Rings[7] != 10 {
		t.Error("what is still needed was forgotten")
	}
}
