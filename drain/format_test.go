package drain

import (
	"bytes"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/influxdata/go-syslog/v3"
	"github.com/influxdata/go-syslog/v3/octetcounting"
	"github.com/influxdata/go-syslog/v3/rfc5424"

	"github.com/cloudfoundry/loggregator/envelope"
)

// stamp is 2026-02-03T04:05:06.000007 UTC.
var stamp = time.Date(2026, 2, 3, 4, 5, 6, 7000, time.UTC).UnixNano()

var shop = envelope.Identity{
	SourceID:   "0d1e2f30-1111-4222-8333-444455556666",
	InstanceID: "0",
	Tags: map[string]string{
		"app_name": "shop", "organization_name": "acme", "space_name": "prod", "source_type": "APP/PROC/WEB",
	},
}

func one(record []byte) envelope.Envelope {
	e, _, err := envelope.Next(record)
	if err != nil {
		panic(err)
	}
	return e
}

func logOf(id envelope.Identity, line string) envelope.Envelope {
	return one(envelope.AppendLog(nil, id.Encode(), stamp, envelope.Out, []byte(line)))
}

// frames formats e and takes the octet counting off again, strictly.
func frames(t testing.TB, f *Formatter, e envelope.Envelope) []string {
	t.Helper()
	return unframe(t, f.AppendFrames(nil, e))
}

func unframe(t testing.TB, b []byte) (messages []string) {
	t.Helper()
	for len(b) > 0 {
		length, rest, ok := bytes.Cut(b, []byte{' '})
		n, err := strconv.Atoi(string(length))
		if !ok || err != nil || length[0] == '0' || n > len(rest) {
			t.Fatalf("not octet counting: %.40q", b)
		}
		messages = append(messages, string(rest[:n]))
		b = rest[n:]
	}
	return messages
}

// parse is the oracle: the strict parser most receivers are built on.
func parse(t testing.TB, message string) *rfc5424.SyslogMessage {
	t.Helper()
	m, err := rfc5424.NewMachine().Parse([]byte(message))
	if err != nil {
		t.Fatalf("%v: %q", err, message)
	}
	return m.(*rfc5424.SyslogMessage)
}

func text(s *string) string {
	if s == nil {
		return "-"
	}
	return *s
}

func TestF01F02LogByteForByte(t *testing.T) {
	want := `<14>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop 0d1e2f30-1111-4222-8333-444455556666 [APP/PROC/WEB/0] - [tags@47450 app_name="shop" organization_name="acme" source_type="APP/PROC/WEB" space_name="prod"] hello` + "\n"
	var f Formatter
	if got := string(f.AppendFrames(nil, logOf(shop, "hello"))); got != "215 "+want {
		t.Errorf("stdout\n got %q\nwant %q", got, "215 "+want)
	}
	e := one(envelope.AppendLog(nil, shop.Encode(), stamp, envelope.Err, []byte("hello")))
	if got := frames(t, &f, e)[0]; got != strings.Replace(want, "<14>", "<11>", 1) {
		t.Errorf("stderr %q", got)
	}
	parse(t, want)
}

func TestF03Timestamps(t *testing.T) {
	base := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC).UnixNano()
	var f Formatter
	for ns, want := range map[int64]string{
		base:             "2026-02-03T04:05:06+00:00",
		base + 100000000: "2026-02-03T04:05:06.1+00:00",
		base + 123456789: "2026-02-03T04:05:06.123456+00:00",
		base + 999999999: "2026-02-03T04:05:06.999999+00:00",
		base + 1000:      "2026-02-03T04:05:06.000001+00:00",
		base + 999:       "2026-02-03T04:05:06+00:00",
		0:                "1970-01-01T00:00:00+00:00",
		-1:               "1969-12-31T23:59:59.999999+00:00",
		math.MaxInt64:    "2262-04-11T23:47:16.854775+00:00",
		math.MinInt64:    "1677-09-21T00:12:43.145224+00:00",
	} {
		m := frames(t, &f, one(envelope.AppendLog(nil, shop.Encode(), ns, envelope.Out, []byte("x"))))[0]
		parse(t, m)
		if got := strings.Fields(m)[1]; got != want {
			t.Errorf("%d: %s, want %s", ns, got, want)
		}
	}
}

