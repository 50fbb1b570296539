package envelope

import (
	"errors"
	"math"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrQuery means bytes that are no query, or one that says what is not understood
// here: what a query asks beyond that would be answered too widely without it.
var ErrQuery = errors.New("envelope: not a query that is understood here; is the other end of a later version?")

// MaxSelectors and MaxPositions bound the selectors of an encoded query, and the
// rings and streams of its cursor: those of a reader of everything on a server that
// has as many sources.
const (
	MaxSelectors = 10_000
	MaxPositions = 1_000_000
)

// The fields of an encoded query, of its selectors, and of the positions of its
// cursor.
const (
	querySelect = 1 + iota
	queryRings
	queryStreams
	queryLast
	querySince
	queryHistory
	queryUntil
	queryFirst
	queryFollow
	queryShard
	queryMember
	queryByTime
	queryMaxBytes
	queryGather
)

const (
	selectSource = 1 + iota
	selectApp
	selectSpace
	selectOrg
	selectIDs
	selectKind
	selectStdout
	selectStderr
	selectInstance
	selectSourceType
)

// AppendQuery appends q as ParseQuery reads it. Where cannot be encoded.
func AppendQuery(dst []byte, q *Query) []byte {
	for i := range q.Select {
		var buf [256]byte
		dst = protowire.AppendTag(dst, querySelect, protowire.BytesType)
		dst = protowire.AppendBytes(dst, appendSelector(buf[:0], &q.Select[i]))
	}
	dst = appendPositions(dst, queryRings, q.Cursor.Rings)
	dst = appendPositions(dst, queryStreams, q.Cursor.Streams)
	dst = appendInt(dst, queryLast, int64(q.Last))
	dst = appendTime(dst, querySince, q.Since)
	dst = appendBool(dst, queryHistory, q.History)
	dst = appendTime(dst, queryUntil, q.Until)
	dst = appendInt(dst, queryFirst, int64(q.First))
	dst = appendBool(dst, queryFollow, q.Follow)
	dst = appendText(dst, queryShard, q.Shard)
	dst = appendText(dst, queryMember, q.Member)
	dst = appendBool(dst, queryByTime, q.ByTime)
	dst = appendInt(dst, queryMaxBytes, int64(q.MaxBytes))
	return appendInt(dst, queryGather, int64(q.Gather))
}

func appendSelector(dst []byte, s *Selector) []byte {
	dst = appendText(dst, selectSource, s.SourceID)
	dst = appendText(dst, selectApp, s.App)
	dst = appendText(dst, selectSpace, s.Space)
	dst = appendText(dst, selectOrg, s.Org)
	dst = appendBool(dst, selectIDs, s.IDs)
	for _, k := range s.Kinds {
		dst = appendNumber(dst, selectKind, uint64(k))
	}
	dst = appendBool(dst, selectStdout, s.Stdout)
	dst = appendBool(dst, selectStderr, s.Stderr)
	dst = appendText(dst, selectInstance, s.Instance)
	return appendText(dst, selectSourceType, s.SourceType)
}

func appendText(dst []byte, num protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, num, protowire.BytesType), s)
}

func appendBool(dst []byte, num protowire.Number, b bool) []byte {
	if !b {
		return dst
	}
	return appendNumber(dst, num, 1)
}

func appendInt(dst []byte, num protowire.Number, n int64) []byte {
	if n == 0 {
		return dst
	}
	return appendNumber(dst, num, protowire.EncodeZigZag(n))
}

// appendTime appends seconds and nanoseconds since 1970, so that a time outside
// of what nanoseconds alone can say keeps its meaning.
func appendTime(dst []byte, num protowire.Number, t time.Time) []byte {
	if t.IsZero() {
		return dst
	}
	var buf [24]byte
	m := appendInt(buf[:0], 1, t.Unix())
	m = appendInt(m, 2, int64(t.Nanosecond()))
	return protowire.AppendBytes(protowire.AppendTag(dst, num, protowire.BytesType), m)
}

