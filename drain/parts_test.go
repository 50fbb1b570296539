package drain

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/cloudfoundry/loggregator/envelope"
)

// join puts the parts of a line together again, as a receiver does, and checks
// what they say of themselves.
func join(t *testing.T, messages []string, limit int) (text string) {
	t.Helper()
	var id string
	for i, m := range messages {
		if len(m) > limit {
			t.Fatalf("a message of %d bytes where %d are the most", len(m), limit)
		}
		sd := *parse(t, strings.ToValidUTF8(m, "?")).StructuredData
		part := sd["part@47450"]
		if i == 0 {
			id = part["id"]
		}
		if want := fmt.Sprintf("%d/%d", i+1, len(messages)); part["part"] != want || part["id"] != id || len(id) != 16 {
			t.Fatalf("part %v, want %s", part, want)
		}
		_, msg, _ := strings.Cut(m, `"] `)
		if i+1 < len(messages) {
			msg = strings.TrimSuffix(msg, "\n")
			if utf8.ValidString(text+msg) != utf8.ValidString(msg) {
				t.Fatalf("cut within a character: %q", msg[max(0, len(msg)-8):])
			}
		}
		text += msg
	}
	return text
}

func TestS01S02LongLines(t *testing.T) {
	const limit = 8192
	f := Formatter{MaxSize: limit}
	header := len(frames(t, &f, logOf(shop, ""))[0]) - 1
	for _, n := range []int{0, limit - header - 1, limit - header, limit, 10 * limit, envelope.MaxSize / 2} {
		for _, unit := range []string{"x", "é", "日", "😀", "\r\n", "ab\r\n", "\xff", "\xe2\x82"} {
			line := strings.Repeat(unit, n/len(unit)+1)[:n]
			messages := frames(t, &f, logOf(shop, line))
			want := line
			if !strings.HasSuffix(want, "\n") {
				want += "\n"
			}
			if len(messages) == 1 {
				_, got, _ := strings.Cut(messages[0], `"prod"] `)
				if got != want || header+len(want) > limit {
					t.Fatalf("%d bytes of %q came as one message of %d bytes", n, unit, len(messages[0]))
				}
				continue
			}
			if header+len(want) <= limit {
				t.Fatalf("%d bytes of %q came in %d parts", n, unit, len(messages))
			}
			if utf8.ValidString(line) {
				if got := join(t, messages, limit); got != want {
					t.Fatalf("%d bytes of %q came as %d", n, unit, len(got))
				}
			}
			for _, m := range messages[:len(messages)-1] {
				if strings.HasSuffix(m, "\r\n") {
					t.Fatal("cut between CR and LF")
				}
			}
		}
	}
	a, b := frames(t, &f, logOf(shop, strings.Repeat("x", 20000))), frames(t, &f, logOf(shop, strings.Repeat("x", 20000)))
	if strings.Join(a, "") != strings.Join(b, "") {
		t.Error("parts that are sent again are not the same")
	}
}

func TestS03TagsAloneExceedTheLimit(t *testing.T) {
	id := envelope.Identity{SourceID: "app", InstanceID: strings.Repeat("i", 200), Tags: map[string]string{
		"organization_name": strings.Repeat("o", 100), "space_name": strings.Repeat("s", 100), "app_name": strings.Repeat("a", 100),
		"source_type": strings.Repeat("t", 200),
	}}
	for i := range 100 {
		id.Tags[fmt.Sprintf("tag%02d", i)] = strings.Repeat(`]"`, 100)
	}
	fixed := id.Encode()
	long := strings.Repeat(`é"]`, 30000)
	for _, limit := range []int{MinMessage, 8192, DefaultMaxMessage} {
		f := Formatter{MaxSize: limit}
		for name, record := range map[string][]byte{
			"short line": envelope.AppendLog(nil, fixed, stamp, envelope.Out, []byte("hello")),
			"long line":  envelope.AppendLog(nil, fixed, stamp, envelope.Out, []byte(long)),
			"counter":    envelope.AppendCounter(nil, fixed, stamp, long, 1, 2),
			"gauge":      envelope.AppendGauge(nil, fixed, stamp, envelope.Metric{Name: []byte(long), Unit: []byte(long)}, envelope.Metric{Name: []byte("b")}),
			"timer":      envelope.AppendTimer(nil, fixed, stamp, long, 1, 2),
			"event":      envelope.AppendEvent(nil, fixed, stamp, long, long),
		} {
			messages := frames(t, &f, one(record))
			var text string
			for _, m := range messages {
				parsed := parse(t, m)
				if len(m) > limit {
					t.Errorf("%s: %d bytes where %d are the most", name, len(m), limit)
				}
				part := (*parsed.StructuredData)["part@47450"]
				kept := len((*parsed.StructuredData)["tags@47450"])
				if want := fmt.Sprint(104 - kept); limit < DefaultMaxMessage && part["tags-omitted"] != want {
					t.Errorf("%s: %v with %d tags", name, part, kept)
				}
				if parsed.Message != nil {
					text += strings.TrimSuffix(*parsed.Message, "\n")
				}
			}
			if name == "short line" && text != "hello" || name == "long line" && text != long {
				t.Errorf("%s: %d bytes of text", name, len(text))
			}
		}
		if limit < DefaultMaxMessage && f.short == 0 {
			t.Error("not counted")
		}
	}
}

