package interop

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	stock "code.cloudfoundry.org/go-loggregator/v10"
	"code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/rlpgateway"
)

// gateway is a router behind our RLP gateway, which knows one token.
type gateway struct {
	*loggregator.Router
	gate *access.Gate
	h    *rlpgateway.Handler
	url  string
}

type oneToken string

func (o oneToken) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	if token != string(o) {
		return access.Grant{}, access.ErrToken
	}
	return access.Grant{User: "user", Select: sel}, nil
}

func newGateway(t *testing.T, limits *access.Options, o *rlpgateway.Options) *gateway {
	t.Helper()
	g := &gateway{Router: loggregator.New(nil)}
	g.gate = access.NewGate(g.Router, oneToken("secret"), limits)
	g.h = rlpgateway.New(g.gate, o)
	srv := httptest.NewServer(g.h)
	g.url = srv.URL
	t.Cleanup(func() {
		g.h.Close()
		srv.Close()
		g.Router.Close()
	})
	return g
}

// bearer adds the token, which the stock client leaves to others.
type bearer string

func (b bearer) Do(r *http.Request) (*http.Response, error) {
	r.Header.Set("Authorization", "bearer "+string(b))
	return http.DefaultClient.Do(r)
}

// await waits for a condition that our own end of the wire fulfils.
func await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

func (g *gateway) put(t *testing.T, e *loggregator_v2.Envelope) {
	t.Helper()
	b, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.WriteBatch(t.Context(), envelope.Batch{Records: envelope.AppendRecord(nil, b), Count: 1}); err != nil {
		t.Error(err)
	}
}

func everySelector(source string) (sel []*loggregator_v2.Selector) {
	return []*loggregator_v2.Selector{
		{SourceId: source, Message: &loggregator_v2.Selector_Log{Log: &loggregator_v2.LogSelector{}}},
		{SourceId: source, Message: &loggregator_v2.Selector_Counter{Counter: &loggregator_v2.CounterSelector{}}},
		{SourceId: source, Message: &loggregator_v2.Selector_Gauge{Gauge: &loggregator_v2.GaugeSelector{}}},
		{SourceId: source, Message: &loggregator_v2.Selector_Timer{Timer: &loggregator_v2.TimerSelector{}}},
		{SourceId: source, Message: &loggregator_v2.Selector_Event{Event: &loggregator_v2.EventSelector{}}},
	}
}

// The stock client decodes each envelope into what it was, but for deprecated tags.
func TestRLPGatewayEnvelopes(t *testing.T) {
	g := newGateway(t, nil, nil)
	c := stock.NewRLPGatewayClient(g.url, stock.WithRLPGatewayHTTPClient(bearer("secret")))
	next := c.Stream(t.Context(), &loggregator_v2.EgressBatchRequest{Selectors: everySelector("app")})
	await(t, "the reader", func() bool { return g.Router.Stats().Readers == 1 })
	payload := make([]byte, 256)
	for i := range payload {
		payload[i] = byte(i)
	}
	tags := map[string]string{"source_type": "APP", "quote": "\"\\\n<ü>"}
	all := []*loggregator_v2.Envelope{
		{Timestamp: -1, SourceId: "app", InstanceId: "0", Tags: tags, Message: &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{Payload: payload, Type: loggregator_v2.Log_ERR}}},
		{Timestamp: 1378000000000000000, SourceId: "app", Message: &loggregator_v2.Envelope_Counter{Counter: &loggregator_v2.Counter{Name: "c", Delta: 1, Total: 1<<64 - 1}}},
		{SourceId: "app", Tags: tags, Message: &loggregator_v2.Envelope_Gauge{Gauge: &loggregator_v2.Gauge{Metrics: map[string]*loggregator_v2.GaugeValue{"cpu": {Unit: "percentage", Value: 1e-9}, "m": {Value: 1e300}}}}},
		{SourceId: "app", Message: &loggregator_v2.Envelope_Timer{Timer: &loggregator_v2.Timer{Name: "http", Start: -5, Stop: 1<<63 - 1}}},
		{SourceId: "app", Message: &loggregator_v2.Envelope_Event{Event: &loggregator_v2.Event{Title: "t", Body: "b"}}},
		{SourceId: "app", DeprecatedTags: map[string]*loggregator_v2.Value{"n": {Data: &loggregator_v2.Value_Integer{Integer: 3}}}, Message: &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{Payload: []byte("old")}}},
	}
	for _, e := range all {
		g.put(t, e)
	}
	g.put(t, &loggregator_v2.Envelope{SourceId: "other", Message: &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{}}})
	all[5].DeprecatedTags, all[5].Tags = nil, map[string]string{"n": "3"}
	var got []*loggregator_v2.Envelope
	for len(got) < len(all) {
		got = append(got, next()...)
	}
	// Its thousand workers leave no order.
	for _, want := range all {
		if !slices.ContainsFunc(got, func(e *loggregator_v2.Envelope) bool { return proto.Equal(e, want) }) {
			t.Errorf("%v is not among %v", want, got)
		}
	}
	if s := g.h.Stats(); len(got) != len(all) || s.Records != uint64(len(all)) || s.Missed+s.Filtered != 0 {
		t.Errorf("%d, %+v", len(got), s)
	}
}

