package grpcv2

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// agent is a server that behaves as a stock one: it ends a stream with the error
// that reading gave.
type agent struct {
	t    testing.TB
	grpc *grpc.Server
	addr string

	mu      sync.Mutex
	got     []*pb.Envelope
	streams int
	hang    atomic.Bool // answers nothing
	most    int         // records in a message
}

func newAgent(t testing.TB, addr string) *agent {
	t.Helper()
	a := &agent{t: t, grpc: grpc.NewServer(grpc.ForceServerCodecV2(stockCodec{}))}
	a.grpc.RegisterService(&grpc.ServiceDesc{ServiceName: "loggregator.v2.Ingress", Streams: []grpc.StreamDesc{{
		StreamName: "BatchSender", ClientStreams: true,
		Handler: func(_ any, s grpc.ServerStream) error { return a.receive(s) },
	}}}, nil)
	var ln net.Listener
	eventually(t, "the address is free", func() (ok bool) {
		var err error
		ln, err = net.Listen("tcp", addr)
		return err == nil
	})
	a.addr = ln.Addr().String()
	go a.grpc.Serve(ln)
	t.Cleanup(a.grpc.Stop)
	return a
}

func (a *agent) receive(s grpc.ServerStream) error {
	a.mu.Lock()
	a.streams++
	a.mu.Unlock()
	for {
		var b pb.EnvelopeBatch
		err := s.RecvMsg(&b)
		if a.hang.Load() {
			<-s.Context().Done()
		}
		if err != nil {
			return err // UNKNOWN "EOF"
		}
		a.mu.Lock()
		a.got = append(a.got, b.Batch...)
		a.most = max(a.most, len(b.Batch))
		a.mu.Unlock()
	}
}

func (a *agent) all() []*pb.Envelope {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]*pb.Envelope(nil), a.got...)
}

var quick = &LinkOptions{Backoff: func(int) time.Duration { return time.Millisecond }}

func newLink(t testing.TB, addr string, src envelope.Source, o *LinkOptions) *Link {
	t.Helper()
	l, err := NewLink(addr, src, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func flush(t testing.TB, l *Link) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := l.Flush(ctx); err != nil {
		t.Fatalf("Flush: %v; %+v", err, l.Stats())
	}
}

// TestLink: what an emitter emits arrives at a stock server and at ours, whole and
// in order, and is acknowledged.
func TestLink(t *testing.T) {
	for _, kind := range []string{"stock", "ours"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			router := loggregator.New(&loggregator.Options{Budget: 64 << 20})
			defer router.Close()
			var addr string
			var got func() []*pb.Envelope
			if kind == "stock" {
				a := newAgent(t, "127.0.0.1:0")
				addr, got = a.addr, a.all
			} else {
				b := newBench(t, nil, nil, nil)
				addr, got = b.addr, b.held
			}
			o := *quick
			o.MaxUnacked = 10_000
			l := newLink(t, "grpc://"+addr, router, &o)
			e := emitter.New(router, envelope.Identity{SourceID: "shop", InstanceID: "1", Tags: map[string]string{"app_name": "shop"}}, nil)
			const n = 3000
			for i := range n {
				e.Log(envelope.Out, fmt.Sprint(i))
			}
			flush(t, l)
			e.Gauge("g", 1, "u")
			flush(t, l)
			all := got()
			if len(all) != n+1 {
				t.Fatalf("%d of %d", len(all), n+1)
			}
			for i, e := range all[:n] {
				if string(e.GetLog().GetPayload()) != fmt.Sprint(i) || e.SourceId != "shop" || e.InstanceId != "1" || e.Tags["app_name"] != "shop" {
					t.Fatalf("record %d is %v", i, e)
				}
			}
			if all[n].GetGauge().Metrics["g"].GetUnit() != "u" {
				t.Errorf("%v", all[n])
			}
			s := l.Stats()
			if !s.Connected || s.Sent != n+1 || s.Acked != n+1 || s.Missed != 0 || s.Unacked != 0 || s.Reconnects != 0 || s.LastError != "" || s.Server != "grpc://"+addr {
				t.Errorf("%+v", s)
			}
			if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
				t.Errorf("Shutdown: %d, %v", left, err)
			}
			if err := l.Flush(t.Context()); err != nil {
				t.Errorf("Flush of what is all acknowledged: %v", err)
			}
			e.Log(envelope.Out, "later")
			if err := l.Flush(t.Context()); !errors.Is(err, ErrClosed) {
				t.Errorf("Flush after Close: %v", err)
			}
		})
	}
}

