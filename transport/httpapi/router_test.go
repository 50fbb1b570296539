package httpapi_test

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
)

// These tests run the door on a Router and real sockets.

type rig struct {
	*loggregator.Router
	*httpapi.Handler
	url string
}

func start(t testing.TB, budget int64) rig {
	t.Helper()
	r := loggregator.New(&loggregator.Options{Budget: budget})
	h := httpapi.New(access.NewGate(r, nil, &access.Options{BytesPerSecond: -1}), &httpapi.Options{Location: time.UTC})
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		srv.Close()
		r.Close()
	})
	return rig{r, h, srv.URL}
}

func identity(app string) envelope.Fixed {
	return envelope.Identity{SourceID: app + "-guid", InstanceID: "0", Tags: map[string]string{
		envelope.TagAppName: app, envelope.TagSourceType: "APP/PROC/WEB",
		envelope.TagSpaceName: "dev", envelope.TagOrgName: "acme",
	}}.Encode()
}

// publish appends n numbered lines of app, a batch at a time.
func (r rig) publish(t testing.TB, app string, first, n, batch int) {
	t.Helper()
	id := identity(app)
	var records []byte
	for i := first; i < first+n; i += batch {
		count := min(batch, first+n-i)
		records = records[:0]
		for k := range count {
			records = envelope.AppendLog(records, id, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "%s %d", app, i+k))
		}
		if err := r.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: count}); err != nil {
			t.Error(err)
		}
	}
}

func dial(t testing.TB, url string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(4 << 20)
	return c
}

// seen is what a reader received.
type seen struct {
	records, missed uint64
	last            map[string]int // by app, the number on the last line
	told            uint64         // missed since the last line
	cursor          envelope.Cursor
}

// take checks that the lines of a batch go on where the last ended, but for what
// the batch says is missing.
func (s *seen) take(t testing.TB, b envelope.Batch) {
	t.Helper()
	if s.last == nil {
		s.last = map[string]int{}
	}
	skipped := 0
	for e, err := range b.All() {
		if err != nil {
			t.Fatal(err)
		}
		app, number, _ := strings.Cut(string(e.Payload()), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			t.Fatal(err)
		}
		skipped += n - s.last[app] - 1
		s.last[app] = n
	}
	if s.told += b.Missed; b.Count > 0 { // of one source, where lines are missed
		if skipped != int(s.told) {
			t.Errorf("%d lines are missing and %d are told", skipped, s.told)
		}
		s.told = 0
	}
	s.records += uint64(b.Count)
	s.missed += b.Missed
	s.cursor.Advance(b)
}

func TestRecentRunsOnIntoTail(t *testing.T) {
	r := start(t, 0)
	r.publish(t, "web", 1, 1000, 7)
	done := make(chan struct{})
	go func() { defer close(done); r.publish(t, "web", 1001, 9000, 7) }()
	c := dial(t, r.url+"/v1/tail?app=web&lines=1000000")
	var s seen
	for s.records+s.missed < 10_000 {
		_, p, err := c.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, err := envelope.ParseBatch(p)
		if err != nil {
			t.Fatal(err)
		}
		s.take(t, b)
	}
	<-done
	if s.missed != 0 || r.Handler.Stats().Records != 10_000 {
		t.Errorf("missed %d, %+v", s.missed, r.Handler.Stats())
	}
}

func TestRecentIsInOrderOfTime(t *testing.T) {
	r := start(t, 0)
	for i := range 50 {
		r.publish(t, "web", i+1, 1, 1)
		r.publish(t, "db", i+1, 1, 1)
	}
	resp, err := http.Get(r.url + "/v1/recent?space=dev&org=acme")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	scanner := bufio.NewScanner(resp.Body)
	for i := range 100 {
		if !scanner.Scan() {
			t.Fatal("too few lines")
		}
		app := []string{"web", "db"}[i%2]
		line := scanner.Text()
		if !strings.HasPrefix(line, app+" ") || !strings.HasSuffix(line, fmt.Sprintf("[APP/PROC/WEB/0] OUT %s %d", app, i/2+1)) {
			t.Fatalf("line %d: %s", i, line)
		}
	}
	if scanner.Scan() {
		t.Errorf("one more: %s", scanner.Text())
	}
}

