package logplexin

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/taken"
)

// body is messages in octet counting.
func body(messages ...string) string {
	var b strings.Builder
	for _, m := range messages {
		fmt.Fprintf(&b, "%d %s", len(m), m)
	}
	return b.String()
}

func zip(s string) string {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.String()
}

// post sends a body with headers "name: value" and returns the answer.
func post(h http.Handler, body string, headers ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest("POST", "/", strings.NewReader(body))
	r.Header.Set("Content-Type", ContentType)
	for _, s := range headers {
		k, v, _ := strings.Cut(s, ": ")
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// handler makes one whose numbers are checked when the test is over.
func handler(t *testing.T, w envelope.Writer, o *Options) *Handler {
	h := New(w, o)
	t.Cleanup(func() {
		h.Close()
		s := h.Stats()
		if s.Messages+s.Parts != s.Records+s.Filtered+s.Lost || s.Messages != s.RFC5424+s.Unparsed {
			t.Errorf("not conserved: %+v", s)
		}
		if n := h.buffered.Load(); n != 0 {
			t.Errorf("%d bytes are still counted as buffered", n)
		}
	})
	return h
}

const arrival = "2000-01-01T00:00:00Z" // when a bubble's clock begins

// TestMessages: what senders send becomes the records it should.
func TestMessages(t *testing.T) {
	const drain = "d.11111111-2222-4333-8444-555555555555"
	at := "2026-02-03T04:05:06.000007Z"
	tests := []struct {
		name    string
		body    string
		headers []string
		want    []taken.Record
		missed  uint64
	}{
		{"Logplex", body("<190>1 2026-02-03T04:05:06.000007+00:00 host app web.3 - hello\n", "<190>1 2026-02-03T04:05:06.000007+00:00 host app web.3 - - - [a b=\"c\"]"),
			[]string{"Logplex-Drain-Token: " + drain, "User-Agent: Logplex/v1"},
			[]taken.Record{
				taken.Log(at, drain, "3", "OUT", "hello", "app_name="+drain+" appname=app facility=local7 hostname=host procid=web.3 severity=info source_type=APP/PROC/WEB"),
				taken.Log(at, drain, "3", "OUT", `- - [a b="c"]`, "app_name="+drain+" appname=app facility=local7 hostname=host procid=web.3 severity=info source_type=APP/PROC/WEB"),
			}, 0},
		{"log-shuttle", body("<190>1 2026-02-03T04:05:06.000007+00:00 shuttle shop worker.1 - - hello\n"),
			[]string{"User-Agent: log-shuttle/0.18"},
			[]taken.Record{taken.Log(at, "shop", "1", "OUT", "hello", "app_name=shop appname=shop facility=local7 hostname=shuttle procid=worker.1 severity=info source_type=APP/PROC/WORKER")}, 0},
		{"gzip", zip(body("<187>1 2026-02-03T04:05:06.000007+00:00 shuttle token shuttle - - hello\n")),
			[]string{"User-Agent: log-shuttle/0.18", "Content-Encoding: gzip", "Authorization: Basic c2hvcDpzZWNyZXQ="},
			[]taken.Record{taken.Log(at, "shop", "", "ERR", "hello", "app_name=shop appname=token facility=local7 hostname=shuttle procid=shuttle severity=err source_type=APP")}, 0},
		{"structured data", body(`<190>1 2026-02-03T04:05:06.000007+00:00 h shop web.1 ID [tags@47450 space_name="prod"] hello`), nil,
			[]taken.Record{taken.Log(at, "h", "1", "OUT", "hello", "app_name=h appname=shop facility=local7 hostname=h msgid=ID procid=web.1 severity=info source_type=APP/PROC/WEB space_name=prod")}, 0},
		{"not syslog", body("hello"), nil, []taken.Record{taken.Log(arrival, "logplex", "", "OUT", "hello", "app_name=logplex source_type=APP")}, 0},
		{"nothing", "", nil, nil, 0},
		{"a line end after all", body("hello") + "\r\n", nil, []taken.Record{taken.Log(arrival, "logplex", "", "OUT", "hello", "app_name=logplex source_type=APP")}, 0},
		{"L10", body("<172>1 2026-02-03T04:05:06.000007+00:00 host heroku logplex - Error L10 (output buffer overflow): 7 messages dropped since 2026-02-03T04:05:05+00:00."), nil,
			[]taken.Record{taken.Log(at, "logplex", "", "OUT", "Error L10 (output buffer overflow): 7 messages dropped since 2026-02-03T04:05:05+00:00.",
				"app_name=logplex appname=heroku facility=local5 hostname=host procid=logplex severity=warning source_type=LOGPLEX")}, 7},
		{"L10, newer", body("<172>1 2026-02-03T04:05:06.000007+00:00 host heroku logplex - Error L10 (output buffer overflow): drain 'd.1' dropped 8 messages since 2026."), nil,
			[]taken.Record{taken.Log(at, "logplex", "", "OUT", "Error L10 (output buffer overflow): drain 'd.1' dropped 8 messages since 2026.",
				"app_name=logplex appname=heroku facility=local5 hostname=host procid=logplex severity=warning source_type=LOGPLEX")}, 8},
		{"L12, told in the head too", body("<172>1 2026-02-03T04:05:06.000007+00:00 heroku token log-shuttle - - Error L12: 9 messages dropped since 2026.\n"),
			[]string{"Logplex-Drop-Count: 9", "Logplex-Lost-Count: 3"},
			[]taken.Record{taken.Log(at, "logplex", "", "OUT", "Error L12: 9 messages dropped since 2026.",
				"app_name=logplex appname=token facility=local5 hostname=heroku procid=log-shuttle severity=warning source_type=APP")}, 12},
		{"lost all", "", []string{"Logplex-Lost-Count: 3"}, nil, 3},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				dst := taken.New(t)
				h := handler(t, dst, nil)
				if w := post(h, test.body, test.headers...); w.Code != 204 || w.Body.Len() > 0 {
					t.Errorf("answer %d %s", w.Code, w.Body)
				}
				if diff := cmp.Diff(test.want, dst.Take()); diff != "" {
					t.Error(diff)
				}
				if s := h.Stats(); dst.Missed() != test.missed || s.Missed != test.missed || s.Messages != uint64(len(test.want)) || s.Bytes != uint64(len(test.body)) {
					t.Errorf("told of %d missed, %+v", dst.Missed(), s)
				}
			})
		})
	}
}

