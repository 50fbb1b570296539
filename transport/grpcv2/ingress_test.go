package grpcv2

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// TestIngressMethods checks that each of the three takes records, in order, and
// answers OK when all have been taken.
func TestIngressMethods(t *testing.T) {
	const n = 250
	for method, send := range map[string]func(t *testing.T, cc *grpc.ClientConn) error{
		"Sender": func(t *testing.T, cc *grpc.ClientConn) error {
			s := sender(t, cc, "Sender")
			for i := range n {
				if err := s.SendMsg(line("app", fmt.Sprint(i))); err != nil {
					return err
				}
			}
			return finish(s)
		},
		"BatchSender": func(t *testing.T, cc *grpc.ClientConn) error {
			s := sender(t, cc, "BatchSender")
			for i := 0; i < n; i += 10 {
				var b pb.EnvelopeBatch
				for j := range 10 {
					b.Batch = append(b.Batch, line("app", fmt.Sprint(i+j)))
				}
				if err := s.SendMsg(&b); err != nil {
					return err
				}
			}
			return finish(s)
		},
		"Send": func(t *testing.T, cc *grpc.ClientConn) error {
			var b pb.EnvelopeBatch
			for i := range n {
				b.Batch = append(b.Batch, line("app", fmt.Sprint(i)))
			}
			var answer []byte
			err := cc.Invoke(t.Context(), ingressPath+"Send", &b, &answer)
			if len(answer) > 0 {
				t.Errorf("answer %x", answer)
			}
			return err
		},
	} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil, nil, nil)
			if err := send(t, dial(t, b.addr, nil)); err != nil {
				t.Fatal(err)
			}
			got := b.held()
			if len(got) != n {
				t.Fatalf("%d of %d records", len(got), n)
			}
			for i, e := range got {
				if string(e.GetLog().GetPayload()) != fmt.Sprint(i) {
					t.Fatalf("record %d is %s", i, e.GetLog().GetPayload())
				}
			}
			if s := b.Stats(); s.Records != n || s.NotTaken != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// TestIngressTakesAnyEnvelope is the rules by which agents take envelopes.
func TestIngressTakesAnyEnvelope(t *testing.T) {
	text := func(s string) *pb.Value { return &pb.Value{Data: &pb.Value_Text{Text: s}} }
	tests := []struct {
		name string
		in   *pb.Envelope
		want *pb.Envelope // nil: refused
	}{
		{"oneof unset", &pb.Envelope{SourceId: "a"}, &pb.Envelope{SourceId: "a"}},
		{"source from tag", &pb.Envelope{Tags: map[string]string{"origin": "o"}}, &pb.Envelope{SourceId: "o", Tags: map[string]string{"origin": "o"}}},
		{
			"source from deprecated tag", &pb.Envelope{DeprecatedTags: map[string]*pb.Value{"origin": text("o")}},
			&pb.Envelope{SourceId: "o", Tags: map[string]string{"origin": "o"}},
		},
		{
			"source from both", &pb.Envelope{Tags: map[string]string{"origin": "t"}, DeprecatedTags: map[string]*pb.Value{"origin": text("d")}},
			&pb.Envelope{SourceId: "t", Tags: map[string]string{"origin": "d"}},
		},
		{"no source at all", &pb.Envelope{Tags: map[string]string{"x": "y"}}, nil},
		{
			"deprecated tags", &pb.Envelope{SourceId: "a", Tags: map[string]string{"keep": "1"}, DeprecatedTags: map[string]*pb.Value{
				"text": text("t"), "integer": {Data: &pb.Value_Integer{Integer: -12}}, "decimal": {Data: &pb.Value_Decimal{Decimal: 1e21}}, "unset": {},
			}},
			&pb.Envelope{SourceId: "a", Tags: map[string]string{"keep": "1", "text": "t", "integer": "-12", "decimal": "1000000000000000000000"}},
		},
		{
			"log", &pb.Envelope{Timestamp: 5, SourceId: "a", InstanceId: "1", Message: &pb.Envelope_Log{Log: &pb.Log{Payload: []byte("x"), Type: pb.Log_ERR}}},
			&pb.Envelope{Timestamp: 5, SourceId: "a", InstanceId: "1", Message: &pb.Envelope_Log{Log: &pb.Log{Payload: []byte("x"), Type: pb.Log_ERR}}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil, nil, nil)
			s := sender(t, dial(t, b.addr, nil), "BatchSender")
			// Neighbours must be none the worse for it.
			s.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("before", "1"), tt.in, line("after", "2")}})
			if err := finish(s); err != nil {
				t.Fatal(err)
			}
			var got *pb.Envelope
			held := b.held()
			for _, e := range held {
				if e.SourceId != "before" && e.SourceId != "after" {
					got = e
				}
			}
			if want := 2 + min(1, proto.Size(tt.want)); len(held) != want || tt.want != nil && !proto.Equal(got, tt.want) {
				t.Errorf("%d records; got %v, want %v", len(held), got, tt.want)
			}
			if r := b.router.Stats(); r.Accepted+r.BadSourceID != 3 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestIngressCounterTotals is the running totals that agents add.
