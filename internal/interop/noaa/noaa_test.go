package noaa

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	stocknoaa "github.com/cloudfoundry/noaa"
	"github.com/cloudfoundry/noaa/consumer"
	noaaerrors "github.com/cloudfoundry/noaa/errors"
	"github.com/cloudfoundry/sonde-go/events"
	"github.com/gorilla/websocket"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/v1api"
)

const (
	guid    = "27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"
	secret  = "bearer secret"
	patient = 30 * time.Second
)

// rig is a router behind the door, which can be closed and opened again.
type rig struct {
	t *testing.T
	*loggregator.Router
	addr string

	gate *access.Gate
	h    atomic.Pointer[v1api.Handler] // nil: the server does not answer well
}

// tokens authorizes the secret to read everything.
type tokens struct{ valid atomic.Pointer[string] }

func (a *tokens) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	if "bearer "+token != *a.valid.Load() {
		return access.Grant{}, access.ErrToken
	}
	return access.Grant{User: "user", Select: sel}, nil
}

func start(t *testing.T) (*rig, *tokens) {
	t.Helper()
	a := new(tokens)
	a.valid.Store(new(secret))
	r := &rig{t: t, Router: loggregator.New(nil)}
	r.gate = access.NewGate(r.Router, a, nil)
	r.up()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if h := r.h.Load(); h != nil {
			h.ServeHTTP(w, req)
		} else {
			http.Error(w, "gone", http.StatusBadGateway)
		}
	}))
	r.addr = srv.Listener.Addr().String()
	t.Cleanup(func() {
		r.down()
		srv.Close()
		r.Router.Close()
	})
	return r, a
}

func (r *rig) up() { r.h.Store(v1api.New(r.gate, nil)) }

func (r *rig) down() {
	if h := r.h.Swap(nil); h != nil {
		ctx, cancel := context.WithTimeout(context.Background(), patient)
		defer cancel()
		if err := h.Shutdown(ctx); err != nil {
			r.t.Error(err)
		}
	}
}

// await waits for a condition.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patient); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waiting for %s", what)
		}
	}
}

func (r *rig) awaitReaders(n int) {
	r.t.Helper()
	await(r.t, fmt.Sprint(n, " readers"), func() bool { return r.Router.Stats().Readers == n })
}

func identity(app string) envelope.Fixed {
	return envelope.Identity{SourceID: app, InstanceID: "3", Tags: map[string]string{
		"source_type": "APP/PROC/WEB", "origin": "rep", "deployment": "cf", "job": "cell", "index": "7", "ip": "10.0.0.1", "k": "v",
	}}.Encode()
}

func (r *rig) put(records ...[]byte) {
	r.t.Helper()
	for _, record := range records {
		if err := r.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1}); err != nil {
			r.t.Error(err)
		}
	}
}

func (r *rig) lines(app string, first, n int) {
	for i := first; i < first+n; i++ {
		r.put(envelope.AppendLog(nil, identity(app), time.Now().UnixNano(), envelope.Out, strconv.AppendInt(nil, int64(i), 10)))
	}
}

func (r *rig) consumer() *consumer.Consumer {
	c := consumer.New("ws://"+r.addr, nil, nil)
	c.SetMinRetryDelay(time.Millisecond)
	c.SetMaxRetryDelay(20 * time.Millisecond)
	r.t.Cleanup(func() { c.Close() })
	return c
}

func receive[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(patient):
		t.Fatal("nothing came")
	}
	return v
}

