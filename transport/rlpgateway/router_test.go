package rlpgateway_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/rlpgateway"
)

// These tests run the door on a Router and real sockets.

type rig struct {
	*loggregator.Router
	*rlpgateway.Handler
	url string
}

func start(t testing.TB, budget int64) rig {
	t.Helper()
	r := loggregator.New(&loggregator.Options{Budget: budget})
	h := rlpgateway.New(access.NewGate(r, nil, &access.Options{BytesPerSecond: -1}), nil)
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		h.Close()
		srv.Close()
		r.Close()
	})
	return rig{r, h, srv.URL}
}

// publish appends n numbered lines of app, a batch at a time.
func (r rig) publish(t testing.TB, app string, first, n, batch int) {
	t.Helper()
	r.publishAs(t, envelope.Identity{SourceID: app, InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"}}, first, n, batch)
}

// publishLong does so with lines that fill the system's buffers soon.
func (r rig) publishLong(t testing.TB, app string, n int) {
	t.Helper()
	r.publishAs(t, envelope.Identity{SourceID: app, Tags: map[string]string{"long": strings.Repeat("x", 600)}}, 1, n, 100)
}

func (r rig) publishAs(t testing.TB, id envelope.Identity, first, n, batch int) {
	t.Helper()
	fixed := id.Encode()
	var records []byte
	for i := first; i < first+n; i += batch {
		count := min(batch, first+n-i)
		records = records[:0]
		for k := range count {
			records = envelope.AppendLog(records, fixed, time.Now().UnixNano(), envelope.Out, strconv.AppendInt(nil, int64(i+k), 10))
		}
		if err := r.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: count}); err != nil {
			t.Error(err)
		}
	}
}

// awaitReaders waits until so many follow: the answer comes before the reading.
func (r rig) awaitReaders(n int) {
	for r.Router.Stats().Readers < n {
		runtime.Gosched()
	}
}

// client is a client that comes again with the last id.
type client struct {
	url     string
	id      string // the last one
	noID    bool   // there is none any more
	records int
	missed  int
	resets  int
	again   int            // lines that had come before
	last    map[string]int // by source, the number on the last line
	ids     int
	bytes   int
	idBytes int
}

// read reads until stop says so, or the body breaks.
func (c *client) read(t testing.TB, body io.Reader, stop func() bool) {
	r := bufio.NewReaderSize(body, 64<<10)
	if c.last == nil {
		c.last = make(map[string]int)
	}
	var id, data string
	hasID := false
	told := 0
	for !stop() {
		line, err := r.ReadString('\n')
		if err != nil {
			return // what came in pieces does not count
		}
		c.bytes += len(line)
		switch field, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": "); field {
		case "id":
			id, hasID = value, true
			c.ids++
			c.idBytes += len(line)
		case "id:":
			id, hasID = "", true
			c.noID = true
		case "data":
			data = value
		case "":
			if value == "reset" {
				c.resets++
				continue
			}
			if value != "" {
				n, err := strconv.Atoi(strings.TrimPrefix(value, "missed "))
				if err != nil {
					t.Errorf("comment %q", value)
				}
				told += n
				continue
			}
			c.missed += told
			c.take(t, data, told)
			told, data = 0, ""
			if hasID {
				c.id, hasID = id, false
			}
		case "event":
			t.Errorf("event %q", value)
		}
	}
}

func (c *client) take(t testing.TB, data string, told int) {
	if data == "" {
		return
	}
	var b envelopepb.EnvelopeBatch
	if err := protojson.Unmarshal([]byte(data), &b); err != nil {
		t.Fatal(err)
	}
	for _, e := range b.Batch {
		if e.Tags["source_type"] == "LGR" {
			if n, ok := e.Tags["missed"]; !ok && c.resets > 0 {
				continue
			} else if n != strconv.Itoa(told) {
				t.Errorf("a line says %s are missed, the comment %d", n, told)
			}
			continue
		}
		n, err := strconv.Atoi(string(e.GetLog().GetPayload()))
		if err != nil {
			t.Fatal(err)
		}
		if last, ok := c.last[e.SourceId]; ok && n <= last {
			c.again++
			continue
		} else if ok && n != last+1+told {
			t.Errorf("%s: %d follows %d, and %d are told", e.SourceId, n, last, told)
		}
		told = 0
		c.last[e.SourceId] = n
		c.records++
	}
}

