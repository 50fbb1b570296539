package grpcv2_test

import (
	"context"
	"fmt"
	"net"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// A router that stock clients send to and read from, and a component that sends to
// it, or to a Loggregator agent of today, over gRPC.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	server := grpcv2.NewServer(router, access.NewGate(router, nil, nil), nil)
	defer server.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	go server.Serve(ln)

	recent := loggregator.New(&loggregator.Options{Budget: 1 << 20}) // until it is acknowledged
	defer recent.Close()
	link, err := grpcv2.NewLink("grpc://"+ln.Addr().String(), recent, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer link.Close()
	e := emitter.New(recent, envelope.Identity{SourceID: "shop"}, nil)
	e.Log(envelope.Out, "order 17 accepted")
	if err := link.Flush(context.Background()); err != nil {
		fmt.Println(err)
		return
	}
	for b := range router.Batches(context.Background(), envelope.Query{Select: envelope.Everything}) {
		for line := range b.All() {
			fmt.Printf("%s\n", line.Payload())
		}
	}
	// Output: order 17 accepted
}
