package rlpgateway

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/pipenet"
)

func TestHeaderComesBeforeAnything(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(access.NewGate(&script{}, nil, nil), nil)
		defer h.Close()
		resp, _ := open(t, pipenet.New().Serve(t, h), "http://gateway/v2/read?log", "")
		for k, want := range map[string]string{
			"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Connection": "keep-alive",
		} {
			if got := resp.Header.Get(k); got != want {
				t.Errorf("%s: %q, want %q", k, got, want)
			}
		}
		resp.Body.Close()
	})
}

func TestFrames(t *testing.T) {
	src := &script{batches: []envelope.Batch{lines(1, 1)}, more: make(chan envelope.Batch)}
	close(src.more)
	h := New(access.NewGate(src, nil, nil), nil)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/read?log", nil))
	cursor := envelope.Cursor{}
	cursor.Advance(lines(1, 1))
	want := "id: " + cursor.String() + "\n" +
		`data: {"batch":[{"timestamp":"1378000000000000000","source_id":"web","instance_id":"0","deprecated_tags":{},"tags":{"source_type":"APP/PROC/WEB"},"log":{"payload":"bGluZSAx","type":"OUT"}}]}` + "\n\n"
	if d := cmp.Diff(want, w.Body.String()); d != "" {
		t.Error(d)
	}
	if s := h.Stats(); s.Records != 1 || s.Missed != 0 || s.Readers != 0 {
		t.Errorf("%+v", s)
	}
}

// stock reads a body as the stock client does: line by line, heartbeats by the
// two lines after them, to the event "closing" or the end.
func stock(t *testing.T, body string) (batches []string, closing bool) {
	t.Helper()
	var buf strings.Builder
	rest := body
	line := func() (string, bool) {
		l, tail, ok := strings.Cut(rest, "\n")
		rest = tail
		return l, ok
	}
	for {
		l, ok := line()
		switch {
		case !ok:
			return batches, false
		case strings.HasPrefix(l, "event: closing"):
			return batches, true
		case strings.HasPrefix(l, "event: heartbeat"):
			line()
			line()
		case strings.HasPrefix(l, "data: "):
			buf.WriteString(l[len("data: "):] + "\n")
		case l == "" && buf.Len() > 0:
			batches = append(batches, buf.String())
			buf.Reset()
		}
	}
}

func TestHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{more: make(chan envelope.Batch)}
		h := New(access.NewGate(src, nil, nil), nil)
		defer h.Close()
		resp, ev := open(t, pipenet.New().Serve(t, h), "http://gateway/v2/read?log", "")
		start := time.Now()
		beat := func(after time.Duration) {
			t.Helper()
			f, ok := ev.next(t)
			if ok && f.hasID && f.event == "" && f.data == "" { // where it is, alone
				f, ok = ev.next(t)
			}
			now := time.Now()
			if got := now.Sub(start); !ok || f.event != "heartbeat" || f.data != strconv.FormatInt(now.Unix(), 10) || got != after || f.hasID {
				t.Errorf("%+v after %v, want a heartbeat after %v", f, got, after)
			}
		}
		beat(15 * time.Second)
		beat(30 * time.Second)
		time.Sleep(10 * time.Second)
		src.more <- lines(1, 2) // starts the time anew
		if f, ok := ev.next(t); !ok || len(f.batch(t)) != 2 || !f.hasID {
			t.Errorf("%+v", f)
		}
		beat(55 * time.Second)
		src.more <- envelope.Batch{Ring: 7, Position: 3} // an empty one does not
		beat(70 * time.Second)
		resp.Body.Close()
	})
}

