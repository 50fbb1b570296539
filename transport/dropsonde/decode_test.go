package dropsonde

import (
	"math"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde/v1pb"
)

// FuzzDecode compares with google.golang.org/protobuf: what that takes, this
// takes, with the same fields, and no more; and whatever is taken becomes a
// record that passes the door.
func FuzzDecode(f *testing.F) {
	f.Add(unhex(f, vector))
	f.Add(marshal(f, &v1pb.Envelope{EventType: new(int32(4)), Tags: map[string]string{"a": "b", "source_id": "x"}, HttpStartStop: &v1pb.HttpStartStop{
		StartTimestamp: new(int64(1)), StopTimestamp: new(int64(2)), RequestId: &v1pb.UUID{Low: new(uint64(1)), High: new(uint64(2))}, PeerType: new(int32(1)), Method: new(int32(1)),
		Uri: new("/"), RemoteAddress: new("r"), UserAgent: new("u"), StatusCode: new(int32(200)), ContentLength: new(int64(9)),
		ApplicationId: &v1pb.UUID{Low: new(uint64(3)), High: new(uint64(4))}, InstanceIndex: new(int32(1)), InstanceId: new("i"), Forwarded: []string{"f", "g"}}}))
	for _, spoiled := range spoiledRequests(f) {
		f.Add(spoiled)
	}
	f.Add(marshal(f, &v1pb.Envelope{EventType: new(int32(6)), ValueMetric: &v1pb.ValueMetric{Name: new("n"), Value: new(1.5), Unit: new("u")}}))
	f.Add(marshal(f, &v1pb.Envelope{EventType: new(int32(7)), CounterEvent: &v1pb.CounterEvent{Name: new("n"), Delta: new(uint64(1)), Total: new(uint64(2))}}))
	f.Add(marshal(f, &v1pb.Envelope{EventType: new(int32(8)), Error: &v1pb.Error{Source: new("s"), Code: new(int32(1)), Message: new("m")}}))
	f.Add(marshal(f, &v1pb.Envelope{EventType: new(int32(9)), Deployment: new("d"), Job: new("j"), Index: new("i"), Ip: new("p"), ContainerMetric: &v1pb.ContainerMetric{
		ApplicationId: new("a"), InstanceIndex: new(int32(1)), CpuPercentage: new(1.0), MemoryBytes: new(uint64(1)), DiskBytes: new(uint64(2)), MemoryBytesQuota: new(uint64(3)), DiskBytesQuota: new(uint64(4))}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var want v1pb.Envelope
		err := proto.Unmarshal(b, &want)
		var e event
		if ok := e.decode(b); ok != (err == nil) {
			t.Fatalf("taken: %v, want %v", ok, err)
		}
		if err != nil {
			return
		}
		equal := func(what string, got []byte, want string) {
			t.Helper()
			if string(got) != want {
				t.Fatalf("%s = %q, want %q", what, got, want)
			}
		}
		same := func(what string, got, want any) {
			t.Helper()
			if got != want {
				t.Fatalf("%s = %v, want %v", what, got, want)
			}
		}
		equal("origin", e.origin, want.GetOrigin())
		equal("deployment", e.deployment, want.GetDeployment())
		equal("job", e.job, want.GetJob())
		equal("index", e.index, want.GetIndex())
		equal("ip", e.ipAddr, want.GetIp())
		same("kind", e.kind, want.GetEventType())
		same("timestamp", e.timestamp, want.GetTimestamp())
		for k, v := range want.GetTags() {
			got, ok := e.tag(k)
			same("tag there", ok, true)
			equal("tag", got, v)
		}
		for _, tag := range e.tags {
			if _, ok := want.GetTags()[string(tag.key)]; !ok {
				t.Fatalf("tag %q", tag.key)
			}
		}
		l := want.GetLogMessage()
		same("log there", has(e.seen, 8), l != nil)
		equal("message", e.log.message, string(l.GetMessage()))
		same("message type", e.log.kind, l.GetMessageType())
		same("log time", e.log.timestamp, l.GetTimestamp())
		equal("app", e.log.appID, l.GetAppId())
		equal("source type", e.log.sourceType, l.GetSourceType())
		equal("instance", e.log.instance, l.GetSourceInstance())
		h := want.GetHttpStartStop()
		same("request there", has(e.seen, 7), h != nil)
		same("start", e.http.start, h.GetStartTimestamp())
		same("stop", e.http.stop, h.GetStopTimestamp())
		same("request", [2]uint64{e.http.request.low, e.http.request.high}, [2]uint64{h.GetRequestId().GetLow(), h.GetRequestId().GetHigh()})
		same("app there", has(e.http.seen, 12), h.GetApplicationId() != nil)
		same("app", [2]uint64{e.http.app.low, e.http.app.high}, [2]uint64{h.GetApplicationId().GetLow(), h.GetApplicationId().GetHigh()})
		same("peer", e.http.peer, h.GetPeerType())
		same("method", e.http.method, h.GetMethod())
		equal("uri", e.http.uri, h.GetUri())
		equal("remote", e.http.remoteAddress, h.GetRemoteAddress())
		equal("agent", e.http.userAgent, h.GetUserAgent())
		same("status", e.http.status, h.GetStatusCode())
		same("length", e.http.length, h.GetContentLength())
		same("instance", e.http.instanceIndex, h.GetInstanceIndex())
		equal("instance id", e.http.instanceID, h.GetInstanceId())
		same("forwarded", len(e.http.forwarded), len(h.GetForwarded()))
		for i, s := range h.GetForwarded() {
			equal("forwarded", e.http.forwarded[i], s)
		}
		v := want.GetValueMetric()
		same("value there", has(e.seen, 9), v != nil)
		equal("name", e.value.name, v.GetName())
		equal("unit", e.value.unit, v.GetUnit())
		same("value", math.Float64bits(e.value.value), math.Float64bits(v.GetValue()))
		c := want.GetCounterEvent()
		same("counter there", has(e.seen, 10), c != nil)
		equal("name", e.counter.name, c.GetName())
		same("delta", e.counter.delta, c.GetDelta())
		same("total", e.counter.total, c.GetTotal())
		x := want.GetError()
		same("error there", has(e.seen, 11), x != nil)
		equal("source", e.err.source, x.GetSource())
		same("code", e.err.code, x.GetCode())
		equal("message", e.err.message, x.GetMessage())
		m := want.GetContainerMetric()
		same("container there", has(e.seen, 12), m != nil)
		equal("app", e.container.appID, m.GetApplicationId())
		same("instance", e.container.instance, m.GetInstanceIndex())
		same("cpu", math.Float64bits(e.container.cpu), math.Float64bits(m.GetCpuPercentage()))
		same("memory", [4]uint64{e.container.memory, e.container.disk, e.container.memoryQuota, e.container.diskQuota},
			[4]uint64{m.GetMemoryBytes(), m.GetDiskBytes(), m.GetMemoryBytesQuota(), m.GetDiskBytesQuota()})

		tr := translator{opts: &Options{}, totals: new(totals)}
		if reason, _ := tr.check(&e); reason != "" {
			return
		}
		source := tr.source(&e)
		record, rest, err := envelope.Next(tr.append(nil, &e, 1))
		if err != nil || len(rest) > 0 {
			t.Fatalf("no record: %v, %d bytes more", err, len(rest))
		}
		r, err := record.Check(nil)
		if err != nil || string(r.SourceID) != source {
			t.Fatalf("record of %q, want %q: %v", r.SourceID, source, err)
		}
	})
}

// spoiledRequests are requests each of which lacks one thing that it must have.
func spoiledRequests(t testing.TB) (all [][]byte) {
	whole := &v1pb.HttpStartStop{
		StartTimestamp: new(int64(1)), StopTimestamp: new(int64(2)), RequestId: &v1pb.UUID{Low: new(uint64(1)), High: new(uint64(2))}, PeerType: new(int32(1)), Method: new(int32(1)),
		Uri: new("/"), RemoteAddress: new("r"), UserAgent: new("u"), StatusCode: new(int32(200)), ContentLength: new(int64(9)), ApplicationId: &v1pb.UUID{Low: new(uint64(3)), High: new(uint64(4))}}
	for _, spoil := range []func(*v1pb.HttpStartStop){
		func(h *v1pb.HttpStartStop) { h.RequestId = &v1pb.UUID{Low: new(uint64(1))} },
		func(h *v1pb.HttpStartStop) { h.RequestId = nil },
		func(h *v1pb.HttpStartStop) { h.ApplicationId = &v1pb.UUID{High: new(uint64(1))} },
		func(h *v1pb.HttpStartStop) { h.StopTimestamp = nil },
		func(h *v1pb.HttpStartStop) { h.Uri = nil },
		func(h *v1pb.HttpStartStop) { h.ContentLength = nil },
	} {
		h := proto.Clone(whole).(*v1pb.HttpStartStop)
		spoil(h)
		b, err := proto.MarshalOptions{AllowPartial: true}.Marshal(&v1pb.Envelope{Origin: new("o"), EventType: new(int32(4)), HttpStartStop: h})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b)
	}
	return all
}

