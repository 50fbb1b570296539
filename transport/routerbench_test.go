package transport_test

import (
	"bytes"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// BenchmarkRouters publishes batches of ten records of 480 bytes into a router,
// whose link carries them over loopback TCP into another, all in one process.
// One operation is one batch. It holds back while more than half of the first
// router's memory is unsent, so that what is measured is delivered; what a ring
// has given up all the same is reported.
func BenchmarkRouters(b *testing.B) {
	for _, apps := range []int{1, 100, 5000} {
		b.Run(fmt.Sprintf("apps=%d", apps), func(b *testing.B) {
			from, to := loggregator.New(nil), loggregator.New(nil)
			server := transport.NewServer(to, nil)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			go server.Serve(ln)
			l, err := transport.NewLink("tcp://"+ln.Addr().String(), from, nil)
			if err != nil {
				b.Fatal(err)
			}
			batches := make([]envelope.Batch, apps)
			for i := range batches {
				f := envelope.Identity{SourceID: fmt.Sprint("app-", i), InstanceID: "0", Tags: map[string]string{
					envelope.TagAppName: fmt.Sprint("orders-", i), envelope.TagSpaceName: "production",
				}}.Encode()
				var records []byte
				for range 10 {
					line := bytes.Repeat([]byte("x"), 480-len(f)-20)
					records = envelope.AppendLog(records, f, time.Now().UnixNano(), envelope.Out, line)
				}
				if batches[i], err = envelope.Of(records); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(len(batches[0].Records)))
			b.ReportAllocs()
			begun, n := time.Now(), uint64(0)
			for b.Loop() {
				if err := from.WriteBatch(b.Context(), batches[n%uint64(apps)]); err != nil {
					b.Fatal(err)
				}
				n++
				for n%64 == 0 && behind(l, n*10) > 200_000 {
					time.Sleep(50 * time.Microsecond)
				}
			}
			if err := l.Flush(b.Context()); err != nil {
				b.Fatal(err)
			}
			elapsed := time.Since(begun)
			got := to.Stats()
			b.ReportMetric(float64(got.Accepted)/elapsed.Seconds(), "records/s")
			b.ReportMetric(float64(got.Lost)/float64(n*10)*100, "%missed")
			if n*10 != got.Accepted+got.Lost {
				b.Errorf("made %d, link %+v,\nfrom %+v,\nto %+v,\nserver %+v", n*10, l.Stats(), from.Stats(), got, server.Stats())
			}
			l.Close()
			server.Close()
			from.Close()
			to.Close()
		})
	}
}

// behind is how many of made records have not arrived.
func behind(l *transport.Link, made uint64) uint64 {
	s := l.Stats()
	return made - s.Acked - s.Missed
}
