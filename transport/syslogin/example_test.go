package syslogin_test

import (
	"context"
	"fmt"
	"net"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/syslogin"
)

// A router that takes in syslog, and what it makes of a message.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	server := syslogin.NewServer(router, &syslogin.Options{
		Identify: func(o syslogin.Origin) (envelope.Identity, bool) {
			id, ok := o.Identity()
			id.Tags = map[string]string{envelope.TagSpaceName: "prod"}
			return id, ok
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()

	sender, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Fprintln(sender, "<11>1 2026-02-03T04:05:06Z web-1 shop 17 - - order 17 refused")
	sender.Close()

	follow := envelope.Query{Select: []envelope.Selector{{Space: "prod"}}, Last: 1, Follow: true}
	for batch, err := range router.Batches(context.Background(), follow) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for e := range batch.All() {
			fmt.Println(string(e.AppendJSON(nil)))
		}
		if batch.Count > 0 {
			break
		}
	}
	server.Shutdown(context.Background())
	fmt.Println(<-served)
	// Output:
	// {"timestamp":"2026-02-03T04:05:06Z","source_id":"shop","instance_id":"web-1","type":"log","stream":"ERR","text":"order 17 refused","tags":{"app_name":"shop","appname":"shop","facility":"user","hostname":"web-1","procid":"17","severity":"err","source_type":"SYSLOG","space_name":"prod"}}
	//
	// syslogin: closed
}
