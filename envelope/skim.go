package envelope

import (
	"encoding/binary"
	"iter"
	"math"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers and their one-byte keys as every encoder writes them.
const (
	keyTimestamp  = 1 << 3
	keySourceID   = 2<<3 | 2
	keyDeprecated = 3<<3 | 2
	keyLog        = 4<<3 | 2
	keyCounter    = 5<<3 | 2
	keyGauge      = 6<<3 | 2
	keyTimer      = 7<<3 | 2
	keyInstanceID = 8<<3 | 2
	keyTag        = 9<<3 | 2
	keyEvent      = 10<<3 | 2
)

const (
	varintType  = protowire.VarintType
	fixed64Type = protowire.Fixed64Type
	bytesType   = protowire.BytesType
)

// uvarint reads a varint at b[i:] and returns the index after it, or -1.
func uvarint(b []byte, i int) (uint64, int) {
	if i < len(b) && b[i] < 0x80 {
		return uint64(b[i]), i + 1
	}
	return uvarintSlow(b, i)
}

func uvarintSlow(b []byte, i int) (uint64, int) {
	if i > len(b) {
		return 0, -1
	}
	v, n := protowire.ConsumeVarint(b[i:])
	if n < 0 {
		return 0, -1
	}
	return v, i + n
}

// consumeTag is protowire's, which lets pass field numbers that the decoder of
// messages refuses.
func consumeTag(b []byte) (protowire.Number, protowire.Type, int) {
	num, typ, n := protowire.ConsumeTag(b)
	if n >= 0 && num > protowire.MaxValidNumber {
		return 0, 0, -1
	}
	return num, typ, n
}

// span reads a length at b[i:] and returns the bounds of the bytes after it;
// end is -1 if they are not all there.
func span(b []byte, i int) (start, end int) {
	var n uint64
	switch {
	case i < len(b) && b[i] < 0x80:
		n, i = uint64(b[i]), i+1
	case i+1 < len(b) && b[i+1] < 0x80:
		n, i = uint64(b[i]&0x7f)|uint64(b[i+1])<<7, i+2
	default:
		n, i = uvarintSlow(b, i)
	}
	if i < 0 {
		return 0, -1
	}
	if n > uint64(len(b)-i) {
		return 0, -1
	}
	return i, i + int(n)
}

// skim fills r from e and reports whether e parses; if deep, whether it parses
// down to the last nested string, as protobuf's own decoder would have it.
//
// It is written out, because every record of the system passes here: a walk
// with protowire's functions takes about three times as long.
func skim(e []byte, r *Route, trusted []byte, deep bool) bool {
	tagsEnd := -1 // end of the run of tags seen so far
	for i := 0; i < len(e); {
		at, key := i, e[i]
		if key == keyTag && tagsEnd < 0 {
			if n := len(trusted); n > 0 && n <= len(e)-at && string(e[at:at+n]) == string(trusted) {
				i = at + n
				r.Tags, tagsEnd = e[at:i], i
				continue
			}
		}
		if key == keyTimestamp {
			v, n := timestamp(e, at+1)
			if n < 0 {
				return false
			}
			r.Timestamp, i = v, n
			continue
		}
		if key&7 != 2 || key > keyEvent || key < 1<<3 { // not bytes, or not a field of ours
			n := skimOther(e[at:], r, deep)
			if n < 0 {
				return false
			}
			i = at + n
			continue
		}
		// The length, short as it mostly is: a call here for each field would
		// take a quarter of the time.
		var end int
		if i++; i < len(e) && e[i] < 0x80 {
			end = i + 1 + int(e[i])
			if i++; end > len(e) {
				return false
			}
		} else if i, end = span(e, i); end < 0 {
			return false
		}
		v := e[i:end]
		i = end
		switch key {
		case keySourceID:
			if deep && !validUTF8(v) {
				return false
			}
			r.SourceID = v
		case keyInstanceID:
			if deep && !validUTF8(v) {
				return false
			}
			r.InstanceID = v
		case keyTag:
			if deep && !validTag(v) {
				return false
			}
			switch {
			case tagsEnd < 0:
				r.Tags = e[at:end]
			case tagsEnd == at && !r.Scattered:
				r.Tags = r.Tags[:end-at+len(r.Tags)]
			default:
				r.Tags, r.Scattered = nil, true
			}
			tagsEnd = end
		case keyLog:
			if r.Kind != KindLog { // the same member of a oneof given twice merges, another one replaces
				r.Kind, r.LogType, r.Payload = KindLog, Out, nil
			}
			if !skimLog(v, r) {
				return false
			}
		case keyCounter, keyGauge, keyTimer, keyEvent:
			kind := kindOf(key)
			if deep && !valid(v, schemas[kind]) {
				return false
			}
			r.Kind, r.LogType, r.Payload = kind, Out, nil
		case keyDeprecated:
			if deep && !valid(v, deprecatedEntry) {
				return false
			}
		}
	}
	return true
}

// timestamp reads a varint of nine bytes, which nanoseconds since 1970 are until
// the year 2262, from one load in place of nine: 4 ns instead of 8.
func timestamp(b []byte, i int) (int64, int) {
	const more = 0x8080808080808080
	if i+9 <= len(b) && b[i+8] < 0x80 {
		if w := binary.LittleEndian.Uint64(b[i:]); w&more == more {
			w &^= more
			w = w&0x007f007f007f007f | w&0x7f007f007f007f00>>1
			w = w&0x00003fff00003fff | w&0x3fff00003fff0000>>2
			w = w&0x000000000fffffff | w&0x0fffffff00000000>>4
			return int64(w | uint64(b[i+8])<<56), i + 9
		}
	}
	v, i := uvarint(b, i)
	return int64(v), i
}

// skimOther reads a field that is not ours, or one whose key was written longer
// than needed. It returns the size of the field, or -1.
func skimOther(b []byte, r *Route, deep bool) int {
	num, typ, n := consumeTag(b)
	if n < 0 {
		return -1
	}
	m := protowire.ConsumeFieldValue(num, typ, b[n:])
	if m < 0 {
		return -1
	}
	// Written in its shortest form, it may be one of ours after all. No encoder
	// does that, so it may be slow.
	if k := protowire.EncodeTag(num, typ); k <= keyEvent && n > 1 {
		if !skimOne(append([]byte{byte(k)}, b[n:n+m]...), r, deep) {
			return -1
		}
	}
	return n + m
}

// skimOne reads one field whose key has been put into its shortest form.
func skimOne(field []byte, r *Route, deep bool) bool {
	var one Route
	one.Kind, one.LogType, one.Payload = r.Kind, r.LogType, r.Payload
	if !skim(field, &one, nil, deep) {
		return false
	}
	switch field[0] {
	case keyTimestamp:
		r.Timestamp = one.Timestamp
	case keySourceID:
		r.SourceID = one.SourceID
	case keyInstanceID:
		r.InstanceID = one.InstanceID
	case keyTag:
		r.Tags, r.Scattered = nil, true
	}
	r.Kind, r.LogType, r.Payload = one.Kind, one.LogType, one.Payload
	return true
}

func kindOf(key byte) Kind {
	switch key {
	case keyLog:
		return KindLog
	case keyCounter:
		return KindCounter
	case keyGauge:
		return KindGauge
	case keyTimer:
		return KindTimer
	case keyEvent:
		return KindEvent
	}
	return KindNone
}

// skimLog reads a log. Its payload is bytes and so cannot be invalid.
func skimLog(m []byte, r *Route) bool {
	for i := 0; i < len(m); {
		switch m[i] {
		case 1<<3 | 2:
			start, end := span(m, i+1)
			if end < 0 {
				return false
			}
			r.Payload, i = m[start:end], end
		case 2 << 3:
			v, next := uvarint(m, i+1)
			if next < 0 {
				return false
			}
			r.LogType, i = LogType(int32(v)), next
		default:
			num, typ, n := consumeTag(m[i:])
			if n < 0 {
				return false
			}
			l := protowire.ConsumeFieldValue(num, typ, m[i+n:])
			if l < 0 {
				return false
			}
			switch {
			case num == 1 && typ == bytesType:
				r.Payload, _ = protowire.ConsumeBytes(m[i+n:])
			case num == 2 && typ == varintType:
				v, _ := protowire.ConsumeVarint(m[i+n:])
				r.LogType = LogType(int32(v))
			}
			i += n + l
		}
	}
	return true
}

// validTag checks one entry of the tags: the layout that every encoder writes
// by hand, anything else by the schema.
func validTag(m []byte) bool {
	if len(m) > 1 && m[0] == 1<<3|2 {
		i, end := span(m, 1)
		if end >= 0 && validUTF8(m[i:end]) && end < len(m) && m[end] == 2<<3|2 {
			if i, end = span(m, end+1); end == len(m) {
				return validUTF8(m[i:end])
			}
		}
	}
	return valid(m, tagEntry)
}

// validUTF8 is utf8.Valid with the loop for short ASCII inline: tags are a dozen
// bytes, and the call costs more than the work.
func validUTF8(b []byte) bool {
	if len(b) <= 32 {
		i := 0
		for i < len(b) && b[i] < utf8.RuneSelf {
			i++
		}
		if i == len(b) {
			return true
		}
		b = b[i:]
	}
	return utf8.Valid(b)
}

// schema says which fields of a nested message can make it invalid: strings
// must be UTF-8, messages must parse. Everything else only has to be complete.
type schema struct {
	strings  uint32 // bit n: field n is a string
	messages [4]*schema
}

var (
	tagEntry        = &schema{strings: 1<<1 | 1<<2}
	deprecatedEntry = &schema{strings: 1 << 1, messages: [4]*schema{2: {strings: 1 << 1}}}
	gaugeEntry      = &schema{strings: 1 << 1, messages: [4]*schema{2: {strings: 1 << 1}}}
	schemas         = [...]*schema{
		KindNone:    {},
		KindLog:     {},
		KindCounter: {strings: 1 << 1},
		KindGauge:   {messages: [4]*schema{1: gaugeEntry}},
		KindTimer:   {strings: 1 << 1},
		KindEvent:   {strings: 1<<1 | 1<<2},
	}
)

func valid(m []byte, s *schema) bool {
	for len(m) > 0 {
		num, typ, n := consumeTag(m)
		if n < 0 {
			return false
		}
		l := protowire.ConsumeFieldValue(num, typ, m[n:])
		if l < 0 {
			return false
		}
		if typ == bytesType && num < 32 {
			v, _ := protowire.ConsumeBytes(m[n:])
			if s.strings&(1<<num) != 0 && !utf8.Valid(v) {
				return false
			}
			if int(num) < len(s.messages) && s.messages[num] != nil && !valid(v, s.messages[num]) {
				return false
			}
		}
		m = m[n+l:]
	}
	return true
}

// value is one field of a message: a number or bytes.
type value struct {
	typ   protowire.Type
	n     uint64
	bytes []byte
}

func (v value) float() float64 { return math.Float64frombits(v.n) }

// fields yields the fields of a message and stops at the first that does not
// parse. It serves the readers of single fields, who may be handed bytes that
// were never checked.
func fields(m []byte) iter.Seq2[protowire.Number, value] {
	return func(yield func(protowire.Number, value) bool) {
		for len(m) > 0 {
			num, typ, n := consumeTag(m)
			if n < 0 {
				return
			}
			l := protowire.ConsumeFieldValue(num, typ, m[n:])
			if l < 0 {
				return
			}
			v := value{typ: typ}
			switch typ {
			case varintType:
				v.n, _ = protowire.ConsumeVarint(m[n:])
			case bytesType:
				v.bytes, _ = protowire.ConsumeBytes(m[n:])
			case fixed64Type:
				v.n = binary.LittleEndian.Uint64(m[n:])
			}
			if !yield(num, v) {
				return
			}
			m = m[n+l:]
		}
	}
}

// message yields the parts of the envelope's message, if it is of that kind: one
// mostly; several where it was given in pieces, which merge.
func (e Envelope) message(kind Kind) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		// The pieces that count are those after the last other member of the
		// oneof, so find that first.
		from, at := 0, 0
		last := KindNone
		for num, v := range fields(e) {
			if k := kindOfField(num); k != KindNone && v.typ == bytesType {
				if k != last {
					from, last = at, k
				}
				at++
			}
		}
		if last != kind {
			return
		}
		at = 0
		for num, v := range fields(e) {
			if kindOfField(num) == KindNone || v.typ != bytesType {
				continue
			}
			if at >= from && !yield(v.bytes) {
				return
			}
			at++
		}
	}
}

func kindOfField(num protowire.Number) Kind {
	if num < 4 || num > 10 {
		return KindNone
	}
	return kindOf(byte(num<<3 | 2))
}

// rawTags yields key and value of each tag entry.
func (e Envelope) rawTags() iter.Seq2[[]byte, []byte] {
	return func(yield func(k, v []byte) bool) {
		for num, f := range fields(e) {
			if num != 9 || f.typ != bytesType {
				continue
			}
			var k, v []byte
			for num, f := range fields(f.bytes) {
				switch {
				case num == 1 && f.typ == bytesType:
					k = f.bytes
				case num == 2 && f.typ == bytesType:
					v = f.bytes
				}
			}
			if !yield(k, v) {
				return
			}
		}
	}
}
