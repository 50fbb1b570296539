package transport_test

import (
	"context"
	"fmt"
	"net"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// A router in one process, a router in another, and the link between them.
func Example() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()

	// The receiving process.
	there := loggregator.New(nil)
	defer there.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	server := transport.NewServer(there, nil)
	defer server.Close()
	go server.Serve(ln)

	// The sending process.
	here := loggregator.New(nil)
	defer here.Close()
	link, err := transport.NewLink("tcp://"+ln.Addr().String(), here, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	id := envelope.Identity{SourceID: "orders"}.Encode()
	records := envelope.AppendLog(nil, id, time.Now().UnixNano(), envelope.Out, []byte("hello"))
	batch, _ := envelope.Of(records)
	here.WriteBatch(ctx, batch)

	left, err := link.Shutdown(ctx)
	fmt.Println("left:", left, err)
	fmt.Println("arrived:", there.Stats().Accepted)
	// Output:
	// left: 0 <nil>
	// arrived: 1
}

// A server and a reader of it, in one program for once. Of several servers the
// reader is given all addresses, separated by commas.
func ExampleReader() {
	router := loggregator.New(nil)
	defer router.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	egress := transport.NewEgress(router, nil)
	go egress.Serve(ln)
	defer egress.Close()

	reader, err := transport.NewReader("tcp://"+ln.Addr().String(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer reader.Close()

	fixed := envelope.Identity{SourceID: "orders"}.Encode()
	batch, _ := envelope.Of(envelope.AppendLog(nil, fixed, 0, envelope.Out, []byte("started")))
	router.WriteBatch(context.Background(), batch)
	for b, err := range reader.Batches(context.Background(), envelope.Query{Select: envelope.Everything}) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for e := range b.All() {
			r, _ := e.Route()
			fmt.Printf("%s: %s\n", r.SourceID, r.Payload)
		}
	}
	// Output: orders: started
}
