package envelope

import (
	"bytes"
	"slices"
	"strconv"
)

// DeprecatedTag is a tag in the form that tags had at first, and that makers of
// old still give them.
type DeprecatedTag struct {
	Key   []byte
	Value Value
}

// Value is the value of a deprecated tag. Its zero value is one that is not set.
type Value struct {
	Type    ValueType
	Text    []byte
	Integer int64
	Decimal float64
}

// ValueType is which of a Value's fields counts.
type ValueType uint8

const (
	ValueNone ValueType = iota
	ValueText
	ValueInteger
	ValueDecimal
)

// AppendText appends the value as text, numbers in their shortest form; nothing
// if it is not set.
func (v Value) AppendText(dst []byte) []byte {
	switch v.Type {
	case ValueText:
		return append(dst, v.Text...)
	case ValueInteger:
		return strconv.AppendInt(dst, v.Integer, 10)
	case ValueDecimal:
		return strconv.AppendFloat(dst, v.Decimal, 'g', -1, 64)
	}
	return dst
}

// AppendDeprecatedTags appends the deprecated tags to dst, each key once, sorted
// by key bytewise.
func (e Envelope) AppendDeprecatedTags(dst []DeprecatedTag) []DeprecatedTag {
	start := len(dst)
	for num, f := range fields(e) {
		if num != 3 || f.typ != bytesType {
			continue
		}
		var t DeprecatedTag
		for num, f := range fields(f.bytes) {
			switch {
			case num == 1 && f.typ == bytesType:
				t.Key = f.bytes
			case num == 2 && f.typ == bytesType:
				t.Value.merge(f.bytes)
			}
		}
		dst = append(dst, t)
	}
	if tags := dst[start:]; len(tags) > 1 {
		slices.SortStableFunc(tags, func(a, b DeprecatedTag) int { return bytes.Compare(a.Key, b.Key) })
		kept := 0
		for i, t := range tags {
			if i+1 == len(tags) || string(tags[i+1].Key) != string(t.Key) { // the last one given counts
				tags[kept] = t
				kept++
			}
		}
		dst = dst[:start+kept]
	}
	return dst
}

// merge takes in an encoded Value.
func (v *Value) merge(m []byte) {
	for num, f := range fields(m) {
		switch {
		case num == 1 && f.typ == bytesType:
			*v = Value{Type: ValueText, Text: f.bytes}
		case num == 2 && f.typ == varintType:
			*v = Value{Type: ValueInteger, Integer: int64(f.n)}
		case num == 3 && f.typ == fixed64Type:
			*v = Value{Type: ValueDecimal, Decimal: f.float()}
		}
	}
}

// AppendAllTags is AppendTags with the deprecated tags among them, which win over
// others of their key. Their values are as text makes them of a Value, or, if it
// is nil, as Value.AppendText does; those that are not set are left out.
func (e Envelope) AppendAllTags(dst []Tag, text func(Value) []byte) []Tag {
	start := len(dst)
	dst = e.AppendTags(dst)
	own := len(dst)
	var buf [8]DeprecatedTag
	for _, t := range e.AppendDeprecatedTags(buf[:0]) {
		tag := Tag{Key: t.Key, Value: t.Value.Text}
		switch {
		case t.Value.Type == ValueNone:
			continue
		case text != nil:
			tag.Value = text(t.Value)
		case t.Value.Type != ValueText:
			tag.Value = t.Value.AppendText(nil)
		}
		dst = append(dst, tag)
	}
	if tags := dst[start:]; len(dst) > own {
		slices.SortStableFunc(tags, func(a, b Tag) int { return bytes.Compare(a.Key, b.Key) })
		dst = dst[:start+len(lastOfEach(tags))]
	}
	return dst
}

// lastOfEach keeps the last tag of each key of those sorted by key.
func lastOfEach(tags []Tag) []Tag {
	kept := 0
	for i, t := range tags {
		if i+1 == len(tags) || string(tags[i+1].Key) != string(t.Key) {
			tags[kept] = t
			kept++
		}
	}
	return tags[:kept]
}
