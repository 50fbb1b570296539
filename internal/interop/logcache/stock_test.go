package logcache

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	client "code.cloudfoundry.org/go-log-cache/v3"
	"code.cloudfoundry.org/go-log-cache/v3/rpc/logcache_v1"
	"code.cloudfoundry.org/go-loggregator/v10/rpc/loggregator_v2"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
	"github.com/cloudfoundry/loggregator/transport/logcache"
)

// serve starts a router with both ways to read it, and runs the test with a stock
// client for each.
func serve(t *testing.T, test func(*testing.T, *loggregator.Router, *client.Client)) {
	for _, way := range []string{"HTTP", "gRPC"} {
		t.Run(way, func(t *testing.T) {
			r := loggregator.New(nil)
			defer r.Close()
			gate := access.NewGate(r, nil, nil)
			s := logcache.New(gate, &logcache.Options{Sources: r})
			defer s.Close()
			if way == "HTTP" {
				web := httptest.NewServer(s)
				defer web.Close()
				test(t, r, client.NewClient(web.URL))
			} else {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				g := grpcv2.NewServer(r, gate, &grpcv2.Options{Services: s.Register})
				defer g.Close()
				go g.Serve(ln)
				test(t, r, client.NewClient(ln.Addr().String(), client.WithViaGRPC(grpc.WithTransportCredentials(insecure.NewCredentials()))))
			}
			if s := r.Stats(); s.Accepted+s.Marked != s.Evicted+s.Expired+s.Released+s.Held {
				t.Errorf("the router's account: %+v", s)
			}
		})
	}
}

var app = envelope.Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{"source_type": "APP"}}.Encode()

func write(t *testing.T, r *loggregator.Router, records []byte) {
	t.Helper()
	b, err := envelope.Of(records)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.WriteBatch(context.Background(), b); err != nil {
		t.Fatal(err)
	}
}

func texts(es []*loggregator_v2.Envelope) (all []string) {
	for _, e := range es {
		switch m := e.Message.(type) {
		case *loggregator_v2.Envelope_Log:
			all = append(all, string(m.Log.Payload))
		case *loggregator_v2.Envelope_Counter:
			all = append(all, m.Counter.Name)
		case *loggregator_v2.Envelope_Gauge:
			for name := range m.Gauge.Metrics {
				all = append(all, name)
			}
		case *loggregator_v2.Envelope_Timer:
			all = append(all, m.Timer.Name)
		case *loggregator_v2.Envelope_Event:
			all = append(all, m.Event.Title)
		}
	}
	return all
}

