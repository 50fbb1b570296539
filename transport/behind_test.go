package transport_test

import (
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// A reader of two servers is as far behind as it is behind at both together, and
// as the routers themselves say.
func TestBehindOverServers(t *testing.T) {
	var routers []*loggregator.Router
	addr := ""
	for i := range 2 {
		r := loggregator.New(nil)
		defer r.Close()
		for app := range 3 {
			fixed := envelope.Identity{SourceID: fmt.Sprint("app-", app)}.Encode()
			for n := range 10 * (i + 1) {
				b, _ := envelope.Of(envelope.AppendLog(nil, fixed, time.Now().UnixNano(), envelope.Out, fmt.Append(nil, n)))
				if err := r.WriteBatch(t.Context(), b); err != nil {
					t.Fatal(err)
				}
			}
		}
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		e := transport.NewEgress(r, nil)
		defer e.Close()
		go e.Serve(ln)
		routers = append(routers, r)
		addr += ",tcp://" + ln.Addr().String()
	}
	reader, err := transport.NewReader(addr[1:], nil)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	at := make(map[envelope.StreamID]uint64)
	for i, r := range routers {
		for s := range r.Sources(envelope.Everything) {
			if s.SourceID != "app-2" { // of which nothing was read
				at[s.Ring] = uint64(4 + i)
			}
		}
	}
	for _, sel := range [][]envelope.Selector{envelope.Everything, {{SourceID: "app-0"}}, {{SourceID: "app-2"}}, {{SourceID: "none"}}} {
		want := routers[0].Behind(sel, at) + routers[1].Behind(sel, at)
		if got := reader.Behind(sel, at); got != want {
			t.Errorf("%+v: %d, and the routers say %d", sel, got, want)
		}
	}
}