func TestTailingLogs(t *testing.T) {
	r, _ := start(t)
	logs, errs := r.consumer().TailingLogs(guid, secret)
	go func() {
		for err := range errs {
			t.Log(err)
		}
	}()
	r.awaitReaders(1)
	const n = 2000
	r.put(envelope.AppendCounter(nil, identity(guid), 1, "not a log", 1, 1))
	r.lines("other", 1, 5)
	go r.lines(guid, 1, n)
	for i := range n {
		m := receive(t, logs)
		if string(m.GetMessage()) != strconv.Itoa(i+1) || m.GetAppId() != guid || m.GetSourceType() != "APP/PROC/WEB" || m.GetSourceInstance() != "3" ||
			m.GetMessageType() != events.LogMessage_OUT || time.Since(time.Unix(0, m.GetTimestamp())) > time.Minute {
			t.Fatalf("%v", m)
		}
	}
	if s := r.h.Load().Stats(); s.Records != n+1 || s.Skipped != 1 || s.Missed != 0 || s.Envelopes != n {
		t.Errorf("%+v", s)
	}
}

func TestStream(t *testing.T) {
	r, _ := start(t)
	stream, errs := r.consumer().Stream(guid, secret)
	go func() {
		for range errs {
		}
	}()
	r.awaitReaders(1)
	r.put(envelope.AppendLog(nil, identity(guid), 5, envelope.Err, []byte("a line")), container("1", 12.5), request())
	e := receive(t, stream)
	if e.GetOrigin() != "rep" || e.GetDeployment() != "cf" || e.GetJob() != "cell" || e.GetIndex() != "7" || e.GetIp() != "10.0.0.1" || e.GetTimestamp() != 5 ||
		e.GetLogMessage().GetMessageType() != events.LogMessage_ERR || e.GetTags()["k"] != "v" || e.GetTags()["source_id"] != guid || len(e.GetTags()) != 2 {
		t.Errorf("%v", e)
	}
	if m := receive(t, stream).GetContainerMetric(); m.GetApplicationId() != guid || m.GetInstanceIndex() != 1 || m.GetCpuPercentage() != 12.5 || m.GetMemoryBytesQuota() != 3 {
		t.Errorf("%v", m)
	}
	if m := receive(t, stream).GetHttpStartStop(); m.GetMethod() != events.Method_PATCH || m.GetPeerType() != events.PeerType_Server || m.GetStatusCode() != 404 ||
		m.GetRequestId().GetLow() != 0x6f4e1c4bb16fff27 || m.GetApplicationId() == nil || len(m.GetForwarded()) != 2 {
		t.Errorf("%v", m)
	}
}

func container(instance string, cpu float64) []byte {
	metric := func(name, unit string, v float64) envelope.Metric {
		return envelope.Metric{Name: []byte(name), Unit: []byte(unit), Value: v}
	}
	id := envelope.Identity{SourceID: guid, InstanceID: instance, Tags: map[string]string{"origin": "rep"}}.Encode()
	return envelope.AppendGauge(nil, id, time.Now().UnixNano(), metric("cpu", "percentage", cpu), metric("memory", "bytes", 1),
		metric("disk", "bytes", 2), metric("memory_quota", "bytes", 3), metric("disk_quota", "bytes", 4))
}

func request() []byte {
	id := envelope.Identity{SourceID: guid, InstanceID: "3", Tags: map[string]string{"origin": "gorouter", "request_id": guid, "peer_type": "Server", "method": "PATCH",
		"status_code": "404", "content_length": "7", "uri": "/", "forwarded": "a\nb"}}.Encode()
	return envelope.AppendTimer(nil, id, 6, "http", 1, 2)
}

func TestRecentLogs(t *testing.T) {
	r, _ := start(t)
	c := r.consumer()
	if logs, err := c.RecentLogs(guid, secret); err != nil || len(logs) != 0 {
		t.Errorf("%v, %v", logs, err)
	}
	r.lines(guid, 1, 1500)
	r.put(container("1", 1))
	logs, err := c.RecentLogs(guid, secret)
	if err != nil || len(logs) != 1000 {
		t.Fatalf("%d logs, %v", len(logs), err)
	}
	stocknoaa.SortRecent(logs)
	for i, m := range logs {
		if string(m.GetMessage()) != strconv.Itoa(501+i) {
			t.Fatalf("%d is %s", i, m.GetMessage())
		}
	}
}

