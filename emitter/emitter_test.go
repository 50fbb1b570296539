package emitter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// sink is a Writer that keeps what it is given, as a router does, and fails
// when told to.
type sink struct {
	t       testing.TB
	mu      sync.Mutex
	records []envelope.Envelope
	batches int
	fail    error
	failed  int
}

func (s *sink) WriteBatch(_ context.Context, b envelope.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		s.failed += b.Count
		return s.fail
	}
	counted, err := envelope.Of(b.Records)
	if err != nil || counted.Count != b.Count || b.Count == 0 {
		s.t.Errorf("batch says %d records, holds %d, %v", b.Count, counted.Count, err)
	}
	for e := range b.All() {
		if _, err := e.Check(nil); err != nil {
			s.t.Errorf("record %d: %v", len(s.records), err)
		}
		s.records = append(s.records, slices.Clone(e))
	}
	s.batches++
	return nil
}

// conserved checks that each record is either in the sink or counted as refused.
func (s *sink) conserved(e *emitter.Emitter) {
	s.t.Helper()
	st := e.Stats()
	if st.Accepted != uint64(len(s.records)) {
		s.t.Errorf("accepted %d, the writer has %d", st.Accepted, len(s.records))
	}
	if st.Refused < uint64(s.failed) {
		s.t.Errorf("refused %d, the writer refused %d", st.Refused, s.failed)
	}
}

func (s *sink) texts() []string {
	var texts []string
	for _, e := range s.records {
		texts = append(texts, string(e.Payload()))
	}
	return texts
}

func tag(e envelope.Envelope, key string) string {
	v, _ := e.Tag(key)
	return string(v)
}

var shop = envelope.Identity{SourceID: "shop-guid", InstanceID: "3", Tags: map[string]string{
	envelope.TagAppName: "shop", envelope.TagSourceType: "APP/PROC/WEB",
}}

func TestLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &sink{t: t}
		e := emitter.New(s, shop, nil)
		e.Log(envelope.Err, "so sad")
		r, err := s.records[0].Route()
		if err != nil || string(r.SourceID) != "shop-guid" || string(r.InstanceID) != "3" ||
			r.LogType != envelope.Err || string(r.Payload) != "so sad" || !r.Time().Equal(time.Now()) {
			t.Errorf("got %s", s.records[0].AppendJSON(nil))
		}
		if tag(s.records[0], envelope.TagAppName) != "shop" {
			t.Error("tag missing")
		}
		s.conserved(e)
	})
}

func TestMeasurements(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	e.Counter("orders", 2)
	e.Counter("orders", 3)
	e.With(map[string]string{"till": "2"}).Counter("orders", 4)
	e.Gauge("load", 0.5, "cpu")
	start := time.Unix(100, 7)
	e.Timer("http", start, start.Add(time.Second))
	e.Event("started", "version 3")

	for i, want := range [][2]uint64{{2, 2}, {3, 5}, {4, 4}} {
		name, delta, total := s.records[i].Counter()
		if string(name) != "orders" || delta != want[0] || total != want[1] {
			t.Errorf("counter %d: %s %d %d, want %v", i, name, delta, total, want)
		}
	}
	m := s.records[3].Gauge(nil)
	if len(m) != 1 || string(m[0].Name) != "load" || string(m[0].Unit) != "cpu" || m[0].Value != 0.5 {
		t.Errorf("gauge %v", m)
	}
	if name, from, to := s.records[4].Timer(); string(name) != "http" || from != start.UnixNano() || to-from != 1e9 {
		t.Errorf("timer %s %d %d", name, from, to)
	}
	if title, body := s.records[5].Event(); string(title) != "started" || string(body) != "version 3" {
		t.Errorf("event %s %s", title, body)
	}
	s.conserved(e)
}

func TestCounterNamesAreBounded(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	for i := range 5000 {
		e.Counter(fmt.Sprint("n", i), 1)
	}
	e.Counter("n1", 1)
	if _, _, total := s.records[4999].Counter(); total != 0 {
		t.Errorf("total of a name too many: %d", total)
	}
	if _, _, total := s.records[5000].Counter(); total != 2 {
		t.Errorf("total of an early name: %d", total)
	}
	s.conserved(e)
}

