package drain

import (
	"bytes"
	"slices"
	"strconv"
	"time"

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
	priLoss = "<172>1 "

	// maxGauge bounds what the messages of one gauge repeat: its tags are left
	// out of the messages after this many bytes, or a gauge of many metrics and
	// many tags would grow with their product.
	maxGauge = 256 << 10
	// keepBuffer is the largest scratch buffer kept from one record to the next.
	keepBuffer = 16 << 10
)

// Formatter writes envelopes as RFC 5424 messages in the octet counting of
// RFC 6587: what goes over a syslog connection. Its zero value is ready.
//
// Formatting cannot fail: what a field may not hold is cleaned or cut, so that a
// strict receiver takes every message, see the package comment.
//
// A Formatter remembers the header of the last record, because neighbours mostly
// come from the same source with the same tags: then it costs two comparisons
// instead of parsing, sorting and escaping the tags. It is not for use by
// several goroutines at once.
type Formatter struct {
	// OmitTags leaves out the tags@47450 element.
	OmitTags bool

	// logplex makes the messages of Heroku's HTTPS drains: host, app and dyno,
	// and no structured data, not even a dash.
	logplex bool
	dyno    []byte // APP-NAME and PROCID without the instance

	second int64 // of clock
	clock  []byte

	cached       bool
	source, tags []byte // what the following was made of
	head         []byte // " HOSTNAME APP-NAME [", for logs and measurements alike
	sourceType   []byte // cleaned and in upper case
	element      []byte // [tags@47450 …]

	list []envelope.Tag
}

// AppendFrames appends e as messages, each preceded by its length in bytes and
// a space: one message, but one per metric for a gauge, sorted by name. Nothing
// is appended for an envelope that carries none of the five kinds or is not
// protobuf. It does not allocate if dst is large enough and e is a log whose tag
// names are legal.
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
	f.prepare(e, r)
	switch r.Kind {
	case envelope.KindLog:
		return f.appendLog(dst, r)
	case envelope.KindGauge:
		return f.appendGauge(dst, e, r)
	}
	dst, start := f.open(dst, r)
	switch r.Kind {
	case envelope.KindCounter:
		name, delta, total := e.Counter()
		dst = appendValue(append(dst, `[counter@47450 name="`...), name)
		dst = strconv.AppendUint(append(dst, `" total="`...), total, 10)
		dst = strconv.AppendUint(append(dst, `" delta="`...), delta, 10)
	case envelope.KindTimer:
		name, from, to := e.Timer()
		dst = appendValue(append(dst, `[timer@47450 name="`...), name)
		dst = strconv.AppendInt(append(dst, `" start="`...), from, 10)
		dst = strconv.AppendInt(append(dst, `" stop="`...), to, 10)
	case envelope.KindEvent:
		title, body := e.Event()
		dst = appendValue(append(dst, `[event@47450 title="`...), title)
		dst = appendValue(append(dst, `" body="`...), body)
	}
	dst = append(dst, `"]`...)
	dst = append(dst, f.element...)
	return closeFrame(append(dst, " \n"...), start)
}

func (f *Formatter) appendLog(dst []byte, r *envelope.Route) []byte {
	dst, start := f.open(dst, r)
	switch {
	case f.logplex:
	case len(f.element) > 0:
		dst = append(append(dst, f.element...), ' ')
	default:
		dst = append(dst, "- "...)
	}
	payload := r.Payload
	for i := bytes.IndexByte(payload, 0); i >= 0; i = bytes.IndexByte(payload, 0) {
		dst = append(dst, payload[:i]...)
		payload = payload[i+1:]
	}
	dst = append(dst, payload...)
	if dst[len(dst)-1] != '\n' { // the header ends in a space
		dst = append(dst, '\n')
	}
	return closeFrame(dst, start)
}

func (f *Formatter) appendGauge(dst []byte, e envelope.Envelope, r *envelope.Route) []byte {
	var buf [8]envelope.Metric
	metrics := e.Gauge(buf[:0])
	slices.SortFunc(metrics, func(a, b envelope.Metric) int { return bytes.Compare(a.Name, b.Name) })
	before := len(dst)
	for _, m := range metrics {
		var start int
		dst, start = f.open(dst, r)
		dst = appendValue(append(dst, `[gauge@47450 name="`...), m.Name)
		dst = strconv.AppendFloat(append(dst, `" value="`...), m.Value, 'g', -1, 64)
		dst = appendValue(append(dst, `" unit="`...), m.Unit)
		dst = append(dst, `"]`...)
		if len(dst)-before < maxGauge {
			dst = append(dst, f.element...)
		}
		dst = closeFrame(append(dst, " \n"...), start)
	}
	return dst
}

