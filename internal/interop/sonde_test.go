package interop

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	"code.cloudfoundry.org/go-loggregator/v10/conversion"
	"code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"github.com/cloudfoundry/sonde-go/events"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/internal/sonde"
)

// TestV1AsTheStockConversion compares what becomes of envelopes of today with what
// the stock library makes of them.
func TestV1AsTheStockConversion(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	var enc sonde.Encoder
	kinds := make(map[events.Envelope_EventType]int)
	for range 20_000 {
		e := anyEnvelope(rng)
		b, err := proto.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		var got []*events.Envelope
		enc.Each(b, func(_ int32, msg []byte) {
			v := new(events.Envelope)
			if err := proto.Unmarshal(msg, v); err != nil {
				t.Fatalf("%v: %v", e, err)
			}
			got = append(got, v)
		})
		want := conversion.ToV1(proto.CloneOf(e)) // it changes what it is given
		byName := func(a, b *events.Envelope) int {
			return strings.Compare(a.GetValueMetric().GetName(), b.GetValueMetric().GetName())
		}
		slices.SortFunc(got, byName)
		slices.SortFunc(want, byName)
		if len(got) != len(want) {
			t.Fatalf("%v became %v, want %v", e, got, want)
		}
		for i, w := range want {
			// Without these, nobody could decode what is made.
			if w.HttpStartStop != nil && w.HttpStartStop.RequestId == nil {
				w.HttpStartStop.RequestId = &events.UUID{Low: new(uint64(0)), High: new(uint64(0))}
			}
			if w.LogMessage != nil && w.LogMessage.Message == nil {
				w.LogMessage.Message = []byte{}
			}
			if !proto.Equal(got[i], w) {
				t.Fatalf("%v became\n%v, want\n%v", e, got[i], w)
			}
			kinds[w.GetEventType()]++
		}
	}
	if len(kinds) != 6 {
		t.Errorf("not all kinds: %v", kinds)
	}
}

func anyEnvelope(rng *rand.Rand) *loggregator_v2.Envelope {
	pick := func(of ...string) string { return of[rng.IntN(len(of))] }
	const guid = "27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"
	text := func() string {
		return pick("", "a", "7", "-3", "99999999999", guid, "Client", "Server", "GET", "PATCH", "VERSION_CONTROL", "Error", "LogMessage", "x\ny\n")
	}
	keys := []string{"origin", "deployment", "job", "index", "ip", "__v1_type", "source_id", "instance_id", "source_type", "source", "code", "request_id", "peer_type",
		"method", "uri", "remote_address", "user_agent", "status_code", "content_length", "routing_instance_id", "forwarded", "else"}
	e := &loggregator_v2.Envelope{
		Timestamp: rng.Int64() >> rng.IntN(64), SourceId: pick("app", guid, strings.ToUpper(guid), "", "router"), InstanceId: pick("", "0", "12", "x", "99999999999"),
		Tags: make(map[string]string), DeprecatedTags: make(map[string]*loggregator_v2.Value),
	}
	for range rng.IntN(12) {
		e.Tags[keys[rng.IntN(len(keys))]] = text()
	}
	if rng.IntN(3) == 0 {
		for range rng.IntN(6) {
			e.DeprecatedTags[keys[rng.IntN(len(keys))]] = []*loggregator_v2.Value{
				{}, {Data: &loggregator_v2.Value_Text{Text: text()}}, {Data: &loggregator_v2.Value_Integer{Integer: rng.Int64N(1000) - 500}},
				{Data: &loggregator_v2.Value_Decimal{Decimal: rng.NormFloat64() * 1e6}},
			}[rng.IntN(4)]
		}
	}
	number := func() uint64 { return rng.Uint64() >> rng.IntN(64) }
	switch rng.IntN(6) {
	case 0:
		e.Message = &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{Payload: []byte(text()), Type: loggregator_v2.Log_Type(rng.IntN(2))}}
	case 1:
		e.Message = &loggregator_v2.Envelope_Counter{Counter: &loggregator_v2.Counter{Name: text(), Delta: number(), Total: number()}}
	case 2:
		g := make(map[string]*loggregator_v2.GaugeValue)
		names := []string{"cpu", "memory", "disk", "memory_quota", "disk_quota", "instance_index"}
		if rng.IntN(2) == 0 {
			names = []string{pick(names...), "x" + strconv.Itoa(rng.IntN(3))}
		}
		for _, name := range names {
			if rng.IntN(12) > 0 {
				g[name] = &loggregator_v2.GaugeValue{Unit: pick("bytes", "bytes", ""), Value: float64(rng.IntN(1 << 30))}
			}
		}
		e.Message = &loggregator_v2.Envelope_Gauge{Gauge: &loggregator_v2.Gauge{Metrics: g}}
	case 3:
		e.Message = &loggregator_v2.Envelope_Timer{Timer: &loggregator_v2.Timer{Name: text(), Start: rng.Int64(), Stop: rng.Int64()}}
	case 4:
		e.Message = &loggregator_v2.Envelope_Event{Event: &loggregator_v2.Event{Title: text()}}
	}
	return e
}