// TestLinkAcksByItself: records are acknowledged without a Flush.
func TestLinkAcksByItself(t *testing.T) {
	a := newAgent(t, "127.0.0.1:0")
	router := loggregator.New(nil)
	defer router.Close()
	o := *quick
	o.AckAfter, o.MaxRecords = 10*time.Millisecond, 7
	l := newLink(t, "grpc://"+a.addr, router, &o)
	e := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	for i := range 100 {
		e.Log(envelope.Out, fmt.Sprint(i))
	}
	eventually(t, "acknowledgement", func() bool { return l.Stats().Acked == 100 })
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.most > 7 {
		t.Errorf("a message of %d records", a.most)
	}
}

// TestLinkReconnects: nothing is lost when servers die in mid-stream, and only
// what was not acknowledged comes again.
func TestLinkReconnects(t *testing.T) {
	router := loggregator.New(&loggregator.Options{Budget: 64 << 20})
	defer router.Close()
	a := newAgent(t, "127.0.0.1:0")
	o := *quick
	o.MaxUnacked, o.AckAfter = 20_000, 20*time.Millisecond
	l := newLink(t, "grpc://"+a.addr, router, &o)
	e := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	lives := []*agent{a}
	total := 0
	for range 5 {
		for range 2000 {
			e.Log(envelope.Out, fmt.Sprint(total))
			total++
		}
		last := lives[len(lives)-1]
		eventually(t, "some arrive", func() bool { return len(last.all()) > 500 })
		last.grpc.Stop()
		lives = append(lives, newAgent(t, a.addr))
	}
	flush(t, l)
	times := make(map[string]int)
	came := 0
	for _, life := range lives {
		last := -1
		for _, e := range life.all() {
			var n int
			fmt.Sscan(string(e.GetLog().GetPayload()), &n)
			if n <= last && last != -1 && n != 0 && times[fmt.Sprint(n)] == 0 {
				t.Errorf("%d came after %d", n, last)
			}
			last = n
			times[fmt.Sprint(n)]++
			came++
		}
	}
	for i := range total {
		if times[fmt.Sprint(i)] == 0 {
			t.Fatalf("record %d is lost", i)
		}
	}
	s := l.Stats()
	if s.Acked != uint64(total) || s.Reconnects < 4 || came > total+5*(20_000/20+2*chunkSize/20) {
		t.Errorf("%d came of %d; %+v", came, total, s)
	}
}

// TestLinkTellsWhatIsMissing: what the ring gave up while there was no server is
// told in the application's stream.
func TestLinkTellsWhatIsMissing(t *testing.T) {
	router := loggregator.New(&loggregator.Options{Budget: 1 << 20})
	defer router.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	ln.Close() // nobody is there
	l := newLink(t, "grpc://"+addr, router, &LinkOptions{Backoff: quick.Backoff, Reason: envelope.ReasonEmitter})
	eventually(t, "it has tried", func() bool { return l.Stats().LastError != "" })
	e := emitter.New(router, envelope.Identity{SourceID: "shop", InstanceID: "4"}, nil)
	const n = 10_000
	for i := range n {
		e.Log(envelope.Out, fmt.Sprint(i, strings.Repeat("x", 500)))
	}
	a := newAgent(t, addr)
	flush(t, l)
	all := a.all()
	first := all[0]
	var missing int
	fmt.Sscan(first.Tags[envelope.TagMissed], &missing)
	if missing == 0 || first.SourceId != "shop" || first.InstanceId != "4" || first.Tags[envelope.TagSourceType] != envelope.SourceTypeLGR ||
		first.Tags[envelope.TagReason] != envelope.ReasonEmitter.String() {
		t.Fatalf("the first record is %v", first)
	}
	if got := len(all) - 1 + missing; got != n {
		t.Errorf("%d came, %d are told as missing, of %d", len(all)-1, missing, n)
	}
	if s := l.Stats(); s.Acked+s.Missed != n || s.Missed != uint64(missing) || s.LastError == "" {
		t.Errorf("%+v", s)
	}
}