func FuzzParts(f *testing.F) {
	f.Add([]byte("line"), uint16(1024), "v")
	f.Add(bytes.Repeat([]byte("é\r\n\x00"), 1000), uint16(2000), strings.Repeat("\\]", 400))
	f.Fuzz(func(t *testing.T, line []byte, limit uint16, value string) {
		id := shop
		id.Tags = map[string]string{"a": value, "b": value, "app_name": value}
		f := Formatter{MaxSize: MinMessage + int(limit)%9000}
		var text []byte
		for _, m := range frames(t, &f, one(envelope.AppendLog(nil, id.Encode(), stamp, envelope.Out, line))) {
			parse(t, strings.ToValidUTF8(m, "?"))
			if len(m) > f.MaxSize {
				t.Fatalf("%d bytes, limit %d", len(m), f.MaxSize)
			}
			i := strings.LastIndex(m, "] ")
			if len(id.Tags) > 0 && !bytes.Contains(line, []byte("] ")) && i >= 0 {
				text = append(bytes.TrimSuffix(text, nil), m[i+2:len(m)-1]...)
			}
		}
		want := bytes.ReplaceAll(line, []byte{0}, nil)
		if want = bytes.TrimSuffix(want, []byte("\n")); !bytes.Contains(line, []byte("]")) && !bytes.Equal(text, want) {
			t.Fatalf("got %q want %q", text, want)
		}
	})
}

func TestF10LineFraming(t *testing.T) {
	target, err := parseURL("syslog://host?framing=lf")
	if err != nil {
		t.Fatal(err)
	}
	f := target.formatter("", false)
	id := shop
	id.Tags = map[string]string{"a": "1\n2"}
	for in, want := range map[string]string{"at x\n\tat y\n\n": "at x \tat y \n", "": "\n", "a": "a\n"} {
		got := string(f.AppendFrames([]byte("before\n"), logOf(id, in)))
		if line, ok := strings.CutPrefix(got, "before\n<14>1 "); !ok || strings.Count(line, "\n") != 1 || !strings.HasSuffix(line, `[tags@47450 a="1 2"] `+want) {
			t.Errorf("%q became %q", in, got)
		}
	}
}

func TestF11StrictUTF8(t *testing.T) {
	target, err := parseURL("syslog://host?utf8=strict")
	if err != nil {
		t.Fatal(err)
	}
	f := target.formatter("", false)
	for in, want := range map[string]string{"a\xffb\x00\xe2\x82": "a\ufffdb\ufffd\ufffd\n", "é\n": "é\n"} {
		m := frames(t, &f, logOf(shop, in))[0]
		parse(t, m)
		if !strings.HasSuffix(m, `"prod"] `+want) {
			t.Errorf("%q became %q", in, m)
		}
	}
}

