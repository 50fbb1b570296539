package emitter_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

func Example() {
	router := loggregator.New(nil)
	defer router.Close()

	shop := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	shop.Log(envelope.Out, "order 17 accepted")
	slog.New(shop.Handler(nil)).Error("order refused", "order", 18)

	all := envelope.Query{Select: envelope.Everything, History: true}
	for batch := range router.Batches(context.Background(), all) {
		for e := range batch.All() {
			fmt.Fprintf(os.Stdout, "%s\n", e.Payload())
		}
	}
	// Output:
	// order 17 accepted
	// {"level":"ERROR","msg":"order refused","order":18}
}

// TestRouter: everything an Emitter makes passes a router's door, and a reader
// gets it or is told.
func TestRouter(t *testing.T) {
	r := loggregator.New(&loggregator.Options{Budget: 2 << 20})
	defer r.Close()
	e := emitter.New(r, shop, nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			w := e.Writer(envelope.Err)
			log := slog.New(e.Handler(&emitter.HandlerOptions{AsTags: true}))
			for i := range 5000 {
				e.Log(envelope.Out, strings.Repeat("x", i%300))
				fmt.Fprintf(w, "line %d\r\n", i)
				e.Counter("c", 1)
				log.Info("m", "i", i)
			}
			e.Log(envelope.Out, strings.Repeat("€", 100_000))
			w.Close()
		})
	}
	wg.Wait()
	st := e.Stats()
	if st.Refused != 0 || st.Cut != 4 || st.Accepted != 4*(4*5000+5) {
		t.Errorf("%+v", st)
	}
	seen, missed := uint64(0), uint64(0)
	for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true}) {
		if err != nil {
			t.Fatal(err)
		}
		seen += uint64(b.Count)
		missed += b.Missed
	}
	rs := r.Stats()
	if rs.Accepted != st.Accepted || seen != rs.Held || seen+missed > st.Accepted || rs.Evicted == 0 || rs.Evicted+rs.Held != st.Accepted {
		t.Errorf("emitter %+v, router %+v, seen %d, missed %d", st, rs, seen, missed)
	}
	r.Close()
	e.Log(envelope.Out, "too late")
	if got := e.Stats(); got.Refused != 1 || got.Accepted != st.Accepted {
		t.Errorf("after the router's end: %+v", got)
	}
}

// BenchmarkRouter is what a log call costs a program that has a router inside.
func BenchmarkRouter(b *testing.B) {
	r := loggregator.New(&loggregator.Options{Budget: 64 << 20})
	defer r.Close()
	line := strings.Repeat("x", 100)
	for name, f := range map[string]func(e *emitter.Emitter) func(){
		"Log":     func(e *emitter.Emitter) func() { return func() { e.Log(envelope.Out, line) } },
		"Counter": func(e *emitter.Emitter) func() { return func() { e.Counter("orders", 1) } },
		"slog": func(e *emitter.Emitter) func() {
			log := slog.New(e.Handler(nil))
			return func() {
				log.LogAttrs(b.Context(), slog.LevelInfo, "order accepted", slog.String("id", "17"), slog.Int("n", 3))
			}
		},
	} {
		b.Run(name, func(b *testing.B) {
			e := emitter.New(r, shop, nil)
			f := f(e)
			b.ReportAllocs()
			for b.Loop() {
				f()
			}
			if st := e.Stats(); st.Refused > 0 {
				b.Errorf("%+v", st)
			}
		})
	}
	b.Run("Log/parallel", func(b *testing.B) {
		e := emitter.New(r, shop, nil)
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				e.Log(envelope.Out, line)
			}
		})
	})
}