func TestClosing(t *testing.T) {
	for _, tt := range []struct {
		name   string
		gate   func(*script) *access.Gate
		end    func(*Handler, *script)
		after  time.Duration
		want   string
		broken bool
	}{
		{"stream timeout", nil, nil, 14 * time.Minute, "closing due to stream timeout", false},
		{"token expires", func(s *script) *access.Gate {
			return access.NewGate(s, book{"": {}, "t": {User: "u", Expires: time.Now().Add(time.Minute)}}, nil)
		}, nil, time.Minute, "closing: " + access.ErrExpired.Error(), false},
		{"server shutdown", nil, func(h *Handler, _ *script) { time.Sleep(time.Second); h.Shutdown(context.Background()) }, time.Second, "closing due to server shutdown", false},
		{"source fails", nil, func(_ *Handler, s *script) { time.Sleep(time.Second); close(s.more) }, time.Second, "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{batches: []envelope.Batch{lines(1, 1)}, more: make(chan envelope.Batch), err: errors.New("upstream has ended")}
				gate := access.NewGate(src, nil, nil)
				if tt.gate != nil {
					gate = tt.gate(src)
				}
				h := New(gate, &Options{Heartbeat: time.Hour})
				defer h.Close()
				c := pipenet.New().Serve(t, h)
				req, _ := http.NewRequest(http.MethodGet, "http://gateway/v2/read?log", nil)
				req.Header.Set("Authorization", "t")
				start := time.Now()
				resp, err := c.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				if tt.end != nil {
					go tt.end(h, src)
				}
				body, err := io.ReadAll(resp.Body) // the body ends after closing
				if err != nil || time.Since(start) != tt.after {
					t.Errorf("%v after %v, want %v", err, time.Since(start), tt.after)
				}
				batches, closing := stock(t, string(body))
				if len(batches) != 1 || closing != (tt.want != "") || !strings.HasSuffix(string(body), "event: closing\ndata: "+tt.want+"\n\n") && tt.want != "" {
					t.Errorf("%q", body)
				}
				synctest.Wait()
				if s := h.Stats(); s.Readers != 0 || s.Records != 1 {
					t.Errorf("%+v", s)
				}
			})
		})
	}
}

func TestQuery(t *testing.T) {
	src := &script{more: make(chan envelope.Batch)}
	close(src.more)
	users := book{"t": {User: "user"}}
	h := New(access.NewGate(src, users, nil), nil)
	r := httptest.NewRequest(http.MethodGet, "/v2/read?log&source_id=a&shard_id=s&deterministic_name=d", nil)
	r.Header.Set("Authorization", "bearer t")
	h.ServeHTTP(httptest.NewRecorder(), r)
	q := src.queries[0]
	// A name is the user's own.
	if !q.Follow || q.Member != "d" || !strings.HasSuffix(q.Shard, "s") || !strings.Contains(q.Shard, "user") || q.MaxBytes != batchSize || !q.Cursor.IsZero() ||
		len(q.Select) != 1 || q.Select[0].SourceID != "a" {
		t.Errorf("%+v", q)
	}
}

func TestClientLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{}
		gate := access.NewGate(src, nil, nil)
		h := New(gate, nil)
		defer h.Close()
		resp, _ := open(t, pipenet.New().Serve(t, h), "http://gateway/v2/read?log", "")
		synctest.Wait()
		if gate.Stats().Readers != 1 || h.Stats().Readers != 1 {
			t.Errorf("%+v", gate.Stats())
		}
		resp.Body.Close()
		synctest.Wait()
		if gate.Stats().Readers != 0 || h.Stats().Readers != 0 || src.left != 1 {
			t.Errorf("%+v, %d left", gate.Stats(), src.left)
		}
	})
}

// A reader that takes nothing is cut off, and its place is free.
func TestDeadReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{batches: []envelope.Batch{lines(1, 2000), lines(2001, 2000), lines(4001, 2000)}}
		gate := access.NewGate(src, nil, nil)
		h := New(gate, &Options{WriteTimeout: 10 * time.Second})
		defer h.Close()
		start := time.Now()
		resp, _ := open(t, pipenet.New().Serve(t, h), "http://gateway/v2/read?log", "")
		for h.Stats().Readers > 0 {
			time.Sleep(time.Second)
		}
		if d := time.Since(start); d > 15*time.Second || h.Stats().Stalled != 1 || gate.Stats().Readers != 0 {
			t.Errorf("after %v: %+v", d, h.Stats())
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the stream looks as if it had ended well")
		}
	})
}

func TestCloseCutsAReaderWhoTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &script{batches: []envelope.Batch{lines(1, 2000), lines(2001, 2000), lines(4001, 2000)}}
		h := New(access.NewGate(src, nil, nil), nil)
		resp, _ := open(t, pipenet.New().Serve(t, h), "http://gateway/v2/read?log", "")
		synctest.Wait()
		start := time.Now()
		h.Close()
		if time.Since(start) > time.Second || h.Stats().Readers != 0 {
			t.Errorf("after %v: %+v", time.Since(start), h.Stats())
		}
		resp.Body.Close()
		h.Close()
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/read?log", nil))
		if w.Code != 503 {
			t.Errorf("after Close: %d", w.Code)
		}
	})
}

func TestMissed(t *testing.T) {
	gap, after := lines(11, 1), lines(12, 1)
	gap.Missed, gap.Reason = 10, envelope.ReasonLink
	reset := envelope.Batch{Reset: true}
	for _, tt := range []struct {
		name, query string
		want        []string // texts of logs, and comments
		untold      uint64
	}{
		{"of a reader of logs", "log&source_id=web", []string{": reset", "lines are missing here, their number is not known: the server was started anew",
			": missed 10", "10 lines are missing here: link down too long", "line 11", "line 12"}, 0},
		{"of a reader of counters", "counter", []string{": reset", ": missed 10", "line 11", "line 12"}, 10},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := &script{batches: []envelope.Batch{reset, gap, after}, more: make(chan envelope.Batch)}
			close(src.more)
			h := New(access.NewGate(src, nil, nil), nil)
			w := httptest.NewRecorder()
			h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/read?"+tt.query, nil))
			var got []string
			ev := &events{r: bufioReader(w.Body)}
			for f, ok := ev.next(t); ok; f, ok = ev.next(t) {
				for _, c := range f.comments {
					got = append(got, ": "+c)
				}
				if f.data == "" {
					continue
				}
				for _, e := range f.batch(t) {
					got = append(got, string(e.GetLog().GetPayload()))
					if lgr := strings.Contains(got[len(got)-1], "missing"); lgr != (e.Tags["source_type"] == "LGR") || e.SourceId != "web" {
						t.Errorf("%v", e)
					}
				}
			}
			if d := cmp.Diff(tt.want, got); d != "" {
				t.Error(d)
			}
			if s := h.Stats(); s.Records != 2 || s.Missed != 10 || s.Untold != tt.untold {
				t.Errorf("%+v", s)
			}
			if batches, _ := stock(t, w.Body.String()); len(batches) != strings.Count(w.Body.String(), "data: ") {
				t.Errorf("the stock client reads %q", batches)
			}
		})
	}
}

// Whoever waits for the answer to who may read what does not hold up the end.
func TestCloseWhileItIsAsked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate := access.NewGate(&script{}, slowAuthorizer{}, nil)
		h := New(gate, nil)
		w := httptest.NewRecorder()
		go func() {
			r := httptest.NewRequest(http.MethodGet, "/v2/read?log", nil)
			r.Header.Set("Authorization", "bearer t")
			h.ServeHTTP(w, r)
		}()
		synctest.Wait()
		start := time.Now()
		h.Close()
		if time.Since(start) > time.Second || w.Code < 500 || gate.Stats().Readers != 0 {
			t.Errorf("%d after %v", w.Code, time.Since(start))
		}
	})
}

// slowAuthorizer does not answer.
type slowAuthorizer struct{}

func (slowAuthorizer) Authorize(ctx context.Context, _ string, _ []envelope.Selector) (access.Grant, error) {
	<-ctx.Done()
	return access.Grant{}, ctx.Err()
}
