package transport_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

// TestReadingDoesNotWaitForWhoIsLongAway: a sequence that does not follow waits for
// a server that has gone a moment ago, and for none that is away for longer.
func TestReadingDoesNotWaitForWhoIsLongAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &faultnet.Network{}
		router := loggregator.New(nil)
		defer router.Close()
		serveRouter(t, n, "a:1", router, nil)
		say(t, router, "app", 1, 3)
		r := newReader(t, n, "tcp://a:1,tcp://b:1", &transport.ReaderOptions{TellAfter: time.Minute})
		for _, want := range []time.Duration{time.Minute, 0, 0} {
			start, lines, told := time.Now(), 0, 0
			for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything, Until: time.Unix(1, 0)}) {
				if err != nil {
					t.Fatal(err)
				}
				for e := range b.All() {
					if tag, _ := e.Tag(envelope.TagSourceType); string(tag) == envelope.SourceTypeLGR {
						told++
						continue
					}
					lines++
				}
			}
			if took := time.Since(start); lines != 3 || told != 1 || took != want {
				t.Errorf("%d lines, told %d times, after %v, want %v", lines, told, took, want)
			}
		}
		r.Close()
	})
}