// TestAgain: nothing of an envelope stays for the next one.
func TestAgain(t *testing.T) {
	full := marshal(t, &v1pb.Envelope{EventType: new(int32(4)), Deployment: new("d"), Job: new("j"), Index: new("i"), Ip: new("p"), Tags: map[string]string{"a": "b"}, HttpStartStop: &v1pb.HttpStartStop{
		StartTimestamp: new(int64(1)), StopTimestamp: new(int64(2)), RequestId: &v1pb.UUID{Low: new(uint64(1)), High: new(uint64(2))}, PeerType: new(int32(1)), Method: new(int32(1)),
		Uri: new("/"), RemoteAddress: new("r"), UserAgent: new("u"), StatusCode: new(int32(200)), ContentLength: new(int64(9)), InstanceId: new("x"), Forwarded: []string{"f"}}})
	var e event
	tr := translator{opts: &Options{}, totals: new(totals)}
	for _, b := range append(spoiledRequests(t), unhex(t, vector), marshal(t, &v1pb.Envelope{EventType: new(int32(6)), ValueMetric: &v1pb.ValueMetric{Name: new("n"), Value: new(1.5), Unit: new("u")}})) {
		if !e.decode(full) {
			t.Fatal("not decoded")
		}
		tr.append(nil, &e, 1)
		var fresh event
		again, first := e.decode(b), fresh.decode(b)
		if again != first {
			t.Fatalf("decoded: %v, and %v the first time", again, first)
		}
		if first && string(tr.append(nil, &e, 1)) != string(tr.append(nil, &fresh, 1)) {
			t.Errorf("not the same again: %x", b)
		}
	}
}

func TestAllocs(t *testing.T) {
	b := unhex(t, vector)
	tr := translator{opts: &Options{}, totals: new(totals)}
	var e event
	var dst []byte
	if n := testing.AllocsPerRun(100, func() {
		e.decode(b)
		tr.check(&e)
		tr.source(&e)
		dst = tr.append(dst[:0], &e, 1)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDatagram(b *testing.B) {
	msg := marshal(b, &v1pb.Envelope{EventType: new(int32(5)), Deployment: new("cf"), Job: new("cell"), Index: new("8f6"), Ip: new("10.0.16.5"), Tags: map[string]string{"a": "b"},
		LogMessage: &v1pb.LogMessage{Message: make([]byte, 200), MessageType: new(int32(1)), Timestamp: new(int64(1)), AppId: new("27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"), SourceType: new("APP/PROC/WEB"), SourceInstance: new("0")}})
	tr := translator{opts: &Options{}, totals: new(totals)}
	var e event
	var dst []byte
	b.SetBytes(int64(len(msg)))
	b.ReportAllocs()
	for b.Loop() {
		if !e.decode(msg) {
			b.Fatal("not decoded")
		}
		tr.source(&e)
		dst = tr.append(dst[:0], &e, 1)
	}
}