func TestIngressCounterTotals(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	s := sender(t, dial(t, b.addr, nil), "Sender")
	counter := func(name, tag string, delta, total uint64) *pb.Envelope {
		return &pb.Envelope{SourceId: "c", Tags: map[string]string{"t": tag, "u": "v"}, Message: &pb.Envelope_Counter{Counter: &pb.Counter{Name: name, Delta: delta, Total: total}}}
	}
	steps := []struct {
		e    *pb.Envelope
		want uint64
	}{
		{counter("n", "1", 2, 0), 2},
		{counter("n", "1", 3, 0), 5},
		{counter("n", "2", 7, 0), 7}, // other tags
		{counter("m", "1", 9, 0), 9}, // another name
		{counter("n", "1", 1, 100), 100},
		{counter("n", "1", 4, 0), 104},
		{counter("n", "1", 0, 0), 0}, // nothing is said: the total is what came
		{counter("n", "1", 1, 0), 1},
	}
	for _, step := range steps {
		s.SendMsg(step.e)
	}
	if err := finish(s); err != nil {
		t.Fatal(err)
	}
	for i, e := range b.held() {
		if c := e.GetCounter(); c.Total != steps[i].want || c.Delta != steps[i].e.GetCounter().Delta {
			t.Errorf("step %d: %v, want total %d", i, c, steps[i].want)
		}
	}
}

func TestCounterTotalsAreBounded(t *testing.T) {
	var sums totals
	name := func(i int) envelope.Envelope {
		e, _, _ := envelope.Next(envelope.AppendCounter(nil, envelope.Identity{SourceID: "s"}.Encode(), 1, fmt.Sprint("c", i), 1, 0))
		return e
	}
	for i := range maxTotals {
		sums.append(nil, name(i))
	}
	if len(sums.all) != maxTotals {
		t.Fatalf("%d sums", len(sums.all))
	}
	sums.append(nil, name(maxTotals))
	if len(sums.all) != 1 {
		t.Errorf("%d sums; they begin anew", len(sums.all))
	}
}

// TestIngressMessageSizes: 6 MB are taken, and everything up to 10 MiB; what is
// larger ends its own stream alone.
func TestIngressMessageSizes(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	cc := dial(t, b.addr, nil)
	batch := func(size int) *pb.EnvelopeBatch {
		var m pb.EnvelopeBatch
		for proto.Size(&m) < size {
			e := line("big", "")
			most := 60 << 10
			if left := size - proto.Size(&m); left < most+200 {
				most = left - 100
			}
			if most <= 0 {
				break
			}
			e.GetLog().Payload = []byte(strings.Repeat("x", most))
			m.Batch = append(m.Batch, e)
		}
		return &m
	}
	other := sender(t, cc, "BatchSender")
	other.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("other", "1")}})
	taken := uint64(1)
	for _, size := range []int{6_000_000, 10<<20 - 1000} {
		m := batch(size)
		s := sender(t, cc, "BatchSender")
		s.SendMsg(m)
		if err := finish(s); err != nil {
			t.Errorf("%d bytes: %v", proto.Size(m), err)
		}
		taken += uint64(len(m.Batch))
	}
	s := sender(t, cc, "BatchSender")
	s.SendMsg(batch(10<<20 + 1<<20))
	if err := finish(s); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("11 MiB: %v", err)
	}
	other.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("other", "2")}})
	if err := finish(other); err != nil {
		t.Error(err)
	}
	taken++
	if r, st := b.router.Stats(), b.Stats(); r.Accepted != taken || st.Refused["too_large"] != 1 {
		t.Errorf("%d of %d records, %+v", r.Accepted, taken, st)
	}
}

