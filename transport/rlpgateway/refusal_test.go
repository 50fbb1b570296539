package rlpgateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// TestErrors is the contract's table of errors, body for body.
func TestErrors(t *testing.T) {
	src := &script{more: make(chan envelope.Batch)}
	close(src.more)
	users := book{"admin": {User: "admin"}, "user": {User: "user", Select: []envelope.Selector{{SourceID: "mine"}}}}
	strict := access.NewGate(src, users, nil)
	down := access.NewGate(src, authorizer(func() (access.Grant, error) { return access.Grant{}, errors.New("connection refused") }), nil)
	full := access.NewGate(src, nil, &access.Options{MaxReaders: 1})
	if _, err := full.Admit(context.Background(), "", envelope.Everything); err != nil {
		t.Fatal(err)
	}
	body := func(message, code string) string {
		return `{"message":"` + message + `","error":"` + code + `"}` + "\n\n"
	}
	notFound := body("resource not found", "not_found")
	for _, tt := range []struct {
		name   string
		gate   *access.Gate
		method string
		target string
		token  string
		status int
		want   string
	}{
		{"other path", strict, "GET", "/v2/reader", "", 404, "404 page not found\n"},
		{"path below", strict, "GET", "/v2/read/?log", "", 404, "404 page not found\n"},
		{"no token", strict, "GET", "/v2/read?log", "", 404, notFound},
		{"invalid token", strict, "GET", "/v2/read?log", "bearer nobody's", 404, notFound},
		{"not allowed", strict, "GET", "/v2/read?log&source_id=other", "bearer user", 404, notFound},
		{"one of them not allowed", strict, "GET", "/v2/read?log&source_id=mine&source_id=other", "bearer user", 404, notFound},
		{"no token, not GET", strict, "POST", "/v2/read?log", "", 404, notFound},
		{"no token, no query", strict, "GET", "/v2/read", "", 404, notFound},
		{"not GET", strict, "POST", "/v2/read?log", "bearer admin", 405, body("method not allowed", "method_not_allowed")},
		{"empty query", strict, "GET", "/v2/read", "bearer admin", 400, body("query cannot be empty", "empty_query")},
		{"no envelope type", strict, "GET", "/v2/read?source_id=a", "bearer admin", 400, body("query must provide at least one envelope type", "missing_envelope_type")},
		{"no envelope type, other parameters", strict, "GET", "/v2/read?logs", "bearer admin", 400, body("query must provide at least one envelope type", "missing_envelope_type")},
		{"malformed query", strict, "GET", "/v2/read?log&source_id=%zz", "bearer admin", 400, `{"message":"query cannot be read: a % begins`},
		{"too many sources", strict, "GET", "/v2/read?log" + manySources(maxSources+1), "bearer admin", 400, `{"message":"query cannot have more than 1000 values of source_id","error":"too_many_sources"}`},
		{"who may read what is not known now", down, "GET", "/v2/read?log", "bearer admin", 503, body("streaming is temporarily unavailable", "streaming_unavailable")},
		{"no room", full, "GET", "/v2/read?log", "", 503, body("streaming is temporarily unavailable", "streaming_unavailable")},
		{"admin", strict, "GET", "/v2/read?log", "bearer admin", 200, ""},
		{"upper-case scheme", strict, "GET", "/v2/read?log", "Bearer admin", 200, ""},
		{"no scheme", strict, "GET", "/v2/read?log", "admin", 200, ""},
		{"allowed", strict, "GET", "/v2/read?log&source_id=mine", "bearer user", 200, ""},
		{"bare key", strict, "GET", "/v2/read?log", "bearer admin", 200, ""},
		{"counter.name without a name is all counters", strict, "GET", "/v2/read?counter.name", "bearer admin", 200, ""},
		{"gauge.name without a name is all gauges", strict, "GET", "/v2/read?gauge.name=", "bearer admin", 200, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := New(tt.gate, &Options{Patience: -1})
			r := httptest.NewRequest(tt.method, tt.target, nil)
			if tt.token != "" {
				r.Header.Set("Authorization", tt.token)
			}
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			got := w.Body.String()
			if w.Code != tt.status || got != tt.want && (!strings.HasPrefix(got, tt.want) || tt.want == "") {
				t.Errorf("%d %q, want %d %q", w.Code, got, tt.status, tt.want)
			}
			if tt.status != 200 {
				if ct := w.Header().Get("Content-Type"); ct != "text/plain; charset=utf-8" || w.Header().Get("X-Content-Type-Options") != "nosniff" {
					t.Errorf("header %v", w.Header())
				}
			}
			if n := tt.gate.Stats().Readers; n != 0 && tt.gate != full {
				t.Errorf("%d readers are left", n)
			}
		})
	}
}

func manySources(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "&source_id=%d", i)
	}
	return b.String()
}

type authorizer func() (access.Grant, error)

