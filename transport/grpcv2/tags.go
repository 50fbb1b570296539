package grpcv2

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Tags come in two fields. Old makers put them into deprecated_tags, as values of
// three types; all others into tags, as text. Old readers want the former alone,
// all others the latter. Here an envelope is put from one form into the other,
// field by field, without being decoded, and only where it has to be.

const (
	fieldSource     protowire.Number = 2
	fieldDeprecated protowire.Number = 3
	fieldTags       protowire.Number = 9
)

// The one-byte keys of these fields, and of others, as encoders write them.
const (
	keyTimestamp  = 1 << 3
	keySource     = 2<<3 | 2
	keyDeprecated = 3<<3 | 2
	keyCounter    = 5<<3 | 2
	keyLast       = 10<<3 | 2
)

// fields says which of the fields that matter here an envelope has.
type fields uint8

const (
	hasSource     fields = 1 << iota // and it is not empty
	hasDeprecated                    // deprecated_tags
	hasCounter
	unusual // laid out as no encoder does it: look closely
)

// look finds that out in one walk over the top-level fields. It is done with
// every record that comes or goes, so it is written out.
func look(e []byte) (has fields) {
	for i := 0; i < len(e); {
		key := e[i]
		i++
		if key == keyTimestamp {
			for i < len(e) && e[i] >= 0x80 {
				i++
			}
			i++
			continue
		}
		if key&7 != 2 || key > keyLast || i >= len(e) {
			return has | unusual
		}
		n := int(e[i])
		i++
		if n >= 0x80 {
			v, l := binary.Uvarint(e[i-1:])
			if l <= 0 || v > uint64(len(e)) {
				return has | unusual
			}
			n = int(v)
			i += l - 1
		}
		switch key {
		case keySource:
			if n > 0 {
				has |= hasSource
			} else {
				has &^= hasSource
			}
		case keyDeprecated:
			has |= hasDeprecated
		case keyCounter:
			has |= hasCounter
		}
		i += n
	}
	return has
}

// split is the next field of a message: its number, its whole encoding, and its
// content if it is bytes. ok is false where the message does not parse.
func split(m []byte) (num protowire.Number, typ protowire.Type, field, value []byte, ok bool) {
	num, typ, n := protowire.ConsumeTag(m)
	if n < 0 || num > protowire.MaxValidNumber {
		return 0, 0, nil, nil, false
	}
	l := protowire.ConsumeFieldValue(num, typ, m[n:])
	if l < 0 {
		return 0, 0, nil, nil, false
	}
	if typ == protowire.BytesType {
		value, _ = protowire.ConsumeBytes(m[n:])
	}
	return num, typ, m[:n+l], value, true
}

// entry is a tag of either field.
type entry struct {
	key, value []byte
	set        bool // whether a deprecated tag has a value at all
}

// parseTag reads an entry of tags.
func parseTag(m []byte) (t entry, ok bool) {
	for len(m) > 0 {
		num, typ, field, value, ok := split(m)
		if !ok {
			return t, false
		}
		switch {
		case num == 1 && typ == protowire.BytesType:
			t.key = value
		case num == 2 && typ == protowire.BytesType:
			t.value = value
		}
		m = m[len(field):]
	}
	return t, true
}

// parseDeprecated reads an entry of deprecated_tags, with its value as text.
// Decimals have no exponent if plain, as agents write them; else large and small
// ones do, as the reverse log proxy writes them.
func parseDeprecated(m []byte, plain bool) (t entry, ok bool) {
	for len(m) > 0 {
		num, typ, field, value, ok := split(m)
		if !ok {
			return t, false
		}
		switch {
		case num == 1 && typ == protowire.BytesType:
			t.key = value
		case num == 2 && typ == protowire.BytesType:
			if !t.setValue(value, plain) {
				return t, false
			}
		}
		m = m[len(field):]
	}
	return t, true
}