// The client lives through heartbeats, closings and a gateway without room, all of
// which it could give up at, and reads on. Two of one shard share.
func TestRLPGatewayClientReconnects(t *testing.T) {
	g := newGateway(t, &access.Options{MaxReaders: 2}, &rlpgateway.Options{
		StreamTimeout: 700 * time.Millisecond, Heartbeat: 5 * time.Millisecond, Patience: time.Minute,
	})
	gaveUp := make(chan error, 2)
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	seen := make(map[string]int)
	var total atomic.Int64
	var wg sync.WaitGroup
	for range 2 {
		c := stock.NewRLPGatewayClient(g.url, stock.WithRLPGatewayHTTPClient(bearer("secret")), stock.WithRLPGatewayErrChan(gaveUp), stock.WithRLPGatewayMaxRetries(0))
		next := c.Stream(ctx, &loggregator_v2.EgressBatchRequest{ShardId: "nozzle", Selectors: everySelector("")})
		wg.Go(func() {
			for ctx.Err() == nil {
				for _, e := range next() {
					mu.Lock()
					seen[e.SourceId+" "+string(e.GetLog().GetPayload())]++
					mu.Unlock()
					total.Add(1)
				}
			}
		})
	}
	defer wg.Wait()
	defer cancel()
	for i := 0; g.gate.Stats().Admitted < 6 || total.Load() < 100; i++ {
		await(t, "both readers", func() bool { return g.Router.Stats().Readers == 2 })
		g.put(t, &loggregator_v2.Envelope{SourceId: fmt.Sprint("app-", i%10), Message: &loggregator_v2.Envelope_Log{Log: &loggregator_v2.Log{Payload: strconv.AppendInt(nil, int64(i), 10)}}})
	}
	mu.Lock()
	defer mu.Unlock()
	for line, n := range maps.All(seen) {
		if n != 1 {
			t.Errorf("%s came %d times", line, n)
		}
	}
	if len(gaveUp) > 0 {
		t.Error("a client gave up")
	}
}

// A client without a valid token gives up, and says so.
func TestRLPGatewayClientGivesUp(t *testing.T) {
	g := newGateway(t, nil, nil)
	gaveUp := make(chan error, 1)
	c := stock.NewRLPGatewayClient(g.url, stock.WithRLPGatewayHTTPClient(bearer("wrong")), stock.WithRLPGatewayErrChan(gaveUp))
	c.Stream(t.Context(), &loggregator_v2.EgressBatchRequest{Selectors: everySelector("")})
	select {
	case <-gaveUp:
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
	if s := g.gate.Stats(); s.BadToken != 11 {
		t.Errorf("%+v", s)
	}
}
