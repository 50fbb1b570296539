package envelope

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// prefer does what ProtoJSON.Preferred says.
func prefer(m *envelopepb.Envelope) {
	for k, v := range m.DeprecatedTags {
		text := ""
		switch d := v.GetData().(type) {
		case *envelopepb.Value_Text:
			text = d.Text
		case *envelopepb.Value_Integer:
			text = fmt.Sprint(d.Integer)
		case *envelopepb.Value_Decimal:
			text = fmt.Sprint(d.Decimal)
		default:
			continue
		}
		if m.Tags == nil {
			m.Tags = make(map[string]string)
		}
		m.Tags[k] = text
	}
	m.DeprecatedTags = nil
}

func tree(t *testing.T, text []byte) (v any) {
	t.Helper()
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return v
}

// compareJSON checks what j makes of e against the reference.
func compareJSON(t *testing.T, j *ProtoJSON, e Envelope) {
	t.Helper()
	var m envelopepb.Envelope
	if err := proto.Unmarshal(e, &m); err != nil {
		t.Fatal(err)
	}
	if j.Preferred {
		prefer(&m)
	}
	want, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(&m)
	if err != nil {
		t.Fatal(err)
	}
	got := j.Append(nil, e)
	if !reflect.DeepEqual(tree(t, got), tree(t, want)) {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if strings.Contains(string(got), "\n") {
		t.Errorf("more than one line: %q", got)
	}
}

func jsonSamples() []Envelope {
	fixed := Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB", "a\"b": "ü\n"}}.Encode()
	const at = 1378000000000000000
	var all []Envelope
	add := func(record []byte) {
		e, _, _ := Next(record)
		all = append(all, e)
	}
	bytes := make([]byte, 256)
	for i := range bytes {
		bytes[i] = byte(i)
	}
	add(AppendLog(nil, fixed, at, Out, []byte("hello")))
	add(AppendLog(nil, fixed, at+1, Err, bytes))
	add(AppendLog(nil, fixed, at+2, 7, nil))
	add(AppendLog(nil, fixed, -1, Out, []byte("before the clock began")))
	add(AppendCounter(nil, fixed, at, "requests", 5, math.MaxUint64))
	add(AppendGauge(nil, fixed, at, Metric{[]byte("cpu"), []byte("percentage"), 1e21}, Metric{[]byte("nan"), nil, math.NaN()}, Metric{[]byte("inf"), nil, math.Inf(-1)}))
	add(AppendTimer(nil, fixed, at, "http", -5, math.MaxInt64))
	add(AppendEvent(nil, fixed, at, "title", "<body>"))
	for _, m := range []*envelopepb.Envelope{
		{},
		{SourceId: "a", Message: &envelopepb.Envelope_Log{Log: &envelopepb.Log{}}},
		{SourceId: "a", Tags: map[string]string{"both": "tag", "tag": "x"}, DeprecatedTags: map[string]*envelopepb.Value{
			"both": {Data: &envelopepb.Value_Text{Text: "deprecated"}}, "n": {Data: &envelopepb.Value_Integer{Integer: -3}},
			"f": {Data: &envelopepb.Value_Decimal{Decimal: 1e6}}, "none": {},
		}},
	} {
		e, _ := proto.Marshal(m)
		all = append(all, e)
	}
	return all
}

func TestProtoJSON(t *testing.T) {
	for _, preferred := range []bool{false, true} {
		j := ProtoJSON{Preferred: preferred}
		for _, e := range jsonSamples() {
			compareJSON(t, &j, e)
			compareJSON(t, &j, e) // as one that says the same as the one before
		}
	}
	var j ProtoJSON
	want := `{"timestamp":"1378000000000000000","source_id":"app","instance_id":"0","deprecated_tags":{},"tags":{"source_type":"APP/PROC/WEB"},"log":{"payload":"aGVsbG8=","type":"OUT"}}`
	e, _, _ := Next(AppendLog(nil, Identity{SourceID: "app", InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"}}.Encode(), 1378000000000000000, Out, []byte("hello")))
	if got := string(j.Append(nil, e)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	buf := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { j.Append(buf, e) }); n != 0 {
		t.Errorf("allocates %v times", n)
	}
}

// FuzzProtoJSON compares with google.golang.org/protobuf what is made of any two
// envelopes that pass the door, one after the other.
func FuzzProtoJSON(f *testing.F) {
	all := jsonSamples()
	for i, e := range all {
		f.Add([]byte(e), []byte(all[(i+1)%len(all)]), i%2 == 0)
	}
	f.Fuzz(func(t *testing.T, first, second []byte, preferred bool) {
		j := ProtoJSON{Preferred: preferred}
		for _, e := range []Envelope{first, second, first} {
			if _, err := e.Check(nil); err == nil {
				compareJSON(t, &j, e)
			}
		}
	})
}

func TestGapRecords(t *testing.T) {
	fixed := Identity{SourceID: "app", InstanceID: "3", Tags: map[string]string{"source_type": "APP", "app_name": "web"}}.Encode()
	line := AppendLog(nil, fixed, 1, Out, []byte("line"))
	for _, tt := range []struct {
		name string
		b    Batch
		want []string // source, text, number
	}{
		{"nothing", Batch{Records: line, Count: 1}, nil},
		{"missed", Batch{Records: line, Count: 1, Missed: 1}, []string{"app web LGR 1 line is missing here: this reader was too slow, or away for too long"}},
		{"with a reason", Batch{Records: line, Count: 1, Missed: 7, Reason: ReasonRate}, []string{"app web LGR 7 lines are missing here: rate limit"}},
		{"reset, no record", Batch{Missed: 2, Reset: true}, []string{
			"asked  LGR lines are missing here, their number is not known: the server was started anew",
			"asked  LGR 2 lines are missing here: this reader was too slow, or away for too long"}},
	} {
		records, n := tt.b.AppendGapRecords(nil, "asked", 5)
		b, err := Of(records)
		if err != nil || n != len(tt.want) || b.Count != n {
			t.Fatalf("%s: %d records, %v", tt.name, n, err)
		}
		i, told := 0, uint64(0)
		for e := range b.All() {
			r, err := e.Check(nil)
			app, _ := e.Tag(TagAppName)
			typ, _ := e.Tag(TagSourceType)
			if got := fmt.Sprintf("%s %s %s %s", r.SourceID, app, typ, r.Payload); got != tt.want[i] || err != nil || r.LogType != Err || r.Timestamp != 5 {
				t.Errorf("%s: %q, %+v, %v", tt.name, got, r, err)
			}
			if n, _, ok := e.Missed(); ok {
				told += n
			}
			i++
		}
		if told != tt.b.Missed {
			t.Errorf("%s: %d told", tt.name, told)
		}
	}
}

func BenchmarkProtoJSON(b *testing.B) {
	_, e := benchRecord()
	var j ProtoJSON
	buf := j.Append(nil, e)
	b.SetBytes(int64(len(e)))
	b.ReportAllocs()
	for b.Loop() {
		buf = j.Append(buf[:0], e)
	}
}
