package loggregator_test

import (
	"context"
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// shop is an emitter of an application in space prod.
func shop(r *loggregator.Router) *emitter.Emitter {
	return emitter.New(r, envelope.Identity{SourceID: "shop-guid", Tags: map[string]string{
		envelope.TagAppName: "shop", envelope.TagSpaceName: "prod",
	}}, nil)
}

func Example() {
	r := loggregator.New(nil)
	defer r.Close()
	e := shop(r)
	e.Log(envelope.Out, "listening on :8080")
	e.Log(envelope.Err, "payment: connection refused")

	// Dump what the space has said. Without Follow, the sequence ends by itself.
	inSpace := envelope.Query{Select: []envelope.Selector{{Space: "prod"}}, History: true}
	for b, err := range r.Batches(context.Background(), inSpace) {
		if err != nil {
			log.Fatal(err)
		}
		for e := range b.All() {
			route, _ := e.Route()
			fmt.Println(route.LogType, string(route.Payload))
		}
	}
	// Output:
	// OUT listening on :8080
	// ERR payment: connection refused
}

// A cursor is where a reader stands. Kept, it goes on where that reader left off.
func ExampleRouter_Batches_resume() {
	r := loggregator.New(nil)
	defer r.Close()
	e := shop(r)
	everything := envelope.Query{Select: envelope.Everything, History: true}

	e.Log(envelope.Out, "one")
	e.Log(envelope.Out, "two")
	for b := range r.Batches(context.Background(), everything) {
		everything.Cursor.Advance(b)
		fmt.Println("read", b.Count)
	}
	e.Log(envelope.Out, "three")
	for b := range r.Batches(context.Background(), everything) {
		fmt.Println("read", b.Count, "and missed", b.Missed)
	}
	// Output:
	// read 2
	// read 1 and missed 0
}

// A reader that follows waits for what is to come. It never holds up a writer:
// one that falls behind is told how many records it missed.
func ExampleRouter_Batches_follow() {
	r := loggregator.New(&loggregator.Options{Budget: 64 << 20, MaxAge: time.Hour})
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	e := shop(r)
	e.Log(envelope.Out, "before")

	tail := envelope.Query{Select: []envelope.Selector{{App: "shop"}}, Last: 1, Follow: true}
	for b, err := range r.Batches(ctx, tail) {
		if err != nil {
			fmt.Println(err) // how a sequence that follows ends
			break
		}
		if b.Missed > 0 {
			fmt.Println(b.Missed, "lines missed")
		}
		for record := range b.All() {
			fmt.Println(string(record.Payload()))
			if strings.HasPrefix(string(record.Payload()), "before") {
				e.Log(envelope.Out, "after")
			} else {
				go r.Close()
			}
		}
	}
	// Output:
	// before
	// after
	// loggregator: router is closed
}

// At any time, what was accepted is held, or given up for a reason.
func ExampleRouter_Stats() {
	r := loggregator.New(&loggregator.Options{Budget: 1 << 20})
	defer r.Close()
	e := shop(r)
	for range 10_000 {
		e.Log(envelope.Out, strings.Repeat("x", 200))
	}
	s := r.Stats()
	fmt.Println(s.Accepted, s.Accepted == s.Held+s.Evicted+s.Expired, s.Used <= s.Budget)
	// Output: 10000 true true
}
