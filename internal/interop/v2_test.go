package interop

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	stock "code.cloudfoundry.org/go-loggregator/v10"
	"code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// These are the stock client's library and ours in one program, which starts, and
// each end of the v2 API of one with the other end of the other.

const patience = 30 * time.Second

func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// v2 is our server of the v2 API, with mutual TLS.
type v2 struct {
	*grpcv2.Server
	router *loggregator.Router
	pki    *pki
	addr   string
}

// nobody is an Authorizer that knows no token: who reads does so by certificate.
type nobody struct{}

func (nobody) Authorize(context.Context, string, []envelope.Selector) (access.Grant, error) {
	return access.Grant{}, access.ErrToken
}

func newV2(t *testing.T) *v2 {
	t.Helper()
	s := &v2{router: loggregator.New(nil), pki: newPKI(t, ourKey)}
	s.Server = grpcv2.NewServer(s.router, access.NewGate(s.router, nobody{}, nil), &grpcv2.Options{
		TLS: s.pki.server(grpcv2.ServerNames...),
		Certificates: func(c *x509.Certificate) (string, bool) {
			return c.Subject.CommonName, c.Subject.CommonName == "reader"
		},
	})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = ln.Addr().String()
	served := make(chan error, 1)
	go func() { served <- s.Serve(ln) }()
	t.Cleanup(func() {
		s.Close()
		if err := <-served; err != grpcv2.ErrClosed {
			t.Errorf("Serve: %v", err)
		}
		if r := s.router.Stats(); r.Accepted+r.Marked != r.Held+r.Evicted+r.Expired {
			t.Errorf("the router's account: %+v", r)
		}
		s.router.Close()
	})
	return s
}

func (s *v2) held(t *testing.T) (all []*loggregator_v2.Envelope) {
	t.Helper()
	for b, err := range s.router.Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
		if err != nil {
			t.Fatal(err)
		}
		var m loggregator_v2.EnvelopeBatch
		if err := proto.Unmarshal(b.Records, &m); err != nil {
			t.Fatal(err)
		}
		all = append(all, m.Batch...)
	}
	return all
}

