package grpcv2

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// limit is how long a test waits for what must come.
const limit = 30 * time.Second

// eventually waits until ok.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// bench is a Server in front of a router.
type bench struct {
	*Server
	t      testing.TB
	router *loggregator.Router
	gate   *access.Gate
	addr   string
}

func newBench(t testing.TB, o *Options, a access.Authorizer, limits *access.Options) *bench {
	t.Helper()
	b := &bench{t: t, router: loggregator.New(&loggregator.Options{Budget: 64 << 20})}
	b.gate = access.NewGate(b.router, a, limits)
	b.Server = NewServer(b.router, b.gate, o)
	b.addr = serve(t, b.Server)
	t.Cleanup(func() {
		b.Close()
		b.router.Close()
		if s := b.Stats(); s.Connections != 0 || s.Senders != 0 || s.Readers != 0 {
			t.Errorf("left behind: %+v", s)
		}
		if s := b.router.Stats(); s.Readers != 0 {
			t.Errorf("left behind: %+v", s)
		}
		if s := b.gate.Stats(); s.Readers != 0 {
			t.Errorf("left behind: %+v", s)
		}
	})
	return b
}

func serve(t testing.TB, s *Server) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != ErrClosed {
			t.Errorf("Serve: %v", err)
		}
	})
	return ln.Addr().String()
}

// balance checks that what readers got is accounted for, when all of them have
// ended.
func (b *bench) balance() {
	b.t.Helper()
	eventually(b.t, "readers end", func() bool { return b.Stats().Readers == 0 && b.router.Stats().Readers == 0 })
	s, r := b.Stats(), b.router.Stats()
	if r.Delivered+s.Marked != s.RecordsSent+s.Filtered+s.Unsent {
		b.t.Errorf("records: router delivered %d; %+v", r.Delivered, s)
	}
	if r.Missed != s.Missed || s.Missed != s.Told+s.Untold {
		b.t.Errorf("missed: router %d; %+v", r.Missed, s)
	}
}

// stockCodec is what a stock client uses, and lets tests send bytes besides.
type stockCodec struct{}

func (stockCodec) Name() string { return "proto" }
func (stockCodec) Marshal(v any) (mem.BufferSlice, error) {
	if b, ok := v.([]byte); ok {
		return mem.BufferSlice{mem.SliceBuffer(b)}, nil
	}
	b, err := proto.Marshal(v.(proto.Message))
	return mem.BufferSlice{mem.SliceBuffer(b)}, err
}
func (stockCodec) Unmarshal(data mem.BufferSlice, v any) error {
	if b, ok := v.(*[]byte); ok {
		*b = data.Materialize()
		return nil
	}
	return proto.Unmarshal(data.Materialize(), v.(proto.Message))
}