func TestF04Measurements(t *testing.T) {
	id := shop
	id.Tags = map[string]string{"app_name": "shop", "space_name": "prod", "organization_name": "acme"}
	fixed := id.Encode()
	head := "<14>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop 0d1e2f30-1111-4222-8333-444455556666 [0] - "
	tags := `[tags@47450 app_name="shop" organization_name="acme" space_name="prod"]` + " \n"
	var f Formatter
	for name, c := range map[string]struct {
		record []byte
		want   []string
	}{
		"counter": {envelope.AppendCounter(nil, fixed, stamp, "requests", 1, 99), []string{`[counter@47450 name="requests" total="99" delta="1"]`}},
		"gauge": {envelope.AppendGauge(nil, fixed, stamp,
			envelope.Metric{Name: []byte("memory"), Unit: []byte("bytes"), Value: 1e21},
			envelope.Metric{Name: []byte("cpu"), Unit: []byte("percentage"), Value: 0.25},
			envelope.Metric{Name: []byte("disk"), Unit: []byte(`"B]`), Value: 1024}),
			[]string{
				`[gauge@47450 name="cpu" value="0.25" unit="percentage"]`,
				`[gauge@47450 name="disk" value="1024" unit="\"B\]"]`,
				`[gauge@47450 name="memory" value="1e+21" unit="bytes"]`,
			}},
		"timer": {envelope.AppendTimer(nil, fixed, stamp, "http", 12, 345), []string{`[timer@47450 name="http" start="12" stop="345"]`}},
		"event": {envelope.AppendEvent(nil, fixed, stamp, "crash", "exit 1"), []string{`[event@47450 title="crash" body="exit 1"]`}},
	} {
		got := frames(t, &f, one(c.record))
		var want []string
		for _, w := range c.want {
			want = append(want, head+w+tags)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, want)
		}
		for _, m := range got {
			parse(t, m)
		}
	}
}

func TestF06OmitTags(t *testing.T) {
	f := Formatter{OmitTags: true}
	if m := parse(t, frames(t, &f, logOf(shop, "x"))[0]); m.StructuredData != nil {
		t.Error("structured data without tags")
	}
	f = Formatter{}
	if m := frames(t, &f, logOf(envelope.Identity{SourceID: "a"}, "x"))[0]; !strings.Contains(m, " - a [] - - x\n") {
		t.Errorf("no tags: %q", m)
	}
}

func TestF07ToF12Payload(t *testing.T) {
	var f Formatter
	for in, want := range map[string]string{
		"a\n":                         "a\n",
		"a\r\n":                       "a\r\n",
		"a\n\n":                       "a\n\n",
		"":                            "\n",
		"\x00":                        "\n",
		"a\x00b":                      "ab\n",
		"\x00a\n\x00":                 "a\n",
		strings.Repeat("\x00", 10000): "\n",
		"at x\n\tat y\nat z":          "at x\n\tat y\nat z\n",
		"\xff\xfe \xe2\x82":           "\xff\xfe \xe2\x82\n",
		"\ufeffbom \x1b[31m\u2028":    "\ufeffbom \x1b[31m\u2028\n",
		strings.Repeat("x", 50000):    strings.Repeat("x", 50000) + "\n",
	} {
		m := frames(t, &f, logOf(shop, in))[0]
		if _, got, _ := strings.Cut(m, `"prod"] `); got != want {
			t.Errorf("%.40q gave %.40q", in, got)
		}
		if utf8.ValidString(want) {
			parse(t, m)
		}
	}
}

