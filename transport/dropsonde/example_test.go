package dropsonde_test

import (
	"context"
	"encoding/hex"
	"fmt"
	"net"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/dropsonde"
)

// A router that takes in what the dropsonde library sends.
func Example() {
	router := loggregator.New(nil)
	defer router.Close()
	server := dropsonde.NewServer(router, &dropsonde.Options{Deployment: "cf", Job: "cell"})
	pc, err := net.ListenPacket("udp", "127.0.0.1:0") // programs expect 127.0.0.1:3457
	if err != nil {
		fmt.Println(err)
		return
	}
	served := make(chan error, 1)
	go func() { served <- server.ServePacket(pc) }()

	program, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		fmt.Println(err)
		return
	}
	datagram, err := hex.DecodeString("0a04746573741005308080f4a3aff6e88f1342200a0568656c6c6f1001188080f4a3aff6e88f1322036170702a03415050320130")
	if err != nil {
		fmt.Println(err)
		return
	}
	program.Write(datagram)
	program.Close()

	follow := envelope.Query{Select: []envelope.Selector{{SourceID: "app"}}, Last: 1, Follow: true}
	for batch, err := range router.Batches(context.Background(), follow) {
		if err != nil {
			fmt.Println(err)
			return
		}
		for e := range batch.All() {
			fmt.Print(string(e.AppendJSON(nil)))
		}
		if batch.Count > 0 {
			break
		}
	}
	server.Shutdown(context.Background())
	fmt.Println(<-served)
	// Output:
	// {"timestamp":"2013-09-01T01:46:40Z","source_id":"app","instance_id":"0","type":"log","stream":"OUT","text":"hello","tags":{"__v1_type":"LogMessage","deployment":"cf","index":"","ip":"","job":"cell","origin":"test","source_type":"APP"}}
	// dropsonde: closed
}
