package envelope

import (
	"encoding/binary"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Fixed is the part of an envelope that its maker says once: source, instance
// and tags, already encoded. It stands before the fields that differ, so those
// win where both say something.
type Fixed []byte

// Identity is what a maker says of itself.
type Identity struct {
	SourceID   string // application GUID or component name
	InstanceID string // number of the application's instance, or the machine's name
	Tags       map[string]string
}

// The tags that Loggregator itself reads: where a source belongs, and which part
// of an application a line comes from.
const (
	TagAppID      = "app_id"
	TagAppName    = "app_name"
	TagSpaceID    = "space_id"
	TagSpaceName  = "space_name"
	TagOrgID      = "organization_id"
	TagOrgName    = "organization_name"
	TagSourceType = "source_type"

	// TagMissed stands on lines with source type LGR by which Loggregator tells
	// that lines are missing: their number, in decimal. TagReason says why, and
	// TagNumbers among which of a maker's records they are, see Numbers: of several
	// servers another one may have them.
	TagMissed  = "missed"
	TagReason  = "missed_reason"
	TagNumbers = "missed_numbers"
)

// SourceTypeLGR marks the lines that Loggregator itself writes into an
// application's stream.
const SourceTypeLGR = "LGR"

// Encode encodes id. Text that is not UTF-8 is made so, because one bad tag
// would make every envelope unreadable to every protobuf reader.
func (id Identity) Encode() Fixed {
	f := Fixed(nil).AppendSource(id.SourceID, id.InstanceID)
	for _, k := range slices.Sorted(maps.Keys(id.Tags)) {
		f = appendTag(f, k, id.Tags[k])
	}
	return slices.Clip(f)
}

// AppendSource appends source and instance to f itself, which should have nothing
// yet: a source id is found fastest where it stands first.
func (f Fixed) AppendSource(sourceID, instanceID string) Fixed {
	f = appendString(f, keySourceID, sourceID)
	if instanceID != "" {
		f = appendString(f, keyInstanceID, instanceID)
	}
	return f
}

// WithTag returns f with one more tag, which wins over one of the same key.
func (f Fixed) WithTag(key, value string) Fixed {
	return appendTag(slices.Clip(f), key, value)
}

// AppendTag appends one more tag to f itself, as append does: for a Fixed that
// is put together anew for each record in memory of its own.
func (f Fixed) AppendTag(key, value string) Fixed { return appendTag(f, key, value) }

func appendString(dst []byte, key byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\ufffd")
	}
	dst = append(dst, key)
	dst = binary.AppendUvarint(dst, uint64(len(s)))
	return append(dst, s...)
}

func appendTag(dst []byte, k, v string) []byte {
	if !utf8.ValidString(k) {
		k = strings.ToValidUTF8(k, "\ufffd")
	}
	if !utf8.ValidString(v) {
		v = strings.ToValidUTF8(v, "\ufffd")
	}
	dst = append(dst, keyTag)
	dst = binary.AppendUvarint(dst, uint64(stringSize(len(k))+stringSize(len(v))))
	dst = appendString(dst, 1<<3|2, k)
	return appendString(dst, 2<<3|2, v)
}

// stringSize is the size of a string or bytes field with a one-byte key.
func stringSize(n int) int { return 1 + varintSize(uint64(n)) + n }

func varintSize(v uint64) int {
	n := 1
	for ; v >= 0x80; v >>= 7 {
		n++
	}
	return n
}

// LogOverhead bounds how much longer than its parts a record is that AppendLog
// appends, in bytes.
const LogOverhead = 64

// AppendLog appends one record: a log of the given time (nanoseconds since 1970
// UTC). It allocates only if dst is too small.
func AppendLog(dst []byte, f Fixed, timestamp int64, t LogType, line []byte) []byte {
	size := stringSize(len(line))
	if t != Out {
		size += 1 + varintSize(uint64(int64(t)))
	}
	dst = appendStart(dst, f, timestamp, stringSize(size))
	dst = append(dst, keyLog)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = append(dst, 1<<3|2)
	dst = binary.AppendUvarint(dst, uint64(len(line)))
	dst = append(dst, line...)
	if t != Out {
		dst = append(dst, 2<<3)
		dst = binary.AppendUvarint(dst, uint64(int64(t)))
	}
	return dst
}

// appendStart appends a record up to its message, which takes size bytes.
func appendStart(dst []byte, f Fixed, timestamp int64, size int) []byte {
	size += 1 + varintSize(uint64(timestamp)) + len(f)
	dst = append(dst, KeyRecord)
	dst = binary.AppendUvarint(dst, uint64(size))
	dst = append(dst, keyTimestamp)
	dst = binary.AppendUvarint(dst, uint64(timestamp))
	return append(dst, f...)
}

// AppendCounter appends one record: a counter.
func AppendCounter(dst []byte, f Fixed, timestamp int64, name string, delta, total uint64) []byte {
	var buf [128]byte
	m := appendString(buf[:0], 1<<3|2, name)
	m = append(m, 2<<3)
	m = binary.AppendUvarint(m, delta)
	m = append(m, 3<<3)
	m = binary.AppendUvarint(m, total)
	return appendMessage(dst, f, timestamp, keyCounter, m)
}

