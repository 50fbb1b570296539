package rlpgateway_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/rlpgateway"
)

// A client follows an application, is cut off, and goes on with the last id: what
// was written meanwhile is not lost.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	handler := rlpgateway.New(access.NewGate(router, nil, nil), nil)
	server := httptest.NewServer(handler)
	defer server.Close()
	defer handler.Close()

	shop := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	follow := func(lastID string, events int) string {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/v2/read?log&source_id=shop", nil)
		req.Header.Set("Last-Event-ID", lastID)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			return ""
		}
		defer resp.Body.Close()
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if id, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
				lastID = id
			}
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				fmt.Println(data[strings.Index(data, `"log"`):])
				events--
			}
			if events <= 0 && lastID != "" {
				break
			}
		}
		return lastID
	}
	id := follow("", 0)
	shop.Log(envelope.Out, "order 17 accepted")
	follow(id, 1)
	// Output:
	// "log":{"payload":"b3JkZXIgMTcgYWNjZXB0ZWQ=","type":"OUT"}}]}
}
