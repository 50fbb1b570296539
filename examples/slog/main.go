// Command slog logs with log/slog into a Loggregator in the same program: the
// message and its attributes as JSON, the level as a tag, errors as ERR. Another
// handler makes the attributes tags instead, by which a reader can tell records
// apart without looking into their text.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

func main() {
	router := loggregator.New(nil)
	defer router.Close()
	shop := emitter.New(router, envelope.Identity{SourceID: "shop", InstanceID: "0"}, nil)

	logger := slog.New(shop.Handler(&emitter.HandlerOptions{Level: slog.LevelDebug}))
	order := logger.With("order", 17).WithGroup("customer")
	order.Info("accepted", "name", "Ada", "city", "London")
	order.Error("payment failed", "err", errors.New("card expired"))

	tagged := slog.New(shop.Handler(&emitter.HandlerOptions{AsTags: true}))
	tagged.Warn("slow answer", "route", "/orders")

	// The standard library's other logger, and everything else that writes text.
	lines := shop.Writer(envelope.Err)
	log.New(lines, "old code: ", 0).Print("still here")
	lines.Close()

	everything := envelope.Query{Select: envelope.Everything, History: true}
	for batch, err := range router.Batches(context.Background(), everything) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		for e := range batch.All() {
			os.Stdout.Write(e.AppendJSON(nil))
		}
	}
	fmt.Printf("accepted %d, refused %d\n", shop.Stats().Accepted, shop.Stats().Refused)
}
