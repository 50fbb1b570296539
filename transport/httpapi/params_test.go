package httpapi

import (
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestSelectors(t *testing.T) {
	for _, tt := range []struct {
		query string
		want  []envelope.Selector
		many  bool
	}{
		{"", envelope.Everything, true},
		{"app=a", []envelope.Selector{{App: "a"}}, false},
		{"app=a&app=b", []envelope.Selector{{App: "a"}, {App: "b"}}, true},
		{"source_id=x", []envelope.Selector{{SourceID: "x"}}, false},
		{"app=a&source_id=x&space=s", []envelope.Selector{{App: "a", Space: "s"}, {SourceID: "x", Space: "s"}}, true},
		{"app=a&space=s&org=o", []envelope.Selector{{App: "a", Space: "s", Org: "o"}}, false},
		{"space=s&space=t&org=o", []envelope.Selector{{Space: "s", Org: "o"}, {Space: "t", Org: "o"}}, true},
		{"stream=err&instance=1&source_type=APP&kind=log&kind=event",
			[]envelope.Selector{{Stderr: true, Instance: "1", SourceType: "APP", Kinds: []envelope.Kind{envelope.KindLog, envelope.KindEvent}}}, true},
		{"stream=OUT&app=a", []envelope.Selector{{Stdout: true, App: "a"}}, false},
	} {
		p, err := parseParams(tt.query, now)
		if err != nil {
			t.Errorf("%s: %v", tt.query, err)
			continue
		}
		if d := cmp.Diff(tt.want, p.query.Select); d != "" || p.many != tt.many {
			t.Errorf("%s: many %v: %s", tt.query, p.many, d)
		}
	}
}

func TestStarts(t *testing.T) {
	c := envelope.Cursor{Rings: map[envelope.StreamID]uint64{3: 4}, Streams: map[envelope.StreamID]uint64{}}
	for query, want := range map[string]envelope.Query{
		"":                                {},
		"since=10m":                       {Since: now.Add(-10 * time.Minute)},
		"since=2026-01-02T03:04:05Z":      {Since: now},
		"since=2026-01-02T03:04:05+00:00": {Since: now}, // the plus unescaped
		"lines=7":                         {Last: 7},
		"cursor=" + c.String():            {Cursor: c},
	} {
		p, err := parseParams(query, now)
		if err != nil {
			t.Errorf("%s: %v", query, err)
			continue
		}
		p.query.Select, p.query.MaxBytes = nil, 0
		p.query.Since = p.query.Since.UTC()
		if want.Since.IsZero() {
			want.Since = want.Since.UTC()
		}
		if d := cmp.Diff(want, p.query); d != "" {
			t.Errorf("%s: %s", query, d)
		}
	}
}

func TestBadParameters(t *testing.T) {
	for query, want := range map[string]string{
		"ap=web":                             `there is no parameter "ap"; there are app, space`,
		"app=":                               `parameter app is empty`,
		"lines=0":                            `parameter lines takes a number from 1 to 1000000, not "0"`,
		"lines=1000001":                      `parameter lines takes`,
		"lines=-1":                           `parameter lines takes`,
		"since=yesterday":                    `parameter since takes a duration like 10m or a time like 2006-01-02T15:04:05Z, not "yesterday"`,
		"since=-10m":                         `parameter since takes`,
		"cursor=%21":                         `parameter cursor takes`,
		"cursor=AAAA":                        `parameter cursor takes`,
		"stream=both":                        `parameter stream takes out or err, not "both"`,
		"kind=metric":                        `parameter kind takes log, counter, gauge, timer or event, not "metric"`,
		"kind=none":                          `parameter kind takes`,
		"wait=maybe":                         `parameter wait takes true or false, not "maybe"`,
		"order=name":                         `parameter order takes time or source`,
		"instance=1&instance=2":              `parameter instance is given 2 times; it takes one value`,
		"since=10m&lines=7":                  `parameters lines and since exclude each other`,
		"app=%zz":                            `the query cannot be read`,
		"app=a;b=c":                          `the query cannot be read`,
		strings.Repeat("app=a&", 1001):       `make more than 1000 combinations`,
		"since=" + strings.Repeat("x", 1000): `…`,
	} {
		_, err := parseParams(query, now)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %q", query, err, want)
		} else if len(err.Error()) > 250 {
			t.Errorf("%.80s: %d bytes of answer", query, len(err.Error()))
		}
	}
}

func FuzzParams(f *testing.F) {
	for _, s := range []string{"app=a&space=s&org=o", "since=10m&stream=err", "lines=5&kind=log", "cursor=CgsJAQAAAAAAAAAQAg", "wait=1&order=time", "%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := parseParams(s, now)
		if err != nil {
			if m := err.Error(); strings.ContainsAny(m, "\n\r") || !utf8.ValidString(m) {
				t.Errorf("not a line of text: %q", m)
			}
			return
		}
		// What is accepted means what net/url says it does.
		values, err := url.ParseQuery(s)
		if err != nil {
			t.Fatal(err)
		}
		n := max(len(values["app"])+len(values["source_id"]), 1) * max(len(values["space"]), 1) * max(len(values["org"]), 1)
		if len(p.query.Select) != n || n > maxSelectors {
			t.Errorf("%d selectors, want %d", len(p.query.Select), n)
		}
		known := 0
		for _, a := range p.apps {
			known += len(a.sel)
		}
		if len(p.apps) > 0 && known != n {
			t.Errorf("%d selectors of apps, want %d", known, n)
		}
	})
}

func TestNegotiate(t *testing.T) {
	for _, tt := range []struct {
		accept string
		want   format
		ok     bool
	}{
		{"", text, true},
		{"*/*", text, true},
		{"text/plain", text, true},
		{"application/x-ndjson", ndjson, true},
		{"application/json", ndjson, true},
		{"APPLICATION/X-PROTOBUF", protobuf, true},
		{"text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8", text, true},
		{"text/plain;q=0.5, application/x-protobuf", protobuf, true},
		{"application/x-protobuf;q=0.5, application/x-ndjson; q=0.7", ndjson, true},
		{"application/x-protobuf;q=0", text, false},
		{"image/png", text, false},
	} {
		if got, ok := negotiate([]string{tt.accept}); got != tt.want || ok != tt.ok {
			t.Errorf("%s: %v %v, want %v %v", tt.accept, got, ok, tt.want, tt.ok)
		}
	}
	if got, ok := negotiate(nil); got != text || !ok {
		t.Errorf("no header: %v %v", got, ok)
	}
}
