// Command inprocess is a program with a whole Loggregator inside: it logs, and
// reads its own recent lines.
package main

import (
	"context"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

func main() {
	router := loggregator.New(nil)
	defer router.Close()

	log := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	log.Log(envelope.Out, "order 17 accepted")
	log.Log(envelope.Err, "order 18 refused: no such article")

	recent := envelope.Query{Select: []envelope.Selector{{App: "shop"}}, Last: 100}
	for batch := range router.Batches(context.Background(), recent) {
		for e := range batch.All() {
			os.Stdout.Write(e.AppendText(nil, time.Local, true))
		}
	}
}