// TestLinkGoesElsewhere: to the next server when one fails, hangs, or is none.
func TestLinkGoesElsewhere(t *testing.T) {
	notIngress := NewServer(nil, nil, nil)
	hangs := newAgent(t, "127.0.0.1:0")
	hangs.hang.Store(true)
	good := newAgent(t, "127.0.0.1:0")
	ln, err := net.Listen("tcp", "127.0.0.1:0") // speaks no HTTP/2
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "220 hello\r\n")
			c.Close()
		}
	}()
	router := loggregator.New(nil)
	defer router.Close()
	e := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
	e.Log(envelope.Out, "1")
	for name, tt := range map[string]struct{ addr, says string }{
		"not an agent":  {serve(t, notIngress), "it is no agent or router"},
		"hangs":         {hangs.addr, "acknowledges nothing"},
		"speaks a lot":  {ln.Addr().String(), "Unavailable"},
		"nobody there":  {"127.0.0.1:1", "connect"},
		"wrong network": {"no-such-host.invalid:1", "lookup"},
	} {
		t.Run(name, func(t *testing.T) {
			patience := limit
			if name == "hangs" {
				patience = 100 * time.Millisecond
			}
			l := newLink(t, "grpc://"+tt.addr+",grpc://"+good.addr, router, &LinkOptions{
				Backoff: quick.Backoff, AckTimeout: patience,
				DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
					if strings.HasSuffix(addr, ".invalid:1") {
						return nil, errors.New("lookup no-such-host.invalid: no such host")
					}
					return (&net.Dialer{}).DialContext(ctx, network, addr)
				},
			})
			flush(t, l)
			s := l.Stats()
			if s.Acked != 1 || !strings.Contains(s.LastError, tt.says) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// scripted is a Source that gives batches as they are written down.
type scripted struct{ batches []envelope.Batch }

func (s *scripted) Known([]envelope.Selector) bool { return true }
func (s *scripted) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		for _, b := range s.batches {
			if at, ok := q.Cursor.Rings[b.Ring]; ok && b.Position <= at {
				continue
			}
			if !yield(b, nil) {
				return
			}
		}
		if q.Follow {
			yield(envelope.Batch{}, io.ErrUnexpectedEOF)
		}
	}
}

func ringBatch(ring envelope.StreamID, position, missed uint64, texts ...string) envelope.Batch {
	b := envelope.Batch{Ring: ring, Position: position, Missed: missed, Count: len(texts)}
	f := envelope.Identity{SourceID: fmt.Sprint("ring", ring)}.Encode()
	for _, text := range texts {
		b.Records = envelope.AppendLog(b.Records, f, 1, envelope.Out, []byte(text))
	}
	return b
}