// TestIngressRubbish: a message that is none ends its stream, and a record that is
// none costs nobody anything.
func TestIngressRubbish(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	cc := dial(t, b.addr, nil)
	for name, tt := range map[string]struct {
		method string
		msg    []byte
		want   codes.Code
	}{
		"not a batch":        {"BatchSender", []byte("GET / HTTP/1.1"), codes.InvalidArgument},
		"truncated":          {"BatchSender", []byte{0x0a, 100, 1, 2}, codes.InvalidArgument},
		"bad record":         {"BatchSender", envelope.AppendRecord(nil, []byte{0x0a}), codes.OK},
		"bad text":           {"BatchSender", envelope.AppendRecord(nil, []byte{0x12, 2, 'a', 0xff}), codes.OK},
		"not an envelope":    {"Sender", []byte{0x0a, 100}, codes.OK},
		"unknown fields":     {"BatchSender", []byte{0xf8, 0x7f, 1}, codes.OK},
		"impossible numbers": {"BatchSender", envelope.Batch{Stream: 7, First: 9, Next: 3, Count: 1}.AppendHeader(nil), codes.InvalidArgument},
		"empty":              {"BatchSender", nil, codes.OK},
	} {
		s := sender(t, cc, tt.method)
		s.SendMsg(line("ok", "1"))
		if tt.method == "BatchSender" {
			s = sender(t, cc, tt.method)
			s.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("ok", "1")}})
		}
		s.SendMsg(tt.msg)
		if err := finish(s); status.Code(err) != tt.want && !(tt.want == codes.OK && err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if r := b.router.Stats(); r.Accepted == 0 || r.Held != r.Accepted || r.Malformed != 3 {
		t.Errorf("%+v", r)
	}
}

// failing is a Writer that takes nothing.
var failing = envelope.WriterFunc(func(context.Context, envelope.Batch) error { return errors.New("full") })

func TestIngressWriterFails(t *testing.T) {
	s := NewServer(failing, nil, nil)
	cc := dial(t, serve(t, s), nil)
	stream := sender(t, cc, "BatchSender")
	stream.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("a", "1"), line("a", "2")}})
	if err := finish(stream); status.Code(err) != codes.Unavailable || strings.Contains(err.Error(), "full") {
		t.Errorf("%v", err)
	}
	if st := s.Stats(); st.NotTaken != 2 || st.Refused["writer"] != 1 {
		t.Errorf("%+v", st)
	}
	if err := openAny(t, cc); status.Code(err) != codes.Unimplemented {
		t.Errorf("Egress without a gate: %v", err)
	}
}

func openAny(t *testing.T, cc *grpc.ClientConn) error {
	return open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes()).end()
}

func TestEgressWithoutIngress(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	s := NewServer(nil, b.gate, nil)
	stream := sender(t, dial(t, serve(t, s), nil), "BatchSender")
	if err := finish(stream); status.Code(err) != codes.Unimplemented {
		t.Errorf("Ingress without a Writer: %v", err)
	}
}

func TestTooManySenders(t *testing.T) {
	b := newBench(t, &Options{MaxSenders: 2}, nil, nil)
	cc := dial(t, b.addr, nil)
	one, two := sender(t, cc, "Sender"), sender(t, cc, "Sender")
	eventually(t, "two senders", func() bool { return b.Stats().Senders == 2 })
	if err := finish(sender(t, cc, "Sender")); status.Code(err) != codes.ResourceExhausted {
		t.Errorf("a third: %v", err)
	}
	if err := errors.Join(finish(one), finish(two)); err != nil {
		t.Error(err)
	}
	eventually(t, "no senders", func() bool { return b.Stats().Senders == 0 })
	if err := finish(sender(t, cc, "Sender")); err != nil {
		t.Error(err)
	}
}

// TestEndInput: what has been sent is taken, readers get it, and only then they
// are sent away.
func TestEndInput(t *testing.T) {
	b := newBench(t, &Options{DrainTime: 50 * time.Millisecond}, nil, nil)
	cc := dial(t, b.addr, nil)
	r := open(t, cc, "BatchedReceiver", ask{sel: logs()}.bytes())
	s := sender(t, cc, "BatchSender")
	for i := range 100 {
		s.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("a", fmt.Sprint(i))}})
	}
	r.wait(1) // the stream is there
	if err := b.EndInput(t.Context()); err != nil {
		t.Fatal(err)
	}
	var answer []byte
	if err := s.RecvMsg(&answer); status.Code(err) != codes.Unavailable {
		t.Errorf("the sender was told: %v", err)
	}
	if st := b.Stats(); st.Senders != 0 || st.Readers != 1 {
		t.Errorf("%+v", st)
	}
	accepted := int(b.router.Stats().Accepted)
	if err := b.router.Shutdown(t.Context()); err != nil { // its readers end when they have read all
		t.Fatal(err)
	}
	if err := b.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.end(); err.Error() != "EOF" {
		t.Errorf("the reader was told: %v", err)
	}
	if got := len(r.all()); got != accepted {
		t.Errorf("the reader got %d of %d", got, accepted)
	}
	b.balance()
	b.Close()
	b.Close()
}