func (a authorizer) Authorize(context.Context, string, []envelope.Selector) (access.Grant, error) {
	return a()
}

func TestPageFromElsewhere(t *testing.T) {
	h := New(access.NewGate(&script{}, nil, nil), nil)
	r := httptest.NewRequest(http.MethodGet, "/v2/read?log", nil)
	r.Header.Set("Origin", "https://evil.example.com")
	w := httptest.NewRecorder()
	if h.ServeHTTP(w, r); w.Code != 403 || !strings.Contains(w.Body.String(), `"error":"forbidden"`) {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

// A response that cannot be flushed is none that can be streamed.
func TestStreamingUnsupported(t *testing.T) {
	h := New(access.NewGate(&script{}, nil, nil), nil)
	w := &plainWriter{header: http.Header{}}
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/read?log", nil))
	if want := `{"message":"request does not support streaming","error":"streaming_unsupported"}` + "\n\n"; w.status != 500 || w.body.String() != want {
		t.Errorf("%d %q", w.status, w.body.String())
	}
	if ct := w.header.Get("Content-Type"); ct != "text/plain; charset=utf-8" {
		t.Errorf("Content-Type %q", ct)
	}
}

type plainWriter struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *plainWriter) Header() http.Header         { return w.header }
func (w *plainWriter) WriteHeader(status int)      { w.status = status }
func (w *plainWriter) Write(p []byte) (int, error) { return w.body.Write(p) }

// A request for which there is no room waits for it: the stock client gives up for
// good after ten refusals in a row.
func TestPatience(t *testing.T) {
	for _, tt := range []struct {
		name  string
		free  time.Duration // when there is room; 0: never
		after time.Duration
		want  int
	}{
		{"room comes", 2500 * time.Millisecond, 3 * time.Second, 200},
		{"no room comes", 0, 5 * time.Second, 503},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				src := &script{more: make(chan envelope.Batch)}
				close(src.more)
				gate := access.NewGate(src, nil, &access.Options{MaxReaders: 1})
				other, _ := gate.Admit(t.Context(), "", envelope.Everything)
				if tt.free > 0 {
					time.AfterFunc(tt.free, other.Close)
				}
				h := New(gate, nil)
				start := time.Now()
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/read?log", nil))
				if d := time.Since(start); w.Code != tt.want || d < tt.after-time.Second || d > tt.after {
					t.Errorf("%d after %v", w.Code, d)
				}
				if w.Code == 503 && w.Header().Get("Retry-After") == "" {
					t.Error("no Retry-After")
				}
			})
		})
	}
}