// TestRefused: bad requests get a reason, and nothing of them is taken.
func TestRefused(t *testing.T) {
	good := body("<190>1 - h a p - - one", "<190>1 - h a p - - two")
	large := strings.Repeat("x", 70<<10)
	tests := []struct {
		name    string
		method  string
		body    string
		headers []string
		status  int
		reason  string
		says    string
	}{
		{"GET", "GET", "", nil, 405, "method", "send with POST"},
		{"type", "POST", good, []string{"Content-Type: text/plain"}, 415, "type", "application/logplex-1"},
		{"no type", "POST", good, []string{"Content-Type: "}, 415, "type", "application/logplex-1"},
		{"encoding", "POST", good, []string{"Content-Encoding: br"}, 415, "encoding", "gzip"},
		{"user", "POST", good, []string{"Authorization: Basic " + "eDp5"}, 401, "unauthorized", "not known here"},
		{"no frames", "POST", "hello", nil, 400, "malformed", "no frame at byte 0"},
		{"frames and rubbish", "POST", good + "<190>", nil, 400, "malformed", "no frame at byte 50, after 2 messages"},
		{"frame cut off", "POST", good[:len(good)-1], nil, 400, "malformed", "no frame at byte 25, after 1 messages"},
		{"2 GiB announced", "POST", "2147483648 x", nil, 400, "malformed", "no frame"},
		{"no gzip", "POST", good, []string{"Content-Encoding: gzip"}, 400, "malformed", "not gzip"},
		{"gzip cut off", "POST", zip(good)[:20], []string{"Content-Encoding: gzip"}, 400, "aborted", "too early"},
		{"gzip damaged", "POST", zip(good)[:12] + "\xff\xff\xff\xff" + zip(good)[16:], []string{"Content-Encoding: gzip"}, 400, "malformed", "not gzip"},
		{"too large", "POST", body(large), nil, 413, "too_large", "larger than 65536 bytes"},
		{"gzip bomb", "POST", zip(strings.Repeat("1 x", 1<<20)), []string{"Content-Encoding: gzip"}, 413, "too_large", "after decompression"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dst := taken.New(t)
			h := handler(t, dst, &Options{MaxBody: 64 << 10, Authorize: func(user, password, token string) (string, bool) {
				return "shop", user == "token" && password == "secret"
			}})
			r := httptest.NewRequest(test.method, "/", strings.NewReader(test.body))
			r.Header.Set("Content-Type", ContentType)
			r.SetBasicAuth("token", "secret")
			for _, s := range test.headers {
				k, v, _ := strings.Cut(s, ": ")
				r.Header.Set(k, v)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			if w.Code != test.status || !strings.Contains(w.Body.String(), test.says) {
				t.Errorf("answer %d %s", w.Code, w.Body)
			}
			if (w.Header().Get("WWW-Authenticate") != "") != (test.status == 401) {
				t.Errorf("headers %v", w.Header())
			}
			if s := h.Stats(); s.Refused[test.reason] != 1 || len(s.Refused) != 1 || s.Messages != 0 || s.Requests != 1 {
				t.Errorf("%+v", s)
			}
			if w := post(h, good, "Authorization: Basic dG9rZW46c2VjcmV0"); w.Code != 204 {
				t.Errorf("the next: %d %s", w.Code, w.Body)
			}
			if got := dst.Take(); len(got) != 2 || got[0].Source != "shop" {
				t.Errorf("%v", got)
			}
		})
	}
}