func TestK05HerokuForms(t *testing.T) {
	line := func(id envelope.Identity, text string, stream envelope.LogType) envelope.Envelope {
		return one(envelope.AppendLog(nil, id.Encode(), stamp, stream, []byte(text)))
	}
	typed := func(sourceType string) envelope.Identity {
		id := shop
		id.InstanceID, id.Tags = "1", map[string]string{"source_type": sourceType, "app_name": "shop"}
		return id
	}
	for url, head := range map[string][2]string{
		"syslog://host?format=heroku":               {"d.11111111-2222-4333-8444-555555555555", "- "},
		"syslog-tls://host?format=heroku-strict":    {"d.11111111-2222-4333-8444-555555555555", "- "},
		"https-logplex://host":                      {"host", ""},
		"https-logplex://host?format=heroku-strict": {"host", "- "},
	} {
		target, err := parseURL(url)
		if err != nil {
			t.Fatal(err)
		}
		f := target.formatter("d.11111111-2222-4333-8444-555555555555", false)
		for _, c := range []struct {
			e    envelope.Envelope
			want string
		}{
			{line(typed("APP/PROC/WEB"), "hello", envelope.Out), "<190>1 T H app web.1 - Shello\n"},
			{line(typed("APP/PROC/WORKER"), "hello", envelope.Err), "<187>1 T H app worker.1 - Shello\n"},
			{line(typed("APP"), "hello", envelope.Out), "<190>1 T H app web.1 - Shello\n"},
			{line(typed("RTR"), "hello", envelope.Out), "<158>1 T H heroku router - Shello\n"},
			{line(typed("STG"), "hello", envelope.Out), "<45>1 T H heroku stg - Shello\n"},
			{line(typed("LGR"), "hello", envelope.Err), "<43>1 T H heroku logplex - Shello\n"},
			{line(typed(""), "hello", envelope.Out), "<45>1 T H heroku logplex - Shello\n"},
		} {
			want := strings.NewReplacer("T", "2026-02-03T04:05:06.000007+00:00", "H", head[0], "S", head[1]).Replace(c.want)
			if got := frames(t, &f, c.e); len(got) != 1 || got[0] != want {
				t.Errorf("%s\n got %q\nwant %q", url, got, want)
			}
			if head[1] != "" {
				parse(t, want)
			}
		}
		if url == "syslog://host?format=heroku" { // the example of the contract, with its length
			id := typed("APP/PROC/WEB")
			if got := string(f.AppendFrames(nil, line(id, "hello", envelope.Out))); !strings.HasPrefix(got, "99 <190>1 ") {
				t.Errorf("%q", got)
			}
		}
		// K-05: 10,001 bytes are two messages, cut between characters.
		long := strings.Repeat("x", 9999) + "éx"
		got := frames(t, &f, line(typed("APP/PROC/WEB"), long, envelope.Out))
		if len(got) != 2 || !strings.HasSuffix(got[0], "xxx\n") || !strings.HasSuffix(got[1], head[1]+"éx\n") {
			t.Errorf("%s: %d messages", url, len(got))
		}
	}
}

// TestHeadersAreKept writes records of many sources by turns: what comes out is
// what a new Formatter would write, and what is kept has a bound.
func TestHeadersAreKept(t *testing.T) {
	var f Formatter
	var list []envelope.Envelope
	for i := range 300 {
		id := sixTags
		id.SourceID, id.InstanceID = fmt.Sprintf("source-%d", i/2), fmt.Sprint(i)
		id.Tags = map[string]string{"app_name": fmt.Sprint("app", i), "x": strings.Repeat("x", i%7*200)}
		list = append(list, logOf(id, "x"))
	}
	for range 5000 {
		e := list[rand.N(len(list))]
		var fresh Formatter
		if got, want := f.AppendFrames(nil, e), fresh.AppendFrames(nil, e); !bytes.Equal(got, want) {
			t.Fatalf("got %q want %q", got, want)
		}
		if f.headers != nil && f.headers.bytes > maxHeaders+2*maxHeader {
			t.Fatalf("%d bytes kept", f.headers.bytes)
		}
	}
	for _, n := range []int{2, 8, 20} {
		var f Formatter
		buf := make([]byte, 0, 8192)
		for range 3 {
			for _, e := range list[:n] {
				f.AppendFrames(buf, e)
			}
		}
		allocs := testing.AllocsPerRun(10, func() {
			for _, e := range list[:n] {
				f.AppendFrames(buf, e)
			}
		})
		if allocs > 0 {
			t.Errorf("%d sources by turns: %v allocations", n, allocs)
		}
	}
}