func TestWith(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	tags := map[string]string{"b": "1", "a": "1", envelope.TagSourceType: "APP/TASK/x"}
	child := e.With(tags)
	tags["b"] = "changed" // tags are read once
	a, b := child.With(map[string]string{"b": "2"}), child.With(map[string]string{"b": "3"})
	for _, e := range []*emitter.Emitter{e, child, a, b} {
		e.Log(envelope.Out, "x")
	}
	var got []string
	for _, r := range s.records {
		got = append(got, tag(r, "a")+tag(r, "b")+tag(r, envelope.TagSourceType))
	}
	if want := []string{"APP/PROC/WEB", "11APP/TASK/x", "12APP/TASK/x", "13APP/TASK/x"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	s.conserved(a)
}

func TestRefused(t *testing.T) {
	s := &sink{t: t, fail: errors.New("full")}
	e := emitter.New(s, shop, nil)
	e.Log(envelope.Out, "x")
	w := e.Writer(envelope.Out)
	if n, err := w.Write([]byte("a\nb\n")); n != 4 || err != nil {
		t.Errorf("Write: %d, %v", n, err)
	}
	if st := e.Stats(); st.Refused != 3 || st.Accepted != 0 {
		t.Errorf("%+v", st)
	}
	s.conserved(e)
}

func TestAfterClose(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	child := e.With(map[string]string{"k": "v"})
	w, late := e.Writer(envelope.Out), e.Writer(envelope.Err)
	w.Write([]byte("one\ntwo"))
	w.Close()
	w.Close()
	if n, err := w.Write([]byte("a\n\nb")); n != 4 || err != nil { // three lines that nobody gets
		t.Errorf("Write: %d, %v", n, err)
	}
	e.Close()
	e.Close()
	e.Log(envelope.Out, "x")
	child.Counter("x", 1)
	child.Gauge("x", 1, "")
	child.Timer("x", time.Now(), time.Now())
	child.Event("x", "x")
	late.Write([]byte("x\ny"))
	late.Close()
	if st := e.Stats(); st.Accepted != 2 || st.Refused != 3+5+2 {
		t.Errorf("%+v", st)
	}
	s.conserved(e)
}

// TestCloseEndsWaiting: a Writer may wait until its context ends; Close ends it.
func TestCloseEndsWaiting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := emitter.New(envelope.WriterFunc(func(ctx context.Context, _ envelope.Batch) error {
			<-ctx.Done()
			return ctx.Err()
		}), shop, nil)
		done := make(chan struct{})
		go func() { e.Log(envelope.Out, "x"); close(done) }()
		synctest.Wait()
		e.Close()
		<-done
		if st := e.Stats(); st.Refused != 1 {
			t.Errorf("%+v", st)
		}
	})
}

type flusher struct {
	sink
	err error
}

func (f *flusher) Flush(context.Context) error { return f.err }

func TestFlush(t *testing.T) {
	if err := emitter.New(&sink{t: t}, shop, nil).Flush(t.Context()); err != nil {
		t.Error(err)
	}
	want := errors.New("not all")
	if err := emitter.New(&flusher{err: want}, shop, nil).Flush(t.Context()); err != want {
		t.Error(err)
	}
}

// TestNotUTF8: text that is not UTF-8 anywhere but in the line itself must
// not make a record that no protobuf reader takes; sink checks each.
func TestNotUTF8(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, envelope.Identity{SourceID: "a\xff", Tags: map[string]string{"\xfe": "\xfd"}}, nil)
	e = e.With(map[string]string{"k\xff": "v\xff"})
	e.Log(envelope.Out, "\xff\xfe")
	e.Counter("\xff", 1)
	e.Gauge("\xff", 1, "\xff")
	e.Timer("\xff", time.Now(), time.Now())
	e.Event("\xff", "\xff")
	if s.texts()[0] != "\xff\xfe" {
		t.Errorf("line changed to %q", s.texts()[0])
	}
	s.conserved(e)
}