// TestParams is the contract's table of parameters.
func TestParams(t *testing.T) {
	all := []envelope.Kind{envelope.KindLog, envelope.KindCounter, envelope.KindGauge, envelope.KindTimer, envelope.KindEvent}
	of := func(kinds []envelope.Kind, ids ...string) (sel []envelope.Selector) {
		for _, id := range ids {
			sel = append(sel, envelope.Selector{SourceID: id, Kinds: kinds})
		}
		return sel
	}
	for _, tt := range []struct {
		query string
		want  params
	}{
		{"log", params{sel: of(all[:1], ""), logs: true}},
		{"log=anything", params{sel: of(all[:1], ""), logs: true}},
		{"counter", params{sel: of(all[1:2], "")}},
		{"gauge", params{sel: of(all[2:3], "")}},
		{"timer", params{sel: of(all[3:4], "")}},
		{"event", params{sel: of(all[4:], "")}},
		{"event&log", params{sel: of([]envelope.Kind{envelope.KindLog, envelope.KindEvent}, ""), logs: true}},
		{"log&counter&gauge&timer&event", params{sel: of(nil, ""), logs: true}},
		{"counter.name=a&counter.name=b", params{sel: of(all[1:2], ""), names: names{counters: []string{"a", "b"}}}},
		{"counter&counter.name=a", params{sel: of(all[1:2], ""), names: names{counters: []string{"a"}}}},
		{"counter.name", params{sel: of(all[1:2], "")}},
		{"counter.name=", params{sel: of(all[1:2], "")}},
		{"gauge.name=mem,cpu&gauge.name=disk", params{sel: of(all[2:3], ""), names: names{gauges: [][]string{{"cpu", "mem"}, {"disk"}}}}},
		{"timer.name=a&log", params{sel: of(all[:1], ""), logs: true}},
		{"log&source_id=a", params{sel: of(all[:1], "a"), logs: true, source: "a"}},
		{"log&source_id=b&source_id=a&source_id=b", params{sel: of(all[:1], "a", "b"), logs: true}},
		{"log&source_id=", params{sel: of(all[:1], ""), logs: true}},
		{"log&source_id=&source_id=a", params{sel: of(all[:1], ""), logs: true}},
		{"log&shard_id=s&shard_id=t&deterministic_name=d", params{sel: of(all[:1], ""), logs: true, shard: "s", member: "d"}},
		{"log&else=1", params{sel: of(all[:1], ""), logs: true}},
	} {
		t.Run(tt.query, func(t *testing.T) {
			got, bad := parseParams(tt.query)
			if bad != nil {
				t.Fatal(bad)
			}
			if d := cmp.Diff(tt.want, got, cmp.AllowUnexported(params{}, names{})); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestNames(t *testing.T) {
	batch := metrics([]string{"a", "b", "c"}, []string{"cpu", "cpu,mem", "cpu,mem,disk"})
	for query, want := range map[string][]string{
		"counter&gauge":        {"a", "b", "c", "cpu", "cpu,mem", "cpu,mem,disk"},
		"counter.name=a&gauge": {"a", "cpu", "cpu,mem", "cpu,mem,disk"},
		"counter.name=a&counter.name=c&gauge.name=mem,cpu": {"a", "c", "cpu,mem"},
		"gauge.name=cpu&gauge.name=disk,mem,cpu&counter":   {"a", "b", "c", "cpu", "cpu,mem,disk"},
		"counter.name=none&gauge.name=none":                nil,
	} {
		src := &script{batches: []envelope.Batch{batch}, more: make(chan envelope.Batch)}
		close(src.more)
		h := New(access.NewGate(src, nil, nil), nil)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/v2/read?"+query, nil))
		var got []string
		ev := &events{r: bufioReader(w.Body)}
		for f, ok := ev.next(t); ok; f, ok = ev.next(t) {
			for _, e := range f.batch(t) {
				name := e.GetCounter().GetName()
				if g := e.GetGauge(); g != nil {
					var set []string
					for k := range g.Metrics {
						set = append(set, k)
					}
					slices.SortFunc(set, func(a, b string) int { return strings.Index("cpu,mem,disk", a) - strings.Index("cpu,mem,disk", b) })
					name = strings.Join(set, ",")
				}
				got = append(got, name)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", query, d)
		}
		if s := h.Stats(); s.Records != 6 || s.Filtered != 6-uint64(len(want)) {
			t.Errorf("%s: %+v", query, s)
		}
	}
}

// FuzzParams looks for a query that widens what it says, or that cannot be served.
func FuzzParams(f *testing.F) {
	f.Add("log&source_id=a&counter.name=x")
	f.Add("gauge.name=a,b&source_id=&shard_id=%41")
	f.Add("log&source_id=%zz;")
	f.Fuzz(func(t *testing.T, query string) {
		p, bad := parseParams(query)
		if len(p.sel) == 0 || len(p.sel) > maxSources {
			t.Fatalf("%d selectors", len(p.sel))
		}
		values, err := url.ParseQuery(query)
		if err != nil && bad == nil {
			t.Fatal("a query that cannot be read was taken")
		}
		ids := values["source_id"]
		for _, sel := range p.sel {
			if sel.SourceID == "" && len(ids) > 0 && !slices.Contains(ids, "") {
				t.Fatalf("%q selects all sources", query)
			}
			if sel.SourceID != "" && !slices.Contains(ids, sel.SourceID) {
				t.Fatalf("%q selects %q", query, sel.SourceID)
			}
			for _, k := range sel.Kinds {
				if !values.Has(k.String()) && !values.Has(k.String()+".name") {
					t.Fatalf("%q selects %v", query, k)
				}
			}
		}
		for e := range metrics([]string{"a"}, []string{"a,b"}).All() {
			p.names.match(e)
		}
	})
}

// FuzzLastEventID looks for an id that breaks a stream.
func FuzzLastEventID(f *testing.F) {
	c := envelope.Cursor{}
	c.Advance(lines(1, 3))
	f.Add(c.String())
	f.Add("CgsJ")
	f.Fuzz(func(t *testing.T, id string) {
		src := &script{batches: []envelope.Batch{lines(4, 1)}, more: make(chan envelope.Batch)}
		close(src.more)
		h := New(access.NewGate(src, nil, nil), nil)
		r := httptest.NewRequest(http.MethodGet, "/v2/read?log", nil)
		r.Header["Last-Event-Id"] = []string{id}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		texts := 0
		ev := &events{r: bufioReader(w.Body)}
		for f, ok := ev.next(t); ok; f, ok = ev.next(t) {
			if f.data != "" {
				texts += len(f.batch(t))
			}
			if f.hasID {
				if _, err := envelope.ParseCursor(f.id); err != nil {
					t.Fatalf("id %q", f.id)
				}
			}
		}
		cursor, err := envelope.ParseCursor(id)
		resumed := err == nil && !cursor.IsZero() && len(id) <= maxID
		if want := map[bool]int{true: 1, false: 2}[resumed || id == ""]; texts != want || h.Stats().Resumed == 1 != resumed {
			t.Fatalf("%d logs after id %q, want %d", texts, id, want)
		}
		if resumed == src.queries[0].Cursor.IsZero() {
			t.Fatalf("id %q: %+v", id, src.queries[0])
		}
	})
}
