// Command tail shows a live tail: it begins with lines that were logged before
// anybody read, and runs on into those logged meanwhile, without a gap and
// without a repeat. The reader stops in the middle, keeps its cursor, and a
// second reader goes on there.
package main

import (
	"context"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

const lines = 1000

func main() {
	router := loggregator.New(nil)
	defer router.Close()
	shop := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)

	var writer sync.WaitGroup
	log := func(from, to int) {
		for i := from; i < to; i++ {
			shop.Log(envelope.Out, fmt.Sprintf("order %d", i))
		}
	}
	log(0, 100) // before anybody reads
	writer.Go(func() { log(100, lines) })

	query := envelope.Query{Select: []envelope.Selector{{App: "shop"}}, History: true, Follow: true, MaxBytes: 4 << 10}
	next, cursor := tail(router, query, 0, lines/2)
	query.Cursor = cursor // it may also be kept as text: cursor.String()
	next, _ = tail(router, query, next, lines)
	writer.Wait()
	fmt.Printf("%d lines in order, none missing, none twice\n", next)
}

// tail reads until at least the line with the number to, and checks that each
// one is the next.
func tail(src envelope.Source, q envelope.Query, next, to int) (int, envelope.Cursor) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	cursor := q.Cursor
	for batch, err := range src.Batches(ctx, q) {
		if err != nil || batch.Missed > 0 {
			fmt.Fprintf(os.Stderr, "missed %d, %v\n", batch.Missed, err)
			os.Exit(1)
		}
		for e := range batch.All() {
			if want := fmt.Sprintf("order %d", next); string(e.Payload()) != want {
				fmt.Fprintf(os.Stderr, "got %q, want %q\n", e.Payload(), want)
				os.Exit(1)
			}
			next++
		}
		cursor.Advance(batch)
		if next >= to {
			break
		}
	}
	return next, cursor
}