func dial(t testing.TB, addr string, config *tls.Config, opts ...grpc.DialOption) *grpc.ClientConn {
	t.Helper()
	creds := insecure.NewCredentials()
	if config != nil {
		creds = credentials.NewTLS(config)
	}
	opts = append([]grpc.DialOption{grpc.WithTransportCredentials(creds), grpc.WithDefaultCallOptions(grpc.ForceCodecV2(stockCodec{}))}, opts...)
	cc, err := grpc.NewClient(addr, opts...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

const (
	ingressPath = "/loggregator.v2.Ingress/"
	egressPath  = "/loggregator.v2.Egress/"
)

// sender opens a stream of Ingress.
func sender(t testing.TB, cc *grpc.ClientConn, method string) grpc.ClientStream {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, ingressPath+method)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// finish ends a stream of Ingress and returns the server's verdict.
func finish(stream grpc.ClientStream) error {
	if err := stream.CloseSend(); err != nil {
		return err
	}
	var answer []byte
	return stream.RecvMsg(&answer)
}

// ask is an EgressRequest.
type ask struct {
	shard, name string
	old         bool   // not use_preferred_tags
	legacy      []byte // selector
	sel         [][]byte
}

func (a ask) bytes() []byte {
	var m []byte
	text := func(num protowire.Number, s string) {
		if s != "" {
			m = protowire.AppendString(protowire.AppendTag(m, num, protowire.BytesType), s)
		}
	}
	text(1, a.shard)
	if a.legacy != nil {
		m = protowire.AppendBytes(protowire.AppendTag(m, 2, protowire.BytesType), a.legacy)
	}
	if !a.old {
		m = protowire.AppendVarint(protowire.AppendTag(m, 3, protowire.VarintType), 1)
	}
	for _, s := range a.sel {
		m = protowire.AppendBytes(protowire.AppendTag(m, 4, protowire.BytesType), s)
	}
	text(5, a.name)
	return m
}

// sel is a Selector: of a source, and the member of the oneof with its names.
func sel(source string, member protowire.Number, names ...string) []byte {
	var m, of []byte
	if source != "" {
		m = protowire.AppendString(protowire.AppendTag(m, 1, protowire.BytesType), source)
	}
	for _, name := range names {
		of = protowire.AppendString(protowire.AppendTag(of, 1, protowire.BytesType), name)
	}
	if member != 0 {
		m = protowire.AppendBytes(protowire.AppendTag(m, member, protowire.BytesType), of)
	}
	return m
}

// The members of a Selector's oneof.
const (
	ofLog protowire.Number = 2 + iota
	ofCounter
	ofGauge
	ofTimer
	ofEvent
)

func logs() [][]byte { return [][]byte{sel("", ofLog)} }

func all() (s [][]byte) {
	for member := ofLog; member <= ofEvent; member++ {
		s = append(s, sel("", member))
	}
	return s
}

// receiver is a stream of Egress that is read to its end.
type receiver struct {
	t      testing.TB
	cancel context.CancelFunc
	done   chan struct{}

	mu     sync.Mutex
	got    []*pb.Envelope
	sizes  []int // of messages, in bytes
	counts []int // records in them
	err    error
	hold   chan struct{} // reads on when closed
}

// open opens a stream and waits until it gets everything from then on, or was
// refused.
func open(t testing.TB, cc *grpc.ClientConn, method string, req []byte, opts ...func(*receiver)) *receiver {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	return openWith(t, ctx, cancel, cc, method, req, opts...)
}

func openWith(t testing.TB, ctx context.Context, cancel context.CancelFunc, cc *grpc.ClientConn, method string, req []byte, opts ...func(*receiver)) *receiver {
	t.Helper()
	r := &receiver{t: t, cancel: cancel, done: make(chan struct{})}
	for _, o := range opts {
		o(r)
	}
	t.Cleanup(func() {
		cancel()
		<-r.done
	})
	stream, err := cc.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, egressPath+method)
	if err == nil {
		err = stream.SendMsg(req)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	if err != nil {
		r.err = err
		close(r.done)
		return r
	}
	stream.Header()
	go func() {
		defer close(r.done)
		for {
			if r.hold != nil {
				<-r.hold
			}
			var msg []byte
			if err := stream.RecvMsg(&msg); err != nil {
				r.mu.Lock()
				r.err = err
				r.mu.Unlock()
				return
			}
			r.take(method, msg)
		}
	}()
	return r
}

func (r *receiver) take(method string, msg []byte) {
	var batch pb.EnvelopeBatch
	var err error
	if method == "Receiver" {
		batch.Batch = []*pb.Envelope{{}}
		err = proto.Unmarshal(msg, batch.Batch[0])
	} else {
		err = proto.Unmarshal(msg, &batch)
	}
	if err != nil {
		r.t.Errorf("a message that does not parse: %v", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, batch.Batch...)
	r.sizes = append(r.sizes, len(msg))
	r.counts = append(r.counts, len(batch.Batch))
}

// all is what has come so far.
func (r *receiver) all() []*pb.Envelope {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]*pb.Envelope(nil), r.got...)
}

func (r *receiver) wait(n int) []*pb.Envelope {
	r.t.Helper()
	eventually(r.t, fmt.Sprint(n, " records"), func() bool { return len(r.all()) >= n })
	return r.all()
}

// end waits for the end of the stream and returns its error.
func (r *receiver) end() error {
	r.t.Helper()
	select {
	case <-r.done:
	case <-time.After(limit):
		r.t.Fatal("the stream does not end")
	}
	return r.err
}

func texts(got []*pb.Envelope) string {
	var s []string
	for _, e := range got {
		s = append(s, string(e.GetLog().GetPayload()))
	}
	return strings.Join(s, " ")
}

// line is a log.
func line(source, text string) *pb.Envelope {
	return &pb.Envelope{
		Timestamp: time.Now().UnixNano(), SourceId: source, InstanceId: "0",
		Message: &pb.Envelope_Log{Log: &pb.Log{Payload: []byte(text)}},
		Tags:    map[string]string{"source_type": "APP/PROC/WEB"},
	}
}

// write puts envelopes into the router, as the native link does.
func (b *bench) write(all ...*pb.Envelope) {
	b.t.Helper()
	for _, e := range all {
		m, err := proto.Marshal(e)
		if err != nil {
			b.t.Fatal(err)
		}
		if err := b.router.WriteBatch(b.t.Context(), envelope.Batch{Records: envelope.AppendRecord(nil, m), Count: 1}); err != nil {
			b.t.Fatal(err)
		}
	}
}

// held is everything in the router.
func (b *bench) held() []*pb.Envelope {
	b.t.Helper()
	var got []*pb.Envelope
	for batch, err := range b.router.Batches(b.t.Context(), envelope.Query{Select: envelope.Everything}) {
		if err != nil {
			b.t.Fatal(err)
		}
		var m pb.EnvelopeBatch
		if err := proto.Unmarshal(batch.Records, &m); err != nil {
			b.t.Fatal(err)
		}
		got = append(got, m.Batch...)
	}
	return got
}
