package ringbuf

import (
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestManyMakers has a maker for each record, as a task that runs every minute
// is: those whose records are gone are forgotten in the end, and the latest are
// recognised.
func TestManyMakers(t *testing.T) {
	s, err := New(&Options{Budget: 8 * MinBudget})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.NewRing("", nil)
	if err != nil {
		t.Fatal(err)
	}
	send := func(maker int) Appended {
		b := benchBatch(1)
		b.Stream, b.First, b.Next = envelope.StreamID(maker), 1, 2
		return r.Append(b, nil)
	}
	const makers = 6000
	for i := 1; i <= makers; i++ {
		if done := send(i); done.Accepted != 1 {
			t.Fatalf("%d: %+v", i, done)
		}
	}
	if n := len(r.origins); n > maxOrigins {
		t.Errorf("%d makers are remembered", n)
	}
	if done := send(makers - fewOrigins); done.Repeated != 1 {
		t.Errorf("a late one: %+v", done)
	}
	s.Trim(time.Now().Add(2 * time.Hour))
	used := s.Stats().Used
	for i := range makers {
		send(makers + 1 + i)
		s.Trim(time.Now().Add(2 * time.Hour))
	}
	if n, now := len(r.origins), s.Stats().Used; n > fewOrigins || now >= used {
		t.Errorf("%d makers are remembered of records that are gone; %d bytes used, %d before", n, now, used)
	}
	if done := send(2 * makers); done.Repeated != 1 {
		t.Errorf("the last one: %+v", done)
	}
}
