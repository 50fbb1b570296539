package syslogmsg

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	syslog "github.com/influxdata/go-syslog/v3"
	"github.com/influxdata/go-syslog/v3/rfc3164"
	"github.com/influxdata/go-syslog/v3/rfc5424"
)

var now = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)

// plain is a Message as a test writes it down.
type plain struct {
	Pri                         int // -1: none
	Time                        string
	Host, App, Proc, ID, SD, Tx string
}

func plainOf(m *Message) plain {
	p := plain{Pri: -1, Host: string(m.Hostname), App: string(m.AppName), Proc: string(m.ProcID), ID: string(m.MsgID), SD: string(m.Structured), Tx: string(m.Text)}
	if m.HasPriority {
		p.Pri = int(m.Facility)*8 + int(m.Severity)
	}
	if m.HasTime {
		p.Time = time.Unix(0, m.Timestamp).UTC().Format(time.RFC3339Nano)
	}
	return p
}

func TestParse5424(t *testing.T) {
	tests := []struct {
		name, line string
		d          Dialect
		ok         bool
		want       plain
	}{
		{"whole", `<165>1 2003-10-11T22:14:15.003Z host app 12 ID47 [a@1 b="c"] hello`, RFC5424, true,
			plain{165, "2003-10-11T22:14:15.003Z", "host", "app", "12", "ID47", `[a@1 b="c"]`, "hello"}},
		{"dashes", `<0>1 - - - - - -`, RFC5424, true, plain{Pri: 0}},
		{"empty text", `<0>1 - - - - - - `, RFC5424, true, plain{Pri: 0}},
		{"byte order mark", "<0>1 - - - - - - \xef\xbb\xbfé", RFC5424, true, plain{Pri: 0, Tx: "é"}},
		{"two elements", `<0>1 - - - - - [a][b c="\]"] x`, RFC5424, true, plain{Pri: 0, SD: `[a][b c="\]"]`, Tx: "x"}},
		{"not UTF-8", "<0>1 - - - - - - \xff", RFC5424, true, plain{Pri: 0, Tx: "\xff"}},
		{"nanoseconds, offset", `<0>1 2026-01-01T00:00:00.123456789+02:00 - - - - -`, RFC5424, true, plain{Pri: 0, Time: "2025-12-31T22:00:00.123456789Z"}},
		{"far time", `<0>1 9999-01-01T00:00:00Z - - - - - x`, RFC5424, true, plain{Pri: 0, Tx: "x"}},
		{"leap day", `<0>1 2024-02-29T00:00:00Z - - - - - x`, RFC5424, true, plain{Pri: 0, Time: "2024-02-29T00:00:00Z", Tx: "x"}},
		{"no leap day", `<0>1 2025-02-29T00:00:00Z - - - - - x`, RFC5424, false, plain{}},
		{"PRI above 191", `<192>1 - - - - - -`, RFC5424, false, plain{}},
		{"no version", `<19> - - - - - -`, RFC5424, false, plain{}},
		{"open element", `<0>1 - - - - - [a b="c`, RFC5424, false, plain{}},
		{"element and text without a space", `<0>1 - - - - - [a]x`, RFC5424, false, plain{}},
		{"no structured data", `<0>1 - h a p - hello`, RFC5424, false, plain{}},

		{"logplex", `<40>1 2026-02-03T04:05:06+00:00 host heroku web.1 - State changed`, Either, true,
			plain{40, "2026-02-03T04:05:06Z", "host", "heroku", "web.1", "", "", "State changed"}},
		{"log-shuttle", `<190>1 2026-02-03T04:05:06.000007+00:00 shuttle token shuttle - - hello`, Either, true,
			plain{190, "2026-02-03T04:05:06.000007Z", "shuttle", "token", "shuttle", "", "", "hello"}},
		{"either, elements", `<0>1 - - - - - [a b="c"] x`, Either, true, plain{Pri: 0, SD: `[a b="c"]`, Tx: "x"}},
		{"either, bracket is text", `<0>1 - - - - - [info] x`, Either, true, plain{Pri: 0, Tx: "[info] x"}},
		{"either, broken element is text", `<0>1 - - - - - [a b="c] x`, Either, true, plain{Pri: 0, Tx: `[a b="c] x`}},
		{"either, nothing", `<0>1 - - - - -`, Either, true, plain{Pri: 0}},
		{"none, dash is text", `<0>1 - - - - - - x`, None, true, plain{Pri: 0, Tx: "- x"}},
		{"none, element is text", `<0>1 - - - - - [a b="c"] x`, None, true, plain{Pri: 0, Tx: `[a b="c"] x`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m Message
			ok := m.Parse5424([]byte(test.line), test.d)
			if ok != test.ok {
				t.Fatalf("ok = %v", ok)
			}
			if diff := cmp.Diff(test.want, plainOf(&m)); ok && diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestParse3164(t *testing.T) {
	tests := []struct {
		name, line string
		local, ok  bool
		want       plain
	}{
		{"RFC", `<34>Oct 11 22:14:15 mymachine su: 'su root' failed`, false, true,
			plain{Pri: 34, Time: "2026-10-11T22:14:15Z", Host: "mymachine", App: "su", Tx: "'su root' failed"}},
		{"process id", `<34>Oct  1 22:14:15 mymachine su[17]: failed`, false, true,
			plain{Pri: 34, Time: "2026-10-01T22:14:15Z", Host: "mymachine", App: "su", Proc: "17", Tx: "failed"}},
		{"no tag", `<34>Oct 1 22:14:15 mymachine failed to http://x/`, false, true,
			plain{Pri: 34, Time: "2026-10-01T22:14:15Z", Host: "mymachine", Tx: "failed to http://x/"}},
		{"URL is no tag", `<34>Oct 1 22:14:15 mymachine http://x/ failed`, false, true,
			plain{Pri: 34, Time: "2026-10-01T22:14:15Z", Host: "mymachine", Tx: "http://x/ failed"}},
		{"rsyslog's high precision", `<34>2026-10-11T22:14:15.003+02:00 h app[1]: x`, false, true,
			plain{Pri: 34, Time: "2026-10-11T20:14:15.003Z", Host: "h", App: "app", Proc: "1", Tx: "x"}},
		{"from /dev/log", `<13>Nov 23 07:45:00 root: hello`, true, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00Z", App: "root", Tx: "hello"}},
		{"from /dev/log, no tag", `<13>Nov 23 07:45:00 hello world`, true, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00Z", Tx: "hello world"}},
		{"from /dev/log, with a host", `<13>Nov 23 07:45:00 h root[1]: hello`, true, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00Z", Host: "h", App: "root", Proc: "1", Tx: "hello"}},
		{"no host", `<13>Nov 23 07:45:00 root[1]: hello world`, false, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00Z", App: "root", Proc: "1", Tx: "hello world"}},
		{"host of IPv6", `<13>Nov 23 07:45:00 fe80::1 root: hello`, false, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00Z", Host: "fe80::1", App: "root", Tx: "hello"}},
		{"year after", `<13>Nov 23 2025 07:45:00 h a: x`, false, true,
			plain{Pri: 13, Time: "2025-11-23T07:45:00Z", Host: "h", App: "a", Tx: "x"}},
		{"decimals", `<13>Nov 23 07:45:00.25 h a: x`, false, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00.25Z", Host: "h", App: "a", Tx: "x"}},
		{"a clock that is ahead", `<13>Nov 29 07:45:00 h a: x`, false, true,
			plain{Pri: 13, Time: "2026-11-29T07:45:00Z", Host: "h", App: "a", Tx: "x"}},
		{"last year", `<13>Dec  2 07:45:00 h a: x`, false, true,
			plain{Pri: 13, Time: "2025-12-02T07:45:00Z", Host: "h", App: "a", Tx: "x"}},
		{"spaces stay", `<13>Nov 23 07:45:00 h a:   x`, false, true,
			plain{Pri: 13, Time: "2026-11-23T07:45:00Z", Host: "h", App: "a", Tx: "  x"}},
		{"only a priority", `<13>hello`, false, false, plain{Pri: 13, Tx: "<13>hello"}},
		{"nothing", `hello`, false, false, plain{Pri: -1, Tx: "hello"}},
		{"no such day", `<13>Nov 33 07:45:00 h a: x`, false, false, plain{Pri: 13, Tx: "<13>Nov 33 07:45:00 h a: x"}},
		{"nothing after the time", `<13>Nov 23 07:45:00`, false, true, plain{Pri: 13, Time: "2026-11-23T07:45:00Z"}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var m Message
			if ok := m.Parse3164([]byte(test.line), now, test.local); ok != test.ok {
				t.Errorf("ok = %v", ok)
			}
			if diff := cmp.Diff(test.want, plainOf(&m)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestYear: around New Year, a time without a year is of the year it was made in.
func TestYear(t *testing.T) {
	for _, test := range []struct{ now, stamp, want string }{
		{"2026-12-31T23:59:59Z", "Jan  1 00:00:01", "2027-01-01T00:00:01Z"},
		{"2027-01-01T00:00:01Z", "Dec 31 23:59:59", "2026-12-31T23:59:59Z"},
		{"2028-03-01T00:00:00Z", "Feb 29 12:00:00", "2028-02-29T12:00:00Z"},
	} {
		now, err := time.Parse(time.RFC3339, test.now)
		if err != nil {
			t.Fatal(err)
		}
		var m Message
		if m.Parse3164([]byte("<13>"+test.stamp+" h a: x"), now, false); plainOf(&m).Time != test.want {
			t.Errorf("%s at %s is %s", test.stamp, test.now, plainOf(&m).Time)
		}
	}
}

func TestParams(t *testing.T) {
	var m Message
	if !m.Parse5424([]byte(`<0>1 - - - - - [a b="c" d="\"\\\]\n"][e] x`), RFC5424) {
		t.Fatal("not parsed")
	}
	var got []string
	for p := m.Params(); p.Next(); {
		got = append(got, string(p.ID)+"."+string(p.Name)+"="+string(AppendUnescaped(nil, p.Value)))
	}
	if diff := cmp.Diff([]string{"a.b=c", `a.d="\]\n`, "e.="}, got); diff != "" {
		t.Error(diff)
	}
}

// FuzzParse5424: what go-syslog takes, this parser takes, with the same fields.
func FuzzParse5424(f *testing.F) {
	f.Add([]byte(`<165>1 2003-10-11T22:14:15.003Z host app 12 ID47 [a@1 b="c\]" d=""][e] hello`))
	f.Add([]byte(`<0>1 - - - - - - `))
	f.Add([]byte(`<190>1 2026-02-28T04:05:06.000007-11:30 shuttle token shuttle - - hello`))
	oracle := rfc5424.NewParser()
	f.Fuzz(func(t *testing.T, line []byte) {
		var m, either Message
		ok := m.Parse5424(line, RFC5424)
		eitherOK := either.Parse5424(line, Either)
		if ok && !eitherOK {
			t.Fatal("the dialect refuses what the RFC allows")
		}
		new(Message).Parse5424(line, None)
		parsed, err := oracle.Parse(line)
		if err != nil || parsed == nil { // it says nothing of what ends too early
			return
		}
		want := parsed.(*rfc5424.SyslogMessage)
		if !ok {
			t.Fatalf("not taken: %q", line)
		}
		same(t, &m, &want.Base)
		n := 0
		if want.StructuredData == nil {
			if m.Structured != nil {
				t.Fatalf("structured data %q", m.Structured)
			}
			return
		}
		for p := m.Params(); p.Next(); {
			params, ok := (*want.StructuredData)[string(p.ID)]
			if !ok {
				t.Fatalf("element %q", p.ID)
			}
			if p.Name == nil {
				continue
			}
			v, ok := params[string(p.Name)]
			if !ok {
				t.Fatalf("parameter %q", p.Name)
			}
			if last(&m, p) && v != string(AppendUnescaped(nil, p.Value)) {
				t.Fatalf("parameter %q = %q, want %q", p.Name, p.Value, v)
			}
			n++
		}
		for _, params := range *want.StructuredData {
			n -= len(params)
		}
		if n < 0 {
			t.Fatalf("%d parameters too few", -n)
		}
	})
}

// last reports whether no parameter of the same name follows p.
func last(m *Message, p Params) bool {
	id, name := string(p.ID), string(p.Name)
	for p.Next() {
		if string(p.ID) == id && string(p.Name) == name {
			return false
		}
	}
	return true
}

func same(t *testing.T, m *Message, want *syslog.Base) {
	t.Helper()
	check := func(what string, got []byte, want *string) {
		t.Helper()
		if want == nil {
			if len(got) > 0 {
				t.Fatalf("%s = %q, want none", what, got)
			}
		} else if string(got) != *want {
			t.Fatalf("%s = %q, want %q", what, got, *want)
		}
	}
	if want.Facility == nil || m.Facility != *want.Facility || m.Severity != *want.Severity {
		t.Fatalf("facility %d, severity %d", m.Facility, m.Severity)
	}
	switch ts := want.Timestamp; {
	case ts == nil || ts.UTC().Year() < minYear || ts.UTC().Year() > maxYear:
	case !m.HasTime || m.Timestamp != ts.UnixNano():
		t.Fatalf("time %d, want %v", m.Timestamp, ts)
	}
	check("host", m.Hostname, want.Hostname)
	check("app", m.AppName, want.Appname)
	check("process", m.ProcID, want.ProcID)
	check("message id", m.MsgID, want.MsgID)
	text := want.Message
	if text != nil {
		text = new(string)
		*text, _ = cutBOM(*want.Message)
	}
	check("text", m.Text, text)
}

func cutBOM(s string) (string, bool) {
	if len(s) >= 3 && s[:3] == string(bom) {
		return s[3:], true
	}
	return s, false
}

// FuzzParse3164: what go-syslog takes, this parser takes, with the same fields;
// and nothing of a line that is not taken is lost.
func FuzzParse3164(f *testing.F) {
	f.Add([]byte(`<34>Oct 11 22:14:15 mymachine su: 'su root' failed`))
	f.Add([]byte(`<34>Oct  1 22:14:15 mymachine su[17]: failed`))
	f.Add([]byte(`<34>2026-10-11T22:14:15+02:00 h app[-1]: x`))
	f.Fuzz(func(t *testing.T, line []byte) {
		var m Message
		new(Message).Parse3164(line, now, true)
		ok := m.Parse3164(line, now, false)
		if !ok && string(m.Text) != string(line) {
			t.Fatalf("text %q", m.Text)
		}
		parsed, err := rfc3164.NewParser(rfc3164.WithRFC3339(), rfc3164.WithYear(rfc3164.Year{YYYY: 2026})).Parse(line)
		if err != nil || parsed == nil { // it says nothing of what ends too early
			return
		}
		want := parsed.(*rfc3164.SyslogMessage).Base
		if !ok {
			t.Fatal("not taken")
		}
		if want.Hostname != nil && tagEnd([]byte(*want.Hostname)) > 0 {
			return // a message without a host, which go-syslog does not know
		}
		if want.Timestamp != nil && want.Timestamp.Sub(now) > 6*24*time.Hour {
			want.Timestamp = nil // of another year
		}
		// It has found a tag, or half of one, in much that has none, and does not
		// say; and its tags are of at most 32 bytes, ours have a process id of one
		// word. Where both agree that there is one, or none, they agree on all.
		certain := bytes.Contains(line, []byte(": ")) && len(m.Text) > 0 && (want.Appname == nil) == (m.AppName == nil) &&
			(want.ProcID == nil || !bytes.ContainsAny([]byte(*want.ProcID), " ]"))
		if !certain {
			app, id, text := string(m.AppName), string(m.ProcID), string(m.Text)
			want.Appname, want.ProcID, want.Message = &app, &id, &text
		}
		same(t, &m, &want)
	})
}

// FuzzTime compares with the time package.
func FuzzTime(f *testing.F) {
	f.Add("2026-10-11T22:14:15.123+02:00")
	f.Fuzz(func(t *testing.T, s string) {
		var m Message
		n := m.time([]byte(s))
		want, err := time.Parse(time.RFC3339Nano, s)
		if n > 0 && n == len(s) && err != nil {
			t.Fatalf("%q taken: %v", s, err)
		}
		if n > 0 && n == len(s) && m.HasTime && m.Timestamp != want.UnixNano() {
			t.Fatalf("%q is %d, want %d", s, m.Timestamp, want.UnixNano())
		}
	})
}

func TestAllocs(t *testing.T) {
	line5424 := []byte(`<165>1 2003-10-11T22:14:15.003Z host app 12 ID47 [a@1 b="c"] hello`)
	line3164 := []byte(`<34>Oct 11 22:14:15 mymachine su[17]: 'su root' failed`)
	var m Message
	if n := testing.AllocsPerRun(100, func() {
		m.Parse5424(line5424, RFC5424)
		m.Parse3164(line3164, now, false)
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkParse(b *testing.B) {
	line := []byte(`<190>1 2026-02-03T04:05:06.000007+00:00 d.11111111-2222-4333-8444-555555555555 app web.1 - - at=info method=GET path="/" host=example.com request_id=8601b555 fwd="204.204.204.204" dyno=web.1 connect=1ms service=18ms status=200 bytes=13`)
	b.Run("rfc5424", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		var m Message
		for b.Loop() {
			if !m.Parse5424(line, RFC5424) {
				b.Fatal("not parsed")
			}
		}
	})
	b.Run("go-syslog", func(b *testing.B) {
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		p := rfc5424.NewMachine()
		for b.Loop() {
			if _, err := p.Parse(line); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("rfc3164", func(b *testing.B) {
		line := []byte(`<34>Oct 11 22:14:15 mymachine su[17]: 'su root' failed for lonvick on /dev/pts/8`)
		b.SetBytes(int64(len(line)))
		b.ReportAllocs()
		var m Message
		for b.Loop() {
			if !m.Parse3164(line, now, false) {
				b.Fatal("not parsed")
			}
		}
	})
}