// cut is a body that breaks after so many bytes.
type cut struct {
	io.Reader
	left int
}

func (c *cut) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := c.Reader.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}

// connect gets a stream that breaks after so many bytes.
func (c *client) connect(t testing.TB, left int) (io.ReadCloser, io.Reader) {
	t.Helper()
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, c.url, nil)
	if c.id != "" {
		req.Header.Set("Last-Event-ID", c.id)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(err, resp)
	}
	return resp.Body, &cut{resp.Body, left}
}

// Whatever is cut where, every line comes, and where the ids are short, once.
func TestResumeAfterCuts(t *testing.T) {
	for _, tt := range []struct {
		sources, lines int
		once           bool
	}{{1, 8000, true}, {3, 3000, true}, {60, 150, false}} {
		t.Run(fmt.Sprint("sources=", tt.sources), func(t *testing.T) {
			seed := rand.Uint64()
			rng := rand.New(rand.NewPCG(seed, 0))
			t.Logf("seed %d", seed)
			r := start(t, 0)
			c := client{url: r.url + "/v2/read?log"}
			// The first connection is cut as soon as it knows where it is.
			closer, body := c.connect(t, 1<<30)
			c.read(t, body, func() bool { return c.id != "" })
			closer.Close()
			var wg sync.WaitGroup
			for i := range tt.sources {
				wg.Go(func() { r.publish(t, fmt.Sprint("app-", i), 1, tt.lines, 5) })
			}
			defer wg.Wait()
			total := tt.sources * tt.lines
			cuts := 0
			for ; c.records < total; cuts++ {
				closer, body := c.connect(t, 500+rng.IntN(200_000))
				c.read(t, body, func() bool { return c.records >= total })
				closer.Close()
			}
			if c.missed != 0 || cuts < 5 || tt.once && c.again != 0 {
				t.Errorf("%d missed, %d again after %d cuts", c.missed, c.again, cuts)
			}
			if c.records != total || c.idBytes*3 > c.bytes {
				t.Errorf("%d records; %d bytes, of which %d of %d ids", c.records, c.bytes, c.idBytes, c.ids)
			}
			for app, last := range c.last {
				if last != tt.lines {
					t.Errorf("%s ends at %d", app, last)
				}
			}
			if s := r.Handler.Stats(); s.Missed != 0 || s.Resumed != uint64(cuts) {
				t.Errorf("%+v", s)
			}
			t.Logf("%d cuts, %d again, %d ids", cuts, c.again, c.ids)
		})
	}
}

// A reader that comes back to a server that was started anew is given what that one
// holds, and told that something may be missing.
func TestResumeInAnotherLife(t *testing.T) {
	first, second := start(t, 0), start(t, 0)
	c := client{url: first.url + "/v2/read?log"}
	closer, body := c.connect(t, 1<<30)
	first.awaitReaders(1)
	first.publish(t, "app", 1, 100, 10)
	c.read(t, body, func() bool { return c.records >= 100 })
	closer.Close()
	second.publish(t, "app", 111, 50, 10)
	c.url, c.last = second.url+"/v2/read?log", nil
	closer, body = c.connect(t, 1<<30)
	defer closer.Close()
	c.read(t, body, func() bool { return c.records >= 150 })
	if c.resets == 0 || c.again+c.missed > 0 || c.last["app"] != 160 {
		t.Errorf("%+v", c)
	}
}