// AppendGauge appends one record: a gauge of several metrics.
func AppendGauge(dst []byte, f Fixed, timestamp int64, metrics ...Metric) []byte {
	var buf [256]byte
	m := buf[:0]
	for _, metric := range metrics {
		name, unit := toValid(metric.Name), toValid(metric.Unit)
		value := stringSize(len(unit)) + 1 + 8
		m = append(m, 1<<3|2)
		m = binary.AppendUvarint(m, uint64(stringSize(len(name))+stringSize(value)))
		m = append(m, 1<<3|2)
		m = binary.AppendUvarint(m, uint64(len(name)))
		m = append(m, name...)
		m = append(m, 2<<3|2)
		m = binary.AppendUvarint(m, uint64(value))
		m = append(m, 1<<3|2)
		m = binary.AppendUvarint(m, uint64(len(unit)))
		m = append(m, unit...)
		m = append(m, 2<<3|1)
		m = binary.LittleEndian.AppendUint64(m, math.Float64bits(metric.Value))
	}
	return appendMessage(dst, f, timestamp, keyGauge, m)
}

func toValid(b []byte) []byte {
	if utf8.Valid(b) {
		return b
	}
	return []byte(strings.ToValidUTF8(string(b), "\ufffd"))
}

// AppendTimer appends one record: a timer, start and stop in nanoseconds since
// 1970 UTC.
func AppendTimer(dst []byte, f Fixed, timestamp int64, name string, start, stop int64) []byte {
	var buf [128]byte
	m := appendString(buf[:0], 1<<3|2, name)
	m = append(m, 2<<3)
	m = binary.AppendUvarint(m, uint64(start))
	m = append(m, 3<<3)
	m = binary.AppendUvarint(m, uint64(stop))
	return appendMessage(dst, f, timestamp, keyTimer, m)
}

// AppendEvent appends one record: an event.
func AppendEvent(dst []byte, f Fixed, timestamp int64, title, body string) []byte {
	var buf [256]byte
	m := appendString(buf[:0], 1<<3|2, title)
	m = appendString(m, 2<<3|2, body)
	return appendMessage(dst, f, timestamp, keyEvent, m)
}

func appendMessage(dst []byte, f Fixed, timestamp int64, key byte, m []byte) []byte {
	dst = appendStart(dst, f, timestamp, stringSize(len(m)))
	dst = append(dst, key)
	dst = binary.AppendUvarint(dst, uint64(len(m)))
	return append(dst, m...)
}

// AppendMissed appends one record: the line by which Loggregator tells, in the
// stream of the application itself, that n of its lines are missing and why.
func AppendMissed(dst []byte, f Fixed, timestamp int64, n uint64, reason string) []byte {
	number := strconv.FormatUint(n, 10)
	f = f.WithTag(TagSourceType, SourceTypeLGR).WithTag(TagMissed, number).WithTag(TagReason, reason)
	lines := " lines are missing here: "
	if n == 1 {
		lines = " line is missing here: "
	}
	return AppendLog(dst, f, timestamp, Err, []byte(number+lines+reason))
}

// Numbers are those of one maker's records, from First and before Next.
type Numbers struct {
	Stream      StreamID
	First, Next uint64
}

// String is what stands in TagNumbers.
func (n Numbers) String() string {
	b := strconv.AppendUint(nil, uint64(n.Stream), 16)
	b = strconv.AppendUint(append(b, ':'), n.First, 10)
	return string(strconv.AppendUint(append(b, ':'), n.Next, 10))
}

// MissedNumbers reads TagNumbers; ok if e has it, and it is such numbers.
func (e Envelope) MissedNumbers() (n Numbers, ok bool) {
	v, ok := e.Tag(TagNumbers)
	if !ok {
		return Numbers{}, false
	}
	part := strings.SplitN(string(v), ":", 3)
	if len(part) != 3 {
		return Numbers{}, false
	}
	stream, err1 := strconv.ParseUint(part[0], 16, 64)
	first, err2 := strconv.ParseUint(part[1], 10, 64)
	next, err3 := strconv.ParseUint(part[2], 10, 64)
	if err1 != nil || err2 != nil || err3 != nil || stream == 0 || first >= next {
		return Numbers{}, false
	}
	return Numbers{StreamID(stream), first, next}, true
}

// Missed reads what AppendMissed wrote: ok if e is such a line.
func (e Envelope) Missed() (n uint64, reason string, ok bool) {
	v, ok := e.Tag(TagMissed)
	if !ok {
		return 0, "", false
	}
	if t, _ := e.Tag(TagSourceType); string(t) != SourceTypeLGR {
		return 0, "", false
	}
	n, err := strconv.ParseUint(string(v), 10, 64)
	if err != nil {
		return 0, "", false
	}
	r, _ := e.Tag(TagReason)
	return n, string(r), true
}
