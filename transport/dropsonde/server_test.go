package dropsonde

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde/v1pb"
	"github.com/cloudfoundry/loggregator/internal/taken"
)

// vector is a LogMessage as the contract has it, made by hand.
const vector = "0a04746573741005308080f4a3aff6e88f1342200a0568656c6c6f1001188080f4a3aff6e88f1322036170702a03415050320130"

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// marshal encodes a v1 envelope with the origin "o" and a time.
func marshal(t testing.TB, e *v1pb.Envelope) []byte {
	t.Helper()
	if e.Origin == nil {
		e.Origin = new("o")
	}
	e.Timestamp = new(int64(1378000000000000000))
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// feed hands datagrams to a server as a socket would, and returns the records.
func feed(t *testing.T, o *Options, datagrams ...[]byte) ([]taken.Record, *Server) {
	t.Helper()
	dst := taken.New(t)
	s := NewServer(dst, o)
	in := newIntake(s)
	for _, d := range datagrams {
		if reason, says := in.datagram(d, false, 42); reason != "" {
			s.refused.Add(reason, "", says)
		}
		s.datagrams.Add(1)
	}
	in.flush()
	conserve(t, s)
	return dst.Take(), s
}

// conserve checks that what came in is accounted for.
func conserve(t testing.TB, s *Server) {
	t.Helper()
	st := s.Stats()
	sum := st.Records + st.Lost
	for _, n := range st.Refused {
		sum += n
	}
	if sum != st.Datagrams {
		t.Errorf("not conserved: %+v", st)
	}
}

// TestTranslate: each kind of event becomes the record that the rules say.
func TestTranslate(t *testing.T) {
	const at, tags = "2013-09-01T01:46:40Z", "__v1_type=%s deployment= index= ip= job= origin=o"
	of := func(kind string) string { return fmt.Sprintf(tags, kind) }
	tests := []struct {
		name string
		e    *v1pb.Envelope
		o    *Options
		want taken.Record
	}{
		{"log", &v1pb.Envelope{EventType: new(int32(5)), LogMessage: &v1pb.LogMessage{
			Message: []byte("hello"), MessageType: new(int32(2)), Timestamp: new(int64(1)), AppId: new("app"), SourceType: new("RTR"), SourceInstance: new("3")}}, nil,
			taken.Log(at, "app", "3", "ERR", "hello", of("LogMessage")+" source_type=RTR")},
		{"log of no app", &v1pb.Envelope{EventType: new(int32(5)), Tags: map[string]string{"source_id": "tagged", "k": "v"}, LogMessage: &v1pb.LogMessage{
			Message: []byte("\xff"), MessageType: new(int32(1)), Timestamp: new(int64(1))}}, nil,
			taken.Log(at, "tagged", "", "OUT", "\xff", "__v1_type=LogMessage deployment= index= ip= job= k=v origin=o source_type=")},
		{"value", &v1pb.Envelope{EventType: new(int32(6)), Tags: map[string]string{"instance_id": "7"}, Deployment: new("cf"), Job: new("api"), Index: new("2"), Ip: new("10.0.0.1"),
			ValueMetric: &v1pb.ValueMetric{Name: new("latency"), Value: new(1.5), Unit: new("ms")}}, &Options{Deployment: "not this"},
			taken.Log(at, "o", "7", "GAUGE latency=1.5ms", "", "__v1_type=ValueMetric deployment=cf index=2 instance_id=7 ip=10.0.0.1 job=api origin=o")},
		{"value of an agent that knows where it is", &v1pb.Envelope{EventType: new(int32(6)), ValueMetric: &v1pb.ValueMetric{Name: new("latency"), Value: new(1.5), Unit: new("ms")}},
			&Options{Deployment: "cf", Job: "api", Index: "2", IP: "10.0.0.1"},
			taken.Log(at, "o", "", "GAUGE latency=1.5ms", "", "__v1_type=ValueMetric deployment=cf index=2 ip=10.0.0.1 job=api origin=o")},
		{"counter", &v1pb.Envelope{EventType: new(int32(7)), Tags: map[string]string{"instance_id": "7"}, CounterEvent: &v1pb.CounterEvent{Name: new("requests"), Delta: new(uint64(5)), Total: new(uint64(100))}}, nil,
			taken.Log(at, "o", "7", "COUNTER requests delta=5 total=100", "", of("CounterEvent"))},
		{"error", &v1pb.Envelope{EventType: new(int32(8)), Error: &v1pb.Error{Source: new("nats"), Code: new(int32(-3)), Message: new("gone")}}, nil,
			taken.Log(at, "o", "", "OUT", "gone", "__v1_type=Error code=-3 deployment= index= ip= job= origin=o source=nats")},
		{"container", &v1pb.Envelope{EventType: new(int32(9)), ContainerMetric: &v1pb.ContainerMetric{ApplicationId: new("app"), InstanceIndex: new(int32(4)),
			CpuPercentage: new(12.5), MemoryBytes: new(uint64(1)), DiskBytes: new(uint64(2)), MemoryBytesQuota: new(uint64(3))}}, nil,
			taken.Log(at, "app", "4", "GAUGE cpu=12.5percentage memory=1bytes disk=2bytes memory_quota=3bytes disk_quota=0bytes", "", of("ContainerMetric"))},
		{"request", &v1pb.Envelope{EventType: new(int32(4)), HttpStartStop: &v1pb.HttpStartStop{StartTimestamp: new(int64(1000)), StopTimestamp: new(int64(3500)),
			RequestId: &v1pb.UUID{Low: new(uint64(0x0706050403020100)), High: new(uint64(0x0f0e0d0c0b0a0908))}, PeerType: new(int32(1)), Method: new(int32(26)),
			Uri: new("/x"), RemoteAddress: new("1.2.3.4:5"), UserAgent: new("curl"), StatusCode: new(int32(200)), ContentLength: new(int64(-1)),
			ApplicationId: &v1pb.UUID{Low: new(uint64(1)), High: new(uint64(2))}, InstanceIndex: new(int32(2)), InstanceId: new("cell"), Forwarded: []string{"a", "b"}}}, nil,
			taken.Log(at, "01000000-0000-0000-0200-000000000000", "2", "TIMER http 2.5µs", "",
				"__v1_type=HttpStartStop content_length=-1 deployment= forwarded=a\nb index= ip= job= method=PATCH origin=o peer_type=Client remote_address=1.2.3.4:5 request_id=00010203-0405-0607-0809-0a0b0c0d0e0f routing_instance_id=cell status_code=200 uri=/x user_agent=curl")},
		{"request of no app", &v1pb.Envelope{EventType: new(int32(4)), HttpStartStop: &v1pb.HttpStartStop{StartTimestamp: new(int64(1)), StopTimestamp: new(int64(1)),
			RequestId: &v1pb.UUID{Low: new(uint64(0)), High: new(uint64(0))}, PeerType: new(int32(9)), Method: new(int32(99)),
			Uri: new(""), RemoteAddress: new(""), UserAgent: new(""), StatusCode: new(int32(0)), ContentLength: new(int64(0))}}, nil,
			taken.Log(at, "o", "0", "TIMER http 0s", "",
				"__v1_type=HttpStartStop content_length=0 deployment= forwarded= index= ip= job= method=99 origin=o peer_type=9 remote_address= request_id=00000000-0000-0000-0000-000000000000 routing_instance_id= status_code=0 uri= user_agent=")},
		{"long and odd origin", &v1pb.Envelope{Origin: new("a\nb" + strings.Repeat("é", 300)), EventType: new(int32(8)), Error: &v1pb.Error{Source: new(""), Code: new(int32(0)), Message: new("")}}, nil,
			taken.Log(at, "a_b"+strings.Repeat("_", 253), "", "OUT", "", "__v1_type=Error code=0 deployment= index= ip= job= origin=a\nb"+strings.Repeat("é", 300)+" source=")},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, _ := feed(t, test.o, marshal(t, test.e))
			if diff := cmp.Diff([]taken.Record{test.want}, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestVector(t *testing.T) {
	got, _ := feed(t, nil, unhex(t, vector))
	want := []taken.Record{taken.Log("2013-09-01T01:46:40Z", "app", "0", "OUT", "hello", "__v1_type=LogMessage deployment= index= ip= job= origin=test source_type=APP")}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestSigned: only what a known secret signed is taken.
func TestSigned(t *testing.T) {
	b := unhex(t, vector)
	sign := func(secret string) []byte {
		mac := hmac.New(sha256.New, []byte(secret))
		mac.Write(b)
		return append(mac.Sum(nil), b...)
	}
	if mac := hex.EncodeToString(sign("secret")[:32]); mac != "46291fca79244ddc46e1b9e960e8c8a9406e5063c6680e6e4b7917b7e06d262e" {
		t.Fatalf("signature %s", mac)
	}
	o := &Options{Secrets: [][]byte{[]byte("new"), []byte("secret")}}
	got, s := feed(t, o, sign("secret"), sign("new"), sign("other"), b, b[:10], nil)
	if len(got) != 2 || s.Stats().Refused["signature"] != 4 {
		t.Errorf("%d taken, %+v", len(got), s.Stats())
	}
}

// TestTotals: counters without a total get the sum of their deltas.
func TestTotals(t *testing.T) {
	counter := func(name, tag string, delta, total uint64) []byte {
		return marshal(t, &v1pb.Envelope{EventType: new(int32(7)), Tags: map[string]string{"a": tag, "b": "x"}, CounterEvent: &v1pb.CounterEvent{Name: &name, Delta: &delta, Total: &total}})
	}
	got, s := feed(t, nil, counter("n", "1", 1, 0), counter("n", "1", 2, 0), counter("n", "2", 3, 0), counter("m", "1", 4, 0), counter("n", "1", 1, 50), counter("n", "1", 5, 0))
	var totals []string
	for _, r := range got {
		_, total, _ := strings.Cut(r.Stream, "total=")
		totals = append(totals, total)
	}
	if diff := cmp.Diff([]string{"1", "3", "3", "4", "50", "55"}, totals); diff != "" {
		t.Error(diff)
	}
	a, b := tag{[]byte("a"), []byte("1")}, tag{[]byte("b"), []byte("2")}
	for i, tags := range [][]tag{{a, b}, {b, a}, {{a.key, b.value}, {b.key, a.value}}} {
		want := []uint64{1, 2, 1}[i]
		if n := s.totals.add(&event{tags: tags, counter: counterEvent{delta: 1}}); n != want {
			t.Errorf("tags %q: total %d, want %d", tags, n, want)
		}
	}
	for i := range maxTotals + 10 {
		s.totals.add(&event{counter: counterEvent{name: fmt.Append(nil, i), delta: 1}})
	}
	if len(s.totals.by) > maxTotals {
		t.Errorf("%d sums", len(s.totals.by))
	}
}

// TestRefused: rubbish is counted by what is wrong with it, and costs the
// datagrams around it nothing.
func TestRefused(t *testing.T) {
	good := unhex(t, vector)
	tests := []struct {
		name, reason string
		datagram     []byte
	}{
		{"empty", "malformed", nil},
		{"text", "malformed", []byte("hello world")},
		{"TLS hello", "malformed", []byte("\x16\x03\x01\x02\x00\x01\x00")},
		{"syslog", "malformed", []byte("<14>1 - - - - - - hello")},
		{"cut off", "malformed", good[:len(good)-3]},
		{"2 GiB announced", "malformed", append([]byte{0x0a, 0x80, 0x80, 0x80, 0x80, 0x08}, good...)},
		{"required field missing", "malformed", unhex(t, "0a046f6f6f6f")},
		{"unknown event", "unknown", marshal(t, &v1pb.Envelope{EventType: new(int32(3))})},
		{"event missing", "empty", marshal(t, &v1pb.Envelope{EventType: new(int32(5))})},
		{"another event", "empty", marshal(t, &v1pb.Envelope{EventType: new(int32(6)), Error: &v1pb.Error{Source: new(""), Code: new(int32(0)), Message: new("")}})},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, s := feed(t, nil, good, test.datagram, good)
			if st := s.Stats(); len(got) != 2 || st.Refused[test.reason] != 1 || len(st.Refused) != 1 {
				t.Errorf("%d taken, %+v", len(got), st)
			}
		})
	}
}

// TestTime: an envelope without a time has its log's, or that of its arrival.
func TestTime(t *testing.T) {
	log := &v1pb.Envelope{Origin: new("o"), EventType: new(int32(5)), LogMessage: &v1pb.LogMessage{Message: []byte("x"), MessageType: new(int32(1)), Timestamp: new(int64(7))}}
	value := &v1pb.Envelope{Origin: new("o"), EventType: new(int32(6)), ValueMetric: &v1pb.ValueMetric{Name: new("n"), Value: new(1.0), Unit: new("u")}}
	a, _ := proto.Marshal(log)
	b, _ := proto.Marshal(value)
	got, _ := feed(t, nil, a, b)
	if got[0].Time != "1970-01-01T00:00:00.000000007Z" || got[1].Time != "1970-01-01T00:00:00.000000042Z" {
		t.Errorf("%v", got)
	}
}

// TestLost: what the system had no room for is told to whoever reads the end.
func TestLost(t *testing.T) {
	dst := taken.New(t)
	s := NewServer(dst, nil)
	newIntake(s).Lost(3)
	if dst.Missed() != 3 || s.Stats().Dropped != 3 {
		t.Errorf("told of %d, %+v", dst.Missed(), s.Stats())
	}
}

// TestServer: over a socket, several sources, until Shutdown.
func TestServer(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dst := taken.New(t)
	s := NewServer(dst, nil)
	result := make(chan error, 1)
	go func() { result <- s.ServePacket(pc) }()
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	const total = 300
	for i := range total {
		c.Write(marshal(t, &v1pb.Envelope{Origin: new(fmt.Sprint("o", i%3)), EventType: new(int32(8)), Error: &v1pb.Error{Source: new("s"), Code: new(int32(0)), Message: new(fmt.Sprint(i / 3))}}))
		if i%50 == 0 {
			c.Write([]byte("rubbish"))
			dst.Wait(i) // no more on the way than a socket has room for
		}
	}
	dst.Wait(total)
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := <-result; err != ErrClosed {
		t.Error(err)
	}
	for source, records := range taken.BySource(dst.Take()) {
		for i, r := range records {
			if r.Text != fmt.Sprint(i) {
				t.Fatalf("%s: record %d is %q", source, i, r.Text)
			}
		}
	}
	conserve(t, s)
	if st := s.Stats(); st.Datagrams != total+6 || st.Refused["malformed"] != 6 || st.Bytes == 0 {
		t.Errorf("%+v", st)
	}
	pc, _ = net.ListenPacket("udp", "127.0.0.1:0")
	if err := s.ServePacket(pc); err != ErrClosed {
		t.Errorf("after Shutdown: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestWriter: what the Writer does not take is counted, and a Writer that hangs
// is let go when the caller's time is over.
func TestWriter(t *testing.T) {
	dst := taken.New(t)
	dst.Refuse(errors.New("full"))
	s := NewServer(dst, nil)
	in := newIntake(s)
	in.datagram(unhex(t, vector), false, 0)
	s.datagrams.Add(1)
	in.flush()
	conserve(t, s)
	if st := s.Stats(); st.Lost != 1 {
		t.Errorf("%+v", st)
	}

	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan struct{})
	s = NewServer(envelope.WriterFunc(func(ctx context.Context, _ envelope.Batch) error {
		close(waiting)
		<-ctx.Done()
		return ctx.Err()
	}), nil)
	result := make(chan error, 1)
	go func() { result <- s.ServePacket(pc) }()
	c, _ := net.Dial("udp", pc.LocalAddr().String())
	c.Write(unhex(t, vector))
	<-waiting
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
		t.Error(err)
	}
	if err := <-result; err != ErrClosed {
		t.Error(err)
	}
	conserve(t, s)
	c.Close()
}
