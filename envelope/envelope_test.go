package envelope

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// The test vector of the v2 contract.
const vector = "088080f4a3aff6e88f13120361707022070a0568656c6c6f4201304a1b0a0b736f757263655f74797065120c4150502f50524f432f574542"

func TestContractVector(t *testing.T) {
	e, err := hex.DecodeString(vector)
	if err != nil {
		t.Fatal(err)
	}
	want := &envelopepb.Envelope{
		Timestamp: 1378000000000000000, SourceId: "app", InstanceId: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"},
		Message: &envelopepb.Envelope_Log{Log: &envelopepb.Log{Payload: []byte("hello")}},
	}
	var got envelopepb.Envelope
	if err := proto.Unmarshal(e, &got); err != nil || !proto.Equal(&got, want) {
		t.Fatalf("%v, %v", &got, err)
	}
	ours := AppendLog(nil, Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"}}.Encode(), 1378000000000000000, Out, []byte("hello"))
	if len(ours) != len(e)+2 {
		t.Errorf("our encoding has %d bytes, the contract's %d", len(ours)-2, len(e))
	}
	compare(t, e, true)
	compare(t, ours[2:], true)
}

// compare checks every reader of an envelope against the reference decoder.
func compare(t *testing.T, e Envelope, mustParse bool) {
	t.Helper()
	var want envelopepb.Envelope
	refErr := proto.Unmarshal(e, &want)
	if mustParse && refErr != nil {
		t.Fatal(refErr)
	}
	r, err := e.Check(nil)
	if (refErr != nil) != errors.Is(err, ErrMalformed) {
		t.Fatalf("Check says %v, the reference decoder %v", err, refErr)
	}
	shallow, shallowErr := e.Route()
	if refErr != nil {
		return
	}
	if shallowErr != nil {
		t.Fatalf("Route says %v, the reference decoder nothing", shallowErr)
	}
	if !errors.Is(err, ErrTooLarge) {
		if diff := cmp.Diff(shallow, r); diff != "" {
			t.Fatalf("Route and Check differ:\n%s", diff)
		}
	}
	r = shallow
	if r.Timestamp != want.Timestamp || string(r.SourceID) != want.SourceId || string(r.InstanceID) != want.InstanceId {
		t.Fatalf("%+v, want %v", r, &want)
	}
	if id := e.PeekSourceID(); id != nil && !bytes.Contains(e, id) {
		t.Fatalf("peeked %q", id)
	}
	kind := KindNone
	switch m := want.Message.(type) {
	case *envelopepb.Envelope_Log:
		kind = KindLog
		if !bytes.Equal(e.Payload(), m.Log.Payload) || !bytes.Equal(r.Payload, m.Log.Payload) || r.LogType != LogType(m.Log.Type) {
			t.Fatalf("log %q %v, want %v", e.Payload(), r.LogType, m.Log)
		}
	case *envelopepb.Envelope_Counter:
		kind = KindCounter
		name, delta, total := e.Counter()
		if string(name) != m.Counter.Name || delta != m.Counter.Delta || total != m.Counter.Total {
			t.Fatalf("counter %q %d %d, want %v", name, delta, total, m.Counter)
		}
	case *envelopepb.Envelope_Gauge:
		kind = KindGauge
		metrics := e.Gauge(nil)
		if len(metrics) != len(m.Gauge.Metrics) {
			t.Fatalf("%d metrics, want %v", len(metrics), m.Gauge)
		}
		for _, got := range metrics {
			w, ok := m.Gauge.Metrics[string(got.Name)]
			if !ok || w.GetUnit() != string(got.Unit) || math.Float64bits(w.GetValue()) != math.Float64bits(got.Value) {
				t.Fatalf("metric %q %q %v, want %v", got.Name, got.Unit, got.Value, w)
			}
		}
	case *envelopepb.Envelope_Timer:
		kind = KindTimer
		name, start, stop := e.Timer()
		if string(name) != m.Timer.Name || start != m.Timer.Start || stop != m.Timer.Stop {
			t.Fatalf("timer %q %d %d, want %v", name, start, stop, m.Timer)
		}
	case *envelopepb.Envelope_Event:
		kind = KindEvent
		title, body := e.Event()
		if string(title) != m.Event.Title || string(body) != m.Event.Body {
			t.Fatalf("event %q %q, want %v", title, body, m.Event)
		}
	}
	if r.Kind != kind {
		t.Fatalf("kind %v, want %v", r.Kind, kind)
	}
	tags := e.AppendTags(nil)
	if len(tags) != len(want.Tags) {
		t.Fatalf("%d tags, want %v", len(tags), want.Tags)
	}
	for i, tag := range tags {
		v, ok := want.Tags[string(tag.Key)]
		one, found := e.Tag(string(tag.Key))
		if !ok || v != string(tag.Value) || !found || string(one) != v {
			t.Fatalf("tag %q=%q (%q), want %q", tag.Key, tag.Value, one, v)
		}
		if i > 0 && string(tags[i-1].Key) >= string(tag.Key) {
			t.Fatalf("tags out of order: %q, %q", tags[i-1].Key, tag.Key)
		}
	}
	// What was accepted once is accepted with its own tags trusted, and says the
	// same.
	if again, err := e.Check(r.Tags); err == nil {
		if diff := cmp.Diff(shallow, again); diff != "" {
			t.Fatalf("with trusted tags:\n%s", diff)
		}
	} else if errors.Is(err, ErrMalformed) {
		t.Fatal("with trusted tags: ", err)
	}
	for _, text := range [][]byte{e.AppendText(nil, time.UTC, true), e.AppendJSON(nil)} {
		if len(text) == 0 || text[len(text)-1] != '\n' {
			t.Fatalf("rendered as %q", text)
		}
	}
}

// samples are envelopes of all kinds, well and ill formed.
func samples() [][]byte {
	f := Identity{SourceID: "app", InstanceID: "1", Tags: map[string]string{"a": "1", "b": "zwei", "source_type": "APP"}}.Encode()
	var out [][]byte
	for _, record := range [][]byte{
		AppendLog(nil, f, 5, Out, []byte("hello")),
		AppendLog(nil, f, -5, Err, bytes.Repeat([]byte("é"), 200)),
		AppendLog(nil, f, 5, LogType(7), nil),
		AppendCounter(nil, f, 5, "requests", 1, math.MaxUint64),
		AppendGauge(nil, f, 5, Metric{[]byte("cpu"), []byte("%"), 0.5}, Metric{[]byte("mem"), nil, math.Inf(1)}),
		AppendTimer(nil, f, 5, "http", 1, 2),
		AppendEvent(nil, f, 5, "title", "body"),
		AppendMissed(nil, f, 5, 17, "why"),
	} {
		e, _, _ := Next(record)
		out = append(out, e)
	}
	v, _ := hex.DecodeString(vector)
	out = append(out, v,
		slices.Concat(out[0], out[3]),                                     // another member of the oneof wins
		slices.Concat(out[0], []byte{0x22, 0x02, 0x10, 0x01}),             // a log in two pieces
		slices.Concat(out[0], []byte{0x12, 0x01, 'z'}),                    // a second source id
		slices.Concat([]byte{0x4a, 0x04, 0x0a, 0x02, 0xff, 0xfe}, out[0]), // a tag that is not UTF-8
		[]byte{0x88, 0x00, 0x05, 0x12, 0x01, 'a'},                         // a key written longer than needed
		[]byte{0x92, 0x00, 0x01, 'a', 0xca, 0x00, 0x05, 0x0a, 0x01, 'k', 0x12, 0x00},
		[]byte{0x1a, 0x07, 0x0a, 0x01, 'k', 0x12, 0x02, 0x0a, 0x00, 0x12, 0x01, 'a'}, // a deprecated tag
		[]byte{0x0b, 0x0c, 0x12, 0x01, 'a'},                                          // a group
		[]byte{0x0c},
		[]byte{0x00},
		[]byte{0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02},
		[]byte{0x12, 0xff, 0xff, 0xff, 0xff, 0x0f},
	)
	return out
}

func TestSamples(t *testing.T) {
	for _, e := range samples() {
		compare(t, e, false)
	}
}

func FuzzEnvelope(f *testing.F) {
	for _, e := range samples() {
		f.Add(e)
	}
	f.Fuzz(func(t *testing.T, e []byte) { compare(t, e, false) })
}

func TestSourceIDs(t *testing.T) {
	for id, ok := range map[string]bool{
		"app": true, "a b": true, "日本": true, strings.Repeat("x", MaxSourceID): true,
		"": false, "a\n": false, "\x7f": false, strings.Repeat("x", MaxSourceID+1): false,
	} {
		e, _, _ := Next(AppendLog(nil, Identity{SourceID: id}.Encode(), 1, Out, nil))
		if _, err := e.Check(nil); (err == nil) != ok || err != nil && !errors.Is(err, ErrSourceID) {
			t.Errorf("source id %.20q: %v", id, err)
		}
	}
}

func TestBuildersMakeValidText(t *testing.T) {
	bad := "a\xffb"
	f := Identity{SourceID: bad, InstanceID: bad, Tags: map[string]string{bad: bad}}.Encode()
	for _, record := range [][]byte{
		AppendLog(nil, f, 1, Out, []byte(bad)),
		AppendCounter(nil, f, 1, bad, 1, 2),
		AppendGauge(nil, f, 1, Metric{[]byte(bad), []byte(bad), 1}),
		AppendTimer(nil, f, 1, bad, 1, 2),
		AppendEvent(nil, f, 1, bad, bad),
	} {
		e, rest, err := Next(record)
		if err != nil || len(rest) > 0 {
			t.Fatal(err, rest)
		}
		compare(t, e, true)
		if !utf8.Valid(e.AppendJSON(nil)) {
			t.Errorf("%q is not UTF-8", e.AppendJSON(nil))
		}
	}
}

func TestManyTags(t *testing.T) {
	f := Identity{SourceID: "a"}.Encode()
	for i := range 4000 {
		f = f.AppendTag(fmt.Sprint((i*7919)%2000), fmt.Sprint(i)) // each key twice, in no order
	}
	e, _, _ := Next(AppendLog(nil, f, 1, Out, nil))
	compare(t, e[:len(e):len(e)], true)
}

func TestManyMetrics(t *testing.T) {
	f := Identity{SourceID: "a"}.Encode()
	var metrics []Metric
	for i := range 4000 {
		metrics = append(metrics, Metric{Name: fmt.Append(nil, (i*7919)%2000), Value: float64(i)}) // each name twice
	}
	e, _, _ := Next(AppendGauge(nil, f, 1, metrics...))
	compare(t, e[:len(e):len(e)], true)
	got := e.Gauge([]Metric{{}})
	if len(got) != 2001 || string(got[1].Name) != "0" || got[1].Value != 2000 {
		t.Errorf("%d metrics, first %v", len(got), got[1])
	}
}

func TestNoAllocations(t *testing.T) {
	f, e := benchRecord()
	r, _ := e.Route()
	buf := make([]byte, 0, 4096)
	tags := make([]Tag, 0, 16)
	for name, work := range map[string]func(){
		"Route":       func() { e.Route() },
		"Check":       func() { e.Check(nil); e.Check(r.Tags) },
		"AppendLog":   func() { AppendLog(buf, f, 1, Err, r.Payload) },
		"Batch.All":   func() { Of(buf) },
		"AppendTags":  func() { e.AppendTags(tags) },
		"AppendText":  func() { e.AppendText(buf, time.UTC, true) },
		"MatchRecord": func() { (&Selector{SourceType: "APP", Stdout: true, Instance: "0"}).MatchRecord(e, &r) },
	} {
		if n := testing.AllocsPerRun(100, work); n != 0 {
			t.Errorf("%s allocates %v times", name, n)
		}
	}
}

func FuzzBatch(f *testing.F) {
	record := AppendLog(nil, Identity{SourceID: "a"}.Encode(), 1, Out, []byte("x"))
	for _, b := range []Batch{
		{},
		{Records: record, Count: 1},
		{Records: record, Count: 1, Stream: 7, First: 5, Next: 6, Missed: 3, Ring: 7, Position: 6},
		{Records: slices.Concat(record, record), Count: 2, Stream: 7, First: 5, Next: 9, Ring: 8, Position: 600, Reset: true},
		{Stream: 9, First: 4, Next: 4, Missed: 1, Ring: 9, Position: 4},
		{Stream: 9, First: 4, Next: 4, Missed: 1, From: 2, Begin: 1, Told: 1, Reason: ReasonRate, Ring: 9, Position: 4},
	} {
		f.Add(append(b.AppendHeader(nil), b.Records...))
	}
	f.Add([]byte{0xe8, 0x06, 0x82, 0x80, 0x80, 0x80, 0x10})                          // a reason above 32 bits
	f.Add(slices.Concat(record, []byte{0xa9, 0x06, 1, 2, 3, 4, 5, 6, 7, 8}, record)) // fields between records
	f.Add([]byte{0x8a, 0x00, 0x01, 0x08, 0x0a, 0x00})                                // a key longer than needed
	f.Fuzz(func(t *testing.T, msg []byte) {
		b, err := ParseBatch(bytes.Clone(msg))
		var want envelopepb.EnvelopeBatch
		refErr := proto.UnmarshalOptions{}.Unmarshal(msg, &want)
		if err != nil {
			// We refuse numbers that cannot be, and nothing else that the
			// reference takes.
			if refErr == nil && (want.Stream == 0 || want.GetNext() >= want.First+uint64(len(want.Batch)) && want.GetNext() >= want.First) && want.Next != 0 {
				t.Fatalf("refused %v", &want)
			}
			return
		}
		n := 0
		for e, err := range b.All() {
			if err != nil {
				t.Fatal(err)
			}
			if refErr == nil && n < len(want.Batch) {
				compare(t, e, true)
			}
			n++
		}
		if n != b.Count {
			t.Fatalf("%d records, Count says %d", n, b.Count)
		}
		if refErr != nil {
			return // a record inside does not parse; that is for Check to say
		}
		if n != len(want.Batch) || uint64(b.Stream) != want.Stream || b.Missed != want.Missed || b.Reset != want.Reset_ {
			t.Fatalf("%+v, want %v", b, &want)
		}
		if b.Reason != Reason(want.Reason) && (b.Reason != 0 || want.Reason < uint32(Reasons)) {
			t.Fatalf("%+v, want %v", b, &want)
		}
		if b.Stream != 0 && (b.First != want.First || b.From != want.From || b.Begin != want.Begin || b.Told != want.Told) {
			t.Fatalf("%+v, want %v", b, &want)
		}
		again, err := ParseBatch(append(b.AppendHeader(nil), b.Records...))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, again); diff != "" && b.Stream != 0 {
			t.Fatalf("after a round trip:\n%s", diff)
		}
	})
}