// A reader of more sources than an id can say is told that there is none.
func TestIDsEnd(t *testing.T) {
	r := start(t, 0)
	c := client{url: r.url + "/v2/read?log"}
	closer, body := c.connect(t, 1<<30)
	defer closer.Close()
	c.read(t, body, func() bool { return c.id != "" })
	const sources = 500
	for i := range sources {
		r.publish(t, fmt.Sprint("app-", i), 1, 1, 1)
	}
	c.read(t, body, func() bool { return c.records >= sources })
	if c.id != "" || c.records != sources || c.missed != 0 {
		t.Errorf("%d records, the id has %d bytes", c.records, len(c.id))
	}
}

// A reader that cannot keep up costs only itself, and is told what it lost.
func TestSlowReader(t *testing.T) {
	r := start(t, 1<<20)
	slow, fast := client{url: r.url + "/v2/read?log&source_id=app"}, client{url: r.url + "/v2/read?log&source_id=app"}
	slowCloser, slowBody := slow.connect(t, 1<<30)
	defer slowCloser.Close()
	fastCloser, fastBody := fast.connect(t, 1<<30)
	defer fastCloser.Close()
	r.awaitReaders(2)
	const n = 20_000
	var wg sync.WaitGroup
	wg.Go(func() { fast.read(t, fastBody, func() bool { return fast.records+fast.missed >= n }) })
	r.publishLong(t, "app", n)
	wg.Wait()
	slow.read(t, slowBody, func() bool { return slow.records+slow.missed >= n })
	if slow.missed == 0 {
		t.Error("the slow reader missed nothing: the test is too small")
	}
	if s := r.Handler.Stats(); s.Records+s.Missed != 2*n || s.Missed != uint64(slow.missed+fast.missed) || s.Untold != 0 {
		t.Errorf("%+v; told %d and %d", s, slow.missed, fast.missed)
	}
	t.Logf("missed: slow %d, fast %d", slow.missed, fast.missed)
}

// Readers of one shard split the sources between them.
func TestShard(t *testing.T) {
	r := start(t, 0)
	const readers, sources, lines = 3, 30, 50
	var records atomic.Int64
	var wg sync.WaitGroup
	var closers []io.Closer
	clients := make([]*client, readers)
	for i := range clients {
		c := &client{url: r.url + "/v2/read?log&shard_id=nozzle&deterministic_name=" + fmt.Sprint(i)}
		clients[i] = c
		closer, body := c.connect(t, 1<<30)
		closers = append(closers, closer)
		wg.Go(func() {
			seen := 0
			c.read(t, body, func() bool {
				records.Add(int64(c.records - seen))
				seen = c.records
				return false
			})
		})
	}
	r.awaitReaders(readers)
	for i := range sources {
		r.publish(t, fmt.Sprint("app-", i), 1, lines, 10)
	}
	for records.Load() < sources*lines {
		runtime.Gosched()
	}
	for _, c := range closers {
		c.Close()
	}
	wg.Wait()
	total, owners := 0, 0
	for _, c := range clients {
		total += c.records
		owners += len(c.last)
		if c.again+c.missed+c.ids != 0 {
			t.Errorf("%+v", c)
		}
	}
	if total != sources*lines || owners != sources {
		t.Errorf("%d records, %d sources", total, owners)
	}
	if s := r.Handler.Stats(); s.Records != sources*lines || s.Missed != 0 {
		t.Errorf("%+v", s)
	}
}

