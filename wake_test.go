package loggregator

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

func TestWake(t *testing.T) {
	write := func(r *Router, source string) {
		fixed := envelope.Identity{SourceID: source, Tags: map[string]string{envelope.TagSpaceName: "prod"}}.Encode()
		b, _ := envelope.Of(envelope.AppendLog(nil, fixed, time.Now().UnixNano(), envelope.Out, []byte("line")))
		if err := r.WriteBatch(context.Background(), b); err != nil {
			t.Fatal(err)
		}
	}
	// cursor is where a reader stands who has read all there is.
	cursor := func(r *Router) (c envelope.Cursor) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		batches := 0
		for b, err := range r.Batches(ctx, envelope.Query{Select: []envelope.Selector{{Space: "prod"}}, History: true, Follow: true}) {
			if err != nil {
				break
			}
			c.Advance(b)
			if batches++; b.Count > 0 {
				cancel()
			}
		}
		return c
	}
	for name, c := range map[string]struct {
		then func(r *Router) // while it sleeps
		want bool
	}{
		"nothing":      {func(r *Router) {}, false},
		"a record":     {func(r *Router) { write(r, "a") }, true},
		"a new source": {func(r *Router) { write(r, "b") }, true},
		"closed":       {func(r *Router) { r.Close() }, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := New(nil)
			defer r.Close()
			write(r, "a")
			q := envelope.Query{Select: []envelope.Selector{{Space: "prod"}}, Cursor: cursor(r)}
			var woken atomic.Bool
			stop := r.Wake(q, func() { woken.Store(true) })
			if woken.Load() {
				t.Error("woken with nothing to read")
			}
			c.then(r)
			if woken.Load() != c.want {
				t.Errorf("woken: %v", woken.Load())
			}
			stop()
			woken.Store(false)
			if name != "closed" {
				write(r, "a")
			}
			if woken.Load() {
				t.Error("woken after stop")
			}
			again := r.Wake(q, func() { woken.Store(true) })
			defer again()
			if !woken.Load() {
				t.Error("not woken though there was something already")
			}
			if s := r.Stats(); name != "closed" && s.Readers != 1 {
				t.Errorf("%d readers", s.Readers)
			}
		})
	}
}
