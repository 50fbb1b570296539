package envelope

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"time"
	"unicode/utf8"
)

// TextTime is how lines that a person reads give the time, two decimals and the
// zone's offset, as the cf client prints it.
const TextTime = "2006-01-02T15:04:05.00-0700"

// AppendText appends the envelope as a person reads it:
//
//	2013-04-05T13:14:58.12-0700 [APP/PROC/WEB/0] OUT Started GET "/"
//
// time, source type and instance, stream, text; with the application's name and
// a space in front if withApp. A text of several lines becomes several such
// lines. Times are given in loc. What is not a log is shown as one line with
// its kind, name and numbers.
func (e Envelope) AppendText(dst []byte, loc *time.Location, withApp bool) []byte {
	var r Route
	if !skim(e, &r, nil, false) {
		return append(dst, "(malformed record)\n"...)
	}
	start := len(dst)
	if withApp {
		app, _ := e.Tag(TagAppName)
		if len(app) == 0 {
			app = r.SourceID
		}
		dst = append(dst, app...)
		dst = append(dst, ' ')
	}
	dst = r.Time().In(loc).AppendFormat(dst, TextTime)
	dst = append(dst, " ["...)
	sourceType, _ := e.Tag(TagSourceType)
	dst = append(dst, sourceType...)
	if len(r.InstanceID) > 0 {
		if len(sourceType) > 0 {
			dst = append(dst, '/')
		}
		dst = append(dst, r.InstanceID...)
	}
	dst = append(dst, "] "...)
	if r.Kind != KindLog {
		return append(e.appendMeasurement(dst, r.Kind), '\n')
	}
	dst = append(dst, r.LogType.String()...)
	dst = append(dst, ' ')
	head := dst[start:len(dst):len(dst)]

	text := bytes.TrimRight(r.Payload, "\r\n")
	for first := true; ; first = false {
		line, rest, more := bytes.Cut(text, []byte{'\n'})
		if !first {
			dst = append(dst, head...)
		}
		dst = append(dst, bytes.TrimSuffix(line, []byte{'\r'})...)
		dst = append(dst, '\n')
		if !more {
			return dst
		}
		text = rest
	}
}

func (e Envelope) appendMeasurement(dst []byte, k Kind) []byte {
	switch k {
	case KindCounter:
		name, delta, total := e.Counter()
		dst = append(append(dst, "COUNTER "...), name...)
		dst = strconv.AppendUint(append(dst, " delta="...), delta, 10)
		return strconv.AppendUint(append(dst, " total="...), total, 10)
	case KindGauge:
		dst = append(dst, "GAUGE"...)
		var buf [8]Metric
		for _, m := range e.Gauge(buf[:0]) {
			dst = append(append(append(dst, ' '), m.Name...), '=')
			dst = append(strconv.AppendFloat(dst, m.Value, 'g', -1, 64), m.Unit...)
		}
		return dst
	case KindTimer:
		name, start, stop := e.Timer()
		dst = append(append(append(dst, "TIMER "...), name...), ' ')
		return append(dst, time.Duration(stop-start).String()...)
	case KindEvent:
		title, body := e.Event()
		dst = append(append(append(dst, "EVENT "...), title...), ": "...)
		return append(dst, body...)
	}
	return append(dst, "(empty)"...)
}

// AppendJSON appends the envelope as one line of JSON for scripts:
//
//	{"timestamp":"2013-04-05T20:14:58.123456789Z","source_id":"…","instance_id":"0",
//	 "type":"log","stream":"OUT","text":"Started GET \"/\"","tags":{…}}
//
// Text that is not UTF-8 comes as "base64" in place of "text". A line that tells
// of missing lines has their number as "missed".
func (e Envelope) AppendJSON(dst []byte) []byte {
	var r Route
	if !skim(e, &r, nil, false) {
		return append(dst, `{"type":"malformed"}`+"\n"...)
	}
	dst = append(dst, `{"timestamp":"`...)
	dst = r.Time().UTC().AppendFormat(dst, time.RFC3339Nano)
	dst = appendJSONString(append(dst, `","source_id":`...), r.SourceID)
	dst = appendJSONString(append(dst, `,"instance_id":`...), r.InstanceID)
	dst = append(append(append(dst, `,"type":"`...), r.Kind.String()...), '"')
	switch r.Kind {
	case KindLog:
		dst = append(append(append(dst, `,"stream":"`...), r.LogType.String()...), '"')
		if utf8.Valid(r.Payload) {
			dst = appendJSONString(append(dst, `,"text":`...), r.Payload)
		} else {
			dst = base64.StdEncoding.AppendEncode(append(dst, `,"base64":"`...), r.Payload)
			dst = append(dst, '"')
		}
		if n, _, ok := e.Missed(); ok {
			dst = strconv.AppendUint(append(dst, `,"missed":`...), n, 10)
		}
	case KindCounter:
		name, delta, total := e.Counter()
		dst = appendJSONString(append(dst, `,"name":`...), name)
		dst = strconv.AppendUint(append(dst, `,"delta":`...), delta, 10)
		dst = strconv.AppendUint(append(dst, `,"total":`...), total, 10)
	case KindGauge:
		dst = append(dst, `,"metrics":{`...)
		var buf [8]Metric
		for i, m := range e.Gauge(buf[:0]) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSONString(dst, m.Name)
			dst = appendJSONFloat(append(dst, `:{"value":`...), m.Value)
			dst = append(appendJSONString(append(dst, `,"unit":`...), m.Unit), '}')
		}
		dst = append(dst, '}')
	case KindTimer:
		name, start, stop := e.Timer()
		dst = appendJSONString(append(dst, `,"name":`...), name)
		dst = strconv.AppendInt(append(dst, `,"start":`...), start, 10)
		dst = strconv.AppendInt(append(dst, `,"stop":`...), stop, 10)
	case KindEvent:
		title, body := e.Event()
		dst = appendJSONString(append(dst, `,"title":`...), title)
		dst = appendJSONString(append(dst, `,"body":`...), body)
	}
	dst = append(dst, `,"tags":{`...)
	var buf [16]Tag
	for i, t := range e.AppendTags(buf[:0]) {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = appendJSONString(dst, t.Key)
		dst = appendJSONString(append(dst, ':'), t.Value)
	}
	return append(dst, "}}\n"...)
}

// appendJSONString quotes b; the common case, in which nothing needs escaping, is
// a copy, everything else is encoding/json's.
func appendJSONString(dst, b []byte) []byte {
	for _, c := range b {
		if c < 0x20 || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			quoted, err := json.Marshal(string(b))
			if err != nil {
				return append(dst, `""`...)
			}
			return append(dst, quoted...)
		}
	}
	dst = append(dst, '"')
	dst = append(dst, b...)
	return append(dst, '"')
}

// appendJSONFloat writes what JSON has no number for as a string, as protobuf's
// JSON does.
func appendJSONFloat(dst []byte, f float64) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	return strconv.AppendFloat(dst, f, 'g', -1, 64)
}