// TestRepeated: a frame that comes again is taken once, whoever sends it; a
// notice that was put in front of it is taken too.
func TestRepeated(t *testing.T) {
	dst := taken.New(t)
	h := handler(t, dst, &Options{Frames: 3})
	texts := func() (s []string) {
		for _, r := range dst.Take() {
			s = append(s, r.Text)
		}
		return s
	}
	check := func(what string, w *httptest.ResponseRecorder, status int, want ...string) {
		t.Helper()
		if got := texts(); w.Code != status || !cmp.Equal(got, want) {
			t.Errorf("%s: %d, %q, want %q", what, w.Code, got, want)
		}
	}
	frame := body("<190>1 - host app web.1 - one", "<190>1 - host app web.1 - two")
	notice := body("<172>1 - host heroku logplex - Error L10 (output buffer overflow): 7 messages dropped since 2026.")
	a, b := "Logplex-Drain-Token: d.a", "Logplex-Drain-Token: d.b"
	agent := "User-Agent: Logplex/1"
	check("first", post(h, frame, agent, a, "Logplex-Frame-Id: 1", "Logplex-Msg-Count: 2"), 204, "one", "two")
	check("again", post(h, frame, agent, a, "Logplex-Frame-Id: 1", "Logplex-Msg-Count: 2"), 204)
	check("again, with a notice", post(h, notice+frame, agent, a, "Logplex-Frame-Id: 1", "Logplex-Msg-Count: 3"), 204, "Error L10 (output buffer overflow): 7 messages dropped since 2026.")
	check("and again", post(h, notice+frame, agent, a, "Logplex-Frame-Id: 1", "Logplex-Msg-Count: 3"), 204)
	check("another sender's", post(h, frame, agent, b, "Logplex-Frame-Id: 1", "Logplex-Msg-Count: 2"), 204, "one", "two")
	check("without id", post(h, frame, agent, a), 204, "one", "two")
	check("wrong count", post(h, frame, agent, a, "Logplex-Frame-Id: 2", "Logplex-Msg-Count: 99"), 204, "one", "two")
	if dst.Missed() != 7 {
		t.Errorf("told of %d missed", dst.Missed())
	}
	dst.Refuse(errors.New("full"))
	check("not taken", post(h, frame, agent, a, "Logplex-Frame-Id: 3"), 503)
	dst.Refuse(nil)
	check("not taken, again", post(h, frame, agent, a, "Logplex-Frame-Id: 3"), 204, "one", "two")
	check("forgotten", post(h, frame, agent, a, "Logplex-Frame-Id: 4"), 204, "one", "two")
	check("forgotten", post(h, frame, agent, a, "Logplex-Frame-Id: 1"), 204, "one", "two")
	shuttle := body("<190>1 - shuttle shop web.1 - - one\n")
	check("log-shuttle", post(h, shuttle, "User-Agent: log-shuttle/1", "X-Request-Id: 1"), 204, "one")
	check("log-shuttle, again", post(h, shuttle, "User-Agent: log-shuttle/1", "X-Request-Id: 1"), 204)
	lost := []string{"User-Agent: log-shuttle/1", "X-Request-Id: 2", "Logplex-Lost-Count: 100"}
	check("log-shuttle, that lost", post(h, shuttle, lost...), 204, "one")
	check("log-shuttle, that lost, again", post(h, shuttle, lost...), 204)
	if dst.Missed() != 107 {
		t.Errorf("told of %d missed", dst.Missed())
	}
	check("somebody's request id", post(h, shuttle, "X-Request-Id: 1"), 204, "one")
	if len(h.frames.by) > 3 {
		t.Errorf("%d frames remembered", len(h.frames.by))
	}
	s := h.Stats()
	if s.RepeatedFrames != 5 || s.Repeated != 2+2+3+1+1 || s.Mismatched != 1 || s.Refused["writer"] != 1 {
		t.Errorf("%+v", s)
	}
}

