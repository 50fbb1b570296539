package emitter_test

import (
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"strings"
	"testing"
	"testing/slogtest"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// object reads back what the handler made of a record.
func object(t testing.TB, e envelope.Envelope, asTags bool) map[string]any {
	m := map[string]any{}
	if !asTags {
		if err := json.Unmarshal(e.Payload(), &m); err != nil {
			t.Fatalf("%s: %v", e.Payload(), err)
		}
		if m["level"] != tag(e, emitter.TagSeverity) {
			t.Errorf("level %v, tag %v", m["level"], tag(e, emitter.TagSeverity))
		}
		return m
	}
	m["msg"], m["level"] = string(e.Payload()), tag(e, emitter.TagSeverity)
	for k, v := range e.Tags() {
		path := strings.Split(string(k), ".")
		at := m
		for _, g := range path[:len(path)-1] {
			if at[g] == nil {
				at[g] = map[string]any{}
			}
			at = at[g].(map[string]any)
		}
		at[path[len(path)-1]] = string(v)
	}
	return m
}

func TestSlog(t *testing.T) {
	for _, asTags := range []bool{false, true} {
		var s *sink
		slogtest.Run(t, func(t *testing.T) slog.Handler {
			s = &sink{t: t}
			return emitter.New(s, envelope.Identity{SourceID: "a"}, nil).Handler(&emitter.HandlerOptions{AsTags: asTags})
		}, func(t *testing.T) map[string]any {
			m := object(t, s.records[0], asTags)
			// The time is the envelope's. One is needed there, so that of a
			// record without time is the time of the call.
			r, _ := s.records[0].Route()
			if time.Since(r.Time()).Abs() > time.Minute {
				t.Errorf("time %v", r.Time())
			}
			if !strings.Contains(t.Name(), "/zero-time") {
				m["time"] = r.Time()
			}
			return m
		})
	}
}

func TestHandlerLevels(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	level := new(slog.LevelVar)
	log := slog.New(e.Handler(&emitter.HandlerOptions{Level: level}))
	log.Debug("no")
	level.Set(slog.LevelDebug)
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn, slog.LevelError - 1, slog.LevelError, slog.LevelError + 4} {
		log.Log(t.Context(), l, "yes")
	}
	var got []string
	for _, r := range s.records {
		route, _ := r.Route()
		got = append(got, route.LogType.String()+" "+tag(r, emitter.TagSeverity))
	}
	if strings.Join(got, ",") != "OUT DEBUG,OUT INFO,OUT WARN,OUT WARN+3,ERR ERROR,ERR ERROR+4" {
		t.Errorf("%q", got)
	}
	slog.New(e.Handler(nil)).Debug("no")
	s.conserved(e)
}

func TestHandlerTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{t: t}
		h := emitter.New(s, shop, nil).Handler(nil)
		then := time.Unix(1000, 1)
		h.Handle(t.Context(), slog.NewRecord(then, slog.LevelInfo, "m", 0))
		h.Handle(t.Context(), slog.NewRecord(time.Time{}, slog.LevelInfo, "m", 0))
		for i, want := range []time.Time{then, time.Now()} {
			if r, _ := s.records[i].Route(); !r.Time().Equal(want) {
				t.Errorf("%d: %v, want %v", i, r.Time(), want)
			}
		}
	})
}

type bomb struct{}

func (bomb) MarshalJSON() ([]byte, error) { panic("boom") }
func (bomb) String() string               { panic("boom") }

type cause struct{ text string }

func (c *cause) Error() string { return c.text }

