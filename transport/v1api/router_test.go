package v1api_test

import (
	"context"
	"fmt"
	"io"
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
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde/v1pb"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/v1api"
)

// These tests run the door on a Router and real sockets.

const guid = "27ff6fb1-4b1c-4e6f-a8f8-7c6a28d4d3f6"

type rig struct {
	*loggregator.Router
	*v1api.Handler
	url string
}

func start(t testing.TB, budget int64) rig {
	t.Helper()
	r := loggregator.New(&loggregator.Options{Budget: budget})
	h := v1api.New(access.NewGate(r, nil, &access.Options{BytesPerSecond: -1}), nil)
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

// awaitReaders waits until so many follow: the handshake comes before the reading.
func (r rig) awaitReaders(n int) {
	for r.Router.Stats().Readers < n {
		runtime.Gosched()
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
	records, missed, counted, envelopes uint64
	last                                map[string]int // by app, the number on the last line
}

// take reads one message, and reports whether there was one. The lines go on where
// the last ended, but for what is told just before.
func (s *seen) take(t testing.TB, c *websocket.Conn) bool {
	t.Helper()
	if s.last == nil {
		s.last = make(map[string]int)
	}
	for told := 0; ; {
		typ, p, err := c.Read(t.Context())
		if err != nil {
			return false
		}
		var e v1pb.Envelope
		if err := proto.Unmarshal(p, &e); err != nil || typ != websocket.MessageBinary {
			t.Fatal(err)
		}
		s.envelopes++
		if e.GetEventType() == 7 {
			s.counted += e.CounterEvent.GetDelta()
			continue
		}
		app := e.LogMessage.GetAppId()
		if e.LogMessage.GetSourceType() == "LGR" {
			n, err := strconv.Atoi(e.Tags["missed"])
			if err != nil {
				t.Errorf("%v", &e)
			}
			told += n
			s.missed += uint64(n)
			continue
		}
		n, err := strconv.Atoi(string(e.LogMessage.GetMessage()))
		if err != nil {
			t.Fatal(err)
		}
		if n != s.last[app]+1+told {
			t.Errorf("%s: %d follows %d, and %d are told", app, n, s.last[app], told)
		}
		s.last[app] = n
		s.records++
		return true
	}
}

// A reader that cannot keep up costs only itself, and is told what it lost.
func TestSlowReader(t *testing.T) {
	for _, path := range []string{"/apps/" + guid + "/stream", "/firehose/a"} {
		t.Run(path, func(t *testing.T) {
			r := start(t, 1<<20)
			fastPath := path
			if fastPath == "/firehose/a" {
				fastPath = "/firehose/b" // else they would share it
			}
			slow, fast := dial(t, r.url+path), dial(t, r.url+fastPath)
			r.awaitReaders(2)
			const n = 20_000
			var f, s seen
			var wg sync.WaitGroup
			wg.Go(func() {
				for f.records+f.missed < n && f.take(t, fast) {
				}
			})
			r.publishLong(t, guid, n)
			wg.Wait()
			for s.records+s.missed < n && s.take(t, slow) {
			}
			if s.missed == 0 {
				t.Error("the slow reader missed nothing: the test is too small")
			}
			st := r.Handler.Stats()
			if st.Records+st.Missed != 2*n || st.Missed != s.missed+f.missed || st.Untold != 0 || st.Envelopes != s.envelopes+f.envelopes {
				t.Errorf("%+v; %+v and %+v", st, f, s)
			}
			if firehose := path == "/firehose/a"; firehose && (s.counted != s.missed || f.counted != f.missed) || !firehose && s.counted+f.counted != 0 {
				t.Errorf("%+v and %+v", f, s)
			}
			t.Logf("missed: fast %d, slow %d", f.missed, s.missed)
		})
	}
}

// Readers of one firehose split the sources between them; another one has all.
func TestFirehoseIsShared(t *testing.T) {
	r := start(t, 0)
	const sources, lines = 30, 50
	var records [4]atomic.Int64
	all := make([]seen, len(records))
	var wg sync.WaitGroup
	for i, name := range []string{"nozzle", "nozzle", "nozzle", "other"} {
		c := dial(t, r.url+"/firehose/"+name)
		wg.Go(func() {
			for all[i].take(t, c) {
				records[i].Add(1)
			}
		})
	}
	r.awaitReaders(len(all))
	for i := range sources {
		r.publish(t, fmt.Sprint("app-", i), 1, lines, 10)
	}
	for records[0].Load()+records[1].Load()+records[2].Load() < sources*lines || records[3].Load() < sources*lines {
		runtime.Gosched()
	}
	if err := r.Handler.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	wg.Wait()
	owners := len(all[0].last) + len(all[1].last) + len(all[2].last)
	if owners != sources || len(all[3].last) != sources {
		t.Errorf("%d and %d sources", owners, len(all[3].last))
	}
	if s := r.Handler.Stats(); s.Records != 2*sources*lines || s.Missed != 0 || s.Readers != 0 {
		t.Errorf("%+v", s)
	}
}

// The last logs are those that the Router has, and a stream goes on from now.
func TestRecentOfARouter(t *testing.T) {
	r := start(t, 0)
	r.publish(t, guid, 1, 5000, 7)
	r.publish(t, "other", 1, 50, 7)
	resp, err := http.Get(r.url + "/apps/" + guid + "/recentlogs?limit=20")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	_, boundary, _ := strings.Cut(resp.Header.Get("Content-Type"), "boundary=")
	want := 5000
	for part := range strings.SplitSeq(string(body), "--"+boundary+"\r\n\r\n") {
		if part == "" {
			continue
		}
		msg, _, _ := strings.Cut(part, "\r\n--"+boundary)
		var e v1pb.Envelope
		if err := proto.Unmarshal([]byte(strings.TrimSuffix(msg, "\r\n")), &e); err != nil {
			t.Fatal(err)
		}
		if got := string(e.LogMessage.GetMessage()); got != strconv.Itoa(want) {
			t.Errorf("%s, want %d", got, want)
		}
		want--
	}
	if want != 5000-20 {
		t.Errorf("%d logs", 5000-want)
	}
}

// A record of the largest size passes.
func TestLargeRecord(t *testing.T) {
	r := start(t, 0)
	c := dial(t, r.url+"/apps/"+guid+"/stream")
	r.awaitReaders(1)
	text := make([]byte, envelope.MaxSize-200)
	for i := range text {
		text[i] = byte(i)
	}
	r.WriteBatch(t.Context(), envelope.Batch{Records: envelope.AppendLog(nil, envelope.Identity{SourceID: guid}.Encode(), 1, envelope.Err, text), Count: 1})
	_, p, err := c.Read(t.Context())
	var e v1pb.Envelope
	if err != nil || proto.Unmarshal(p, &e) != nil || string(e.LogMessage.GetMessage()) != string(text) {
		t.Errorf("%v, %d bytes", err, len(p))
	}
}

// BenchmarkStream publishes batches of 100 lines of 200 bytes, one per iteration,
// and waits until every reader has them all.
func BenchmarkStream(b *testing.B) {
	for _, readers := range []int{1, 10} {
		b.Run(fmt.Sprint("readers=", readers), func(b *testing.B) {
			r := start(b, 64<<20)
			var wg sync.WaitGroup
			var closers []io.Closer
			for range readers {
				c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://")) // a library's client would be what is measured
				if err != nil {
					b.Fatal(err)
				}
				fmt.Fprintf(c, "GET /apps/%s/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", guid)
				closers = append(closers, c)
				wg.Go(func() { io.Copy(io.Discard, struct{ io.Reader }{c}) })
			}
			r.awaitReaders(readers)
			id := envelope.Identity{SourceID: guid, InstanceID: "0", Tags: map[string]string{
				"source_type": "APP/PROC/WEB", "app_name": "shop", "space_name": "dev", "organization_name": "acme", "process_type": "web",
			}}.Encode()
			var records []byte
			for range 100 {
				records = envelope.AppendLog(records, id, time.Now().UnixNano(), envelope.Out, []byte(strings.Repeat("x", 200)))
			}
			b.SetBytes(int64(len(records) * readers))
			b.ReportAllocs()
			total := uint64(0)
			behind := func(by uint64) { // what tells of those that were missed is a record, too
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