// TestRead is each option of the stock client's Read.
func TestRead(t *testing.T) {
	serve(t, func(t *testing.T, r *loggregator.Router, c *client.Client) {
		var records []byte
		records = envelope.AppendLog(records, app, 10, envelope.Out, []byte("out\xff\x00"))
		records = envelope.AppendLog(records, app, 40, envelope.Err, []byte("err"))
		records = envelope.AppendCounter(records, app, 20, "requests", 1, 2)
		records = envelope.AppendGauge(records, app, 30, envelope.Metric{Name: []byte("cpu"), Unit: []byte("%"), Value: 1.5})
		records = envelope.AppendTimer(records, app, 50, "http", 1, 2)
		records = envelope.AppendEvent(records, app, 60, "crash", "body")
		write(t, r, records)
		for name, test := range map[string]struct {
			start   time.Time
			options []client.ReadOption
			want    []string
		}{
			"Read":              {time.Unix(0, 0), nil, []string{"out\xff\x00", "requests", "cpu", "err", "http", "crash"}},
			"zero start":        {time.Time{}, []client.ReadOption{client.WithLimit(1)}, []string{"out\xff\x00"}},
			"WithEndTime":       {time.Unix(0, 20), []client.ReadOption{client.WithEndTime(time.Unix(0, 40))}, []string{"requests", "cpu"}},
			"WithLimit":         {time.Unix(0, 0), []client.ReadOption{client.WithLimit(2)}, []string{"out\xff\x00", "requests"}},
			"WithDescending":    {time.Unix(0, 0), []client.ReadOption{client.WithDescending(), client.WithLimit(2)}, []string{"crash", "http"}},
			"WithEnvelopeTypes": {time.Unix(0, 0), []client.ReadOption{client.WithEnvelopeTypes(logcache_v1.EnvelopeType_LOG, logcache_v1.EnvelopeType_EVENT)}, []string{"out\xff\x00", "err", "crash"}},
			"WithNameFilter":    {time.Unix(0, 0), []client.ReadOption{client.WithNameFilter("^(cpu|http)$")}, []string{"cpu", "http"}},
		} {
			es, err := c.Read(t.Context(), "app", test.start, test.options...)
			if got := texts(es); err != nil || !slices.Equal(got, test.want) {
				t.Errorf("%s: %q %v, want %q", name, got, err, test.want)
			}
		}
		if es, err := c.Read(t.Context(), "unknown", time.Unix(0, 0)); err != nil || len(es) != 0 {
			t.Errorf("an unknown source: %v %v", es, err)
		}
		if _, err := c.Read(t.Context(), "app", time.Unix(0, 0), client.WithLimit(1001)); err == nil {
			t.Error("a limit above 1000 is taken")
		}
		es, err := c.Read(t.Context(), "app", time.Unix(0, 40), client.WithLimit(1))
		if err != nil || len(es) != 1 {
			t.Fatal(es, err)
		}
		if e := es[0]; e.Timestamp != 40 || e.SourceId != "app" || e.InstanceId != "0" || e.Tags["source_type"] != "APP" || e.GetLog().GetType() != loggregator_v2.Log_ERR {
			t.Errorf("%v", e)
		}
	})
}

func TestMeta(t *testing.T) {
	serve(t, func(t *testing.T, r *loggregator.Router, c *client.Client) {
		write(t, r, envelope.AppendLog(envelope.AppendLog(nil, app, 10, envelope.Out, nil), app, 20, envelope.Out, nil))
		m, err := c.Meta(t.Context())
		if err != nil || len(m) != 1 {
			t.Fatal(m, err)
		}
		if i := m["app"]; i.GetCount() != 2 || i.GetExpired() != 0 || i.GetOldestTimestamp() != 10 || i.GetNewestTimestamp() != 20 {
			t.Errorf("%v", i)
		}
	})
}

// TestInfo: version and uptime are what the client makes its paths of.
func TestInfo(t *testing.T) {
	r := loggregator.New(nil)
	defer r.Close()
	s := logcache.New(access.NewGate(r, nil, nil), nil)
	defer s.Close()
	web := httptest.NewServer(s)
	defer web.Close()
	c := client.NewClient(web.URL)
	if v, err := c.LogCacheVersion(t.Context()); err != nil || v.Major < 2 {
		t.Errorf("%v %v", v, err)
	}
	if up, err := c.LogCacheVMUptime(t.Context()); err != nil || up < 0 {
		t.Errorf("%v %v", up, err)
	}
	if _, err := c.PromQL(t.Context(), `up{source_id="app"}`); err == nil {
		t.Error("PromQL is answered")
	}
	if _, err := c.PromQLRange(t.Context(), `up{source_id="app"}`, client.WithPromQLStart(time.Unix(0, 0)), client.WithPromQLEnd(time.Now()), client.WithPromQLStep("1m")); err == nil {
		t.Error("PromQL is answered")
	}
}