// A record of the largest size passes.
func TestLargeRecord(t *testing.T) {
	r := start(t, 0)
	resp, err := http.Get(r.url + "/v2/read?log")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	r.awaitReaders(1)
	text := make([]byte, envelope.MaxSize-200)
	for i := range text {
		text[i] = byte(i)
	}
	r.WriteBatch(t.Context(), envelope.Batch{Records: envelope.AppendLog(nil, envelope.Identity{SourceID: "a"}.Encode(), 1, envelope.Err, text), Count: 1})
	for rd := bufio.NewReader(resp.Body); ; {
		line, err := rd.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if data, ok := strings.CutPrefix(line, "data: "); ok {
			var b envelopepb.EnvelopeBatch
			if err := protojson.Unmarshal([]byte(data), &b); err != nil || string(b.Batch[0].GetLog().GetPayload()) != string(text) {
				t.Errorf("%v, %d records", err, len(b.Batch))
			}
			return
		}
	}
}

// Over HTTP/2 it is the same, but for a header, and a reader who takes nothing is
// cut off as well.
func TestHTTP2(t *testing.T) {
	router := loggregator.New(nil)
	h := rlpgateway.New(access.NewGate(router, nil, nil), &rlpgateway.Options{WriteTimeout: 100 * time.Millisecond})
	srv := httptest.NewUnstartedServer(h)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	t.Cleanup(func() {
		h.Close()
		srv.Close()
		router.Close()
	})
	r := rig{router, h, srv.URL}
	var bodies []io.ReadCloser
	for range 2 {
		resp, err := srv.Client().Get(r.url + "/v2/read?log")
		if err != nil || resp.StatusCode != 200 || resp.ProtoMajor != 2 || resp.Header.Get("Connection") != "" {
			t.Fatal(err, resp)
		}
		bodies = append(bodies, resp.Body)
	}
	r.awaitReaders(2)
	r.publish(t, "app", 1, 1, 1)
	var c client
	c.read(t, bodies[0], func() bool { return c.records == 1 })
	bodies[0].Close()
	for deadline := time.Now().Add(30 * time.Second); h.Stats().Stalled == 0; { // the other one takes nothing
		if time.Now().After(deadline) {
			t.Fatalf("%+v", h.Stats())
		}
		r.publish(t, "app", 2, 1000, 100)
	}
	if _, err := io.Copy(io.Discard, bodies[1]); err == nil {
		t.Error("the stream looks as if it had ended well")
	}
}

// BenchmarkRead publishes batches of 100 lines of 200 bytes, one per iteration,
// and waits until every reader has them all.
func BenchmarkRead(b *testing.B) {
	for _, readers := range []int{1, 10} {
		b.Run(fmt.Sprint("readers=", readers), func(b *testing.B) {
			r := start(b, 64<<20)
			var wg sync.WaitGroup
			var closers []io.Closer
			for range readers {
				resp, err := http.Get(r.url + "/v2/read?log&counter&gauge&timer&event&source_id=app")
				if err != nil {
					b.Fatal(err)
				}
				closers = append(closers, resp.Body)
				wg.Go(func() { io.Copy(io.Discard, resp.Body) })
			}
			r.awaitReaders(readers)
			id := envelope.Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{
				"source_type": "APP/PROC/WEB", "app_name": "shop", "space_name": "dev", "organization_name": "acme", "process_type": "web",
			}}.Encode()
			var records []byte
			for range 100 {
				records = envelope.AppendLog(records, id, time.Now().UnixNano(), envelope.Out, []byte(strings.Repeat("x", 200)))
			}
			b.SetBytes(int64(len(records) * readers))
			b.ReportAllocs()
			total := uint64(0)
			behind := func(by uint64) {
				for s := r.Handler.Stats(); (total-min(total, by))*uint64(readers) > s.Records+s.Missed; s = r.Handler.Stats() {
					runtime.Gosched()
				}
			}
			for b.Loop() {
				r.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: 100})
				total += 100
				behind(20_000) // it is about what readers take, not about how fast they lose
			}
			behind(0)
			b.ReportMetric(float64(total*uint64(readers))/b.Elapsed().Seconds(), "records/s")
			b.ReportMetric(float64(r.Handler.Stats().Missed), "missed")
			for _, c := range closers {
				c.Close()
			}
			wg.Wait()
		})
	}
}