func TestContainerEnvelopes(t *testing.T) {
	r, _ := start(t)
	c := r.consumer()
	r.lines(guid, 1, 3)
	r.put(container("1", 1), container("0", 2), container("1", 3))
	all, err := c.ContainerEnvelopes(guid, secret)
	if err != nil || len(all) != 2 {
		t.Fatalf("%v, %v", all, err)
	}
	for i, want := range []float64{2, 3} {
		if m := all[i].GetContainerMetric(); m.GetCpuPercentage() != want || m.GetInstanceIndex() != int32(i) || all[i].GetTimestamp() == 0 {
			t.Errorf("%v", all[i])
		}
	}
}

// Several of one name share; the filters choose.
func TestFirehose(t *testing.T) {
	r, _ := start(t)
	count := func(stream <-chan *events.Envelope, errs <-chan error, took func(*events.Envelope)) {
		go func() {
			for range errs {
			}
		}()
		go func() {
			for e := range stream {
				took(e)
			}
		}()
	}
	var shared, alone, logs, metrics atomic.Int64
	add := func(n *atomic.Int64, ok func(*events.Envelope) bool) func(*events.Envelope) {
		return func(e *events.Envelope) {
			if !ok(e) {
				t.Errorf("%v", e)
			}
			n.Add(1)
		}
	}
	any := func(*events.Envelope) bool { return true }
	isLog := func(e *events.Envelope) bool { return e.GetEventType() == events.Envelope_LogMessage }
	for range 3 {
		stream, errs := r.consumer().Firehose("nozzle", secret)
		count(stream, errs, add(&shared, any))
	}
	stream, errs := r.consumer().Firehose("other", secret)
	count(stream, errs, add(&alone, any))
	stream, errs = r.consumer().FilteredFirehose("nozzle", secret, consumer.LogMessages)
	count(stream, errs, add(&logs, isLog))
	stream, errs = r.consumer().FilteredFirehose("nozzle", secret, consumer.Metrics)
	count(stream, errs, add(&metrics, func(e *events.Envelope) bool { return !isLog(e) }))
	r.awaitReaders(6)
	const apps, lines = 20, 30
	for i := range apps {
		app := fmt.Sprint("app-", i)
		r.lines(app, 1, lines)
		r.put(envelope.AppendCounter(nil, identity(app), 1, "c", 1, 2),
			envelope.AppendGauge(nil, identity(app), 1, envelope.Metric{Name: []byte("a")}, envelope.Metric{Name: []byte("b")}),
			envelope.AppendEvent(nil, identity(app), 1, "v1 has no form", "for it"))
	}
	await(t, "all of it", func() bool {
		return shared.Load() >= apps*(lines+3) && alone.Load() >= apps*(lines+3) && logs.Load() >= apps*lines && metrics.Load() >= apps*3
	})
	if shared.Load() != apps*(lines+3) || alone.Load() != apps*(lines+3) || logs.Load() != apps*lines || metrics.Load() != apps*3 {
		t.Errorf("%d, %d, %d, %d", shared.Load(), alone.Load(), logs.Load(), metrics.Load())
	}
	// Each of the unfiltered ones reads lines, a counter, a gauge and an event of each app.
	if s := r.h.Load().Stats(); s.Records != apps*(2*(lines+3)+lines+2) || s.Skipped != 2*apps || s.Missed != 0 {
		t.Errorf("%+v", s)
	}
}