func (s *v2) ingressClient(t *testing.T, opts ...stock.IngressOption) *stock.IngressClient {
	t.Helper()
	f := s.pki.files("sender")
	config, err := stock.NewIngressTLSConfig(f.CA, f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := stock.NewIngressClient(config, append([]stock.IngressOption{stock.WithAddr(s.addr)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestStockIngressClient: what it emits arrives, in order, and it is told of none
// of its errors.
func TestStockIngressClient(t *testing.T) {
	s := newV2(t)
	c := s.ingressClient(t, stock.WithTag("deployment", "cf"))
	const n = 10_000
	for i := range n {
		c.EmitLog(fmt.Sprint(i), stock.WithAppInfo("app", "APP/PROC/WEB", "2"), stock.WithStdout())
	}
	c.EmitCounter("hits", stock.WithDelta(2), stock.WithCounterSourceInfo("c", "0"))
	c.EmitCounter("hits", stock.WithDelta(3), stock.WithCounterSourceInfo("c", "0"))
	c.EmitGauge(stock.WithGaugeValue("cpu", 0.5, "percent"), stock.WithGaugeSourceInfo("g", "0"))
	c.EmitTimer("took", time.Unix(1, 0), time.Unix(2, 0), stock.WithTimerSourceInfo("t", "0"))
	if err := c.EmitEvent(t.Context(), "title", "body", stock.WithEventSourceInfo("e", "0")); err != nil {
		t.Errorf("EmitEvent: %v", err)
	}
	if err := c.CloseSend(); err != nil {
		t.Errorf("CloseSend: %v", err)
	}
	eventually(t, "all arrive", func() bool { return s.router.Stats().Accepted == n+5 })
	next := 0
	var hits []uint64
	kinds := make(map[string]int)
	for _, e := range s.held(t) {
		if e.Tags["deployment"] != "cf" {
			t.Errorf("%v", e)
		}
		kinds[e.SourceId]++
		switch m := e.Message.(type) {
		case *loggregator_v2.Envelope_Log:
			if string(m.Log.Payload) != fmt.Sprint(next) || e.InstanceId != "2" || m.Log.Type != loggregator_v2.Log_OUT || e.Tags["source_type"] != "APP/PROC/WEB" {
				t.Fatalf("line %d is %v", next, e)
			}
			next++
		case *loggregator_v2.Envelope_Counter:
			hits = append(hits, m.Counter.Total)
		}
	}
	if next != n || fmt.Sprint(hits) != "[2 5]" || kinds["g"] != 1 || kinds["t"] != 1 || kinds["e"] != 1 {
		t.Errorf("%d lines, totals %v, %v", next, hits, kinds)
	}
}

// stream reads an EnvelopeStreamConnector's stream.
type stream struct {
	mu  sync.Mutex
	got []*loggregator_v2.Envelope
}

func (s *v2) stream(t *testing.T, req *loggregator_v2.EgressBatchRequest) *stream {
	t.Helper()
	f := s.pki.files("reader")
	config, err := stock.NewEgressTLSConfig(f.CA, f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	before := s.Stats().Readers
	ctx, cancel := context.WithCancel(t.Context())
	recv := stock.NewEnvelopeStreamConnector(s.addr, config).Stream(ctx, req)
	out, done := &stream{}, make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			batch := recv()
			out.mu.Lock()
			out.got = append(out.got, batch...)
			out.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	eventually(t, "it reads", func() bool { return s.Stats().Readers == before+1 && s.router.Stats().Readers == before+1 })
	return out
}

func (s *stream) all() []*loggregator_v2.Envelope {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*loggregator_v2.Envelope(nil), s.got...)
}

var anyLog = []*loggregator_v2.Selector{{Message: &loggregator_v2.Selector_Log{Log: &loggregator_v2.LogSelector{}}}}

// TestStockEnvelopeStreams: with a shard_id two readers split what comes, with two
// each gets all; and old readers find their tags where they look.
func TestStockEnvelopeStreams(t *testing.T) {
	s := newV2(t)
	shared := &loggregator_v2.EgressBatchRequest{ShardId: "x", UsePreferredTags: true, Selectors: anyLog}
	one, two := s.stream(t, shared), s.stream(t, shared)
	other := s.stream(t, &loggregator_v2.EgressBatchRequest{ShardId: "y", UsePreferredTags: true, Selectors: anyLog})
	old := s.stream(t, &loggregator_v2.EgressBatchRequest{Selectors: anyLog})
	some := s.stream(t, &loggregator_v2.EgressBatchRequest{UsePreferredTags: true, Selectors: []*loggregator_v2.Selector{{
		SourceId: "app1", Message: &loggregator_v2.Selector_Log{Log: &loggregator_v2.LogSelector{}},
	}}})
	c := s.ingressClient(t)
	const apps, each = 20, 100
	for i := range each {
		for app := range apps {
			c.EmitLog(fmt.Sprint(i), stock.WithAppInfo(fmt.Sprint("app", app), "APP", "0"))
		}
		c.EmitCounter("noise", stock.WithCounterSourceInfo("c", "0"))
	}
	c.CloseSend()
	eventually(t, "all arrive", func() bool {
		return len(one.all())+len(two.all()) == apps*each && len(other.all()) == apps*each && len(old.all()) == apps*each && len(some.all()) == each
	})
	if len(one.all()) == 0 || len(two.all()) == 0 {
		t.Errorf("two share %d and %d", len(one.all()), len(two.all()))
	}
	for _, st := range []*stream{one, two, other, old, some} {
		next := make(map[string]int)
		for _, e := range st.all() {
			if string(e.GetLog().GetPayload()) != fmt.Sprint(next[e.SourceId]) {
				t.Fatalf("%s: %s comes where %d should", e.SourceId, e.GetLog().GetPayload(), next[e.SourceId])
			}
			next[e.SourceId]++
			if st == old && (len(e.Tags) > 0 || e.DeprecatedTags["source_type"].GetText() != "APP") || st != old && e.Tags["source_type"] != "APP" {
				t.Fatalf("tags: %v", e)
			}
		}
	}
}

// raw is a connection with the generated client.
func (s *v2) raw(t *testing.T, config *tls.Config) *grpc.ClientConn {
	t.Helper()
	cc, err := grpc.NewClient(s.addr, grpc.WithTransportCredentials(credentials.NewTLS(config)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cc.Close() })
	return cc
}

func (s *v2) config(t *testing.T, who string) *tls.Config {
	t.Helper()
	f := s.pki.files(who)
	config, err := stock.NewEgressTLSConfig(f.CA, f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

// TestStockGeneratedClient is what the connectors have no call for.
func TestStockGeneratedClient(t *testing.T) {
	s := newV2(t)
	cc := s.raw(t, s.config(t, "reader"))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	one, err := loggregator_v2.NewEgressClient(cc).Receiver(ctx, &loggregator_v2.EgressRequest{LegacySelector: anyLog[0], UsePreferredTags: true})
	if err != nil {
		t.Fatal(err)
	}
	one.Header()
	sender, err := loggregator_v2.NewIngressClient(cc).Sender(ctx)
	if err != nil {
		t.Fatal(err)
	}
	sender.Send(&loggregator_v2.Envelope{SourceId: "a", Message: &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{Payload: []byte("x")}}})
	if _, err := sender.CloseAndRecv(); err != nil {
		t.Errorf("Sender: %v", err)
	}
	if e, err := one.Recv(); err != nil || e.SourceId != "a" {
		t.Errorf("Receiver: %v, %v", e, err)
	}
	batches, err := loggregator_v2.NewEgressClient(cc).BatchedReceiver(ctx, &loggregator_v2.EgressBatchRequest{})
	if err == nil {
		_, err = batches.Recv()
	}
	if st := status.Convert(err); st.Code() != codes.InvalidArgument || st.Message() != "Selectors cannot be empty" {
		t.Errorf("without selectors: %v", err)
	}
	big := &loggregator_v2.EnvelopeBatch{}
	for range 100 {
		big.Batch = append(big.Batch, &loggregator_v2.Envelope{SourceId: "big", Message: &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{Payload: make([]byte, 64_000)}}})
	}
	batchSender, err := loggregator_v2.NewIngressClient(cc).BatchSender(ctx)
	if err != nil {
		t.Fatal(err)
	}
	batchSender.Send(big)
	if _, err := batchSender.CloseAndRecv(); err != nil || s.router.Stats().Accepted != 101 {
		t.Errorf("6 MB: %v, %+v", err, s.router.Stats())
	}
}

// TestCertificates: who shows none, or one of strangers, is not let in; nor does a
// client talk to a server of another name; and not every certificate may read.
func TestCertificates(t *testing.T) {
	s := newV2(t)
	strangers := newPKI(t, strangersKey)
	f := strangers.files("reader")
	stranger, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		t.Fatal(err)
	}
	without, wrong := s.config(t, "reader"), s.config(t, "reader")
	without.Certificates = nil
	wrong.Certificates = []tls.Certificate{stranger}
	name := s.config(t, "reader")
	name.ServerName = "log-cache"
	for what, tt := range map[string]struct {
		config *tls.Config
		want   codes.Code
		says   string
	}{
		"no certificate":            {without, codes.Unavailable, ""},
		"a stranger's":              {wrong, codes.Unavailable, ""},
		"another server":            {name, codes.Unavailable, "not log-cache"},
		"one who may not read":      {s.config(t, "sender"), codes.Unauthenticated, "token"},
		"one who may, for contrast": {s.config(t, "reader"), codes.InvalidArgument, "Selectors"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		req := &loggregator_v2.EgressBatchRequest{Selectors: anyLog}
		if tt.want == codes.InvalidArgument {
			req = &loggregator_v2.EgressBatchRequest{}
		}
		r, err := loggregator_v2.NewEgressClient(s.raw(t, tt.config)).BatchedReceiver(ctx, req)
		if err == nil {
			_, err = r.Recv()
		}
		cancel()
		if status.Code(err) != tt.want || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range grpcv2.ServerNames {
		config := s.config(t, "sender")
		config.ServerName = name
		if _, err := loggregator_v2.NewIngressClient(s.raw(t, config)).Send(t.Context(), &loggregator_v2.EnvelopeBatch{}); err != nil {
			t.Errorf("as %s: %v", name, err)
		}
	}
}

// stockIngress takes batches as the stock agent does, and ends a stream with the
// error of reading.
type stockIngress struct {
	loggregator_v2.UnimplementedIngressServer
	mu  sync.Mutex
	got []*loggregator_v2.Envelope
}

func (s *stockIngress) BatchSender(r loggregator_v2.Ingress_BatchSenderServer) error {
	for {
		b, err := r.Recv()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.got = append(s.got, b.Batch...)
		s.mu.Unlock()
	}
}

// startStock is an agent (metron) or a router (doppler) with the stock types.
func startStock(t *testing.T, p *pki, name string) (*stockIngress, string) {
	t.Helper()
	s := &stockIngress{}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(p.server(name))), grpc.MaxRecvMsgSize(10<<20))
	loggregator_v2.RegisterIngressServer(g, s)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go g.Serve(ln)
	t.Cleanup(g.Stop)
	return s, ln.Addr().String()
}

// TestLinkToStock: our emitter's lines arrive at an agent and at a router of
// today, whole, and are acknowledged; a server of another name gets none.
func TestLinkToStock(t *testing.T) {
	for _, name := range []string{"metron", "doppler"} {
		t.Run(name, func(t *testing.T) {
			p := newPKI(t, ourKey)
			s, addr := startStock(t, p, name)
			router := loggregator.New(nil)
			defer router.Close()
			current, err := p.files("component").Client()
			if err != nil {
				t.Fatal(err)
			}
			opts := &grpcv2.LinkOptions{CurrentTLS: current, MaxUnacked: 100_000}
			link, err := grpcv2.NewLink("grpcs://"+addr+"?name="+name, router, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer link.Close()
			e := emitter.New(router, envelope.Identity{SourceID: sourceID, InstanceID: "0", Tags: tags}, nil)
			const n = 10_000
			for range n {
				e.Log(envelope.Err, line)
			}
			e.Counter("c", 3)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			if err := link.Flush(ctx); err != nil {
				t.Fatalf("%v; %+v", err, link.Stats())
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if st := link.Stats(); len(s.got) != n+1 || st.Acked != n+1 || st.Missed != 0 {
				t.Fatalf("%d of %d; %+v", len(s.got), n+1, st)
			}
			for i, e := range s.got[:n] {
				if e.SourceId != sourceID || string(e.GetLog().GetPayload()) != line || e.GetLog().Type != loggregator_v2.Log_ERR || e.Tags["app_name"] != tags["app_name"] {
					t.Fatalf("line %d is %v", i, e)
				}
			}
			if c := s.got[n].GetCounter(); c.GetDelta() != 3 || c.GetTotal() != 3 {
				t.Errorf("%v", s.got[n])
			}

			wrong, err := grpcv2.NewLink("grpcs://"+addr, router, opts)
			if err != nil {
				t.Fatal(err)
			}
			defer wrong.Close()
			eventually(t, "the name is refused", func() bool { return strings.Contains(wrong.Stats().LastError, "x509") })
			if st := wrong.Stats(); st.Connected || st.Sent > 0 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestTLS12: peers of TLS 1.2 offer two suites, for RSA keys.
func TestTLS12(t *testing.T) {
	s := newV2(t)
	for _, suite := range []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384} {
		config := s.config(t, "sender")
		config.MaxVersion, config.CipherSuites = tls.VersionTLS12, []uint16{suite}
		if _, err := loggregator_v2.NewIngressClient(s.raw(t, config)).Send(t.Context(), &loggregator_v2.EnvelopeBatch{}); err != nil {
			t.Errorf("%s: %v", tls.CipherSuiteName(suite), err)
		}
	}
}

// TestStockTakesLargeLines: its limit of 4 MiB for a message is never reached.
func TestStockTakesLargeLines(t *testing.T) {
	s := newV2(t)
	out := s.stream(t, &loggregator_v2.EgressBatchRequest{UsePreferredTags: true, Selectors: anyLog})
	f := envelope.Identity{SourceID: "large"}.Encode()
	sizes := []int{1_000_000, 64 << 10, 1, 64<<10 - 200}
	const n = 200
	var run []byte
	for i := range n {
		run = envelope.AppendLog(run, f, int64(i), envelope.Out, make([]byte, sizes[i%len(sizes)]))
	}
	b, err := envelope.Of(run)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.router.WriteBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all arrive", func() bool { return len(out.all()) == n })
	for i, e := range out.all() {
		if e.Timestamp != int64(i) || len(e.GetLog().GetPayload()) != sizes[i%len(sizes)] {
			t.Fatalf("line %d is number %d, of %d bytes", i, e.Timestamp, len(e.GetLog().GetPayload()))
		}
	}
}