// appendLoss appends the message that stands for n lost records: Heroku's L10,
// which receivers know. It takes the host name of the record r that follows the
// gap, if there is one. unknown means that how many were lost cannot be known.
func (f *Formatter) appendLoss(dst []byte, e envelope.Envelope, r *envelope.Route, n uint64, unknown bool, since, now time.Time) []byte {
	host := []byte("-")
	stamp := now.UnixNano()
	if r != nil {
		f.prepare(e, r)
		host = f.head[1 : 1+bytes.IndexByte(f.head[1:], ' ')]
		stamp = r.Timestamp
	}
	dst, start := openFrame(dst)
	dst = f.appendTime(append(dst, priLoss...), stamp)
	if f.logplex {
		dst = append(dst, " host heroku logplex - "...)
	} else {
		dst = append(append(dst, ' '), host...)
		dst = append(dst, " heroku logplex - - "...)
	}
	dst = append(dst, "Error L10 (output buffer overflow): "...)
	if unknown {
		dst = append(dst, "an unknown number of"...)
		if n > 0 {
			dst = strconv.AppendUint(append(dst, " messages and "...), n, 10)
		}
	} else {
		dst = strconv.AppendUint(dst, n, 10)
	}
	dst = append(dst, " messages dropped since "...)
	dst = since.UTC().AppendFormat(dst, "2006-01-02T15:04:05+00:00")
	return closeFrame(append(dst, ".\n"...), start)
}

// open begins a frame and its message, up to the structured data.
func (f *Formatter) open(dst []byte, r *envelope.Route) ([]byte, int) {
	dst, start := openFrame(dst)
	pri := priInfo
	if r.Kind == envelope.KindLog && r.LogType == envelope.Err {
		pri = priErr
	}
	dst = f.appendTime(append(dst, pri...), r.Timestamp)
	if f.logplex {
		dst = append(append(dst, " host "...), f.dyno...)
		if len(r.InstanceID) > 0 {
			dst = appendPrintable(append(dst, '.'), r.InstanceID, maxProcID/2)
		}
		return append(dst, " - "...), start
	}
	dst = append(dst, f.head...)
	room := maxProcID - 2
	if r.Kind == envelope.KindLog {
		dst = append(dst, f.sourceType...)
		room -= len(f.sourceType)
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

// prepare makes the parts of the header that come from source id and tags.
func (f *Formatter) prepare(e envelope.Envelope, r *envelope.Route) {
	if f.cached && !r.Scattered && string(f.source) == string(r.SourceID) && string(f.tags) == string(r.Tags) {
		return
	}
	f.source, f.tags, f.element = reuse(f.source), reuse(f.tags), reuse(f.element)
	if cap(f.list) > 1024 {
		f.list = nil
	}
	f.list = e.AppendTags(f.list[:0])
	var org, space, app, sourceType []byte
	var named bool
	for _, t := range f.list {
		switch string(t.Key) {
		case envelope.TagOrgName:
			org, named = t.Value, true
		case envelope.TagSpaceName:
			space, named = t.Value, true
		case envelope.TagAppName:
			app, named = t.Value, true
		case envelope.TagSourceType:
			sourceType = t.Value
		}
	}

	f.head = append(f.head[:0], ' ')
	if named {
		f.head = append(appendLabel(f.head, org), '.')
		f.head = append(appendLabel(f.head, space), '.')
		f.head = appendLabel(f.head, app)
	} else {
		f.head = append(f.head, '-')
	}
	f.head = append(f.head, ' ')
	n := len(f.head)
	if f.head = appendPrintable(f.head, r.SourceID, maxAppName); len(f.head) == n {
		f.head = append(f.head, '-')
	}
	f.head = append(f.head, " ["...)
	f.sourceType = appendSourceType(f.sourceType[:0], sourceType)

	if f.logplex {
		f.dyno = appendDyno(f.dyno[:0], f.sourceType)
	} else if len(f.list) > 0 && !f.OmitTags {
		f.element = appendTags(append(f.element, "[tags@47450"...), f.list)
		f.element = append(f.element, ']')
	}
	clear(f.list) // they alias the record

	f.cached = !r.Scattered && len(f.element) <= keepBuffer
	if f.cached {
		f.source = append(f.source, r.SourceID...)
		f.tags = append(f.tags, r.Tags...)
	}
}

// reuse empties b, but gives up a large buffer, so that one odd record does not
// cost memory forever.
func reuse(b []byte) []byte {
	if cap(b) > 2*keepBuffer {
		return nil
	}
	return b[:0]
}

// reserved is room for the length of a message of up to 999 bytes and a space.
// A longer one is moved: that costs less than working the length out first.
const reserved = 4

func openFrame(dst []byte) ([]byte, int) {
	dst = append(dst, "    "...)
	return dst, len(dst)
}

// closeFrame writes the length of the message dst[start:] in front of it.
func closeFrame(dst []byte, start int) []byte {
	n := len(dst) - start
	var buf [20]byte
	prefix := append(strconv.AppendInt(buf[:0], int64(n), 10), ' ')
	if len(prefix) != reserved {
		if len(prefix) > reserved {
			dst = append(dst, buf[:len(prefix)-reserved]...)
		}
		copy(dst[start-reserved+len(prefix):], dst[start:start+n])
		dst = dst[:start-reserved+len(prefix)+n]
	}
	copy(dst[start-reserved:], prefix)
	return dst
}