// join puts the parts of lines together again.
func join(t testing.TB, records []envelope.Envelope) (lines []string) {
	var line strings.Builder
	n := 0
	for _, e := range records {
		part := tag(e, emitter.TagPart)
		line.Write(e.Payload())
		if part != "" {
			n++
			if number, _, last := strings.Cut(part, "/"); number != fmt.Sprint(n) {
				t.Errorf("part %q, want %d", part, n)
			} else if !last {
				continue
			} else if part != fmt.Sprintf("%d/%d", n, n) {
				t.Errorf("last part %q", part)
			}
		}
		lines = append(lines, line.String())
		line.Reset()
		n = 0
	}
	return lines
}

func TestLongLog(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	long := strings.Repeat("äöü€😀", 30_000)
	e.Log(envelope.Err, long)
	e.Log(envelope.Out, "short")
	lines := join(t, s.records)
	if len(lines) != 2 || lines[0] != long || lines[1] != "short" {
		t.Fatalf("%d lines", len(lines))
	}
	for i, text := range s.texts() {
		if len(text) > emitter.DefaultMaxLine || !utf8.ValidString(text) {
			t.Errorf("part %d: %d bytes, valid %v", i, len(text), utf8.ValidString(text))
		}
	}
	if st := e.Stats(); st.Cut != 1 {
		t.Errorf("%+v", st)
	}
	s.conserved(e)
}

// TestMaxLineFits: whatever is asked for, no record exceeds what a door accepts.
func TestMaxLineFits(t *testing.T) {
	s := &sink{t: t}
	id := shop
	id.Tags = map[string]string{"big": strings.Repeat("x", 10_000)}
	e := emitter.New(s, id, &emitter.Options{MaxLine: 1 << 30})
	long := strings.Repeat("x", 3<<20)
	e.Log(envelope.Out, long)
	w := e.Writer(envelope.Out)
	w.Write([]byte(long))
	w.Close()
	if lines := join(t, s.records); !slices.Equal(lines, []string{long, long}) {
		t.Fatalf("%d lines", len(lines))
	}
	s.conserved(e)
}

func TestConcurrent(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	shared := e.Writer(envelope.Out)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			own := e.Writer(envelope.Err)
			defer own.Close()
			for i := range 200 {
				e.Log(envelope.Out, fmt.Sprintf("log %d %d", g, i))
				fmt.Fprintf(own, "own %d %d\n", g, i)
				fmt.Fprintf(shared, "shared %d %d\n", g, i)
				e.Counter("c", 1)
			}
		})
	}
	wg.Wait()
	next := map[string]int{}
	for _, r := range s.records {
		var kind string
		var g, i int
		if n, _ := fmt.Sscanf(string(r.Payload()), "%s %d %d", &kind, &g, &i); n == 3 {
			key := fmt.Sprint(kind, g)
			if next[key] != i {
				t.Fatalf("%s: got %d, want %d", key, i, next[key])
			}
			next[key]++
		}
	}
	if len(s.records) != 8*200*4 {
		t.Errorf("%d records", len(s.records))
	}
	s.conserved(e)
}

