package rooms

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// BenchmarkScrape is one look at /metrics of a server that holds so many sources.
// Prometheus takes one every fifteen seconds.
func BenchmarkScrape(b *testing.B) {
	for _, sources := range []int{0, 10_000} {
		b.Run(fmt.Sprintf("sources=%d", sources), func(b *testing.B) {
			p := New("bench", "", "")
			rings := NewRings(p)
			if err := p.Flags.Parse(nil); err != nil && err != flag.ErrHelp {
				b.Fatal(err)
			}
			if err := rings.check(); err != nil {
				b.Fatal(err)
			}
			router, err := rings.Open()
			if err != nil {
				b.Fatal(err)
			}
			defer router.Close()
			for i := range sources {
				record := envelope.AppendLog(nil, envelope.Identity{SourceID: fmt.Sprint("app-", i)}.Encode(), 1, envelope.Out, []byte("hello"))
				if err := router.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1}); err != nil {
					b.Fatal(err)
				}
			}
			handler := ops.Handler(p.metrics, p.isReady, p.healthy)
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				handler.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/metrics", nil))
				if w.Code != http.StatusOK {
					b.Fatal(w.Body)
				}
			}
		})
	}
}
