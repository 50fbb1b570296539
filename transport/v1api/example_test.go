package v1api_test

import (
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/v1api"
)

// The last logs of an application, as a client of old asks for them.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	handler := v1api.New(access.NewGate(router, nil, nil), &v1api.Options{AnyID: true})
	server := httptest.NewServer(handler)
	defer server.Close()
	defer handler.Close()

	shop := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	shop.Log(envelope.Out, "order 17 accepted")

	resp, err := http.Get(server.URL + "/apps/shop/recentlogs")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	kind, params, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	part, err := multipart.NewReader(resp.Body, params["boundary"]).NextPart()
	if err != nil {
		fmt.Println(err)
		return
	}
	msg, _ := io.ReadAll(part) // a v1 envelope
	fmt.Println(kind, len(msg) > 0)
	// Output: multipart/x-protobuf true
}