func TestF13TagNames(t *testing.T) {
	long := strings.Repeat("n", 40)
	id := envelope.Identity{SourceID: "app", Tags: map[string]string{
		"a b": "1", "a=b": "2", "a]b": "3", `a"b`: "4", "a_b": "5", "é": "6", "": "7", long: "8", long + "2": "9", "ok": "10",
	}}
	var f Formatter
	m := parse(t, frames(t, &f, logOf(id, "x"))[0])
	got := (*m.StructuredData)["tags@47450"]
	want := map[string]string{
		"a_b": "5", "a_b_2": "1", "a_b_3": "4", "a_b_4": "2", "a_b_5": "3", "__": "6", "_": "7",
		strings.Repeat("n", 32): "8", strings.Repeat("n", 30) + "_2": "9", "ok": "10",
	}
	if !maps.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
}

func TestF14TagValues(t *testing.T) {
	values := map[string]string{
		"quote": `a"b`, "bracket": "a]b", "backslash": `a\b\`, "lf": "a\nb", "emoji": "a😀b", "empty": "", "all": `"]\"]\`,
	}
	var f Formatter
	m := parse(t, frames(t, &f, logOf(envelope.Identity{SourceID: "app", Tags: values}, "x"))[0])
	for k, v := range values {
		if got := (*m.StructuredData)["tags@47450"][k]; got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	if got := string(appendValue(nil, []byte("a\xff\xe2\x82z"), noLimit)); got != "a\ufffd\ufffd\ufffdz" {
		t.Errorf("invalid UTF-8 became %q", got)
	}
}

func TestF15Hostname(t *testing.T) {
	var f Formatter
	for _, c := range []struct{ org, space, app, want string }{
		{"acme", "prod", "my_app--", "acme.prod.myapp"},
		{"my  big\torg", "prod", "shop", "my-big-org.prod.shop"},
		{strings.Repeat("a", 62) + "-b", strings.Repeat("s", 300), "é", strings.Repeat("a", 62) + "." + strings.Repeat("s", 63) + "."},
		{"", "", "shop", "..shop"},
	} {
		tags := map[string]string{"app_name": c.app}
		if c.org != "" {
			tags["organization_name"], tags["space_name"] = c.org, c.space
		}
		m := parse(t, frames(t, &f, logOf(envelope.Identity{SourceID: "x", Tags: tags}, "x"))[0])
		if got := text(m.Hostname); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}

func TestF16F17Names(t *testing.T) {
	var f Formatter
	for _, c := range []struct{ source, sourceType, instance, app, proc string }{
		{"a", "task/my task ", "2", "a", "[TASK/MY-TASK/2]"},
		{"a", "TASK/こんにちは", "0", "a", "[TASK//0]"},
		{"a", "RTR", "1", "a", "[RTR/1]"},
		{"a", "RTR", "", "a", "[RTR]"},
		{"a", "", "", "a", "[]"},
		{"a", "APP", strings.Repeat("i", 200), "a", "[APP/" + strings.Repeat("i", 122) + "]"},
		{"a", strings.Repeat("T", 200), "0", "a", "[" + strings.Repeat("T", 126) + "]"},
		{"a", "APP", "a b\x01-", "a", "[APP/a-b]"},
		{"", "APP", "0", "-", "[APP/0]"},
		{"   ", "APP", "0", "-", "[APP/0]"},
		{strings.Repeat("s", 60), "APP", "0", strings.Repeat("s", 48), "[APP/0]"},
		{"my source", "APP", "0", "my-source", "[APP/0]"},
	} {
		id := envelope.Identity{SourceID: c.source, InstanceID: c.instance, Tags: map[string]string{"source_type": c.sourceType}}
		m := parse(t, frames(t, &f, logOf(id, "x"))[0])
		if text(m.Appname) != c.app || text(m.ProcID) != c.proc {
			t.Errorf("%+v: APP-NAME %q PROCID %q", c, text(m.Appname), text(m.ProcID))
		}
	}
	id := envelope.Identity{SourceID: "a", InstanceID: "i 1", Tags: map[string]string{"source_type": "APP"}}
	if m := parse(t, frames(t, &f, one(envelope.AppendCounter(nil, id.Encode(), stamp, "c", 1, 1)))[0]); text(m.ProcID) != "[i-1]" {
		t.Errorf("measurement: PROCID %q", text(m.ProcID))
	}
}

func TestF18UnknownLogType(t *testing.T) {
	var f Formatter
	m := frames(t, &f, one(envelope.AppendLog(nil, shop.Encode(), stamp, 7, []byte("x"))))[0]
	if !strings.HasPrefix(m, "<14>1 ") {
		t.Errorf("%q", m)
	}
}

func TestF19OctetCountingParser(t *testing.T) {
	var f Formatter
	var stream []byte
	for i := range 20 {
		stream = f.AppendFrames(stream, logOf(shop, strings.Repeat("é", i*i*10)))
	}
	var n int
	octetcounting.NewParser(syslog.WithListener(func(r *syslog.Result) {
		if r.Error != nil {
			t.Fatal(r.Error)
		}
		n++
	})).Parse(bytes.NewReader(stream))
	if n != 20 {
		t.Errorf("%d messages", n)
	}
}

func TestGaugeIsBounded(t *testing.T) {
	tags := map[string]string{}
	for i := range 100 {
		tags[fmt.Sprint("tag", i)] = strings.Repeat("v", 1000)
	}
	var metrics []envelope.Metric
	for i := range 1000 {
		metrics = append(metrics, envelope.Metric{Name: fmt.Append(nil, i)})
	}
	var f Formatter
	b := f.AppendFrames(nil, one(envelope.AppendGauge(nil, envelope.Identity{SourceID: "a", Tags: tags}.Encode(), stamp, metrics...)))
	if len(b) > 1<<20 || len(unframe(t, b)) != 1000 {
		t.Errorf("%d bytes, %d messages", len(b), len(unframe(t, b)))
	}
	f.AppendFrames(b[:0], logOf(shop, "x"))
	f.AppendFrames(b[:0], one(envelope.AppendLog(nil, append(envelope.Identity{SourceID: "b", Tags: map[string]string{"a": strings.Repeat("v", 9000)}}.Encode(), shop.Encode()...), stamp, 0, nil)))
	if cap(f.odd.element) > 2*keepBuffer || len(f.last.element) > keepBuffer {
		t.Errorf("%d bytes kept after one odd record", cap(f.odd.element))
	}
}

func TestLossNotice(t *testing.T) {
	var f Formatter
	e := logOf(shop, "x")
	r, _ := e.Route()
	g := &gap{records: 12345, from: time.Date(2026, 2, 3, 4, 5, 0, 0, time.UTC).UnixNano(), until: r.Timestamp, reason: `it "fell"`}
	got := unframe(t, f.appendGap(nil, f.prepare(e, &r), g))[0]
	want := `<172>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop heroku logplex - [gap@47450 missed="12345" from="2026-02-03T04:05:00+00:00" until="2026-02-03T04:05:06.000007+00:00" reason="it \"fell\""] Error L10 (output buffer overflow): 12345 messages dropped since 2026-02-03T04:05:00+00:00.` + "\n"
	if got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	parse(t, got)
	parse(t, unframe(t, f.appendGap(nil, nil, &gap{unknown: true}))[0])
	f = Formatter{layout: herokuFull, token: "d.1"}
	want = "<172>1 2026-02-03T04:05:06.000007+00:00 d.1 heroku logplex - - Error L10 (output buffer overflow): 12345 messages dropped since 2026-02-03T04:05:00+00:00.\n"
	if got := unframe(t, f.appendGap(nil, f.prepare(e, &r), g))[0]; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestCacheFollowsTags(t *testing.T) {
	var f Formatter
	for i := range 50 {
		id := shop
		id.Tags = maps.Clone(shop.Tags)
		id.Tags["n"] = fmt.Sprint(i % 3)
		id.InstanceID = fmt.Sprint(i % 2)
		if i%7 == 0 {
			id.Tags = nil
		}
		e := logOf(id, "x")
		var fresh Formatter
		if got, want := f.AppendFrames(nil, e), fresh.AppendFrames(nil, e); !bytes.Equal(got, want) {
			t.Fatalf("got %q want %q", got, want)
		}
	}
}

func FuzzFormat(f *testing.F) {
	f.Add("app", "0", "APP", "org", "k", "v", []byte("line\x00"), int64(5), int32(0))
	f.Add("", "  ", "\xff", "é", "a b", "\"]\\", []byte("\xff\n"), int64(-5), int32(9))
	f.Fuzz(func(t *testing.T, source, instance, sourceType, org, key, value string, line []byte, ns int64, logType int32) {
		id := envelope.Identity{SourceID: source, InstanceID: instance, Tags: map[string]string{
			"source_type": sourceType, "organization_name": org, key: value, key + "]": "2", key + "=": "3",
		}}
		var ft Formatter
		for _, record := range [][]byte{
			envelope.AppendLog(nil, id.Encode(), ns, envelope.LogType(logType), line),
			envelope.AppendCounter(nil, id.Encode(), ns, key, 1, 2),
			envelope.AppendGauge(nil, id.Encode(), ns, envelope.Metric{Name: []byte(key), Unit: []byte(value), Value: float64(ns)}),
			envelope.AppendTimer(nil, id.Encode(), ns, value, ns, ns),
			envelope.AppendEvent(nil, id.Encode(), ns, value, org),
		} {
			rest := ft.AppendFrames(nil, one(record))
			for _, m := range unframe(t, rest) {
				var next []byte
				if next, rest = nextFrame(rest); string(next) != m {
					t.Fatalf("nextFrame gave %q of %q", next, m)
				}
				// The parser wants UTF-8 in MSG, of which RFC 5424 section 6.4
				// says "any octets".
				parse(t, strings.ToValidUTF8(m, "?"))
				if strings.HasSuffix(m, "\n") != true || strings.Contains(m[:strings.IndexByte(m, ' ')], "\x00") {
					t.Fatalf("%q", m)
				}
			}
		}
		// Whatever bytes come, formatting does not fail.
		ft.AppendFrames(nil, envelope.Envelope(line))
	})
}

var sixTags = envelope.Identity{
	SourceID: shop.SourceID, InstanceID: "0",
	Tags: map[string]string{
		"app_id": shop.SourceID, "app_name": "shop", "organization_name": "acme", "space_name": "prod",
		"source_type": "APP/PROC/WEB", "process_type": "web",
	},
}

func TestFormatAllocatesNothing(t *testing.T) {
	e := logOf(sixTags, strings.Repeat("x", 200))
	other := sixTags
	other.InstanceID, other.SourceID = "1", "other"
	e2 := logOf(other, strings.Repeat("y", 2000))
	buf := make([]byte, 0, 8192)
	var f Formatter
	f.AppendFrames(f.AppendFrames(buf, e), e2)
	if n := testing.AllocsPerRun(100, func() { f.AppendFrames(f.AppendFrames(buf, e), e2) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkFormat(b *testing.B) {
	var list [2]envelope.Envelope
	for i := range list {
		id := sixTags
		id.SourceID = fmt.Sprintf("%d%s", i, id.SourceID[1:])
		list[i] = logOf(id, strings.Repeat("x", 200))
	}
	for _, c := range []struct {
		name string
		n    int
	}{{"same", 1}, {"alternating", 2}} {
		b.Run(c.name, func(b *testing.B) {
			buf := make([]byte, 0, 4096)
			var f Formatter
			b.SetBytes(int64(len(f.AppendFrames(buf, list[0]))))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				f.AppendFrames(buf, list[i%c.n])
			}
		})
	}
}