// TestMissedInPlace: what was lost is told before the record it was lost before,
// not before those that came earlier.
func TestMissedInPlace(t *testing.T) {
	var got []string
	h := handler(t, envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		got = append(got, fmt.Sprintf("%d missed, %d records: %v", b.Missed, b.Count, b.Reason))
		return nil
	}), nil)
	post(h, body("<190>1 - host app web.1 - one", "<190>1 - host app web.1 - two",
		"<172>1 - host heroku logplex - Error L10 (output buffer overflow): 7 messages dropped since 2026.", "<190>1 - host app web.1 - three"))
	want := []string{"0 missed, 2 records: " + envelope.Reason(0).String(), "7 missed, 2 records: " + envelope.ReasonAgent.String()}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestConcurrent: whoever sends a frame, however often, at whatever time: each of
// its messages is taken once.
func TestConcurrent(t *testing.T) {
	dst := taken.New(t)
	fails := 0
	var mu sync.Mutex
	h := handler(t, envelope.WriterFunc(func(ctx context.Context, b envelope.Batch) error {
		mu.Lock()
		fails++
		fail := fails%7 == 0
		mu.Unlock()
		if fail {
			return errors.New("full")
		}
		return dst.WriteBatch(ctx, b)
	}), nil)
	const senders, frames, lines = 4, 50, 20
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for f := range frames {
				var messages []string
				for i := range lines {
					messages = append(messages, fmt.Sprintf("<190>1 - host app web.1 - %d/%d", f, i))
				}
				for code := 503; code == 503; {
					code = post(h, body(messages...), "Logplex-Frame-Id: "+strconv.Itoa(f), "Logplex-Drain-Token: d.1").Code
				}
			}
		})
	}
	wg.Wait()
	seen := make(map[string]int)
	for _, r := range dst.Take() {
		seen[r.Text]++
	}
	for f := range frames {
		for i := range lines {
			if text := fmt.Sprintf("%d/%d", f, i); seen[text] != 1 {
				t.Fatalf("%s was taken %d times", text, seen[text])
			}
		}
	}
	if s := h.Stats(); s.RepeatedFrames != (senders-1)*frames || s.Lost == 0 {
		t.Errorf("%+v", s)
	}
}