// A reader that cannot keep up costs only itself, and is told what it lost.
func TestSlowReaderIsToldWhatItMissed(t *testing.T) {
	r := start(t, 1<<20)
	r.publish(t, "web", 1, 1, 1)
	slow, fast := dial(t, r.url+"/v1/tail?app=web&lines=10"), dial(t, r.url+"/v1/tail?app=web&lines=10")
	for r.Router.Stats().Readers < 2 { // the handshake comes before the reading
		runtime.Gosched()
	}
	const n = 300_000
	var f seen
	var wg sync.WaitGroup
	wg.Go(func() {
		for f.records+f.missed < n {
			_, p, err := fast.Read(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			b, _ := envelope.ParseBatch(p)
			f.take(t, b)
		}
	})
	r.publish(t, "web", 2, n-1, 100)
	wg.Wait()
	var s seen
	for s.records+s.missed < n {
		_, p, err := slow.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		b, _ := envelope.ParseBatch(p)
		s.take(t, b)
	}
	if s.missed == 0 {
		t.Error("the slow reader missed nothing: the test is too small")
	}
	if st := r.Handler.Stats(); st.Records+st.Missed != 2*n || st.Missed != s.missed+f.missed {
		t.Errorf("%+v; told %d and %d", st, s.missed, f.missed)
	}
	t.Logf("fast: %d of %d missed; slow: %d", f.missed, n, s.missed)
}

// Whatever is cut where, every line comes once.
func TestResumeAfterCuts(t *testing.T) {
	seed := rand.Uint64()
	rng := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	r := start(t, 0)
	const n = 20_000
	var wg sync.WaitGroup
	for _, app := range []string{"web", "db", "worker"} {
		r.publish(t, app, 1, 10, 1)
		wg.Go(func() { r.publish(t, app, 11, n-10, 5) })
	}
	defer wg.Wait()
	var s seen
	cuts := 0
	for s.records+s.missed < 3*n {
		target := r.url + "/v1/tail?space=dev&lines=1000000"
		if !s.cursor.IsZero() {
			target = r.url + "/v1/tail?space=dev&cursor=" + s.cursor.String()
		}
		budget := rng.IntN(100_000) // bytes until the cut
		transport := &http.Transport{DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &cutConn{Conn: c, left: 500 + budget}, err
		}}
		c, _, err := websocket.Dial(t.Context(), target, &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
		if err != nil {
			t.Fatal(err)
		}
		c.SetReadLimit(4 << 20)
		for s.records+s.missed < 3*n {
			_, p, err := c.Read(t.Context())
			if err != nil {
				cuts++
				break
			}
			b, err := envelope.ParseBatch(p)
			if err != nil {
				t.Fatal(err)
			}
			s.take(t, b)
		}
		c.CloseNow()
	}
	if s.missed != 0 || cuts < 10 {
		t.Errorf("missed %d after %d cuts", s.missed, cuts)
	}
	for app, last := range s.last {
		if last != n {
			t.Errorf("%s ends at %d", app, last)
		}
	}
}

// cutConn breaks after so many bytes read, in the middle of whatever it is.
type cutConn struct {
	net.Conn
	left int
}

func (c *cutConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		c.Conn.Close()
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// What an idle tail costs: measured, so that ten thousand of them are known to
// fit.
func TestIdleTailIsSmall(t *testing.T) {
	if testing.Short() {
		t.Skip("opens 500 connections")
	}
	r := start(t, 0)
	r.publish(t, "web", 1, 1, 1)
	addr := strings.TrimPrefix(r.url, "http://")
	open := func() net.Conn {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		io.WriteString(c, "GET /v1/tail?app=web HTTP/1.1\r\nHost: "+addr+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		var buf [512]byte
		if n, err := c.Read(buf[:]); err != nil || !strings.HasPrefix(string(buf[:n]), "HTTP/1.1 101 ") {
			t.Fatalf("%q %v", buf[:n], err)
		}
		return c
	}
	open()
	used := func() uint64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapInuse + m.StackInuse
	}
	const n = 500
	before := used()
	for range n {
		open()
	}
	for r.Handler.Stats().Readers < n+1 {
		runtime.Gosched()
	}
	each := (used() - before) / n
	t.Logf("%d bytes each", each)
	if each > 22<<10 && !raceEnabled {
		t.Errorf("an idle tail takes %d bytes", each)
	}
}

func BenchmarkTail(b *testing.B) {
	for _, bench := range []struct {
		tails  int
		accept string
	}{{1, ""}, {20, ""}, {1, "text/plain"}, {1, "application/x-ndjson"}, {1, "application/x-protobuf"}} {
		name := fmt.Sprintf("websocket/tails=%d", bench.tails)
		if bench.accept != "" {
			name = bench.accept
		}
		b.Run(name, func(b *testing.B) { benchmarkTail(b, bench.tails, bench.accept) })
	}
}

// benchmarkTail publishes batches of 100 lines of 200 bytes, one per iteration,
// and waits until every tail has them all.
func benchmarkTail(b *testing.B, tails int, accept string) {
	r := start(b, 64<<20)
	r.publish(b, "web", 1, 1, 1)
	var received, missed atomic.Uint64
	var wg sync.WaitGroup
	var conns []io.Closer
	for range tails {
		if accept != "" {
			req, _ := http.NewRequest(http.MethodGet, r.url+"/v1/tail?app=web", nil)
			req.Header.Set("Accept", accept)
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				b.Fatal(err)
			}
			conns = append(conns, resp.Body)
			wg.Go(func() { io.Copy(io.Discard, resp.Body) })
			continue
		}
		c := dial(b, r.url+"/v1/tail?app=web")
		conns = append(conns, closer{c})
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			for {
				_, rd, err := c.Reader(context.Background())
				if err != nil {
					return
				}
				n := 0
				for err == nil {
					var k int
					k, err = rd.Read(buf[n:])
					n += k
				}
				batch, err := envelope.ParseBatch(buf[:n])
				if err != nil {
					b.Error(err)
					return
				}
				received.Add(uint64(batch.Count))
				missed.Add(batch.Missed)
			}
		})
	}
	for r.Router.Stats().Readers < tails {
		runtime.Gosched()
	}
	var records []byte
	id := identity("web")
	line := []byte(strings.Repeat("x", 200))
	for range 100 {
		records = envelope.AppendLog(records, id, time.Now().UnixNano(), envelope.Out, line)
	}
	b.SetBytes(int64(len(records)))
	b.ReportAllocs()
	total := uint64(0)
	for b.Loop() {
		r.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: 100})
		total += 100
		// The bench is about what tails take, not about how fast they lose.
		for {
			s := r.Handler.Stats()
			if total*uint64(tails) < s.Records+s.Missed+20_000*uint64(tails) {
				break
			}
			runtime.Gosched()
		}
	}
	for s := r.Handler.Stats(); s.Records+s.Missed < total*uint64(tails); s = r.Handler.Stats() {
		runtime.Gosched()
	}
	for accept == "" && received.Load()+missed.Load() < total*uint64(tails) {
		runtime.Gosched()
	}
	b.ReportMetric(float64(total*uint64(tails))/b.Elapsed().Seconds(), "records/s")
	b.ReportMetric(float64(r.Handler.Stats().Missed), "missed")
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
}

type closer struct{ c *websocket.Conn }

func (c closer) Close() error { return c.c.CloseNow() }

func TestDelimitedMessagesAreWhole(t *testing.T) {
	r := start(t, 0)
	r.publish(t, "web", 1, 5000, 50)
	req, _ := http.NewRequest(http.MethodGet, r.url+"/v1/recent?app=web", nil)
	req.Header.Set("Accept", "application/x-protobuf")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	rd := bufio.NewReader(resp.Body)
	var s seen
	for {
		n, err := binary.ReadUvarint(rd)
		if err == io.EOF {
			break
		}
		p := make([]byte, n)
		if _, err := io.ReadFull(rd, p); err != nil {
			t.Fatal(err)
		}
		b, err := envelope.ParseBatch(p)
		if err != nil {
			t.Fatal(err)
		}
		s.take(t, b)
	}
	if s.records != 5000 || s.missed != 0 {
		t.Errorf("%d records, %d missed", s.records, s.missed)
	}
}
