package v1api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/pipenet"
)

// get asks for a page of the application.
func get(h *Handler, page string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/apps/"+guid+"/"+page, nil))
	return w
}

// parts reads an answer as noaa does, which finds the boundary by this expression.
func parts(t *testing.T, w *httptest.ResponseRecorder) (said []string) {
	t.Helper()
	contentType := w.Header().Get("Content-Type")
	m := regexp.MustCompile("boundary=(.*)").FindStringSubmatch(contentType)
	if w.Code != 200 || m == nil || !strings.HasPrefix(contentType, "multipart/x-protobuf; boundary=") || strings.ContainsAny(m[1], `"; `) {
		t.Fatalf("%d %s %s", w.Code, contentType, w.Body)
	}
	body := w.Body.Bytes()
	if !bytes.HasSuffix(body, []byte("--"+m[1]+"--\r\n")) {
		t.Errorf("no final boundary: %q", body)
	}
	for r := multipart.NewReader(bytes.NewReader(body), m[1]); ; {
		part, err := r.NextPart()
		if err == io.EOF {
			return said
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(part.Header) > 0 {
			t.Errorf("a part has a header: %v", part.Header)
		}
		msg, _ := io.ReadAll(part)
		said = append(said, what(t, msg))
	}
}

func TestRecentLogs(t *testing.T) {
	gap := lines(7, 1)
	gap.Missed = 4
	for _, tt := range []struct {
		name, query string
		batches     []envelope.Batch
		want        []string
		last        int
		skipped     uint64
	}{
		{"nothing", "", nil, nil, 1000, 0},
		{"newest first, by time", "", []envelope.Batch{lines(5, 3), lines(1, 2), lines(9, 1)},
			[]string{"line 9", "line 7", "line 6", "line 5", "line 2", "line 1"}, 1000, 0},
		{"of one time, the one that came last first", "", []envelope.Batch{of(
			envelope.AppendLog(nil, appID, 5, envelope.Out, []byte("a")), envelope.AppendLog(nil, appID, 5, envelope.Err, []byte("b")))},
			[]string{"b", "a"}, 1000, 0},
		{"limit", "?limit=17", []envelope.Batch{lines(1, 1)}, []string{"line 1"}, 17, 0},
		{"limit above the largest", "?limit=1000000", []envelope.Batch{lines(1, 1)}, []string{"line 1"}, maxLimit, 0},
		{"limit that is none", "?limit=-1", []envelope.Batch{lines(1, 1)}, []string{"line 1"}, 1000, 0},
		{"logs alone", "", []envelope.Batch{everyKind()}, []string{"log"}, 1000, 6},
		{"missed while reading", "", []envelope.Batch{gap}, []string{"line 7", "LGR 4 lines are missing here: this reader was too slow, or away for too long of " + guid}, 1000, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			src := &script{batches: tt.batches}
			h := New(access.NewGate(src, nil, nil), nil)
			if d := cmp.Diff(tt.want, parts(t, get(h, "recentlogs"+tt.query))); d != "" {
				t.Error(d)
			}
			q := src.queries[0]
			if q.Last != tt.last || q.Follow || q.Select[0].SourceID != guid || len(q.Select[0].Kinds) != 1 || q.Select[0].Kinds[0] != envelope.KindLog {
				t.Errorf("%+v", q)
			}
			records, missed := uint64(0), uint64(0)
			for _, b := range tt.batches {
				records += uint64(b.Count)
				missed += b.Missed
			}
			if s := h.Stats(); s.Records != records || s.Missed != missed || s.Untold != 0 || s.Skipped != tt.skipped ||
				s.Envelopes != uint64(len(tt.want)) || s.Readers != 0 || h.gate.Stats().Readers != 0 {
				t.Errorf("%+v", s)
			}
		})
	}
}

// Of more than fits, the newest are answered, and how many are left out is told.
func TestRecentLogsAreBounded(t *testing.T) {
	const n, size = 100, 1 << 19
	d := recent{h: New(access.NewGate(&script{}, nil, nil), nil), app: guid}
	for i := range n {
		b := of(envelope.AppendLog(nil, appID, int64(i), envelope.Out, bytes.Repeat([]byte{byte(i)}, size)))
		if d.take(b); cap(d.buf) > 4*maxDump {
			t.Fatalf("%d bytes are held", cap(d.buf))
		}
	}
	var got []string
	d.each(func(msg []byte) error {
		got = append(got, what(t, msg))
		return nil
	})
	kept := len(got) - 1
	if kept != maxDump/(size+200) || got[kept] != fmt.Sprintf("LGR %d lines are missing here: the answer would be larger than 8 MiB of %s", n-kept, guid) {
		t.Errorf("%d kept, then %s", kept, got[kept])
	}
	for i, text := range got[:kept] {
		if want := strings.Repeat(string(rune(n-1-i)), size); text != want {
			t.Errorf("%d is %.1q…", i, text)
		}
	}
	if s := d.h.Stats(); s.Records != n || s.Skipped != uint64(n-kept) || s.Envelopes != uint64(kept+1) {
		t.Errorf("%+v", s)
	}
}

