package logplexin_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/logplexin"
)

// A router that takes in what log-shuttle sends, from those who know the token.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	handler := logplexin.New(router, &logplexin.Options{
		Authorize: func(_, password, _ string) (app string, ok bool) {
			return "shop", password == "t.123"
		},
	})
	server := httptest.NewServer(handler)
	defer server.Close()

	line := "<190>1 2026-02-03T04:05:06+00:00 shuttle token web.3 - - order 17 accepted\n"
	request, err := http.NewRequest("POST", server.URL, strings.NewReader(fmt.Sprintf("%d %s", len(line), line)))
	if err != nil {
		fmt.Println(err)
		return
	}
	request.Header.Set("Content-Type", logplexin.ContentType)
	request.Header.Set("Logplex-Msg-Count", "1")
	request.SetBasicAuth("token", "t.123")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	response.Body.Close()
	fmt.Println(response.Status)

	recent := envelope.Query{Select: []envelope.Selector{{App: "shop"}}, Last: 1}
	for batch := range router.Batches(context.Background(), recent) {
		for e := range batch.All() {
			fmt.Print(string(e.AppendJSON(nil)))
		}
	}
	handler.Shutdown(context.Background())
	// Output:
	// 204 No Content
	// {"timestamp":"2026-02-03T04:05:06Z","source_id":"shop","instance_id":"3","type":"log","stream":"OUT","text":"order 17 accepted","tags":{"app_name":"shop","appname":"token","facility":"local7","hostname":"shuttle","procid":"web.3","severity":"info","source_type":"APP/PROC/WEB"}}
}