func FuzzCursor(f *testing.F) {
	var c Cursor
	c.Advance(Batch{Stream: 1, Next: 5, Ring: 2, Position: 9})
	c.Advance(Batch{Ring: 3, Position: 1})
	f.Add(c.String())
	f.Add("")
	f.Add("CgkJ")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := ParseCursor(s)
		if err != nil {
			return
		}
		again, err := ParseCursor(c.String())
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(c, again); diff != "" {
			t.Fatalf("after a round trip:\n%s", diff)
		}
	})
}

func TestText(t *testing.T) {
	f := Identity{SourceID: "guid", InstanceID: "0", Tags: map[string]string{TagAppName: "shop", TagSourceType: "APP/PROC/WEB"}}.Encode()
	at := time.Date(2013, 4, 5, 13, 14, 58, 129_000_000, time.FixedZone("", -7*3600))
	head := "2013-04-05T13:14:58.12-0700 [APP/PROC/WEB/0] "
	for name, test := range map[string]struct {
		record  []byte
		withApp bool
		want    string
	}{
		"out":         {AppendLog(nil, f, at.UnixNano(), Out, []byte(`Started GET "/"`)), false, head + `OUT Started GET "/"` + "\n"},
		"err, app":    {AppendLog(nil, f, at.UnixNano(), Err, []byte("no")), true, "shop " + head + "ERR no\n"},
		"two lines":   {AppendLog(nil, f, at.UnixNano(), Out, []byte("a\r\nb\n")), false, head + "OUT a\n" + head + "OUT b\n"},
		"empty":       {AppendLog(nil, f, at.UnixNano(), Out, nil), false, head + "OUT \n"},
		"counter":     {AppendCounter(nil, f, at.UnixNano(), "n", 1, 2), false, head + "COUNTER n delta=1 total=2\n"},
		"no tags":     {AppendLog(nil, Identity{SourceID: "doppler"}.Encode(), at.UnixNano(), Out, []byte("x")), true, "doppler 2013-04-05T13:14:58.12-0700 [] OUT x\n"},
		"timer":       {AppendTimer(nil, f, at.UnixNano(), "http", 0, 1500), false, head + "TIMER http 1.5µs\n"},
		"gauge":       {AppendGauge(nil, f, at.UnixNano(), Metric{[]byte("cpu"), []byte("%"), 0.5}), false, head + "GAUGE cpu=0.5%\n"},
		"event":       {AppendEvent(nil, f, at.UnixNano(), "t", "b"), false, head + "EVENT t: b\n"},
		"only source": {AppendLog(nil, Identity{SourceID: "s", Tags: map[string]string{TagSourceType: "RTR"}}.Encode(), at.UnixNano(), Out, []byte("x")), false, "2013-04-05T13:14:58.12-0700 [RTR] OUT x\n"},
	} {
		e, _, _ := Next(test.record)
		if got := string(e.AppendText(nil, at.Location(), test.withApp)); got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

func TestMissedLine(t *testing.T) {
	f := Identity{SourceID: "s", Tags: map[string]string{TagAppName: "shop", TagSourceType: "APP"}}.Encode()
	e, _, _ := Next(AppendMissed(nil, f, 1, 12, "agent budget"))
	n, reason, ok := e.Missed()
	if n != 12 || reason != "agent budget" || !ok {
		t.Errorf("%d %q %v", n, reason, ok)
	}
	e, _, _ = Next(AppendLog(nil, f.WithTag(TagMissed, "5"), 1, Out, nil)) // an application cannot pretend with a tag alone
	if _, _, ok := e.Missed(); ok {
		t.Error("a line of an application passes for one of ours")
	}
}
