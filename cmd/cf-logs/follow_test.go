package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// follow runs a follower with short pauses between connections.
func follow(t testing.TB, target string, stdout, stderr io.Writer, args ...string) (stop func() error) {
	t.Helper()
	opt, err := parse(append(args, "--target="+target))
	if err != nil {
		t.Fatal(err)
	}
	srv, err := opt.server()
	if err != nil {
		t.Fatal(err)
	}
	out := outbuf.New(func(p []byte) error { _, err := stdout.Write(p); return err })
	p := &printer{out: out, loc: time.Local, json: opt.json, withApp: opt.several()}
	f := &follower{server: srv, print: p.print, stderr: stderr, backoff: func(int) time.Duration { return time.Millisecond }}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.run(ctx) }()
	return func() error {
		cancel()
		err := <-ended
		out.Close()
		return err
	}
}

// Wherever the connection is cut, every line is shown once.
func TestCutsAnywhere(t *testing.T) {
	noCF(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	r := start(t, nil, nil)
	apps := []string{"web", "db", "worker"}
	const n = 5000
	for _, app := range apps {
		r.publish(t, app, 1, 1)
	}
	p := newProxy(t, r.url)
	p.mu.Lock()
	p.budget = func() int { // called under no lock, by one goroutine for each connection
		p.mu.Lock()
		defer p.mu.Unlock()
		return 300 + rng.IntN(30_000)
	}
	p.mu.Unlock()
	stdout, stderr := newOutput(), newOutput()
	stop := follow(t, p.url, stdout, stderr, "--space=dev", "--lines=100000")
	var wg sync.WaitGroup
	for _, app := range apps {
		wg.Go(func() {
			for i := 2; i <= n; i += 7 {
				r.publish(t, app, i, min(7, n-i+1))
			}
		})
	}
	wg.Wait()
	stdout.until(t, "end", func(s string) bool { return strings.Count(s, "\n") >= n*len(apps) })
	if err := stop(); err != context.Canceled {
		t.Error(err)
	}
	perApp := map[string]*strings.Builder{}
	for line := range strings.Lines(stdout.String()) {
		app, rest, _ := strings.Cut(line, " ")
		if perApp[app] == nil {
			perApp[app] = new(strings.Builder)
		}
		perApp[app].WriteString(rest)
	}
	for _, app := range apps {
		if perApp[app].String() != texts(app, 1, n) {
			t.Errorf("%s: not every line once and in order", app)
		}
	}
	lost := strings.Count(stderr.String(), "connection lost")
	if lost < 20 || len(perApp) != len(apps) {
		t.Errorf("lost %d connections, %d apps", lost, len(perApp))
	}
}

// A server that was started anew knows nothing of before; its reader is told,
// and sees what is there now.
func TestServerStartedAnew(t *testing.T) {
	noCF(t)
	serve := func(ln net.Listener) (*loggregator.Router, func()) {
		r := loggregator.New(nil)
		h := httpapi.New(access.NewGate(r, nil, nil), nil)
		srv := &http.Server{Handler: h}
		go srv.Serve(ln)
		return r, func() { h.Close(); srv.Close(); r.Close() }
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	router, end := serve(ln)
	rig{Router: router}.publish(t, "web", 1, 5)
	stdout, stderr := newOutput(), newOutput()
	stop := follow(t, "http://"+addr, stdout, stderr, "--app=web")
	stdout.contains(t, texts("web", 1, 5))
	end()
	stderr.contains(t, "connection lost")
	if ln, err = net.Listen("tcp", addr); err != nil {
		t.Fatal(err)
	}
	router, end = serve(ln)
	defer end()
	stderr.contains(t, "connected again")
	rig{Router: router}.publish(t, "web", 9, 3)
	stdout.contains(t, texts("web", 9, 11))
	stop()
	want := texts("web", 1, 5) + "-- lines missed, their number is not known: the server was started anew --\n" + texts("web", 9, 11)
	if got := stdout.String(); got != want {
		t.Errorf("%s", got)
	}
}

// A server that shuts down in order is a lost connection like any other, and a
// token that is refused on the way back is the end.
func TestRefusedOnTheWayBack(t *testing.T) {
	noCF(t)
	t.Setenv("LOGGREGATOR_TOKEN", "mine")
	var mu sync.Mutex
	refuse := false
	r := start(t, allow(func(string, []envelope.Selector) error {
		mu.Lock()
		defer mu.Unlock()
		if refuse {
			return access.ErrToken
		}
		return nil
	}), nil)
	r.publish(t, "web", 1, 1)
	p := newProxy(t, r.url)
	c := begin(t, "--app=web", "--target="+p.url)
	c.stdout.contains(t, text("web", 1))
	mu.Lock()
	refuse = true
	mu.Unlock()
	p.close()
	p.open(t)
	if err := <-c.err; daemon.Status("cf-logs", err, io.Discard) != 1 || !strings.Contains(err.Error(), "refused the token") {
		t.Errorf("%v", err)
	}
}

func TestMissedLinesAreShown(t *testing.T) {
	noCF(t)
	r := loggregator.New(&loggregator.Options{Budget: 1 << 20})
	defer r.Close()
	h := httpapi.New(access.NewGate(r, nil, nil), nil)
	defer h.Close()
	p := newPipeServer(t, h)
	rg := rig{Router: r}
	rg.publish(t, "web", 1, 1)
	// A standard output that takes nothing for a while: 50,000 lines go by.
	gate := make(chan struct{})
	stdout := newOutput()
	blocked := writerFunc(func(b []byte) (int, error) { <-gate; return stdout.Write(b) })
	stop := follow(t, p, blocked, newOutput(), "--app=web")
	for r.Stats().Readers == 0 {
		time.Sleep(time.Millisecond)
	}
	const n = 200_000
	for i := 2; i <= n; i += 100 {
		rg.publish(t, "web", i, min(100, n-i+1))
	}
	close(gate)
	got := stdout.contains(t, text("web", n))
	stop()
	shown, missed := 0, 0
	for line := range strings.Lines(got) {
		var k int
		if c, _ := fmt.Sscanf(line, "-- %d lines missed --\n", &k); c == 1 {
			missed += k
		} else {
			shown++
		}
	}
	if shown+missed != n || missed == 0 {
		t.Errorf("%d lines shown, %d missed, %d written", shown, missed, n)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func newPipeServer(t testing.TB, h http.Handler) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return "http://" + ln.Addr().String()
}

func TestBackoffIsBounded(t *testing.T) {
	for attempt := range 100 {
		base := min(100*time.Millisecond<<min(attempt, 10), 10*time.Second)
		for range 20 {
			if d := backoff(attempt); d < base/2 || d > base*3/2 {
				t.Fatalf("attempt %d: %v", attempt, d)
			}
		}
	}
}

// A cursor that no address can hold is replaced by the time.
func TestCursorTooLong(t *testing.T) {
	var said strings.Builder
	f := &follower{server: &server{opt: &options{lines: -1}}, stderr: &said, connected: true, received: testTime}
	for i := range uint64(20_000) {
		f.cursor.Advance(envelope.Batch{Ring: envelope.StreamID(i + 1), Position: 1 << 40})
	}
	q := f.start()
	if q.Has("cursor") || q.Get("since") != "2013-04-05T20:14:58.123456789Z" || said.Len() == 0 {
		t.Errorf("%.200v %q", q, said.String())
	}
}

func batchOf(n int) envelope.Batch {
	b := envelope.Batch{Count: n}
	for i := range n {
		b.Records = envelope.AppendLog(b.Records, identity("web"), testTime.UnixNano(), envelope.LogType(i%2), []byte(strings.Repeat("x", 100)))
	}
	return b
}

func TestPrintAllocates(t *testing.T) {
	b := batchOf(100)
	for _, json := range []bool{false, true} {
		p := &printer{out: outbuf.New(func([]byte) error { return nil }), loc: time.Local, json: json, withApp: true, color: true}
		p.print(b)
		if n := testing.AllocsPerRun(200, func() { p.print(b) }); n > 3 {
			t.Errorf("%.0f allocations for 100 lines", n)
		}
		p.out.Close()
	}
}

func BenchmarkPrint(b *testing.B) {
	batch := batchOf(100)
	p := &printer{out: outbuf.New(func([]byte) error { return nil }), loc: time.Local}
	defer p.out.Close()
	b.SetBytes(int64(len(batch.Records)))
	b.ReportAllocs()
	for b.Loop() {
		p.print(batch)
	}
	b.ReportMetric(float64(b.N*100)/b.Elapsed().Seconds(), "lines/s")
}

// Server, WebSocket, client and a standard output that takes everything.
func BenchmarkFollow(b *testing.B) {
	noCF(b)
	r := start(b, nil, nil)
	r.publish(b, "web", 1, 1)
	lines, writes := newCounter(), 0
	stop := follow(b, r.url, writerFunc(func(p []byte) (int, error) {
		writes++
		return lines.Write(p)
	}), io.Discard, "--app=web")
	for r.Router.Stats().Readers == 0 {
		time.Sleep(time.Millisecond)
	}
	batch := batchOf(100)
	total := 1
	b.ReportAllocs()
	for b.Loop() {
		r.WriteBatch(context.Background(), batch)
		total += 100
		for total-lines.count() > 100_000 {
			time.Sleep(time.Millisecond)
		}
	}
	for lines.count() < total {
		time.Sleep(100 * time.Microsecond)
	}
	b.ReportMetric(float64(total)/b.Elapsed().Seconds(), "lines/s")
	stop()
	b.ReportMetric(float64(total)/float64(writes), "lines/write")
}

// counter counts lines.
type counter struct {
	mu sync.Mutex
	n  int
}

func newCounter() *counter { return &counter{} }

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += strings.Count(string(p), "\n")
	return len(p), nil
}

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}
