package httpapi

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coder/websocket"
	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// gaps is lines with everything in between that can be missing.
func gaps() *script {
	second := lines(13, 1)
	second.Missed = 10
	third := lines(14, 0)
	third.Missed, third.Reset = 1, true
	lgr := envelope.AppendMissed(nil, webID, testTime.UnixNano(), 5, "receiver away")
	return &script{known: []string{"web"}, batches: []envelope.Batch{
		lines(1, 0), lines(1, 2), second, third, {Records: lgr, Count: 1},
	}}
}

func get(t *testing.T, h http.Handler, target, accept string) *http.Response {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, target, nil)
	if accept != "" {
		r.Header.Set("Accept", accept)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w.Result()
}

func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestFormats(t *testing.T) {
	pdt := time.FixedZone("", -7*3600)
	t.Run("text", func(t *testing.T) {
		h := New(open(gaps()), &Options{Location: pdt})
		want := `2013-04-05T13:14:58.12-0700 [APP/PROC/WEB/0] OUT line 1
2013-04-05T13:14:58.12-0700 [APP/PROC/WEB/0] OUT line 2
-- 10 lines missed --
2013-04-05T13:14:58.12-0700 [APP/PROC/WEB/0] OUT line 13
-- lines missed, their number is not known: the server was started anew --
-- 1 line missed --
-- 5 lines missed: receiver away --
`
		resp := get(t, h, "/v1/recent?app=web", "")
		if d := cmp.Diff(want, body(t, resp)); d != "" {
			t.Error(d)
		}
		if ct := resp.Header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
			t.Errorf("Content-Type %q", ct)
		}
		var s Stats
		if s = h.Stats(); s.Records != 4 || s.Missed != 11 || s.Readers != 0 {
			t.Errorf("%+v", s)
		}
		resp = get(t, h, "/v1/recent", "text/html,*/*;q=0.8")
		if got := body(t, resp); !strings.HasPrefix(got, "web 2013-") || !strings.Contains(got, "\nweb -- 10 lines missed --\n") {
			t.Errorf("several apps: %s", got)
		}
	})
	t.Run("ndjson", func(t *testing.T) {
		resp := get(t, New(open(gaps()), nil), "/v1/recent?app=web", "application/x-ndjson")
		const tags = `"tags":{"app_name":"web","source_type":"APP/PROC/WEB"}}` + "\n"
		const head = `{"timestamp":"2013-04-05T20:14:58.123456789Z","source_id":"guid","instance_id":"0","type":"log","stream":`
		want := head + `"OUT","text":"line 1",` + tags +
			head + `"OUT","text":"line 2",` + tags +
			`{"type":"missed","missed":10,"source_id":"guid"}` + "\n" +
			head + `"OUT","text":"line 13",` + tags +
			`{"type":"reset"}` + "\n" + `{"type":"missed","missed":1}` + "\n" +
			head + `"ERR","text":"5 lines are missing here: receiver away","missed":5,"tags":{"app_name":"web","missed":"5","missed_reason":"receiver away","source_type":"LGR"}}` + "\n"
		if d := cmp.Diff(want, body(t, resp)); d != "" {
			t.Error(d)
		}
	})
	t.Run("protobuf", func(t *testing.T) {
		src := gaps()
		resp := get(t, New(open(src), nil), "/v1/recent?app=web", "application/x-protobuf")
		r := bufio.NewReader(resp.Body)
		for i, want := range src.batches {
			if got := readDelimited(t, r); !equal(got, want) {
				t.Errorf("batch %d: got %+v, want %+v", i, got, want)
			}
		}
		if _, err := r.ReadByte(); err != io.EOF {
			t.Errorf("after the last batch: %v", err)
		}
	})
}