// TestBusy: a frame that comes again while it is being taken is put off, not
// taken twice and not said to be taken.
func TestBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		h := handler(t, envelope.WriterFunc(func(ctx context.Context, _ envelope.Batch) error {
			select {
			case <-release:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}), nil)
		frame := body("<190>1 - host app web.1 - one")
		var wg sync.WaitGroup
		wg.Go(func() {
			if w := post(h, frame, "Logplex-Frame-Id: 1"); w.Code != 204 {
				t.Errorf("first: %d", w.Code)
			}
		})
		synctest.Wait()
		if w := post(h, frame, "Logplex-Frame-Id: 1"); w.Code != 503 || w.Header().Get("Retry-After") != "1" {
			t.Errorf("second: %d", w.Code)
		}
		shut := make(chan error)
		go func() { shut <- h.Shutdown(t.Context()) }()
		synctest.Wait()
		if w := post(h, frame, "Logplex-Frame-Id: 2"); w.Code != 503 {
			t.Errorf("while shutting down: %d", w.Code)
		}
		close(release)
		if err := <-shut; err != nil {
			t.Error(err)
		}
		wg.Wait()
		if s := h.Stats(); s.Records != 1 || s.Refused["busy"] != 1 || s.Refused["closed"] != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// TestShutdownCut: a Writer that hangs is let go when the caller's time is over.
func TestShutdownCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handler(t, envelope.WriterFunc(func(ctx context.Context, _ envelope.Batch) error {
			<-ctx.Done()
			return ctx.Err()
		}), nil)
		answer := make(chan int, 1)
		go func() { answer <- post(h, body("one")).Code }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := h.Shutdown(ctx); err != context.DeadlineExceeded {
			t.Error(err)
		}
		if code := <-answer; code != 503 || h.Stats().Lost != 1 {
			t.Errorf("answer %d, %+v", code, h.Stats())
		}
	})
}

// TestTakenInPart: of a body whose first records were not taken, no later ones
// are: all of it will be sent again.
func TestTakenInPart(t *testing.T) {
	calls := 0
	h := handler(t, envelope.WriterFunc(func(context.Context, envelope.Batch) error {
		calls++
		return errors.New("full")
	}), nil)
	var messages []string
	for range 100 {
		messages = append(messages, strings.Repeat("x", 10<<10))
	}
	if w := post(h, body(messages...)); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("answer %d", w.Code)
	}
	if s := h.Stats(); calls != 1 || s.Lost == 0 || s.Lost >= 100 {
		t.Errorf("%d batches, %+v", calls, s)
	}
}

// TestShuttleAgain: log-shuttle, which takes every answer for good, sends again
// because its connection breaks; then nothing is lost, and nothing taken twice.
func TestShuttleAgain(t *testing.T) {
	dst := taken.New(t)
	h := handler(t, dst, nil)
	server := httptest.NewServer(h)
	defer server.Close()
	send := func() (int, error) {
		req, _ := http.NewRequest("POST", server.URL, strings.NewReader(body("<190>1 - shuttle shop web.1 - - one\n")))
		req.Header.Set("Content-Type", ContentType)
		req.Header.Set("User-Agent", "log-shuttle/0.18")
		req.Header.Set("X-Request-Id", "1")
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err
		}
		resp.Body.Close()
		return resp.StatusCode, nil
	}
	dst.Refuse(errors.New("full"))
	if code, err := send(); err == nil {
		t.Errorf("answer %d, which it would take for good", code)
	}
	dst.Refuse(nil)
	for range 2 {
		if code, err := send(); code != 204 || err != nil {
			t.Errorf("answer %d, %v", code, err)
		}
	}
	if got := dst.Take(); len(got) != 1 || got[0].Text != "one" {
		t.Errorf("%v", got)
	}
}

