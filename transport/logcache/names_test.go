package logcache

import (
	"regexp"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// FuzzNames compares what a name_filter leaves of an envelope with the same done to
// the decoded one.
func FuzzNames(f *testing.F) {
	fixed := identity("app")
	for _, record := range [][]byte{
		envelope.AppendGauge(nil, fixed, 7, envelope.Metric{Name: []byte("cpu"), Unit: []byte("%"), Value: 1}, envelope.Metric{Name: []byte("memory"), Value: 2}),
		envelope.AppendCounter(nil, fixed, 7, "requests", 1, 2),
		envelope.AppendTimer(nil, fixed, 7, "http", 1, 2),
		envelope.AppendEvent(nil, fixed, 7, "cpu", "m"),
		logLine("app", 7, "cpu"),
	} {
		e, _, _ := envelope.Next(record)
		f.Add([]byte(e), "^[cr]")
		f.Add(append([]byte("\x3a\x06\x0a\x04time\x32\x09\x0a\x07\x0a\x01m\x12\x02\x0a\x00"), e...), "m")
	}
	f.Fuzz(func(t *testing.T, e []byte, pattern string) {
		name, err := regexp.Compile(pattern)
		route, bad := envelope.Envelope(e).Check(nil)
		if err != nil || bad != nil || len(pattern) > 100 {
			return
		}
		var want envelopepb.Envelope
		if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e, &want); err != nil {
			t.Fatal(err)
		}
		found := false
		switch m := want.Message.(type) {
		case *envelopepb.Envelope_Counter:
			found = name.MatchString(m.Counter.GetName())
		case *envelopepb.Envelope_Timer:
			found = name.MatchString(m.Timer.GetName())
		case *envelopepb.Envelope_Gauge:
			for k := range m.Gauge.GetMetrics() {
				if name.MatchString(k) {
					found = true
				} else {
					delete(m.Gauge.Metrics, k)
				}
			}
		}
		got := appendNamed(nil, envelope.AppendRecord(nil, e), e, route.Kind, name)
		if (len(got) > 0) != found {
			t.Fatalf("%x: found %v, want %v", e, len(got) > 0, found)
		}
		if !found {
			return
		}
		left, rest, err := envelope.Next(got)
		var m envelopepb.Envelope
		if err != nil || len(rest) > 0 || (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(left, &m) != nil {
			t.Fatalf("%x became %x: %v", e, got, err)
		}
		if !proto.Equal(&m, &want) {
			t.Fatalf("%x:\n%v\nwant\n%v", e, &m, &want)
		}
	})
}
