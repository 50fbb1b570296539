package drain

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
)

// TestI05IdleDrainsOfARouter has drains of an application each that fall asleep
// and are woken, by lines, by Shutdown and by the router's end. Asleep they take
// 4 KiB each, with what the router knows of them.
func TestI05IdleDrainsOfARouter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n = 1000
		router := loggregator.New(nil)
		said := uint64(0)
		say := func() {
			said++
			for i := range n {
				id := sixTags
				id.SourceID = fmt.Sprintf("app-%d", i)
				b, _ := envelope.Of(envelope.AppendLog(nil, id.Encode(), time.Now().UnixNano(), envelope.Out, []byte("line")))
				if err := router.WriteBatch(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
		}
		say()
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
		}}).withDefaults() // as a Set does, once for all
		hold := make(chan struct{}) // see TestI05IdleDrains
		for range 5 * n {
			go func() { <-hold }()
		}
		synctest.Wait()
		close(hold)
		synctest.Wait()
		queries := make([]envelope.Query, n)
		for i := range queries {
			queries[i] = envelope.Query{Select: []envelope.Selector{{SourceID: fmt.Sprintf("app-%d", i)}}, History: true}
		}
		drains := make([]*Drain, 0, n)
		before := heapInUse()
		for _, q := range queries {
			d, err := Open("syslog://receiver", router, q, o)
			if err != nil {
				t.Fatal(err)
			}
			drains = append(drains, d)
		}
		for _, pause := range []time.Duration{time.Second, 30 * time.Second, 2 * time.Minute, 6 * time.Minute, time.Hour / 2} {
			time.Sleep(pause)
			if pause >= 6*time.Minute {
				g, each := runtime.NumGoroutine(), (heapInUse()-before)/n
				t.Logf("%d goroutines, %d bytes each after %v", g, each, pause)
				if g > 20 || each > 4<<10 && !raceEnabled {
					t.Errorf("%d goroutines, %d bytes each after %v", g, each, pause)
				}
			}
			say()
			synctest.Wait()
			for _, d := range drains {
				if s := d.Stats(); s.Delivered != said || s.Accepted != said || s.Resent != 0 {
					t.Fatalf("after %v: %+v", pause, s)
				}
			}
		}
		time.Sleep(10 * time.Minute)
		for i, d := range drains {
			if i%3 == 0 {
				if err := d.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
		}
		if err := router.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		for _, d := range drains {
			d.Close()
			if s := d.Stats(); s.Delivered != said || s.Accepted != said || s.State != Closed {
				t.Fatalf("%+v", s)
			}
		}
	})
}