// reference splits text the plain way.
func reference(text string) []string {
	lines := strings.Split(text, "\n")
	for i := range lines[:len(lines)-1] {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// split writes text in the given pieces and checks what comes out.
func split(t testing.TB, text string, maxLine int, piece func(rest int) int) *sink {
	s := &sink{t: t}
	e := emitter.New(s, shop, &emitter.Options{MaxLine: maxLine})
	w := e.Writer(envelope.Out)
	for rest := text; len(rest) > 0; {
		n := piece(len(rest))
		if m, err := w.Write([]byte(rest[:n])); m != n || err != nil {
			t.Fatalf("Write: %d, %v", m, err)
		}
		rest = rest[n:]
	}
	w.Close()
	if got, want := join(t, s.records), reference(text); !slices.Equal(got, want) {
		t.Fatalf("%q in lines of %d: got %q, want %q", text, maxLine, got, want)
	}
	var last int64
	for _, r := range s.records {
		route, _ := r.Route()
		if route.Timestamp <= last {
			t.Fatal("times do not rise")
		}
		last = route.Timestamp
		if len(route.Payload) > maxLine {
			t.Fatalf("record of %d bytes, limit %d", len(route.Payload), maxLine)
		}
		if utf8.ValidString(text) && !utf8.Valid(route.Payload) {
			t.Fatalf("character torn in %q", route.Payload)
		}
	}
	s.conserved(e)
	return s
}

var texts = map[string]string{
	"one":             "hello\n",
	"no end":          "a\nhello",
	"empty lines":     "\n\na\n\n",
	"crlf":            "a\r\n\r\nb\r\r\nc\rd\r\n",
	"cr at the end":   "a\r",
	"multi-byte":      "日本語のログ\nπ≈3\n",
	"long":            strings.Repeat("x", 100) + "\n",
	"exactly":         strings.Repeat("x", 16) + "\n" + strings.Repeat("y", 16) + "\r\n" + strings.Repeat("z", 17),
	"long multi-byte": strings.Repeat("€", 40) + "\r\nend",
	"long and cr":     strings.Repeat("x", 32) + "\r\n" + strings.Repeat("\r", 40) + "\n",
	"not utf-8":       strings.Repeat("\x80\xff", 50) + "\n",
}

func TestWriter(t *testing.T) {
	for name, text := range texts {
		t.Run(name, func(t *testing.T) {
			split(t, text, 16, func(rest int) int { return rest })
			split(t, text, emitter.DefaultMaxLine, func(rest int) int { return rest })
			for n := 1; n < 20; n++ {
				split(t, text, 16, func(rest int) int { return min(n, rest) })
			}
		})
	}
}

func FuzzWriter(f *testing.F) {
	for _, text := range texts {
		f.Add(text, uint8(16), uint64(1))
	}
	f.Fuzz(func(t *testing.T, text string, maxLine uint8, seed uint64) {
		r := rand.New(rand.NewPCG(seed, 0))
		split(t, text, max(16, int(maxLine)), func(rest int) int { return 1 + r.IntN(rest) })
	})
}

func TestWriterBatches(t *testing.T) {
	s := &sink{t: t}
	e := emitter.New(s, shop, nil)
	w := e.Writer(envelope.Out)
	w.Write([]byte(strings.Repeat("a line\n", 100)))
	if s.batches != 1 || len(s.records) != 100 {
		t.Errorf("%d lines of one Write came in %d batches", len(s.records), s.batches)
	}
	w.Write([]byte("not yet"))
	if s.batches != 1 {
		t.Error("a batch for no line")
	}
	w.Write([]byte(strings.Repeat("\n", 64<<10))) // 64 KiB that become many more
	if s.batches < 5 || s.batches > 50 {
		t.Errorf("%d batches", s.batches)
	}
	s.conserved(e)
}

// discard is a Writer as fast as can be.
type discard struct{ bytes int }

func (d *discard) WriteBatch(_ context.Context, b envelope.Batch) error {
	d.bytes += len(b.Records)
	return nil
}

func BenchmarkLog(b *testing.B) {
	e := emitter.New(&discard{}, shop, nil)
	line := strings.Repeat("x", 100)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		e.Log(envelope.Out, line)
	}
}

func BenchmarkCounter(b *testing.B) {
	e := emitter.New(&discard{}, shop, nil)
	b.ReportAllocs()
	for b.Loop() {
		e.Counter("orders", 1)
	}
}

func BenchmarkWriter(b *testing.B) {
	for _, size := range []int{20, 100, 1000} {
		b.Run(fmt.Sprintf("line=%d", size), func(b *testing.B) {
			w := emitter.New(&discard{}, shop, nil).Writer(envelope.Out)
			line := strings.Repeat("x", size-1) + "\n"
			text := []byte(strings.Repeat(line, (64<<10)/size))
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				w.Write(text)
			}
		})
	}
}