func TestHandlerValues(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	log := slog.New(e.Handler(nil))
	log.Info(`say "hi" <b>`+"\n\x01\xff☃", "s", "a\tb", "i", -5, "u", uint64(math.MaxUint64), "f", 1.5,
		"nan", math.NaN(), "b", true, "d", time.Second, "t", time.Unix(0, 0).UTC(), "nil", nil,
		"err", errors.New("no <way>"), "nilerr", (*cause)(nil), "any", map[string]int{"<": 1}, "chan", make(chan int), "bomb", bomb{})
	line := string(s.records[0].Payload())
	for _, want := range []string{
		`"msg":"say \"hi\" <b>\n\u0001\ufffd☃"`, `"s":"a\tb"`, `"i":-5`, `"u":18446744073709551615`, `"f":1.5`, `"nan":"NaN"`,
		`"b":true`, `"d":1000000000`, `"t":"1970-01-01T00:00:00Z"`, `"nil":null`, `"err":"no <way>"`, `"nilerr":"!PANIC`,
		`"any":{"<":1}`, `"chan":"!ERROR: json`, `"bomb":"!PANIC in emitter_test.bomb: boom"`,
	} {
		if !strings.Contains(line, want) {
			t.Errorf("%s\nlacks %s", line, want)
		}
	}
	if !json.Valid([]byte(line)) || strings.Contains(line, "\n") {
		t.Errorf("not one line of JSON: %s", line)
	}
	slog.New(e.Handler(&emitter.HandlerOptions{AsTags: true})).Info("m", "bomb", bomb{}, "g", slog.GroupValue(slog.Int("n", 7)))
	if got := tag(s.records[1], "g.n"); got != "7" {
		t.Errorf("g.n = %q", got)
	}
	s.conserved(e)
}

func TestHandlerSource(t *testing.T) {
	for _, asTags := range []bool{false, true} {
		s := &sink{t: t}
		h := emitter.New(s, shop, nil).Handler(&emitter.HandlerOptions{AddSource: true, AsTags: asTags})
		slog.New(h).WithGroup("g").Info("m", "k", "v")
		m := object(t, s.records[0], asTags)
		if src, _ := m["source"].(string); !strings.Contains(src, "handler_test.go:") {
			t.Errorf("source %v in %v", m["source"], m)
		}
	}
}

// TestHandlerBranches: two loggers made from one must not write into each
// other's memory.
func TestHandlerBranches(t *testing.T) {
	s := &sink{t: t}
	log := slog.New(emitter.New(s, shop, nil).Handler(nil)).With("a", 1).WithGroup("g").With("b", 2)
	x, y := log.With("c", "x").WithGroup("x"), log.With("c", "y").WithGroup("y")
	x.Info("m", "k", 1)
	y.Info("m", "k", 1)
	log.Info("m")
	for i, want := range []string{
		`{"level":"INFO","msg":"m","a":1,"g":{"b":2,"c":"x","x":{"k":1}}}`,
		`{"level":"INFO","msg":"m","a":1,"g":{"b":2,"c":"y","y":{"k":1}}}`,
		`{"level":"INFO","msg":"m","a":1,"g":{"b":2}}`,
	} {
		if got := s.texts()[i]; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestHandlerLongLine(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	long := strings.Repeat("x", 150_000)
	slog.New(e.Handler(&emitter.HandlerOptions{AsTags: true})).Error(long, "k", "v")
	if lines := join(t, s.records); len(lines) != 1 || lines[0] != long || len(s.records) != 3 {
		t.Fatalf("%d lines of %d records", len(lines), len(s.records))
	}
	for _, r := range s.records {
		if tag(r, "k") != "v" || tag(r, emitter.TagSeverity) != "ERROR" {
			t.Error("a part without its tags")
		}
	}
	s.conserved(e)
}

func FuzzJSONString(f *testing.F) {
	f.Add("a\"\\\n\x00\xff☃<")
	f.Fuzz(func(t *testing.T, text string) {
		s := &sink{t: t}
		slog.New(emitter.New(s, shop, &emitter.Options{MaxLine: 1 << 20}).Handler(nil)).Info(text, text, text)
		var got map[string]any
		line := s.records[0].Payload()
		if err := json.Unmarshal(line, &got); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		want := strings.ToValidUTF8(text, "\ufffd")
		if len([]rune(text)) != len([]rune(want)) { // ToValidUTF8 replaces a run of bad bytes by one
			return
		}
		if text != "level" && text != "msg" && (got["msg"] != want || got[want] != want) {
			t.Fatalf("%q became %s", text, line)
		}
	})
}

func BenchmarkHandler(b *testing.B) {
	e := emitter.New(&discard{}, shop, nil)
	for name, log := range map[string]*slog.Logger{
		"json": slog.New(e.Handler(nil)),
		"tags": slog.New(e.Handler(&emitter.HandlerOptions{AsTags: true})),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				log.LogAttrs(b.Context(), slog.LevelInfo, "order accepted", slog.String("id", "17"), slog.Int("n", 3))
			}
		})
	}
}
