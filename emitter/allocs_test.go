//go:build !race

package emitter_test

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// The race detector makes sync.Pool forget at random, hence the build tag.

func TestAllocs(t *testing.T) {
	e := emitter.New(&discard{}, shop, nil)
	w := e.Writer(envelope.Out)
	text := []byte(strings.Repeat("a line of the usual kind\n", 100) + "and a start")
	now := time.Now()
	for name, f := range map[string]func(){
		"Log":     func() { e.Log(envelope.Out, "a line of the usual kind") },
		"Counter": func() { e.Counter("orders", 1) },
		"Gauge":   func() { e.Gauge("load", 0.5, "cpu") },
		"Timer":   func() { e.Timer("http", now, now) },
		"Event":   func() { e.Event("title", "body") },
		"Writer":  func() { w.Write(text) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func TestHandlerAllocs(t *testing.T) {
	e := emitter.New(&discard{}, shop, nil)
	for name, log := range map[string]*slog.Logger{
		"json": slog.New(e.Handler(nil)).With("till", 2).WithGroup("order"),
		"tags": slog.New(e.Handler(&emitter.HandlerOptions{AsTags: true})).With("till", 2),
	} {
		if n := testing.AllocsPerRun(100, func() {
			log.LogAttrs(t.Context(), slog.LevelInfo, "order accepted", slog.String("id", "17"), slog.Bool("paid", true), slog.Group("g", slog.String("k", "v")))
		}); n > 5 { // the group's members are slog's, its key as a tag is put together
			t.Errorf("%s: %v allocations", name, n)
		}
		if n := testing.AllocsPerRun(100, func() {
			log.LogAttrs(t.Context(), slog.LevelInfo, "order accepted", slog.String("id", "17"), slog.String("by", "x"))
		}); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
