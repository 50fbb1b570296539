package interop

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/dropsonde"
	"github.com/cloudfoundry/dropsonde/envelopes"
	"github.com/cloudfoundry/dropsonde/logs"
	"github.com/cloudfoundry/dropsonde/metrics"
	"github.com/cloudfoundry/sonde-go/events"

	"github.com/cloudfoundry/loggregator/internal/taken"
	v1 "github.com/cloudfoundry/loggregator/transport/dropsonde"
)

// TestDropsonde takes what a program sends that links the stock library.
func TestDropsonde(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dst := taken.New(t)
	server := v1.NewServer(dst, &v1.Options{Deployment: "cf"})
	served := make(chan error, 1)
	go func() { served <- server.ServePacket(pc) }()

	if err := dropsonde.Initialize(pc.LocalAddr().String(), "shop", "z1", "0"); err != nil {
		t.Fatal(err)
	}
	const guid = "27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(logs.SendAppLog(guid, "to stdout", "APP", "3"))
	check(logs.SendAppErrorLog(guid, "to stderr", "APP", "3"))
	const lines = 100
	go func() {
		var text strings.Builder
		for i := range lines {
			fmt.Fprintf(&text, "line %d\n", i)
		}
		logs.ScanLogStream("stream", "APP", "0", io.NopCloser(strings.NewReader(text.String())))
	}()
	check(metrics.SendValue("latency", 1.5, "ms"))
	check(metrics.SendContainerMetric(guid, 3, 12.5, 1024, 2048))
	name, delta := "requests", uint64(5)
	for range 2 {
		check(envelopes.SendEnvelope(&events.Envelope{
			Origin: new("other"), EventType: events.Envelope_CounterEvent.Enum(),
			CounterEvent: &events.CounterEvent{Name: &name, Delta: &delta},
		}))
	}

	// The library adds measurements of the program itself, so these are looked for.
	want := []taken.Record{
		{Source: guid, Instance: "3", Stream: "OUT", Text: "to stdout", Tags: "__v1_type=LogMessage deployment=cf index= ip= job= origin=shop/z1/0 source_type=APP"},
		{Source: guid, Instance: "3", Stream: "ERR", Text: "to stderr", Tags: "__v1_type=LogMessage deployment=cf index= ip= job= origin=shop/z1/0 source_type=APP"},
		{Source: "shop/z1/0", Stream: "GAUGE latency=1.5ms", Tags: "__v1_type=ValueMetric deployment=cf index= ip= job= origin=shop/z1/0"},
		{Source: guid, Instance: "3", Stream: "GAUGE cpu=12.5percentage memory=1024bytes disk=2048bytes memory_quota=0bytes disk_quota=0bytes", Tags: "__v1_type=ContainerMetric deployment=cf index= ip= job= origin=shop/z1/0"},
		{Source: "other", Stream: "COUNTER requests delta=5 total=5", Tags: "__v1_type=CounterEvent deployment=cf index= ip= job= origin=other"},
		{Source: "other", Stream: "COUNTER requests delta=5 total=10", Tags: "__v1_type=CounterEvent deployment=cf index= ip= job= origin=other"},
	}
	for i := range lines {
		want = append(want, taken.Record{Source: "stream", Instance: "0", Stream: "OUT", Text: fmt.Sprintf("line %d", i), Tags: "__v1_type=LogMessage deployment=cf index= ip= job= origin=shop/z1/0 source_type=APP"})
	}
	found := make(map[taken.Record]int)
	for left := len(want); left > 0; {
		dst.Wait(1)
		for _, r := range dst.Take() {
			at, err := time.Parse(time.RFC3339Nano, r.Time)
			if d := time.Since(at); r.Source != "other" && (err != nil || d < 0 || d > time.Minute) {
				t.Errorf("time %s of %s", r.Time, r.Stream)
			}
			r.Time = ""
			found[r]++
		}
		left = 0
		for _, r := range want {
			if found[r] == 0 {
				left++
			}
		}
	}
	for _, r := range want {
		if found[r] != 1 {
			t.Errorf("%d times: %+v", found[r], r)
		}
	}
	server.Close()
	<-served
	if s := server.Stats(); len(s.Refused) > 0 || s.Lost > 0 || s.Dropped > 0 {
		t.Errorf("%+v", s)
	}
}
