package envelope

import (
	"encoding/base64"
	"strconv"
)

// ProtoJSON writes envelopes as protobuf's JSON mapping has them, with the field
// names of Loggregator's v2 API and with fields that are not set: as the RLP
// gateway and Log Cache do. It is for one goroutine. Its zero value is ready.
type ProtoJSON struct {
	// Preferred puts deprecated tags among the tags, as AppendAllTags does.
	Preferred bool

	// What the last log said beside its time, text and stream, and how that is
	// written: most logs say the same as the one before them.
	fixed Fixed
	head  []byte
}

// Append appends e, which has passed Check, as one object on one line:
//
//	{"timestamp":"1378000000000000000","source_id":"app","instance_id":"0","deprecated_tags":{},
//	 "tags":{"source_type":"APP"},"log":{"payload":"aGVsbG8=","type":"OUT"}}
//
// It allocates where dst is too small, or text needs escaping.
func (j *ProtoJSON) Append(dst []byte, e Envelope) []byte {
	if at, t, text, ok := j.fixed.Log(e); ok {
		dst = strconv.AppendInt(append(dst, `{"timestamp":"`...), at, 10)
		dst = append(dst, j.head...)
		return append(appendProtoLog(dst, t, text), '}')
	}
	var r Route
	if !skim(e, &r, nil, false) {
		return append(dst, `{}`...)
	}
	dst = strconv.AppendInt(append(dst, `{"timestamp":"`...), r.Timestamp, 10)
	start := len(dst)
	dst = appendJSONString(append(dst, `","source_id":`...), r.SourceID)
	dst = appendJSONString(append(dst, `,"instance_id":`...), r.InstanceID)
	dst = append(dst, `,"deprecated_tags":{`...)
	var buf [16]Tag
	tags := buf[:0]
	if j.Preferred {
		tags = e.AppendAllTags(tags, nil)
	} else {
		tags = e.AppendTags(tags)
		dst = e.appendProtoDeprecated(dst)
	}
	dst = append(dst, `},"tags":{`...)
	for i, t := range tags {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendJSONString(dst, t.Key), ':')
		dst = appendJSONString(dst, t.Value)
	}
	dst = append(dst, '}')
	if fixed := FixedOf(e, &r); len(fixed) > 0 && len(dst)-start <= maxHead {
		j.fixed, j.head = append(j.fixed[:0], fixed...), append(j.head[:0], dst[start:]...)
	}
	return append(e.appendProtoMessage(dst, &r), '}')
}

// maxHead bounds what a ProtoJSON keeps from one envelope to the next, in bytes.
const maxHead = 16 << 10

func (e Envelope) appendProtoDeprecated(dst []byte) []byte {
	var buf [8]DeprecatedTag
	for i, t := range e.AppendDeprecatedTags(buf[:0]) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(appendJSONString(dst, t.Key), ":{"...)
		switch t.Value.Type {
		case ValueText:
			dst = appendJSONString(append(dst, `"text":`...), t.Value.Text)
		case ValueInteger:
			dst = strconv.AppendInt(append(dst, `"integer":"`...), t.Value.Integer, 10)
			dst = append(dst, '"')
		case ValueDecimal:
			dst = appendJSONFloat(append(dst, `"decimal":`...), t.Value.Decimal)
		}
		dst = append(dst, '}')
	}
	return dst
}

// appendProtoMessage appends the member of the envelope that is its message; none
// if it has none.
func (e Envelope) appendProtoMessage(dst []byte, r *Route) []byte {
	switch r.Kind {
	case KindLog:
		return appendProtoLog(dst, r.LogType, r.Payload)
	case KindCounter:
		name, delta, total := e.Counter()
		dst = appendJSONString(append(dst, `,"counter":{"name":`...), name)
		dst = strconv.AppendUint(append(dst, `,"delta":"`...), delta, 10)
		dst = strconv.AppendUint(append(dst, `","total":"`...), total, 10)
		return append(dst, `"}`...)
	case KindGauge:
		dst = append(dst, `,"gauge":{"metrics":{`...)
		var buf [8]Metric
		for i, m := range e.Gauge(buf[:0]) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(dst, m.Name)
			dst = appendJSONString(append(dst, `:{"unit":`...), m.Unit)
			dst = append(appendJSONFloat(append(dst, `,"value":`...), m.Value), '}')
		}
		return append(dst, `}}`...)
	case KindTimer:
		name, start, stop := e.Timer()
		dst = appendJSONString(append(dst, `,"timer":{"name":`...), name)
		dst = strconv.AppendInt(append(dst, `,"start":"`...), start, 10)
		dst = strconv.AppendInt(append(dst, `","stop":"`...), stop, 10)
		return append(dst, `"}`...)
	case KindEvent:
		title, body := e.Event()
		dst = appendJSONString(append(dst, `,"event":{"title":`...), title)
		dst = appendJSONString(append(dst, `,"body":`...), body)
		return append(dst, '}')
	}
	return dst
}

func appendProtoLog(dst []byte, t LogType, text []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(append(dst, `,"log":{"payload":"`...), text)
	dst = append(dst, `","type":`...)
	switch t {
	case Out:
		return append(dst, `"OUT"}`...)
	case Err:
		return append(dst, `"ERR"}`...)
	}
	return append(strconv.AppendInt(dst, int64(t), 10), '}')
}