// TestMemory: bodies beyond the limit are put off.
func TestMemory(t *testing.T) {
	dst := taken.New(t)
	h := handler(t, dst, &Options{MaxBuffered: 100 << 10})
	if w := post(h, body(strings.Repeat("x", 150<<10))); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d", w.Code)
	}
	if w := post(h, body("x")); w.Code != 204 {
		t.Errorf("the next: %d", w.Code)
	}
	if s := h.Stats(); s.Refused["memory"] != 1 {
		t.Errorf("%+v", s)
	}
}

// TestLong: a long text comes whole, in parts.
func TestLong(t *testing.T) {
	dst := taken.New(t)
	h := handler(t, dst, &Options{MaxLine: 1 << 10})
	text := strings.Repeat("aé日😀", 500)
	if w := post(h, body("<190>1 - h a p - - "+text+"\n", "<190>1 - h a p - - next")); w.Code != 204 {
		t.Fatal(w.Code)
	}
	got := dst.Take()
	var whole string
	for i, r := range got[:len(got)-1] {
		whole += r.Text
		part := " part=" + strconv.Itoa(i+1)
		if i == len(got)-2 {
			part += "/" + strconv.Itoa(i+1)
		}
		if len(r.Text) > 1<<10 || !strings.Contains(r.Tags, part+" ") {
			t.Errorf("part %d: %d bytes, %s", i+1, len(r.Text), r.Tags)
		}
	}
	if whole != text || got[len(got)-1].Text != "next" {
		t.Error("not whole")
	}
	if s := h.Stats(); s.Split != 1 || s.Parts != uint64(len(got)-2) {
		t.Errorf("%+v", s)
	}
}

// TestIdentify: the rule sees who sent, is asked once, and may leave out.
func TestIdentify(t *testing.T) {
	dst := taken.New(t)
	var asked []Origin
	h := handler(t, dst, &Options{
		Authorize: func(user, _, _ string) (string, bool) { return "app-of-" + user, true },
		Identify: func(o Origin) (envelope.Identity, bool) {
			asked = append(asked, o)
			return envelope.Identity{SourceID: o.App, Tags: map[string]string{"org_name": "acme"}}, o.ProcID != "noise"
		},
	})
	for range 2 {
		post(h, body("<190>1 - h a web.1 - one", "<190>1 - h a noise - two"), "Authorization: Basic c2hvcDpzZWNyZXQ=", "Logplex-Drain-Token: d.1")
	}
	want := []Origin{{"app-of-shop", "d.1", "shop", "h", "a", "web.1"}, {"app-of-shop", "d.1", "shop", "h", "a", "noise"}}
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Error(diff)
	}
	if got := dst.Take(); len(got) != 2 || got[0].Source != "app-of-shop" || !strings.Contains(got[0].Tags, "org_name=acme") || h.Stats().Filtered != 2 {
		t.Errorf("%v %+v", got, h.Stats())
	}
}

// TestSlowBody: a body that does not come is given up, over a real connection.
func TestSlowBody(t *testing.T) {
	dst := taken.New(t)
	h := handler(t, dst, &Options{BodyTimeout: 50 * time.Millisecond})
	server := httptest.NewServer(h)
	defer server.Close()
	r, w := io.Pipe()
	defer w.Close()
	go io.WriteString(w, "100 <190>1")
	req, _ := http.NewRequest("POST", server.URL, r)
	req.Header.Set("Content-Type", ContentType)
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		resp.Body.Close()
		if resp.StatusCode != 408 {
			t.Errorf("answer %d", resp.StatusCode)
		}
	}
	if s := h.Stats(); s.Refused["timeout"] != 1 || s.Messages != 0 {
		t.Errorf("%+v", s)
	}
}
