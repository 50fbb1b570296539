package dropsonde

import (
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// event is a v1 envelope. The byte slices alias what was decoded. Each part has
// seen: bit n is set if field n was there.
type event struct {
	seen                           uint32
	origin                         []byte
	kind                           int32
	timestamp                      int64
	deployment, job, index, ipAddr []byte
	tags                           []tag

	log       logMessage
	http      httpStartStop
	value     valueMetric
	counter   counterEvent
	err       errorEvent
	container containerMetric
}

type tag struct{ key, value []byte }

type logMessage struct {
	seen                        uint32
	message                     []byte
	kind                        int32
	timestamp                   int64
	appID, sourceType, instance []byte
}

type httpStartStop struct {
	seen                          uint32
	start, stop                   int64
	request, app                  uuid
	peer, method                  int32
	uri, remoteAddress, userAgent []byte
	status                        int32
	length                        int64
	instanceIndex                 int32
	instanceID                    []byte
	forwarded                     [][]byte
}

type valueMetric struct {
	seen       uint32
	name, unit []byte
	value      float64
}

type counterEvent struct {
	seen         uint32
	name         []byte
	delta, total uint64
}

type errorEvent struct {
	seen            uint32
	source, message []byte
	code            int32
}

type containerMetric struct {
	seen                                 uint32
	appID                                []byte
	instance                             int32
	cpu                                  float64
	memory, disk, memoryQuota, diskQuota uint64
}

type uuid struct {
	seen      uint32
	low, high uint64
}

// has reports whether all of these fields were seen.
func has(seen uint32, fields ...int) bool {
	for _, n := range fields {
		if seen&(1<<n) == 0 {
			return false
		}
	}
	return true
}

// field is one field of a message: a number, or bytes.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	n     uint64
	bytes []byte
}

// is reports whether the field has this number and type. One of another type is
// an unknown field, as to every protobuf decoder.
func (f *field) is(num protowire.Number, typ protowire.Type) bool {
	return f.num == num && f.typ == typ
}

const (
	number = protowire.VarintType
	double = protowire.Fixed64Type
	text   = protowire.BytesType
)

// next takes the first field off a message; n is negative if it does not parse.
func (f *field) next(b []byte) (n int) {
	var tag int
	if f.num, f.typ, tag = protowire.ConsumeTag(b); tag < 0 || f.num > protowire.MaxValidNumber {
		return -1
	}
	switch f.typ {
	case number:
		f.n, n = protowire.ConsumeVarint(b[tag:])
	case double:
		f.n, n = protowire.ConsumeFixed64(b[tag:])
	case text:
		f.bytes, n = protowire.ConsumeBytes(b[tag:])
	default:
		n = protowire.ConsumeFieldValue(f.num, f.typ, b[tag:])
	}
	if n < 0 {
		return n
	}
	return tag + n
}

// decode reads a v1 envelope and reports whether it is one, which is so where a
// decoder of proto2 takes it: a required field that is missing, in whichever
// message, spoils all. Of a field given twice the last one counts; messages
// merge.
func (e *event) decode(b []byte) bool {
	tags, forwarded := e.tags, e.http.forwarded
	*e = event{tags: tags[:0]}
	e.http.forwarded = forwarded[:0]
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		ok := true
		switch {
		case f.is(1, text):
			e.origin = f.bytes
		case f.is(2, number):
			e.kind = int32(f.n)
		case f.is(6, number):
			e.timestamp = int64(f.n)
		case f.is(7, text):
			ok = e.http.decode(f.bytes)
		case f.is(8, text):
			ok = e.log.decode(f.bytes)
		case f.is(9, text):
			ok = e.value.decode(f.bytes)
		case f.is(10, text):
			ok = e.counter.decode(f.bytes)
		case f.is(11, text):
			ok = e.err.decode(f.bytes)
		case f.is(12, text):
			ok = e.container.decode(f.bytes)
		case f.is(13, text):
			e.deployment = f.bytes
		case f.is(14, text):
			e.job = f.bytes
		case f.is(15, text):
			e.index = f.bytes
		case f.is(16, text):
			e.ipAddr = f.bytes
		case f.is(17, text):
			var t tag
			t, ok = decodeTag(f.bytes)
			e.tags = append(e.tags, t)
		default:
			continue
		}
		if !ok {
			return false
		}
		e.seen |= 1 << f.num
	}
	return has(e.seen, 1, 2) && e.whole()
}

