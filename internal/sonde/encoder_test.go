package sonde

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/internal/sonde/v1pb"
)

const guid = "27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"

// model is the contract's table of the way from v2 to v1, on decoded messages.
func model(e *envelopepb.Envelope) []*v1pb.Envelope {
	tags := maps.Clone(e.Tags)
	if tags == nil {
		tags = make(map[string]string)
	}
	for k, v := range e.DeprecatedTags {
		switch d := v.GetData().(type) {
		case *envelopepb.Value_Text:
			tags[k] = d.Text
		case *envelopepb.Value_Integer:
			tags[k] = fmt.Sprintf("%d", d.Integer)
		case *envelopepb.Value_Decimal:
			tags[k] = fmt.Sprintf("%f", d.Decimal)
		}
	}
	get := func(key string) string {
		if v, ok := e.Tags[key]; ok {
			return v
		}
		return tags[key]
	}
	atoi := func(key string) int64 {
		n, err := strconv.ParseInt(get(key), 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	base := func(event int32, without ...string) *v1pb.Envelope {
		v := &v1pb.Envelope{
			Origin: new(get("origin")), EventType: &event, Timestamp: &e.Timestamp,
			Deployment: new(get("deployment")), Job: new(get("job")), Index: new(get("index")), Ip: new(get("ip")), Tags: maps.Clone(tags),
		}
		if e.SourceId != "" {
			v.Tags["source_id"] = e.SourceId
		}
		for _, k := range append(without, "origin", "deployment", "job", "index", "ip", "__v1_type") {
			delete(v.Tags, k)
		}
		return v
	}
	index := int32(0)
	if n, err := strconv.ParseInt(e.InstanceId, 10, 32); err == nil {
		index = int32(n)
	}
	switch m := e.Message.(type) {
	case *envelopepb.Envelope_Log:
		if get("__v1_type") == "Error" {
			v := base(8, "source", "code")
			v.Error = &v1pb.Error{Source: new(get("source")), Code: new(int32(atoi("code"))), Message: new(string(m.Log.Payload))}
			return []*v1pb.Envelope{v}
		}
		v := base(5, "source_type")
		kind := int32(2)
		if m.Log.Type == envelopepb.Log_OUT {
			kind = 1
		}
		v.LogMessage = &v1pb.LogMessage{Message: append([]byte{}, m.Log.Payload...), MessageType: &kind, Timestamp: &e.Timestamp,
			AppId: &e.SourceId, SourceType: new(get("source_type")), SourceInstance: &e.InstanceId}
		return []*v1pb.Envelope{v}
	case *envelopepb.Envelope_Counter:
		v := base(7)
		if e.InstanceId != "" {
			v.Tags["instance_id"] = e.InstanceId
		}
		v.CounterEvent = &v1pb.CounterEvent{Name: &m.Counter.Name, Delta: &m.Counter.Delta, Total: &m.Counter.Total}
		return []*v1pb.Envelope{v}
	case *envelopepb.Envelope_Gauge:
		g := m.Gauge.Metrics
		container := len(g) != 1
		for _, name := range []string{"cpu", "memory", "disk", "memory_quota", "disk_quota"} {
			container = container && g[name] != nil && (g[name].Unit != "" || g[name].Value != 0)
		}
		if container {
			if i, ok := g["instance_index"]; ok {
				index = toInt32(i.Value)
			}
			v := base(9)
			v.ContainerMetric = &v1pb.ContainerMetric{ApplicationId: &e.SourceId, InstanceIndex: &index, CpuPercentage: &g["cpu"].Value,
				MemoryBytes: new(toUint64(g["memory"].Value)), DiskBytes: new(toUint64(g["disk"].Value)),
				MemoryBytesQuota: new(toUint64(g["memory_quota"].Value)), DiskBytesQuota: new(toUint64(g["disk_quota"].Value))}
			return []*v1pb.Envelope{v}
		}
		var all []*v1pb.Envelope
		for name, metric := range g {
			v := base(6)
			if e.InstanceId != "" {
				v.Tags["instance_id"] = e.InstanceId
			}
			v.ValueMetric = &v1pb.ValueMetric{Name: &name, Value: &metric.Value, Unit: &metric.Unit}
			all = append(all, v)
		}
		return all
	case *envelopepb.Envelope_Timer:
		uuid := func(text string) *v1pb.UUID {
			if len(text) != 36 {
				return nil
			}
			b, err := hex.DecodeString(text[:8] + text[9:13] + text[14:18] + text[19:23] + text[24:])
			if err != nil {
				return nil
			}
			return &v1pb.UUID{Low: new(binary.LittleEndian.Uint64(b)), High: new(binary.LittleEndian.Uint64(b[8:]))}
		}
		v := base(4, "request_id", "peer_type", "method", "uri", "remote_address", "user_agent", "status_code", "content_length", "routing_instance_id", "forwarded")
		peers := map[string]int32{"Client": 1, "Server": 2}
		method := max(0, slices.Index(Methods[:], get("method")))
		v.HttpStartStop = &v1pb.HttpStartStop{StartTimestamp: &m.Timer.Start, StopTimestamp: &m.Timer.Stop,
			RequestId: uuid(get("request_id")), ApplicationId: uuid(e.SourceId), PeerType: new(peers[get("peer_type")]), Method: new(int32(method)),
			Uri: new(get("uri")), RemoteAddress: new(get("remote_address")), UserAgent: new(get("user_agent")),
			StatusCode: new(int32(atoi("status_code"))), ContentLength: new(atoi("content_length")), InstanceIndex: &index,
			InstanceId: new(get("routing_instance_id")), Forwarded: strings.Split(get("forwarded"), "\n")}
		if v.HttpStartStop.RequestId == nil {
			v.HttpStartStop.RequestId = &v1pb.UUID{Low: new(uint64(0)), High: new(uint64(0))}
		}
		return []*v1pb.Envelope{v}
	}
	return nil
}

// compare checks what c makes of e against the model.
func compare(t *testing.T, c *Encoder, e envelope.Envelope) {
	t.Helper()
	var m envelopepb.Envelope
	if err := proto.Unmarshal(e, &m); err != nil {
		t.Fatal(err)
	}
	var got []*v1pb.Envelope
	c.Each(e, func(event int32, msg []byte) {
		v := new(v1pb.Envelope)
		if err := proto.Unmarshal(msg, v); err != nil { // nothing that is required is missing
			t.Fatal(err)
		}
		if v.GetEventType() != event || len(v.ProtoReflect().GetUnknown()) > 0 {
			t.Fatalf("event %d: %v", event, v)
		}
		got = append(got, v)
	})
	want := model(&m)
	name := func(a, b *v1pb.Envelope) int {
		return strings.Compare(a.GetValueMetric().GetName(), b.GetValueMetric().GetName())
	}
	slices.SortFunc(got, name)
	slices.SortFunc(want, name)
	if len(got) != len(want) {
		t.Fatalf("%d v1 envelopes, want %d: %v", len(got), len(want), want)
	}
	for i := range want {
		if !proto.Equal(got[i], want[i]) {
			t.Errorf("got  %v\nwant %v", got[i], want[i])
		}
	}
}

func samples() []envelope.Envelope {
	var all []envelope.Envelope
	add := func(m *envelopepb.Envelope) {
		e, _ := proto.Marshal(m)
		all = append(all, e)
	}
	tags := map[string]string{"origin": "o", "deployment": "cf", "job": "cell", "index": "7", "ip": "10.0.0.1", "__v1_type": "LogMessage", "source_type": "APP", "k": "v", "source_id": "tagged", "instance_id": "9"}
	old := map[string]*envelopepb.Value{"origin": {Data: &envelopepb.Value_Text{Text: "old"}}, "n": {Data: &envelopepb.Value_Integer{Integer: -4}},
		"f": {Data: &envelopepb.Value_Decimal{Decimal: 1.5}}, "none": {}, "job": {Data: &envelopepb.Value_Text{Text: "j"}}}
	log := &envelopepb.Envelope_Log{Log: &envelopepb.Log{Payload: []byte("hello")}}
	value := func(unit string, v float64) *envelopepb.GaugeValue {
		return &envelopepb.GaugeValue{Unit: unit, Value: v}
	}
	box := func() map[string]*envelopepb.GaugeValue {
		return map[string]*envelopepb.GaugeValue{"cpu": value("percentage", 12.5), "memory": value("bytes", 1), "disk": value("bytes", 2), "memory_quota": value("bytes", 0), "disk_quota": value("", math.Inf(1))}
	}
	with := func(g map[string]*envelopepb.GaugeValue, name string, v *envelopepb.GaugeValue) *envelopepb.Envelope_Gauge {
		if g[name] = v; v == nil {
			delete(g, name)
		}
		return &envelopepb.Envelope_Gauge{Gauge: &envelopepb.Gauge{Metrics: g}}
	}
	request := map[string]string{"request_id": guid, "peer_type": "Server", "method": "PATCH", "uri": "/", "remote_address": "a:1", "user_agent": "ua",
		"status_code": "404", "content_length": "-1", "routing_instance_id": "cell", "forwarded": "a\nb", "origin": "gorouter", "__v1_type": "HttpStartStop", "else": "x"}
	timer := &envelopepb.Envelope_Timer{Timer: &envelopepb.Timer{Name: "http", Start: 1, Stop: -2}}
	for _, m := range []*envelopepb.Envelope{
		{},
		{SourceId: guid, InstanceId: "3", Timestamp: 1378000000000000000, Tags: tags, Message: log},
		{SourceId: guid, InstanceId: "3", Timestamp: 1378000000000000001, Tags: tags, Message: &envelopepb.Envelope_Log{Log: &envelopepb.Log{Type: 1}}},
		{SourceId: guid, Timestamp: -5, DeprecatedTags: old, Tags: map[string]string{"job": "preferred"}, Message: &envelopepb.Envelope_Log{Log: &envelopepb.Log{Type: 7}}},
		{SourceId: "o", Tags: map[string]string{"__v1_type": "Error", "source": "nats", "code": "-3", "source_type": "kept"}, Message: log},
		{SourceId: "o", Tags: map[string]string{"__v1_type": "Error", "code": "much"}, Message: log},
		{SourceId: "o", InstanceId: "i", Tags: tags, Message: &envelopepb.Envelope_Counter{Counter: &envelopepb.Counter{Name: "c", Delta: 1, Total: math.MaxUint64}}},
		{SourceId: "o", Tags: tags, Message: &envelopepb.Envelope_Counter{Counter: &envelopepb.Counter{Name: "c"}}},
		{SourceId: "o", InstanceId: "i", Tags: tags, Message: with(map[string]*envelopepb.GaugeValue{}, "cpu", value("percentage", math.NaN()))},
		{SourceId: "o", InstanceId: "2", Tags: tags, Message: with(box(), "else", nil)},
		{SourceId: "o", InstanceId: "2", Tags: tags, Message: with(box(), "instance_index", value("", 19))},
		{SourceId: "o", InstanceId: "2", Tags: tags, Message: with(box(), "instance_index", value("", math.Inf(-1)))},
		{SourceId: "o", InstanceId: "2", Tags: tags, Message: with(box(), "memory", value("", 0))},
		{SourceId: "o", InstanceId: "2", Tags: tags, Message: with(box(), "memory", nil)},
		{SourceId: "o", InstanceId: "x", Tags: tags, Message: with(box(), "memory", value("bytes", -7))},
		{SourceId: "o", Message: &envelopepb.Envelope_Gauge{Gauge: &envelopepb.Gauge{}}},
		{SourceId: guid, InstanceId: "4", Tags: request, Message: timer},
		{SourceId: "router", InstanceId: "99999999999", Tags: map[string]string{"method": "get", "request_id": "none", "status_code": "4294967300"}, Message: timer},
		{SourceId: "a", Tags: tags, Message: &envelopepb.Envelope_Event{Event: &envelopepb.Event{Title: "t"}}},
	} {
		add(m)
	}
	return all
}

func TestEncoder(t *testing.T) {
	var c Encoder
	for i, e := range samples() {
		t.Run(strconv.Itoa(i), func(t *testing.T) {
			compare(t, &c, e)
			compare(t, &c, e) // as one that says the same as the one before
		})
	}
}

// The vector of the contract, the way back.
func TestVector(t *testing.T) {
	fixed := envelope.Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{"origin": "test", "source_type": "APP"}}.Encode()
	e, _, _ := envelope.Next(envelope.AppendLog(nil, fixed, 1378000000000000000, envelope.Out, []byte("hello")))
	want, _ := hex.DecodeString("0a04746573741005308080f4a3aff6e88f1342200a0568656c6c6f1001188080f4a3aff6e88f1322036170702a03415050320130")
	var c Encoder
	c.Each(e, func(_ int32, msg []byte) {
		// What comes after it is said on the way from v2: empty fields, and the source.
		if !bytes.HasPrefix(msg, want) {
			t.Errorf("%x\nwant %x", msg, want)
		}
	})
}

// FuzzEncoder compares with google.golang.org/protobuf and the model what is made
// of any two envelopes that pass the door, one after the other.
func FuzzEncoder(f *testing.F) {
	all := samples()
	for i, e := range all {
		f.Add([]byte(e), []byte(all[(i+1)%len(all)]))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var c Encoder
		for _, e := range []envelope.Envelope{first, second, first} {
			if _, err := e.Check(nil); err == nil {
				compare(t, &c, e)
			}
		}
	})
}

