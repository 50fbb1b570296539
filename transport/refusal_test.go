package transport_test

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// TestRefusalIsExplained: a sender that a limit keeps out hears of it, and its
// operator where he looks: in the link's last error.
func TestRefusalIsExplained(t *testing.T) {
	for _, tc := range []struct {
		name, says string
		o          transport.ServerOptions
		reason     string
	}{
		{"too many", "too many connections", transport.ServerOptions{MaxConns: 1}, "full"},
		{"too large", "a message above the limit", transport.ServerOptions{MaxMessage: 4 << 10}, "too_large"},
		{"no memory", "no memory left", transport.ServerOptions{MaxBuffered: 1}, "memory"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			router := loggregator.New(nil)
			defer router.Close()
			server := transport.NewServer(router, &tc.o)
			defer server.Close()
			go server.Serve(ln)
			var links []*transport.Link
			for i := range 2 {
				source := loggregator.New(nil)
				defer source.Close()
				link, err := transport.NewLink("tcp://"+ln.Addr().String(), source, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer link.Close()
				links = append(links, link)
				id := envelope.Identity{SourceID: "shop"}.Encode()
				for _, size := range []int{10, 100 << 10} {
					if size > 10 && tc.reason == "full" {
						continue
					}
					record := envelope.AppendLog(nil, id, int64(i), envelope.Out, make([]byte, size))
					if err := source.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1}); err != nil {
						t.Fatal(err)
					}
					if size == 10 && i == 0 {
						ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
						if err := link.Flush(ctx); err != nil {
							t.Fatal(err)
						}
						cancel()
					}
				}
			}
			told := func() bool {
				for _, l := range links {
					if strings.Contains(l.Stats().LastError, tc.says) {
						return true
					}
				}
				return false
			}
			for end := time.Now().Add(30 * time.Second); !told() || server.Stats().Refused[tc.reason] == 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("%+v %+v; the server: %+v", links[0].Stats(), links[1].Stats(), server.Stats())
				}
			}
		})
	}
}
