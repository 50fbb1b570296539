package ringbuf

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Who gives a batch may have looked at the clock before others did: what arrived
// since a moment is found all the same.
func TestGivenTime(t *testing.T) {
	s, err := New(&Options{Budget: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.NewRing("shop", nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	now := time.Now().Add(-time.Minute)
	for i := range 400 { // a hundred blocks and more, every other one given late
		at := now.Add(time.Duration(i) * time.Millisecond)
		if i%2 == 1 {
			at = at.Add(-10 * time.Millisecond)
		}
		r.Append(envelope.Batch{Records: record(rng, 1500), Count: 1, Now: at.UnixNano()}, nil)
	}
	for i := range 200 {
		if got := r.Since(now.Add(time.Duration(2*i) * time.Millisecond)); got > uint64(2*i+1) {
			t.Fatalf("record %d arrived then, and reading begins at %d", 2*i+1, got)
		}
	}
	if got := r.Since(now.Add(time.Hour)); got != 401 {
		t.Errorf("reading of what comes begins at %d", got)
	}
	r.Append(envelope.Batch{Records: record(rng, 10), Count: 1}, nil) // nobody looked: the ring does
	if got := r.Since(now.Add(time.Second)); got > 401 {
		t.Errorf("%d", got)
	}
	s.Trim(now.Add(2 * time.Hour))
	if first, next := r.Bounds(); first != next {
		t.Errorf("%d records outlive their age", next-first)
	}
}
