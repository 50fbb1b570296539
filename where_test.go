package loggregator

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/cloudfoundry/loggregator/envelope"
)

// A query may leave out sources, those that are there and those that appear.
func TestWhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		write := func(source, line string) {
			f := envelope.Identity{SourceID: source}.Encode()
			b, err := envelope.Of(envelope.AppendLog(nil, f, 1, envelope.Out, []byte(line)))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.WriteBatch(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		write("a", "1")
		write("b", "2")
		ctx, cancel := context.WithCancel(t.Context())
		var got []string
		var rings sync.Map // who writes asks, too, of a source that is new
		done := make(chan struct{})
		go func() {
			defer close(done)
			q := envelope.Query{Select: envelope.Everything, History: true, Follow: true, Where: func(source string, ring envelope.StreamID) bool {
				rings.Store(ring, source)
				return source != "b" && source != "d"
			}}
			for b := range r.Batches(ctx, q) {
				for e := range b.All() {
					route, _ := e.Route()
					got = append(got, string(route.SourceID)+string(route.Payload))
					if of, _ := rings.Load(b.Ring); of != string(route.SourceID) {
						t.Errorf("ring of %s", route.SourceID)
					}
				}
			}
		}()
		synctest.Wait()
		write("b", "3")
		write("c", "4")
		write("d", "5")
		write("a", "6")
		synctest.Wait()
		cancel()
		<-done
		if fmt.Sprint(got) != "[a1 c4 a6]" {
			t.Errorf("%v", got)
		}
	})
}