func readDelimited(t *testing.T, r *bufio.Reader) envelope.Batch {
	t.Helper()
	n, err := binary.ReadUvarint(r)
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(r, p); err != nil {
		t.Fatal(err)
	}
	b, err := envelope.ParseBatch(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func equal(a, b envelope.Batch) bool {
	same := bytes.Equal(a.Records, b.Records)
	a.Records, b.Records = nil, nil
	return same && cmp.Equal(a, b)
}

func TestRefusals(t *testing.T) {
	src := &script{known: []string{"web", "guid", "dev"}, batches: []envelope.Batch{lines(1, 1)}}
	one := access.NewGate(src, nil, &access.Options{MaxReaders: 1})
	taken, err := one.Admit(t.Context(), "", envelope.Everything)
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	full := New(one, nil)
	closed := New(open(src), nil)
	closed.Close()
	open := New(open(src), nil)
	for _, tt := range []struct {
		name   string
		h      *Handler
		target string
		accept string
		status int
		want   string
	}{
		{"known app", open, "/v1/recent?app=web", "", 200, "line 1"},
		{"unknown app", open, "/v1/recent?app=nope", "", 404, `app "nope" is not known here: it has not logged lately; wait=true waits for it` + "\n"},
		{"unknown app among known ones", open, "/v1/recent?app=web&app=nope", "", 404, `app "nope"`},
		{"unknown app in known space", open, "/v1/tail?app=nope&space=dev", "", 404, `app "nope"`},
		{"known app in unknown space", open, "/v1/tail?app=web&space=prod", "", 404, `app "web"`},
		{"unknown source id", open, "/v1/tail?source_id=nope", "", 404, `source_id "nope" is not known here`},
		{"unknown app as JSON", open, "/v1/recent?app=nope", "application/json", 404, `{"error":"app \"nope\" is not known here`},
		{"waiting for the app", open, "/v1/recent?app=nope&wait=true", "", 200, "line 1"},
		{"unknown space", open, "/v1/recent?space=prod", "", 404, `space "prod" is not known here`},
		{"unknown org", open, "/v1/recent?org=acme", "", 404, `org "acme" is not known here`},
		{"no selector", open, "/v1/recent", "", 200, "line 1"},
		{"too many", full, "/v1/recent?app=web", "", 503, "too many readers: 1 are being served"},
		{"closed", closed, "/v1/recent?app=web", "", 503, "shutting down"},
		{"no such page", open, "/v2/recent", "", 404, "GET / names"},
		{"no such format", open, "/v1/recent", "image/png", 406, "Accept takes text/plain"},
		{"long address", open, "/v1/recent?app=" + strings.Repeat("x", MaxURL), "", 414, "256 KiB"},
		{"parameter", open, "/v1/recent?lines=many", "", 400, `parameter lines takes a number from 1 to 1000000, not "many"`},
		{"shard of a dump", open, "/v1/recent?shard=a", "", 400, "parameter shard is for /v1/tail"},
		{"help", open, "/", "", 200, "curl 'http://example.com/v1/tail?app=NAME'"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			resp := get(t, tt.h, tt.target, tt.accept)
			got := body(t, resp)
			if resp.StatusCode != tt.status || !strings.Contains(got, tt.want) {
				t.Errorf("%d %q, want %d %q", resp.StatusCode, got, tt.status, tt.want)
			}
			if tt.status != 200 && strings.Count(got, "\n") != 1 {
				t.Errorf("not one line: %q", got)
			}
		})
	}
	if s := one.Stats(); s.Busy != 1 || s.Readers != 1 {
		t.Errorf("%+v", s)
	}
	for _, h := range []*Handler{full, closed, open} {
		if s := h.gate.Stats(); h != full && s.Readers != 0 || h.Stats().Readers != 0 {
			t.Errorf("left over: %+v", s)
		}
	}
	w := httptest.NewRecorder()
	open.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/v1/tail", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "GET, POST" {
		t.Errorf("PUT: %d", w.Code)
	}
	for _, tt := range []struct {
		kind, form string
		status     int
	}{
		{"text/plain", "lines=1", 415},
		{"application/x-www-form-urlencoded", "lines=1&x=" + strings.Repeat("x", maxForm), 413},
		{"application/x-www-form-urlencoded", "no=1", 400},
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/recent", strings.NewReader(tt.form))
		r.Header.Set("Content-Type", tt.kind)
		w := httptest.NewRecorder()
		if open.ServeHTTP(w, r); w.Code != tt.status {
			t.Errorf("POST of %.20s: %d, want %d", tt.form, w.Code, tt.status)
		}
	}
}

// A cursor of a hundred thousand places goes into the body.
func TestCursorInABody(t *testing.T) {
	var c envelope.Cursor
	for i := range uint64(envelope.MaxCursor) {
		c.Advance(envelope.Batch{Ring: envelope.StreamID(i + 1), Position: 1 << 40})
	}
	src := &script{}
	r := httptest.NewRequest(http.MethodPost, "/v1/recent?order=source", strings.NewReader("cursor="+c.String()))
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	w := httptest.NewRecorder()
	New(open(src), nil).ServeHTTP(w, r)
	if w.Code != 200 || len(src.query.Cursor.Rings) != envelope.MaxCursor {
		t.Errorf("%d, %d places", w.Code, len(src.query.Cursor.Rings))
	}
}

