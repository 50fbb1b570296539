// Package envelope is the currency of Loggregator: log lines and measurements
// as encoded protocol buffers, alone and in batches.
//
// An envelope is encoded once, where it is born, and stays bytes until a person
// or a syslog receiver must read it. So the types here are bytes with lazy
// access: [Envelope] is one encoded message, [Batch] a run of them that is
// itself a valid encoded EnvelopeBatch, and reading a field costs a walk over
// the fields before it, no allocation, and no decoding of the rest.
//
// Everything plugs into two interfaces, [Writer] and [Source], which are to
// Loggregator what io.Writer and io.Reader are to bytes. A [Query] says what a
// Source shall deliver and from where; a [Cursor] is where a reader stands.
//
// In protobuf, concatenation is merge: of a field given twice the last one
// wins, embedded messages merge, and unknown fields are kept. Every reader here
// follows these rules and is fuzzed against google.golang.org/protobuf. They
// are what makes default fields a prefix and overriding fields a suffix.
//
// The generated types, for whoever wants an envelope decoded whole, are in
// package envelopepb, which this package does not import.
package envelope

import (
	"bytes"
	"errors"
	"iter"
	"slices"
	"time"
)

// Limits of what a door accepts. A record beyond them is refused, counted, and
// costs the records around it nothing.
const (
	MaxSize     = 1 << 20 // bytes of one encoded envelope
	MaxSourceID = 256     // bytes of a source id
)

var (
	// ErrMalformed means bytes that google.golang.org/protobuf would refuse too.
	ErrMalformed = errors.New("envelope: malformed protobuf")
	// ErrTooLarge means an envelope above MaxSize.
	ErrTooLarge = errors.New("envelope: larger than 1 MiB")
	// ErrSourceID means a source id that is missing, longer than MaxSourceID, or
	// holds control characters.
	ErrSourceID = errors.New("envelope: source id missing, too long or unprintable")
)

// Envelope is one encoded envelope. Who made it owns the memory; the fields
// that its methods return alias it.
type Envelope []byte

// Kind is which of the five messages an envelope carries.
type Kind uint8

const (
	KindNone Kind = iota // no message set
	KindLog
	KindCounter
	KindGauge
	KindTimer
	KindEvent
)

var kindNames = [...]string{"none", "log", "counter", "gauge", "timer", "event"}

func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "unknown"
}

// ParseKind reads what Kind.String writes.
func ParseKind(s string) (Kind, bool) {
	for k, name := range kindNames {
		if s == name {
			return Kind(k), true
		}
	}
	return 0, false
}

// LogType is the stream a log line was written to. The protocol leaves room for
// other values, which are passed through.
type LogType int32

const (
	Out LogType = 0
	Err LogType = 1
)

func (t LogType) String() string {
	switch t {
	case Out:
		return "OUT"
	case Err:
		return "ERR"
	}
	return "UNKNOWN"
}

// Route is what it takes to put an envelope in its place. The byte slices alias
// the envelope.
type Route struct {
	Timestamp  int64 // nanoseconds since 1970 UTC, as its maker says
	SourceID   []byte
	InstanceID []byte
	Kind       Kind
	LogType    LogType // of a log
	Payload    []byte  // of a log: its text

	// Tags is the run of the envelope's tag fields, still encoded, where they
	// stand next to each other as every known encoder writes them; nil where
	// there are none or they are scattered (Scattered). Equal runs are equal
	// tags, so a reader that follows a source need not look into them.
	Tags      []byte
	Scattered bool
}

// Time is the timestamp as a time.
func (r Route) Time() time.Time { return time.Unix(0, r.Timestamp) }

// Route walks once over the top-level fields. It allocates nothing and does not
// look into tags or payload. It fails with ErrMalformed if these fields don't
// parse; that what is inside them parses too is known only after Check.
func (e Envelope) Route() (Route, error) {
	var r Route
	ok := skim(e, &r, nil, false)
	if !ok {
		return r, ErrMalformed
	}
	return r, nil
}

// PeekSourceID is the source id if it stands at the beginning, where encoders put
// it; nil otherwise. It is a guess: a source id further on would win.
func (e Envelope) PeekSourceID() []byte {
	i := 0
	if len(e) > 0 && e[0] == keyTimestamp {
		for i = 1; i < len(e) && e[i] >= 0x80; i++ {
		}
		i++
	}
	if i >= len(e) || e[i] != keySourceID {
		return nil
	}
	start, end := span(e, i+1)
	if end < 0 {
		return nil
	}
	return e[start:end]
}

// Check is the door: Route for bytes from outside. It succeeds exactly where
// google.golang.org/protobuf would decode the envelope and size and source id
// are within the limits above, so that no reader behind the door, ours or
// foreign, can stumble over this record.
//
// trusted is the Route.Tags of an envelope that passed before, or nil: records
// of one batch mostly have equal tags, and those are compared, not parsed again
// (of a record with six tags that is half the cost).
func (e Envelope) Check(trusted []byte) (Route, error) {
	var r Route
	if len(e) > MaxSize {
		return r, ErrTooLarge
	}
	if !skim(e, &r, trusted, true) {
		return r, ErrMalformed
	}
	if !validSourceID(r.SourceID) {
		return r, ErrSourceID
	}
	return r, nil
}

func validSourceID(id []byte) bool {
	if len(id) == 0 || len(id) > MaxSourceID {
		return false
	}
	for _, c := range id {
		if c < 0x20 || c == 0x7f {
			return false
		}
	}
	return true
}