// TestWalk turns all pages while lines come in, of which some have equal timestamps
// and some come late, though less late than the client allows for. Each is shown
// once, in order.
func TestWalk(t *testing.T) {
	serve(t, func(t *testing.T, r *loggregator.Router, c *client.Client) {
		const n = 5000
		start := time.Now().Add(-time.Hour).UnixNano()
		rng := rand.New(rand.NewPCG(1, 2))
		var late []byte
		var writes [][]byte
		for i := range n {
			line := envelope.AppendLog(nil, app, start+int64(i/3)*1e6, envelope.Out, fmt.Append(nil, i))
			if i%50 == 0 && i > 0 {
				late = append(late, line...) // comes a few lines after
				continue
			}
			if i%50 == 10 {
				line, late = append(late, line...), nil
			}
			if i >= 2000 && i < 3500 { // 1500 of one timestamp
				line = envelope.AppendLog(nil, app, start+2000/3*1e6, envelope.Out, fmt.Append(nil, i))
			}
			writes = append(writes, line)
		}
		want := 0
		for _, w := range writes {
			b, _ := envelope.Of(w)
			want += b.Count
		}
		half := len(writes) / 2
		for _, w := range writes[:half] {
			write(t, r, w)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		seen := map[string]int{}
		last := int64(0)
		client.Walk(ctx, "app", func(es []*loggregator_v2.Envelope) bool {
			for _, e := range es {
				if e.Timestamp < last {
					t.Errorf("%d after %d", e.Timestamp, last)
				}
				last = e.Timestamp
				seen[string(e.GetLog().GetPayload())]++
			}
			for range min(1+rng.IntN(200), len(writes)-half) { // goes on being written, a second ahead of what is read
				write(t, r, writes[half])
				half++
			}
			return len(seen) < want
		}, c.Read, client.WithWalkStartTime(time.Unix(0, start)), client.WithWalkEnvelopeTypes(logcache_v1.EnvelopeType_LOG),
			client.WithWalkBackoff(client.NewAlwaysRetryBackoff(time.Millisecond)), client.WithWalkDelay(2*time.Second))
		if len(seen) != want {
			t.Errorf("%d of %d were shown", len(seen), want)
		}
		for text, times := range seen {
			if times != 1 {
				t.Errorf("%s was shown %d times", text, times)
			}
		}
	})
}

// TestWindow: windows of time side by side hold everything once.
func TestWindow(t *testing.T) {
	serve(t, func(t *testing.T, r *loggregator.Router, c *client.Client) {
		start := time.Now().Add(-time.Hour).Truncate(time.Second)
		for i := range 1000 {
			write(t, r, envelope.AppendLog(nil, app, start.UnixNano()+int64(i)*1e6, envelope.Out, fmt.Append(nil, i)))
		}
		var got []string
		windows := 0
		client.Window(t.Context(), func(es []*loggregator_v2.Envelope) bool {
			got = append(got, texts(es)...)
			windows++
			return windows < 20
		}, client.BuildWalker("app", c.Read), client.WithWindowStartTime(start), client.WithWindowWidth(50*time.Millisecond), client.WithWindowInterval(50*time.Millisecond))
		if len(got) != 1000 || got[0] != "0" || got[999] != "999" {
			t.Errorf("%d lines", len(got))
		}
	})
}

// TestTokens: the stock client's HTTPClient carries the token, as cf's does.
func TestTokens(t *testing.T) {
	r := loggregator.New(nil)
	defer r.Close()
	write(t, r, envelope.AppendLog(nil, app, 1, envelope.Out, []byte("secret")))
	s := logcache.New(access.NewGate(r, only("good"), nil), &logcache.Options{Sources: r})
	defer s.Close()
	web := httptest.NewServer(s)
	defer web.Close()
	for token, want := range map[string]string{"bearer good": "secret", "bearer bad": "", "": ""} {
		c := client.NewClient(web.URL, client.WithHTTPClient(bearer(token)))
		es, err := c.Read(t.Context(), "app", time.Unix(0, 0))
		if got := strings.Join(texts(es), ""); got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q %v", token, got, err)
		}
		if err != nil && !strings.Contains(err.Error(), "404") {
			t.Errorf("%q: %v", token, err)
		}
	}
}

type only string

func (o only) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	if token != string(o) {
		return access.Grant{}, access.ErrToken
	}
	return access.Grant{User: "u", Select: sel}, nil
}

type bearer string

func (b bearer) Do(r *http.Request) (*http.Response, error) {
	if b != "" {
		r.Header.Set("Authorization", string(b))
	}
	return http.DefaultClient.Do(r)
}