func TestQueries(t *testing.T) {
	src := &script{known: []string{"dev"}, err: io.EOF} // an error, or a tail would not end
	for _, tt := range []struct {
		target, accept string
		want           envelope.Query
	}{
		{"/v1/recent", "", envelope.Query{History: true, ByTime: true}},
		{"/v1/recent?lines=5", "application/x-protobuf", envelope.Query{History: true, ByTime: true, Last: 5}},
		{"/v1/recent?order=source", "", envelope.Query{History: true}},
		{"/v1/tail", "", envelope.Query{Follow: true, ByTime: true}},
		{"/v1/tail?since=2013-04-05T20:14:58Z", "application/x-ndjson", envelope.Query{Follow: true, ByTime: true, Since: testTime.Truncate(time.Second)}},
		{"/v1/tail?space=dev", "application/x-protobuf", envelope.Query{Follow: true, Select: []envelope.Selector{{Space: "dev"}}}},
		{"/v1/tail?shard=readers", "", envelope.Query{Follow: true, ByTime: true, Shard: "readers"}},
		{"/v1/tail?order=time", "application/x-protobuf", envelope.Query{Follow: true, ByTime: true}},
	} {
		func() {
			defer func() { recover() }() // http.ErrAbortHandler, because of the error
			get(t, New(open(src), nil), tt.target, tt.accept)
		}()
		if tt.want.Select == nil {
			tt.want.Select = envelope.Everything
		}
		tt.want.MaxBytes = batchSize
		if d := cmp.Diff(tt.want, src.query); d != "" {
			t.Errorf("%s %s: %s", tt.target, tt.accept, d)
		}
	}
}

// What ends early must not look like the end.
func TestBrokenDumpIsSeen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, _ := serve(t, New(open(&script{batches: []envelope.Batch{lines(1, 3)}, err: errors.New("broken")}), nil))
		resp, err := client.Get("http://test/v1/recent")
		if err == nil {
			_, err = io.ReadAll(resp.Body)
			resp.Body.Close()
		}
		if err == nil {
			t.Fatal("a dump that broke off ended like a whole one")
		}
	})
}

func TestStreamIsFlushedLineByLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{more: make(chan envelope.Batch), known: []string{"web"}}
		h := New(open(src), nil)
		client, _ := serve(t, h)
		resp, err := client.Get("http://test/v1/tail?app=web")
		if err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(resp.Body)
		for i := range uint64(5) {
			src.more <- lines(i+1, 1)
			line, err := r.ReadString('\n')
			if err != nil || !strings.HasSuffix(line, "line "+string(rune('1'+i))+"\n") {
				t.Fatalf("%q %v", line, err)
			}
		}
		if s := h.Stats(); s.Readers != 1 {
			t.Errorf("%+v", s)
		}
		ended := make(chan error)
		go func() { ended <- h.Shutdown(t.Context()) }()
		if rest, err := io.ReadAll(r); err != nil || len(rest) > 0 {
			t.Errorf("after Shutdown: %q %v", rest, err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		resp.Body.Close()
	})
}

func TestConnectionIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, p := serve(t, New(open(&script{batches: []envelope.Batch{lines(1, 3)}}), nil))
		dials := 0
		client.Transport.(*http.Transport).DialContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			dials++
			return p.dial(ctx, network, addr)
		}
		for range 3 {
			resp, err := client.Get("http://test/v1/recent")
			if err != nil {
				t.Fatal(err)
			}
			if got := body(t, resp); strings.Count(got, "\n") != 3 {
				t.Errorf("%q", got)
			}
			resp.Body.Close()
			time.Sleep(10 * DefaultWriteTimeout)
		}
		if dials != 1 {
			t.Errorf("%d connections for 3 requests", dials)
		}
	})
}