// setValue reads a Value, the last member of its oneof.
func (t *entry) setValue(m []byte, plain bool) bool {
	for len(m) > 0 {
		num, typ, field, value, ok := split(m)
		if !ok {
			return false
		}
		switch {
		case num == 1 && typ == protowire.BytesType:
			t.value, t.set = value, true
		case num == 2 && typ == protowire.VarintType:
			_, _, n := protowire.ConsumeTag(field)
			v, _ := protowire.ConsumeVarint(field[n:])
			t.value, t.set = strconv.AppendInt(nil, int64(v), 10), true
		case num == 3 && typ == protowire.Fixed64Type:
			f := math.Float64frombits(binary.LittleEndian.Uint64(field[len(field)-8:]))
			if plain {
				t.value = strconv.AppendFloat(nil, f, 'f', -1, 64)
			} else {
				t.value = fmt.Append(nil, f)
			}
			t.set = true
		}
		m = m[len(field):]
	}
	return true
}

// appendPreferred appends e with its deprecated tags as tags, which win over
// those of the same key. It is false, and appends nothing, where e does not
// parse.
func appendPreferred(dst []byte, e envelope.Envelope, plain bool) ([]byte, bool) {
	start := len(dst)
	rest := []byte(e)
	for len(rest) > 0 {
		num, typ, field, _, ok := split(rest)
		if !ok {
			return dst[:start], false
		}
		if num != fieldDeprecated || typ != protowire.BytesType {
			dst = append(dst, field...)
		}
		rest = rest[len(field):]
	}
	var few [fewTags]entry
	tags := few[:0]
	for rest = e; len(rest) > 0; {
		num, typ, field, value, _ := split(rest)
		if num == fieldDeprecated && typ == protowire.BytesType {
			t, ok := parseDeprecated(value, plain)
			if !ok {
				return dst[:start], false
			}
			tags = append(tags, t)
		}
		rest = rest[len(field):]
	}
	for _, t := range lastOfEach(tags) {
		if t.set {
			dst = appendTag(dst, t)
		}
	}
	return dst, true
}

// fewTags is up to how many tags are compared with one another.
const fewTags = 16

// lastOfEach leaves out those tags that are given again later.
func lastOfEach(tags []entry) []entry {
	if len(tags) <= fewTags {
		kept := tags[:0]
		for i, t := range tags {
			if !slices.ContainsFunc(tags[i+1:], func(later entry) bool { return string(later.key) == string(t.key) }) {
				kept = append(kept, t)
			}
		}
		return kept
	}
	last := make(map[string]int, len(tags))
	for i, t := range tags {
		last[string(t.key)] = i
	}
	kept := tags[:0]
	for i, t := range tags {
		if last[string(t.key)] == i {
			kept = append(kept, t)
		}
	}
	return kept
}

// appendDeprecated appends e with its tags as deprecated ones, which win over
// those of the same key. It is false, and appends nothing, where e does not
// parse.
func appendDeprecated(dst []byte, e envelope.Envelope) ([]byte, bool) {
	start := len(dst)
	rest := []byte(e)
	for len(rest) > 0 {
		num, typ, field, _, ok := split(rest)
		if !ok {
			return dst[:start], false
		}
		if num != fieldTags || typ != protowire.BytesType {
			dst = append(dst, field...)
		}
		rest = rest[len(field):]
	}
	for rest = e; len(rest) > 0; {
		num, typ, field, value, _ := split(rest)
		if num == fieldTags && typ == protowire.BytesType {
			t, ok := parseTag(value)
			if !ok {
				return dst[:start], false
			}
			text := 1 + protowire.SizeBytes(len(t.value))
			dst = protowire.AppendTag(dst, fieldDeprecated, protowire.BytesType)
			dst = protowire.AppendVarint(dst, uint64(1+protowire.SizeBytes(len(t.key))+1+protowire.SizeBytes(text)))
			dst = protowire.AppendTag(dst, 1, protowire.BytesType)
			dst = protowire.AppendBytes(dst, t.key)
			dst = protowire.AppendTag(dst, 2, protowire.BytesType)
			dst = protowire.AppendVarint(dst, uint64(text))
			dst = protowire.AppendTag(dst, 1, protowire.BytesType)
			dst = protowire.AppendBytes(dst, t.value)
		}
		rest = rest[len(field):]
	}
	return dst, true
}

func appendTag(dst []byte, t entry) []byte {
	dst = protowire.AppendTag(dst, fieldTags, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(2+protowire.SizeBytes(len(t.key))+protowire.SizeBytes(len(t.value))))
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendBytes(dst, t.key)
	dst = protowire.AppendTag(dst, 2, protowire.BytesType)
	return protowire.AppendBytes(dst, t.value)
}
