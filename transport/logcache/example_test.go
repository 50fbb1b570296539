package logcache_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/logcache"
)

// A program that keeps its own logs, and answers `cf logs --recent` and everything
// else that knows Log Cache.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	cache := logcache.New(access.NewGate(router, nil, nil), &logcache.Options{Sources: router})
	defer cache.Close()
	web := httptest.NewServer(cache)
	defer web.Close()

	shop := emitter.New(router, envelope.Identity{SourceID: "shop", InstanceID: "0"}, nil)
	defer shop.Close()
	shop.Log(envelope.Out, "order 18 accepted")

	res, err := http.Get(web.URL + "/api/v1/read/shop?descending=true&envelope_types=LOG&limit=1")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	fmt.Printf("%s", regexp.MustCompile(`\d{19}`).ReplaceAll(body, []byte("…")))
	// Output:
	// {"envelopes":{"batch":[{"timestamp":"…","source_id":"shop","instance_id":"0","deprecated_tags":{},"tags":{},"log":{"payload":"b3JkZXIgMTggYWNjZXB0ZWQ=","type":"OUT"}}]}}
}