// Payload is the text of a log, without a copy; nil for other kinds.
func (e Envelope) Payload() []byte {
	var r Route
	if !skim(e, &r, nil, false) {
		return nil
	}
	return r.Payload
}

// Counter reads a counter's fields; zero for other kinds.
func (e Envelope) Counter() (name []byte, delta, total uint64) {
	for m := range e.message(KindCounter) {
		for num, v := range fields(m) {
			switch {
			case num == 1 && v.typ == bytesType:
				name = v.bytes
			case num == 2 && v.typ == varintType:
				delta = v.n
			case num == 3 && v.typ == varintType:
				total = v.n
			}
		}
	}
	return name, delta, total
}

// Metric is one value of a gauge.
type Metric struct {
	Name  []byte
	Unit  []byte
	Value float64
}

// Gauge appends a gauge's metrics to dst, each name once (the last one given),
// in the order in which the names first appear.
func (e Envelope) Gauge(dst []Metric) []Metric {
	start := len(dst)
	var seen map[string]int
	for m := range e.message(KindGauge) {
		for num, v := range fields(m) {
			if num != 1 || v.typ != bytesType {
				continue
			}
			var metric Metric
			for num, v := range fields(v.bytes) {
				switch {
				case num == 1 && v.typ == bytesType:
					metric.Name = v.bytes
				case num == 2 && v.typ == bytesType:
					for num, v := range fields(v.bytes) {
						switch {
						case num == 1 && v.typ == bytesType:
							metric.Unit = v.bytes
						case num == 2 && v.typ == fixed64Type:
							metric.Value = v.float()
						}
					}
				}
			}
			dst, seen = putMetric(dst, start, seen, metric)
		}
	}
	return dst
}

// fewMetrics is up to how many metrics are searched one by one. An envelope may
// hold 100,000.
const fewMetrics = 32

// putMetric puts m to those from start on. Where there are many, seen has where
// each is.
func putMetric(dst []Metric, start int, seen map[string]int, m Metric) ([]Metric, map[string]int) {
	if len(dst)-start < fewMetrics {
		for i := start; i < len(dst); i++ {
			if string(dst[i].Name) == string(m.Name) {
				dst[i] = m
				return dst, nil
			}
		}
		return append(dst, m), nil
	}
	if seen == nil {
		seen = make(map[string]int)
		for i := start; i < len(dst); i++ {
			seen[string(dst[i].Name)] = i
		}
	}
	if i, ok := seen[string(m.Name)]; ok {
		dst[i] = m
		return dst, seen
	}
	seen[string(m.Name)] = len(dst)
	return append(dst, m), seen
}

// Timer reads a timer's fields, start and stop in nanoseconds since 1970 UTC;
// zero for other kinds.
func (e Envelope) Timer() (name []byte, start, stop int64) {
	for m := range e.message(KindTimer) {
		for num, v := range fields(m) {
			switch {
			case num == 1 && v.typ == bytesType:
				name = v.bytes
			case num == 2 && v.typ == varintType:
				start = int64(v.n)
			case num == 3 && v.typ == varintType:
				stop = int64(v.n)
			}
		}
	}
	return name, start, stop
}

// Event reads an event's fields; nil for other kinds.
func (e Envelope) Event() (title, body []byte) {
	for m := range e.message(KindEvent) {
		for num, v := range fields(m) {
			switch {
			case num == 1 && v.typ == bytesType:
				title = v.bytes
			case num == 2 && v.typ == bytesType:
				body = v.bytes
			}
		}
	}
	return title, body
}

// Tag is the value of one tag and whether it is there.
func (e Envelope) Tag(key string) (value []byte, ok bool) {
	if value, found, ok := e.tagValue(key); ok {
		return value, found
	}
	for k, v := range e.rawTags() {
		if string(k) == key {
			value, ok = v, true
		}
	}
	if ok && value == nil {
		value = []byte{}
	}
	return value, ok
}

// Tags yields the tags in the order in which they stand in the envelope. A key
// that was given twice comes twice; the last one counts (AppendTags sorts and
// keeps the last).
func (e Envelope) Tags() iter.Seq2[[]byte, []byte] { return e.rawTags() }

// Tag is one tag of an envelope.
type Tag struct{ Key, Value []byte }

// fewTags is up to how many tags are put in order by insertion: ordinary makers
// send a handful, mostly sorted. An envelope may hold 200,000, for which that
// would take minutes.
const fewTags = 32

// AppendTags appends the tags to dst, each key once, sorted by key bytewise.
func (e Envelope) AppendTags(dst []Tag) []Tag {
	start := len(dst)
	for k, v := range e.rawTags() {
		i := len(dst)
		if i-start < fewTags {
			for i > start && string(dst[i-1].Key) > string(k) {
				i--
			}
			if i > start && string(dst[i-1].Key) == string(k) {
				dst[i-1].Value = v
				continue
			}
		}
		dst = append(dst, Tag{})
		copy(dst[i+1:], dst[i:])
		dst[i] = Tag{k, v}
	}
	tags := dst[start:]
	if len(tags) <= fewTags {
		return dst
	}
	slices.SortStableFunc(tags, func(a, b Tag) int { return bytes.Compare(a.Key, b.Key) })
	return dst[:start+len(lastOfEach(tags))] // the last one given counts
}