// whole reports whether each message that is there has what it must have.
func (e *event) whole() bool {
	there := func(n int) bool { return e.seen&(1<<n) != 0 }
	h := &e.http
	return (!there(7) || has(h.seen, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10) && has(h.request.seen, 1, 2) && (h.seen&(1<<12) == 0 || has(h.app.seen, 1, 2))) &&
		(!there(8) || has(e.log.seen, 1, 2, 3)) &&
		(!there(9) || has(e.value.seen, 1, 2, 3)) &&
		(!there(10) || has(e.counter.seen, 1, 2)) &&
		(!there(11) || has(e.err.seen, 1, 2, 3)) &&
		(!there(12) || has(e.container.seen, 1, 2, 3, 4, 5))
}

func decodeTag(b []byte) (t tag, ok bool) {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return t, false
		}
		b = b[n:]
		switch {
		case f.is(1, text):
			t.key = f.bytes
		case f.is(2, text):
			t.value = f.bytes
		}
	}
	return t, true
}

func (m *logMessage) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(1, text):
			m.message = f.bytes
		case f.is(2, number):
			m.kind = int32(f.n)
		case f.is(3, number):
			m.timestamp = int64(f.n)
		case f.is(4, text):
			m.appID = f.bytes
		case f.is(5, text):
			m.sourceType = f.bytes
		case f.is(6, text):
			m.instance = f.bytes
		default:
			continue
		}
		m.seen |= 1 << f.num
	}
	return true
}

func (m *httpStartStop) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		ok := true
		switch {
		case f.is(1, number):
			m.start = int64(f.n)
		case f.is(2, number):
			m.stop = int64(f.n)
		case f.is(3, text):
			ok = m.request.decode(f.bytes)
		case f.is(4, number):
			m.peer = int32(f.n)
		case f.is(5, number):
			m.method = int32(f.n)
		case f.is(6, text):
			m.uri = f.bytes
		case f.is(7, text):
			m.remoteAddress = f.bytes
		case f.is(8, text):
			m.userAgent = f.bytes
		case f.is(9, number):
			m.status = int32(f.n)
		case f.is(10, number):
			m.length = int64(f.n)
		case f.is(12, text):
			ok = m.app.decode(f.bytes)
		case f.is(13, number):
			m.instanceIndex = int32(f.n)
		case f.is(14, text):
			m.instanceID = f.bytes
		case f.is(15, text):
			m.forwarded = append(m.forwarded, f.bytes)
		default:
			continue
		}
		if !ok {
			return false
		}
		m.seen |= 1 << f.num
	}
	return true
}

func (m *valueMetric) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(1, text):
			m.name = f.bytes
		case f.is(2, double):
			m.value = math.Float64frombits(f.n)
		case f.is(3, text):
			m.unit = f.bytes
		default:
			continue
		}
		m.seen |= 1 << f.num
	}
	return true
}

func (m *counterEvent) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(1, text):
			m.name = f.bytes
		case f.is(2, number):
			m.delta = f.n
		case f.is(3, number):
			m.total = f.n
		default:
			continue
		}
		m.seen |= 1 << f.num
	}
	return true
}

func (m *errorEvent) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(1, text):
			m.source = f.bytes
		case f.is(2, number):
			m.code = int32(f.n)
		case f.is(3, text):
			m.message = f.bytes
		default:
			continue
		}
		m.seen |= 1 << f.num
	}
	return true
}

func (m *containerMetric) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(1, text):
			m.appID = f.bytes
		case f.is(2, number):
			m.instance = int32(f.n)
		case f.is(3, double):
			m.cpu = math.Float64frombits(f.n)
		case f.is(4, number):
			m.memory = f.n
		case f.is(5, number):
			m.disk = f.n
		case f.is(6, number):
			m.memoryQuota = f.n
		case f.is(7, number):
			m.diskQuota = f.n
		default:
			continue
		}
		m.seen |= 1 << f.num
	}
	return true
}

func (m *uuid) decode(b []byte) bool {
	var f field
	for len(b) > 0 {
		n := f.next(b)
		if n < 0 {
			return false
		}
		b = b[n:]
		switch {
		case f.is(1, number):
			m.low = f.n
		case f.is(2, number):
			m.high = f.n
		default:
			continue
		}
		m.seen |= 1 << f.num
	}
	return true
}