func dial(t *testing.T, client *http.Client, target string) *websocket.Conn {
	t.Helper()
	c, _, err := websocket.Dial(t.Context(), target, &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	c.SetReadLimit(4 << 20)
	return c
}

func read(t *testing.T, c *websocket.Conn) envelope.Batch {
	t.Helper()
	typ, p, err := c.Read(context.Background())
	if err != nil || typ != websocket.MessageBinary {
		t.Fatalf("%v %v", typ, err)
	}
	b, err := envelope.ParseBatch(p)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWebSocket(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := gaps()
		src.more = make(chan envelope.Batch)
		h := New(open(src), nil)
		client, _ := serve(t, h)
		c := dial(t, client, "http://test/v1/tail?app=web")
		for i, want := range src.batches {
			if got := read(t, c); !equal(got, want) {
				t.Errorf("batch %d: got %+v, want %+v", i, got, want)
			}
		}
		// Frames of all three lengths.
		for _, n := range []int{1, 100, 2000} {
			go func() { src.more <- lines(1, n) }()
			if got := read(t, c); got.Count != n {
				t.Errorf("%d records, want %d", got.Count, n)
			}
		}
		c.Close(websocket.StatusNormalClosure, "")
		synctest.Wait()
		if s := h.Stats(); s.Readers != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestWebSocketRefusals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(open(&script{}), nil)
		client, _ := serve(t, h)
		for _, tt := range []struct {
			target, origin string
			status         int
		}{
			{"http://test/v1/tail?app=nope", "", 404},
			{"http://test/v1/tail?nope=1", "", 400},
			{"http://test/v1/tail", "http://elsewhere", 403},
		} {
			_, resp, err := websocket.Dial(t.Context(), tt.target, &websocket.DialOptions{
				HTTPClient: client, HTTPHeader: http.Header{"Origin": {tt.origin}},
			})
			if err == nil || resp == nil || resp.StatusCode != tt.status {
				t.Errorf("%s: %v %v, want %d", tt.target, resp, err, tt.status)
			}
		}
		if s := h.Stats(); s.Readers != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestShutdownSaysGoingAwayAfterWhatIsAtHand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{more: make(chan envelope.Batch)}
		h := New(open(src), nil)
		client, _ := serve(t, h)
		c := dial(t, client, "http://test/v1/tail")
		src.more <- lines(1, 3)
		src.more <- lines(4, 5)
		synctest.Wait() // nobody reads yet: the first is on its way, the second waits
		ended := make(chan error)
		go func() { ended <- h.Shutdown(t.Context()) }()
		synctest.Wait()
		if got := read(t, c).Count + read(t, c).Count; got != 8 {
			t.Errorf("%d records, want 8", got)
		}
		if _, _, err := c.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusGoingAway {
			t.Errorf("%v", err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if err := h.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestShutdownDoesNotWaitForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{more: make(chan envelope.Batch)}
		h := New(open(src), nil)
		client, _ := serve(t, h)
		dial(t, client, "http://test/v1/tail") // reads nothing
		resp, err := client.Get("http://test/v1/tail")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		src.more <- lines(1, 30_000)
		src.more <- lines(1, 30_000)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		start := time.Now()
		if err := h.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestReaderThatTakesNothingIsCut(t *testing.T) {
	for _, kind := range []string{"websocket", "stream"} {
		t.Run(kind, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{more: make(chan envelope.Batch)}
				h := New(open(src), nil)
				client, _ := serve(t, h)
				if kind == "websocket" {
					dial(t, client, "http://test/v1/tail")
				} else {
					resp, err := client.Get("http://test/v1/tail")
					if err != nil {
						t.Fatal(err)
					}
					defer resp.Body.Close()
				}
				start := time.Now()
				taken := 0
				for h.Stats().Readers > 0 {
					select {
					case src.more <- lines(1, 400): // some 32 KiB
						taken++
					case <-time.After(time.Second):
					}
				}
				// 32 KiB may hang in net/http's client, 128 KiB here.
				if d := time.Since(start); d < time.Minute || d > 70*time.Second || taken > 8 {
					t.Errorf("cut after %v and %d batches", d, taken)
				}
				if s := h.Stats(); s.Stalled != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

// A peer that is gone without a word is found by the pings; one that answers
// them stays.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(open(&script{}), nil)
		client, p := serve(t, h)
		alive := dial(t, client, "http://test/v1/tail")
		alive.CloseRead(t.Context()) // answers pings
		dead, err := p.dial(t.Context(), "", "")
		if err != nil {
			t.Fatal(err)
		}
		defer dead.Close()
		io.WriteString(dead, "GET /v1/tail HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		go io.Copy(io.Discard, dead)
		synctest.Wait()
		if n := h.Stats().Readers; n != 2 {
			t.Fatalf("%d readers", n)
		}
		time.Sleep(5 * time.Minute)
		if s := h.Stats(); s.Readers != 1 || s.Stalled != 1 {
			t.Errorf("%+v", s)
		}
		alive.CloseNow()
	})
}

// Some clients keep a connection alive with messages.
func TestDataFromTheClientIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{more: make(chan envelope.Batch)}
		client, _ := serve(t, New(open(src), nil))
		c := dial(t, client, "http://test/v1/tail")
		for i := range 3 {
			c.Write(t.Context(), websocket.MessageText, []byte(strings.Repeat("I'm alive! ", 100*i)))
			go func() { src.more <- lines(1, 1) }()
			if b := read(t, c); b.Count != 1 {
				t.Errorf("%+v", b)
			}
		}
	})
}
