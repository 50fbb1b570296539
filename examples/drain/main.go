// Command drain sends an application's lines to a syslog receiver, which it
// plays itself: it prints what arrives, RFC 5424 with octet counting.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	receiver, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer receiver.Close()
	received := make(chan string, 1)
	go func() { received <- receive(receiver) }()

	router := loggregator.New(nil)
	defer router.Close()
	shop := emitter.New(router, envelope.Identity{SourceID: "shop-guid", InstanceID: "0", Tags: map[string]string{
		envelope.TagOrgName:    "acme",
		envelope.TagSpaceName:  "prod",
		envelope.TagAppName:    "shop",
		envelope.TagSourceType: "APP/PROC/WEB",
	}}, nil)
	shop.Log(envelope.Out, "logged before there was a drain")

	query := envelope.Query{Select: []envelope.Selector{{App: "shop"}}, History: true}
	d, err := drain.Open("syslog://"+receiver.Addr().String(), router, query, nil)
	if err != nil {
		return err
	}
	shop.Log(envelope.Err, "order 18 refused: no such article")

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil { // sends what is left
		return err
	}
	fmt.Println(<-received)
	fmt.Printf("delivered %d, missed %d\n", d.Stats().Delivered, d.Stats().Missed)
	return nil
}

// receive takes the first connection on which something comes, to its end. A
// drain that is told to end while it connects may come twice.
func receive(ln net.Listener) string {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err.Error()
		}
		all, err := io.ReadAll(conn)
		conn.Close()
		if err != nil || len(all) > 0 {
			return string(all)
		}
	}
}