// A client whose server goes away and comes back reads on.
func TestReconnects(t *testing.T) {
	r, _ := start(t)
	stream, errs := r.consumer().Firehose("nozzle", secret)
	var ended, refused atomic.Int64
	done := make(chan struct{})
	t.Cleanup(func() { close(done) })
	go func() {
		for err := range errs {
			var retry noaaerrors.RetryError
			select {
			case <-done:
				continue
			default:
			}
			switch {
			case !errors.As(err, &retry):
				t.Errorf("%T %v", err, err)
			case websocket.IsCloseError(retry.Err, websocket.CloseNormalClosure):
				ended.Add(1)
			default:
				refused.Add(1)
			}
		}
	}()
	r.awaitReaders(1)
	for i := range 3 {
		r.lines(guid, i, 1)
		if e := receive(t, stream); string(e.GetLogMessage().GetMessage()) != strconv.Itoa(i) {
			t.Errorf("%v", e)
		}
		r.down()
		r.awaitReaders(0)
		was := refused.Load()
		await(t, "a refused connection", func() bool { return refused.Load() > was })
		r.up()
		r.awaitReaders(1)
	}
	await(t, "three endings", func() bool { return ended.Load() == 3 })
}

// refresher gives a token that is valid.
type refresher struct {
	token *atomic.Pointer[string]
	asked atomic.Int64
}

func (f *refresher) RefreshAuthToken() (string, error) {
	f.asked.Add(1)
	return *f.token.Load(), nil
}

func TestTokens(t *testing.T) {
	r, a := start(t)
	for name, token := range map[string]string{"authorization not provided": "", "invalid authorization": "bearer wrong"} {
		_, errs := r.consumer().TailingLogsWithoutReconnect(guid, token)
		if err := receive(t, errs); err == nil || !strings.Contains(err.Error(), "You are not authorized. "+name) {
			t.Errorf("%v, want %s", err, name)
		}
		_, err := r.consumer().RecentLogs(guid, token)
		if _, ok := err.(*noaaerrors.UnauthorizedError); !ok || !strings.Contains(err.Error(), name) {
			t.Errorf("%T %v, want %s", err, err, name)
		}
	}
	f := &refresher{token: &a.valid}
	c := r.consumer()
	c.RefreshTokenFrom(f)
	if _, err := c.RecentLogs(guid, "bearer old"); err != nil || f.asked.Load() != 1 {
		t.Errorf("%v, %d times", err, f.asked.Load())
	}
	logs, _ := c.TailingLogs(guid, "bearer old")
	r.awaitReaders(1)
	r.lines(guid, 1, 1)
	if m := receive(t, logs); string(m.GetMessage()) != "1" || f.asked.Load() != 2 {
		t.Errorf("%v, %d times", m, f.asked.Load())
	}
}

// What a slow client missed, it is told, in the form upon which nozzles warn.
func TestSlowNozzle(t *testing.T) {
	r, _ := start(t)
	r.Router.Close()
	r.Router = loggregator.New(&loggregator.Options{Budget: 1 << 20})
	r.down()
	r.gate = access.NewGate(r.Router, nil, nil)
	r.up()
	stream, errs := r.consumer().Firehose("nozzle", secret)
	go func() {
		for range errs {
		}
	}()
	r.awaitReaders(1)
	const n = 60_000
	r.lines(guid, 1, n)
	records, told, counted := 0, 0, 0
	for records+told < n {
		e := receive(t, stream)
		switch m := e.GetLogMessage(); {
		case e.GetEventType() == events.Envelope_CounterEvent && e.GetOrigin() == "doppler" && e.GetCounterEvent().GetName() == "TruncatingBuffer.DroppedMessages":
			counted += int(e.GetCounterEvent().GetDelta())
		case m.GetSourceType() == "LGR":
			missed, err := strconv.Atoi(e.GetTags()["missed"])
			if err != nil || m.GetAppId() != guid || m.GetMessageType() != events.LogMessage_ERR {
				t.Errorf("%v", e)
			}
			told += missed
		default:
			records++
		}
	}
	if s := r.h.Load().Stats(); told == 0 || counted != told || s.Missed != uint64(told) || s.Records != uint64(records) {
		t.Errorf("%d records, %d told, %d counted; %+v", records, told, counted, s)
	}
}