// TestLinkTellsInItsPlace: what is missing is told with the next record of the
// same ring, once, whatever the Source tells it with.
func TestLinkTellsInItsPlace(t *testing.T) {
	a := newAgent(t, "127.0.0.1:0")
	reset := ringBatch(3, 2, 0, "c")
	reset.Reset = true
	src := &scripted{[]envelope.Batch{
		ringBatch(1, 2, 0, "a"),
		ringBatch(1, 5, 3), // three are missing, and no record yet says of whom
		ringBatch(2, 2, 0, "b"),
		ringBatch(1, 8, 2, "a2"),
		ringBatch(2, 9, 0, "late"), // its positions say nothing that the Source does not
		reset,
	}}
	l := newLink(t, "grpc://"+a.addr, src, quick)
	select {
	case <-l.done: // the Source has ended
	case <-time.After(limit):
		t.Fatal("the link does not end")
	}
	var got []string
	for _, e := range a.all() {
		got = append(got, fmt.Sprint(e.SourceId, " ", string(e.GetLog().Payload)))
	}
	want := []string{
		"ring1 a", "ring2 b", "ring1 5 lines are missing here: agent budget", "ring1 a2", "ring2 late",
		"ring3 lines are missing here, their number is not known: the server was started anew", "ring3 c",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if s := l.Stats(); s.Acked != 5 || s.Missed != 5 || !strings.Contains(s.LastError, "source: ") {
		t.Errorf("%+v", s)
	}
	if err := l.Flush(t.Context()); err != nil {
		t.Errorf("Flush when all is done: %v", err)
	}
}

func TestLinkResumes(t *testing.T) {
	a := newAgent(t, "127.0.0.1:0")
	src := &scripted{[]envelope.Batch{ringBatch(1, 7, 0, "a"), ringBatch(1, 9, 0, "b")}}
	l := newLink(t, "grpc://"+a.addr, src, &LinkOptions{Resume: envelope.Cursor{Rings: map[envelope.StreamID]uint64{1: 7}}})
	<-l.done
	if got := texts(a.all()); got != "b" {
		t.Errorf("got %s", got)
	}
	if at := l.Acked().Rings[1]; at != 9 {
		t.Errorf("acknowledged up to %d", at)
	}
}

func TestLinkClose(t *testing.T) {
	before := runtime.NumGoroutine()
	router := loggregator.New(nil)
	for _, addr := range []string{newAgent(t, "127.0.0.1:0").addr, "127.0.0.1:1"} {
		l := newLink(t, "grpc://"+addr, router, quick)
		l.Close()
		l.Close()
	}
	a := newAgent(t, "127.0.0.1:0")
	l := newLink(t, "grpc://"+a.addr, router, quick)
	eventually(t, "a connection", func() bool { return l.Stats().Connected })
	a.hang.Store(true)
	emitter.New(router, envelope.Identity{SourceID: "shop"}, nil).Log(envelope.Out, "1")
	eventually(t, "it is sent", func() bool { return l.Stats().Sent == 1 })
	if left, err := shutdownNow(t, l); left != 1 || err == nil {
		t.Errorf("Shutdown: %d, %v", left, err)
	}
	router.Close()
	a.grpc.Stop()
	eventually(t, "goroutines end", func() bool { return runtime.NumGoroutine() <= before+4 }) // those of two agents' listeners
}

func shutdownNow(t *testing.T, l *Link) (uint64, error) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	return l.Shutdown(ctx)
}

func TestAddresses(t *testing.T) {
	for addr, want := range map[string]string{
		"grpc://127.0.0.1:3458":             "[{127.0.0.1:3458 false }]",
		"grpcs://a.example:3458":            "[{a.example:3458 true a.example}]",
		"grpcs://10.0.0.1:3458?name=metron": "[{10.0.0.1:3458 true metron}]",
		"grpc://[::1]:3458/, grpc://b:1":    "[{[::1]:3458 false } {b:1 false }]",
		"grpc://a:1,grpc://a:1":             "[{a:1 false }]",
		"grpc://a:1?name=metron":            "error",
		"grpcs://a:1?name=x&name=y":         "error",
		"grpcs://a:1?token=secret":          "error",
		"grpc://user:secret@a:1":            "error",
		"grpc://a:1/secret":                 "error",
		"grpc://a":                          "error",
		"grpc://:1":                         "error",
		"grpc://a:0":                        "error",
		"grpc://a:99999":                    "error",
		"tcp://a:1":                         "error",
		"grpc://a:1,":                       "error",
		"grpc://a:1#secret":                 "error",
		"grpc://secret\x7f":                 "error",
		"":                                  "error",
	} {
		got, err := parseTargets(addr)
		var list []string
		for _, t := range got {
			list = append(list, fmt.Sprintf("{%s %t %s}", t.address, t.tls, t.name))
		}
		if text := fmt.Sprint(list); err == nil && text != want {
			t.Errorf("%s: %s", addr, text)
		}
		if (err != nil) != (want == "error") || err != nil && (!errors.Is(err, ErrAddress) || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%s: %v", addr, err)
		}
		if (CheckAddress(addr) == nil) != (err == nil) {
			t.Errorf("CheckAddress(%s)", addr)
		}
	}
	if _, err := NewLink("tcp://a:1", nil, nil); !errors.Is(err, ErrAddress) {
		t.Errorf("%v", err)
	}
}
