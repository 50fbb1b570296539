package drain

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// MinMessage is the smallest limit there can be for messages: every header
	// fits in it, with room for some text.
	MinMessage = 1024
	// DefaultMaxMessage is a drain's limit for messages, unless its URL says
	// max-message-size. Lines that Cloud Foundry's cells cut, at 61,440 bytes,
	// are not cut again.
	DefaultMaxMessage = 64 << 10
)

// noLimit is the limit of values that are written whole.
const noLimit = math.MaxInt

// partElement bounds what the element of a part takes, in bytes.
const partElement = len(`[part@47450 id="0123456789abcdef" part="1234567/1234567" tags-omitted="1234567"] `) + numberElement

// numberElement bounds what appendNumber appends, in bytes.
const numberElement = len(`[seq@47450 stream="0123456789abcdef" number="18446744073709551615"]`)

// appendNumber appends the record's number, by which a receiver tells repeats
// from losses.
func (f *Formatter) appendNumber(dst []byte) []byte {
	if f.stream == 0 || f.layout != cloudFoundry {
		return dst
	}
	dst = appendHex(append(dst, `[seq@47450 stream="`...), f.stream)
	dst = strconv.AppendUint(append(dst, `" number="`...), f.number, 10)
	return append(dst, `"]`...)
}

// appendParts appends a log whose message would be too long, as several: each
// carries the header, an element that says which part of which line it is, and a
// piece of the line with an LF. The pieces end between characters, and put
// together they are the line.
//
//	[part@47450 id="6c1f0b6e0a2d4f11" part="2/3"]
//
// The id is made of the record, so parts sent again after a failure say the
// same. Where the tags alone take more than a quarter of the limit, those that do
// not fit in it are left out, from the first in order of name that does not, and
// tags-omitted says how many. In Heroku's forms a line is cut as Heroku does,
// into messages of 10,000 bytes that carry no such element.
func (f *Formatter) appendParts(dst []byte, r *envelope.Route, h *header, text []byte) []byte {
	limit := f.MaxSize
	if limit == 0 {
		limit = math.MaxInt
	}
	limit = max(limit, MinMessage)
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1] // each message ends in one of its own
	}
	from := len(dst)
	dst, start := f.open(dst, r, h)
	room := limit - (len(dst) - start) - 1 // for what comes between header and LF
	dst = dst[:from]
	element, omitted := h.element, 0
	if f.layout != cloudFoundry {
		room = min(room-len("- "), herokuLine)
	} else {
		room -= partElement
		if len(element) > limit/4 {
			few, n := firstTags(element, limit/4)
			element, omitted = few, n
		}
		room -= len(element)
	}
	total := 0
	for rest := text; total == 0 || len(rest) > 0; total++ {
		rest = rest[cut(rest, room):]
	}
	id := partID(r)
	if omitted > 0 {
		f.short++
	}
	for part := 1; part <= total; part++ {
		dst, start = f.open(dst, r, h)
		switch f.layout {
		case cloudFoundry:
			dst = append(dst, "[part@47450 id=\""...)
			dst = appendHex(dst, id)
			dst = strconv.AppendInt(append(dst, `" part="`...), int64(part), 10)
			dst = strconv.AppendInt(append(dst, '/'), int64(total), 10)
			if omitted > 0 {
				dst = strconv.AppendInt(append(dst, `" tags-omitted="`...), int64(omitted), 10)
			}
			dst = append(append(f.appendNumber(append(dst, `"]`...)), element...), ' ')
		case herokuFull:
			dst = append(dst, "- "...)
		}
		n := cut(text, room)
		dst = append(append(dst, text[:n]...), '\n')
		text = text[n:]
		dst = f.closeFrame(dst, start)
	}
	return dst
}

// cut is how many bytes of text to send if room is the most: a place between two
// characters, and not between CR and LF.
func cut(text []byte, room int) int {
	if len(text) <= room {
		return len(text)
	}
	n := room
	for n > room-utf8.UTFMax && n > 1 && !utf8.RuneStart(text[n]) {
		n--
	}
	if !utf8.RuneStart(text[n]) { // it is not UTF-8
		n = room
	}
	if n > 1 && text[n-1] == '\r' && text[n] == '\n' {
		n--
	}
	return n
}

// partID names a line: its parts have it in common.
func partID(r *envelope.Route) uint64 {
	h := fnv.New64a()
	var stamp [8]byte
	binary.BigEndian.PutUint64(stamp[:], uint64(r.Timestamp))
	h.Write(stamp[:])
	h.Write(r.SourceID)
	h.Write(r.InstanceID)
	h.Write(r.Payload)
	return h.Sum64()
}

func appendHex(dst []byte, v uint64) []byte {
	const digits = "0123456789abcdef"
	for shift := 60; shift >= 0; shift -= 4 {
		dst = append(dst, digits[v>>shift&15])
	}
	return dst
}

// firstTags is as much of a tags element as fits in limit bytes, whole
// parameters, and how many are left out.
func firstTags(element []byte, limit int) (few []byte, omitted int) {
	end, count := 0, 0 // after the last parameter that fits
	quoted := false
	for i := 0; i < len(element); i++ {
		switch element[i] {
		case '\\':
			if quoted {
				i++
			}
		case '"':
			if quoted = !quoted; quoted {
				continue
			}
			if count++; i+2 <= limit && omitted == 0 {
				end = i + 1
			} else {
				omitted++
			}
		}
	}
	if end == 0 {
		return nil, omitted
	}
	return append(element[:end:end], ']'), omitted
}

// valueLimit is the limit in bytes for each value of a measurement that is too
// long otherwise. There are two at most.
func (f *Formatter) valueLimit() int {
	limit := max(f.MaxSize, MinMessage)
	return (limit - limit/4 - 650) / 2 // 650: header, numbers and the element that says so
}

// appendFew appends an element that says that a measurement was cut, and as many
// tags as fit in a quarter of the limit.
func (f *Formatter) appendFew(dst []byte, h *header) []byte {
	few, omitted := h.element, 0
	if limit := max(f.MaxSize, MinMessage) / 4; len(few) > limit {
		few, omitted = firstTags(few, limit)
	}
	dst = append(dst, `[part@47450 cut="true`...)
	if omitted > 0 {
		dst = strconv.AppendInt(append(dst, `" tags-omitted="`...), int64(omitted), 10)
	}
	return append(append(dst, `"]`...), few...)
}
