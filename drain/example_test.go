package drain_test

import (
	"context"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
)

// An application's logs go to its owner's receiver, from the oldest line held.
func ExampleOpen() {
	router := loggregator.New(nil)
	defer router.Close()

	d, err := drain.Open("syslog-tls://logs.example.com:6514?disable-metadata=true", router, envelope.Query{
		Select:  []envelope.Selector{{App: "shop", Space: "prod"}},
		History: true,
	}, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(d)

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		log.Print(err)
	}
	// Output: syslog-tls://logs.example.com:6514
}

// One line as it goes over the wire.
func ExampleFormatter() {
	shop := envelope.Identity{
		SourceID:   "0d1e2f30-1111-4222-8333-444455556666",
		InstanceID: "0",
		Tags:       map[string]string{"organization_name": "acme", "space_name": "prod", "app_name": "shop", "source_type": "APP/PROC/WEB"},
	}.Encode()
	record := envelope.AppendLog(nil, shop, time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC).UnixNano(), envelope.Out, []byte("hello"))
	e, _, err := envelope.Next(record)
	if err != nil {
		log.Fatal(err)
	}

	var f drain.Formatter
	os.Stdout.Write(f.AppendFrames(nil, e))
	// Output: 215 <14>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop 0d1e2f30-1111-4222-8333-444455556666 [APP/PROC/WEB/0] - [tags@47450 app_name="shop" organization_name="acme" source_type="APP/PROC/WEB" space_name="prod"] hello
}