// ParseQuery reads what AppendQuery wrote. The query shares no memory with m, and
// takes no more than a small multiple of it. It fails with ErrQuery on anything
// that it does not know, and on more than MaxSelectors selectors or MaxPositions
// positions.
func ParseQuery(m []byte) (Query, error) {
	var q Query
	for len(m) > 0 {
		num, v, rest, ok := consumeField(m)
		if !ok {
			return Query{}, ErrQuery
		}
		m = rest
		switch num {
		case querySelect:
			s, good := parseSelector(v)
			ok = good && len(q.Select) < MaxSelectors
			q.Select = append(q.Select, s)
		case queryRings, queryStreams:
			id, next, good := parsePosition(v)
			ok = good && len(q.Cursor.Rings)+len(q.Cursor.Streams) < MaxPositions
			positions := &q.Cursor.Rings
			if num == queryStreams {
				positions = &q.Cursor.Streams
			}
			if *positions == nil {
				*positions = make(map[StreamID]uint64)
			}
			(*positions)[id] = next
		case queryLast:
			q.Last, ok = v.int()
		case querySince:
			q.Since, ok = v.time()
		case queryHistory:
			q.History, ok = v.bool()
		case queryUntil:
			q.Until, ok = v.time()
		case queryFirst:
			q.First, ok = v.int()
		case queryFollow:
			q.Follow, ok = v.bool()
		case queryShard:
			q.Shard, ok = v.text()
		case queryMember:
			q.Member, ok = v.text()
		case queryByTime:
			q.ByTime, ok = v.bool()
		case queryMaxBytes:
			q.MaxBytes, ok = v.int()
		case queryGather:
			var n int
			n, ok = v.int()
			q.Gather = time.Duration(n)
		default:
			ok = false
		}
		if !ok {
			return Query{}, ErrQuery
		}
	}
	return q, nil
}

func parseSelector(v value) (s Selector, ok bool) {
	if v.typ != bytesType {
		return s, false
	}
	for m := v.bytes; len(m) > 0; {
		num, v, rest, ok := consumeField(m)
		if !ok {
			return s, false
		}
		m = rest
		switch num {
		case selectSource:
			s.SourceID, ok = v.text()
		case selectApp:
			s.App, ok = v.text()
		case selectSpace:
			s.Space, ok = v.text()
		case selectOrg:
			s.Org, ok = v.text()
		case selectIDs:
			s.IDs, ok = v.bool()
		case selectKind:
			ok = v.typ == varintType && v.n <= math.MaxUint8 && len(s.Kinds) <= math.MaxUint8
			s.Kinds = append(s.Kinds, Kind(v.n))
		case selectStdout:
			s.Stdout, ok = v.bool()
		case selectStderr:
			s.Stderr, ok = v.bool()
		case selectInstance:
			s.Instance, ok = v.text()
		case selectSourceType:
			s.SourceType, ok = v.text()
		default:
			ok = false
		}
		if !ok {
			return s, false
		}
	}
	return s, true
}

// parsePosition reads one entry of a cursor.
func parsePosition(v value) (id StreamID, next uint64, ok bool) {
	if v.typ != bytesType {
		return 0, 0, false
	}
	for m := v.bytes; len(m) > 0; {
		num, v, rest, ok := consumeField(m)
		if !ok {
			return 0, 0, false
		}
		m = rest
		switch {
		case num == 1 && v.typ == fixed64Type:
			id = StreamID(v.n)
		case num == 2 && v.typ == varintType:
			next = v.n
		default:
			return 0, 0, false
		}
	}
	return id, next, id != 0
}

// consumeField takes the first field off a message.
func consumeField(m []byte) (num protowire.Number, v value, rest []byte, ok bool) {
	num, typ, n := consumeTag(m)
	if n < 0 {
		return 0, value{}, nil, false
	}
	v = value{typ: typ}
	var l int
	switch typ {
	case varintType:
		v.n, l = protowire.ConsumeVarint(m[n:])
	case fixed64Type:
		v.n, l = protowire.ConsumeFixed64(m[n:])
	case bytesType:
		v.bytes, l = protowire.ConsumeBytes(m[n:])
	default:
		return 0, value{}, nil, false
	}
	if l < 0 {
		return 0, value{}, nil, false
	}
	return num, v, m[n+l:], true
}

func (v value) text() (string, bool) { return string(v.bytes), v.typ == bytesType }

func (v value) bool() (bool, bool) { return v.n == 1, v.typ == varintType && v.n <= 1 }

func (v value) int() (int, bool) {
	n := protowire.DecodeZigZag(v.n)
	return int(n), v.typ == varintType && int64(int(n)) == n
}

func (v value) time() (t time.Time, ok bool) {
	if v.typ != bytesType {
		return t, false
	}
	var part [3]int64 // seconds, nanoseconds
	for m := v.bytes; len(m) > 0; {
		num, v, rest, ok := consumeField(m)
		if !ok || num != 1 && num != 2 || v.typ != varintType {
			return t, false
		}
		m, part[num] = rest, protowire.DecodeZigZag(v.n)
	}
	if part[2] < 0 || part[2] >= int64(time.Second) {
		return t, false
	}
	return time.Unix(part[1], part[2]), true
}