func TestContainerMetrics(t *testing.T) {
	gap := of(containerAt("10", 5, 1.5))
	gap.Missed = 3
	src := &script{batches: []envelope.Batch{
		of(containerAt("0", 5, 1), containerAt("2", 5, 2), containerAt("0", 7, 3), containerAt("0", 6, 4)), gap,
		of(envelope.AppendGauge(nil, appID, 9, envelope.Metric{Name: []byte("cpu"), Value: 1})),
	}}
	h := New(access.NewGate(src, nil, nil), nil)
	before := time.Now()
	if d := cmp.Diff([]string{"container 0 3", "container 2 2", "container 10 1.5"}, parts(t, get(h, "containermetrics"))); d != "" {
		t.Error(d)
	}
	q := src.queries[0]
	if age := before.Sub(q.Since); q.Follow || age > 2*time.Minute || age < 119*time.Second || q.Select[0].SourceID != guid || q.Select[0].Kinds[0] != envelope.KindGauge {
		t.Errorf("%+v", q)
	}
	// A log in the answer would be an error of the server's to noaa.
	if s := h.Stats(); s.Records != 6 || s.Skipped != 3 || s.Envelopes != 3 || s.Missed != 3 || s.Untold != 3 {
		t.Errorf("%+v", s)
	}
}

func TestDumpFails(t *testing.T) {
	for _, page := range []string{"recentlogs", "containermetrics"} {
		src := &script{batches: []envelope.Batch{lines(1, 2)}, err: errors.New("secret address of a server")}
		h := New(access.NewGate(src, nil, nil), nil)
		w := get(h, page)
		if w.Code != 500 || w.Body.String() != "the logs cannot be read: try again later\n" {
			t.Errorf("%s: %d %q", page, w.Code, w.Body)
		}
	}
}

// No more than so many gather at a time; the others wait, and not for ever.
func TestDumpsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(access.NewGate(&script{batches: []envelope.Batch{lines(1, 1)}}, nil, nil), nil)
		for range maxDumps {
			h.dumps <- struct{}{}
		}
		start := time.Now()
		if w := get(h, "recentlogs"); w.Code != 503 || time.Since(start) != gatherTime {
			t.Errorf("%d after %v", w.Code, time.Since(start))
		}
		time.AfterFunc(time.Second, func() { <-h.dumps })
		start = time.Now()
		if w := get(h, "recentlogs"); w.Code != 200 || time.Since(start) != time.Second {
			t.Errorf("%d after %v", w.Code, time.Since(start))
		}
	})
}

// What slow clients have not taken yet is bounded, too.
func TestWhatIsHeldIsBounded(t *testing.T) {
	h := New(access.NewGate(&script{batches: []envelope.Batch{lines(1, 100)}}, nil, nil), nil)
	h.held.Store(maxHeld)
	if w := get(h, "recentlogs"); w.Code != 503 || h.held.Load() != maxHeld {
		t.Errorf("%d, %d bytes", w.Code, h.held.Load())
	}
	h.held.Store(maxHeld - 100<<10)
	if w := get(h, "recentlogs"); w.Code != 200 || h.held.Load() != maxHeld-100<<10 {
		t.Errorf("%d, %d bytes", w.Code, h.held.Load())
	}
}

// One who takes a little now and then does not have his place for ever, and keeps
// it from nobody.
func TestDumpOfASlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(access.NewGate(&script{batches: []envelope.Batch{lines(1, 10_000)}}, nil, nil), nil)
		defer h.Close()
		c := pipenet.New().Serve(t, h)
		resp, err := c.Get("http://doppler/apps/" + guid + "/recentlogs")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for err == nil {
			_, err = io.ReadFull(resp.Body, make([]byte, 4096))
			time.Sleep(time.Second)
			if len(h.dumps) != 0 {
				t.Fatal("nobody else may gather")
			}
		}
		synctest.Wait()
		if d := time.Since(start); err == io.EOF || d < 60*time.Second || d > 70*time.Second || h.Stats().Stalled != 1 || h.Stats().Readers != 0 || h.held.Load() != 0 {
			t.Errorf("%v after %v: %+v", err, d, h.Stats())
		}
	})
}

// One who takes nothing is cut off, and his place is free.
func TestDumpOfADeadReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := New(access.NewGate(&script{batches: []envelope.Batch{lines(1, 2000)}}, nil, nil), nil)
		defer h.Close()
		c := pipenet.New().Serve(t, h)
		resp, err := c.Get("http://doppler/apps/" + guid + "/recentlogs")
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		for h.Stats().Readers > 0 {
			time.Sleep(time.Second)
		}
		if d := time.Since(start); d > 62*time.Second || h.Stats().Stalled != 1 || len(h.dumps) != 0 || h.gate.Stats().Readers != 0 {
			t.Errorf("after %v: %+v", d, h.Stats())
		}
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("the answer looks whole")
		}
	})
}
