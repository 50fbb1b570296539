package drain

import (
	"bytes"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Limits of RFC 5424, section 6, in bytes.
const (
	maxHostname = 255
	maxAppName  = 48
	maxProcID   = 128
	maxName     = 32 // PARAM-NAME
)

const (
	priInfo = "<14>1 " // user.info, version 1
	priErr  = "<11>1 " // user.err

	// maxGauge bounds what the messages of one gauge repeat: its tags are left
	// out of the messages after this many bytes, or a gauge of many metrics and
	// many tags would grow with their product.
	maxGauge = 256 << 10
)

// Formatter writes envelopes as RFC 5424 messages in the octet counting of
// RFC 6587: what goes over a syslog connection. Its zero value is ready.
//
// Formatting cannot fail: what a field may not hold is cleaned or cut, so that a
// strict receiver takes every message, see the package comment.
//
// A Formatter remembers the headers of the sources it has seen last, at most
// about 64 KiB of them, because to make one the tags are parsed, sorted and
// escaped. It is not for use by several goroutines at once.
type Formatter struct {
	// OmitTags leaves out the tags@47450 element.
	OmitTags bool

	// MaxSize bounds a message, in bytes: a longer line is sent in parts, see the
	// package comment. Zero means no limit; less than MinMessage counts as that.
	MaxSize int

	layout layout
	token  string // HOSTNAME of Heroku's syslog drains
	strict bool   // MSG is made UTF-8
	lines  bool   // each message ends by its LF, and no length precedes it

	stream, number uint64 // of the record, if it is to be told; 0: not

	second int64 // of clock
	clock  []byte

	last    *header
	odd     *header // of a record whose header is not kept
	headers *headers

	list  []envelope.Tag
	text  []byte // a payload, rewritten
	short uint64 // messages that could not say all
}

// AppendFrames appends e as messages, each preceded by its length in bytes and
// a space: one message, but one per metric for a gauge, sorted by name, and one
// for each part of a line longer than MaxSize. Nothing is appended for an
// envelope that carries none of the five kinds or is not protobuf. It does not
// allocate if dst is large enough and e is a log whose tag names are legal.
func (f *Formatter) AppendFrames(dst []byte, e envelope.Envelope) []byte {
	r, err := e.Route()
	if err != nil {
		return dst
	}
	return f.append(dst, e, &r)
}

func (f *Formatter) append(dst []byte, e envelope.Envelope, r *envelope.Route) []byte {
	if r.Kind == envelope.KindNone {
		return dst
	}
	h := f.prepare(e, r)
	switch r.Kind {
	case envelope.KindLog:
		return f.appendLog(dst, r, h)
	case envelope.KindGauge:
		return f.appendGauge(dst, e, r, h)
	}
	from, start := len(dst), 0
	for limit := noLimit; ; limit = f.valueLimit() {
		dst, start = f.open(dst[:from], r, h)
		switch r.Kind {
		case envelope.KindCounter:
			name, delta, total := e.Counter()
			dst = appendValue(append(dst, `[counter@47450 name="`...), name, limit)
			dst = strconv.AppendUint(append(dst, `" total="`...), total, 10)
			dst = strconv.AppendUint(append(dst, `" delta="`...), delta, 10)
		case envelope.KindTimer:
			name, began, ended := e.Timer()
			dst = appendValue(append(dst, `[timer@47450 name="`...), name, limit)
			dst = strconv.AppendInt(append(dst, `" start="`...), began, 10)
			dst = strconv.AppendInt(append(dst, `" stop="`...), ended, 10)
		case envelope.KindEvent:
			title, body := e.Event()
			dst = appendValue(append(dst, `[event@47450 title="`...), title, limit)
			dst = appendValue(append(dst, `" body="`...), body, limit)
		}
		var whole bool
		if dst, whole = f.closeMeasurement(dst, start, h, limit, true); whole {
			return dst
		}
	}
}

func (f *Formatter) appendGauge(dst []byte, e envelope.Envelope, r *envelope.Route, h *header) []byte {
	var buf [8]envelope.Metric
	metrics := e.Gauge(buf[:0])
	slices.SortFunc(metrics, func(a, b envelope.Metric) int { return bytes.Compare(a.Name, b.Name) })
	before := len(dst)
	for _, m := range metrics {
		from, start := len(dst), 0
		for limit, whole := noLimit, false; !whole; limit = f.valueLimit() {
			dst, start = f.open(dst[:from], r, h)
			dst = appendValue(append(dst, `[gauge@47450 name="`...), m.Name, limit)
			dst = strconv.AppendFloat(append(dst, `" value="`...), m.Value, 'g', -1, 64)
			dst = appendValue(append(dst, `" unit="`...), m.Unit, limit)
			dst, whole = f.closeMeasurement(dst, start, h, limit, len(dst)-before < maxGauge)
		}
	}
	return dst
}

// closeMeasurement ends a message that has no MSG. It is not whole if it is too
// long and was written without a limit for its values.
func (f *Formatter) closeMeasurement(dst []byte, start int, h *header, limit int, tags bool) ([]byte, bool) {
	dst = f.appendNumber(append(dst, `"]`...))
	switch {
	case limit != noLimit:
		f.short++
		dst = f.appendFew(dst, h)
	case tags:
		dst = append(dst, h.element...)
	}
	dst = append(dst, " \n"...)
	if f.MaxSize > 0 && limit == noLimit && len(dst)-start > max(f.MaxSize, MinMessage) {
		return dst, false
	}
	return f.closeFrame(dst, start), true
}

func (f *Formatter) appendLog(dst []byte, r *envelope.Route, h *header) []byte {
	text := r.Payload
	if bytes.IndexByte(text, 0) >= 0 || f.strict && !utf8.Valid(text) {
		text = f.clean(text)
	}
	from := len(dst)
	dst, start := f.open(dst, r, h)
	switch {
	case f.layout == heroku:
	case len(h.element) > 0 || f.stream != 0:
		dst = append(append(f.appendNumber(dst), h.element...), ' ')
	default:
		dst = append(dst, "- "...)
	}
	if n := len(dst) - start + len(text) + 1; f.MaxSize > 0 && n > f.MaxSize || f.layout != cloudFoundry && len(text) > herokuLine {
		return f.appendParts(dst[:from], r, h, text)
	}
	dst = append(dst, text...)
	if dst[len(dst)-1] != '\n' { // the header ends in a space
		dst = append(dst, '\n')
	}
	return f.closeFrame(dst, start)
}

// clean is text without NUL bytes and, if strict, as UTF-8.
func (f *Formatter) clean(text []byte) []byte {
	f.text = reuse(f.text)
	for len(text) > 0 {
		if c := text[0]; c < utf8.RuneSelf || !f.strict {
			if c != 0 {
				f.text = append(f.text, c)
			}
			text = text[1:]
			continue
		}
		r, n := utf8.DecodeRune(text)
		f.text = utf8.AppendRune(f.text, r)
		text = text[n:]
	}
	return f.text
}

// open begins a frame and its message, up to the structured data.
func (f *Formatter) open(dst []byte, r *envelope.Route, h *header) ([]byte, int) {
	dst, start := openFrame(dst)
	failed := r.Kind == envelope.KindLog && r.LogType == envelope.Err
	if f.layout != cloudFoundry {
		return f.openHeroku(dst, r, h, failed), start
	}
	pri := priInfo
	if failed {
		pri = priErr
	}
	dst = f.appendTime(append(dst, pri...), r.Timestamp)
	dst = append(dst, h.head...)
	room := maxProcID - 2
	if r.Kind == envelope.KindLog {
		dst = append(dst, h.sourceType...)
		room -= len(h.sourceType)
		if len(r.InstanceID) > 0 && room > 0 {
			dst = append(dst, '/')
			room--
		}
	}
	if len(r.InstanceID) > 0 {
		dst = appendPrintable(dst, r.InstanceID, room)
	}
	return append(dst, "] - "...), start
}

func (f *Formatter) openHeroku(dst []byte, r *envelope.Route, h *header, failed bool) []byte {
	pri := h.out
	if failed {
		pri = h.err
	}
	dst = append(f.appendTime(append(dst, pri...), r.Timestamp), ' ')
	dst = append(append(append(dst, f.token...), ' '), h.dyno...)
	if h.instance && len(r.InstanceID) > 0 {
		dst = appendPrintable(append(dst, '.'), r.InstanceID, maxProcID/2)
	}
	return append(dst, " - "...)
}

// appendTime appends the time cut to microseconds, without trailing zeros. The
// text of the second is kept, as neighbours mostly share it.
func (f *Formatter) appendTime(dst []byte, ns int64) []byte {
	second, rest := ns/1e9, ns%1e9
	if rest < 0 {
		second, rest = second-1, rest+1e9
	}
	if second != f.second || len(f.clock) == 0 {
		f.second = second
		f.clock = time.Unix(second, 0).UTC().AppendFormat(f.clock[:0], "2006-01-02T15:04:05")
	}
	dst = append(dst, f.clock...)
	if us := rest / 1000; us > 0 {
		digits := [7]byte{'.'}
		for i := 6; i > 0; i-- {
			digits[i] = byte('0' + us%10)
			us /= 10
		}
		n := 7
		for digits[n-1] == '0' {
			n--
		}
		dst = append(dst, digits[:n]...)
	}
	return append(dst, "+00:00"...)
}

// release gives up what is kept for the next record.
func (f *Formatter) release() {
	f.last, f.headers, f.odd, f.list, f.text, f.clock = nil, nil, nil, nil, nil, nil
}
