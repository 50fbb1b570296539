package daemon

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestPulses: a part that hangs is named, is not asked again meanwhile, and is
// well when it goes on.
func TestPulses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p Pulses
		var beats atomic.Int64
		hang := make(chan struct{})
		p.Add("rings", func() {})
		p.Add("ingest", func() {
			beats.Add(1)
			<-hang
		})
		p.Add("drains", func() { <-hang })
		for range 3 {
			began := time.Now()
			err := p.Check()
			if err == nil || len(err.Error()) != len("ingest: does not answer\ndrains: does not answer") {
				t.Fatal(err)
			}
			if took := time.Since(began); took != pulseLimit {
				t.Errorf("it took %v", took)
			}
		}
		if n := beats.Load(); n != 1 {
			t.Errorf("it was asked %d times", n)
		}
		close(hang)
		synctest.Wait()
		if err := p.Check(); err != nil {
			t.Error(err)
		}
	})
}