func lineOf200() envelope.Envelope {
	fixed := envelope.Identity{SourceID: guid, InstanceID: "0", Tags: map[string]string{
		"source_type": "APP/PROC/WEB", "app_name": "shop", "space_name": "dev", "organization_name": "acme", "origin": "rep", "deployment": "cf", "job": "cell", "index": "8f6", "ip": "10.0.16.5",
	}}.Encode()
	e, _, _ := envelope.Next(envelope.AppendLog(nil, fixed, 1378000000000000000, envelope.Out, bytes.Repeat([]byte("x"), 200)))
	return e
}

func TestNoAllocations(t *testing.T) {
	var c Encoder
	var counter envelope.Envelope
	counter, _, _ = envelope.Next(envelope.AppendCounter(nil, envelope.Identity{SourceID: "a", InstanceID: "i", Tags: map[string]string{"origin": "o", "k": "v"}}.Encode(), 1, "c", 1, 2))
	line := lineOf200()
	put := func(int32, []byte) {}
	for name, e := range map[string]envelope.Envelope{"log": line, "counter": counter} {
		c.Each(e, put)
		if n := testing.AllocsPerRun(100, func() { c.Each(e, put) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

func BenchmarkEncoder(b *testing.B) {
	e := lineOf200()
	var c Encoder
	b.SetBytes(int64(len(e)))
	b.ReportAllocs()
	for b.Loop() {
		c.Each(e, func(int32, []byte) {})
	}
}
