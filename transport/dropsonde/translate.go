package dropsonde

import (
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde"
)

// translator makes records of v1 envelopes. It is for one goroutine.
type translator struct {
	opts   *Options
	totals *totals

	fixed    envelope.Fixed
	buf      []byte
	uuid     [36]byte
	sourceID []byte
}

// check says why e cannot be translated.
func (t *translator) check(e *event) (reason, says string) {
	n, ok := sonde.EventFields[e.kind]
	switch {
	case !ok:
		return refusedUnknown, "envelope of event type " + strconv.Itoa(int(e.kind)) + ", which is none"
	case !has(e.seen, n):
		return refusedEmpty, "envelope of type " + sonde.EventNames[e.kind] + " without one"
	}
	return "", ""
}

// source is the source id of e's record, valid until the next call.
func (t *translator) source(e *event) string {
	var id []byte
	switch e.kind {
	case sonde.LogMessage:
		id = e.log.appID
	case sonde.ContainerMetric:
		id = e.container.appID
	case sonde.HTTPStartStop:
		if has(e.http.seen, 12) {
			id = e.http.app.text(&t.uuid)
		}
	}
	if len(id) == 0 {
		id, _ = e.tag(sonde.TagSourceID)
	}
	if len(id) == 0 {
		id = e.origin
	}
	id = id[:min(len(id), envelope.MaxSourceID)]
	valid := utf8.Valid(id)
	t.sourceID = t.sourceID[:0]
	for _, c := range id {
		if c < ' ' || c == 0x7f || c >= utf8.RuneSelf && !valid {
			c = '_'
		}
		t.sourceID = append(t.sourceID, c)
	}
	if len(t.sourceID) == 0 {
		return "dropsonde"
	}
	return view(t.sourceID)
}

// tag is the value of one of e's tags, the last one of that name.
func (e *event) tag(key string) (value []byte, ok bool) {
	for _, t := range e.tags {
		if string(t.key) == key {
			value, ok = t.value, true
		}
	}
	return value, ok
}

// append appends e, which has passed check, as one record. Where e does not say
// when it was, it was now.
func (t *translator) append(dst []byte, e *event, now int64) []byte {
	stamp := e.timestamp
	if !has(e.seen, 6) {
		if stamp = now; e.kind == sonde.LogMessage {
			stamp = e.log.timestamp
		}
	}
	f := t.fixed[:0].AppendSource(t.source(e), t.instance(e))
	for _, tag := range e.tags {
		switch {
		case string(tag.key) == sonde.TagSourceID:
		case string(tag.key) == sonde.TagInstanceID && e.kind == sonde.CounterEvent:
		default:
			f = f.AppendTag(view(tag.key), view(tag.value))
		}
	}
	f = f.AppendTag(sonde.TagOrigin, view(e.origin))
	f = f.AppendTag(sonde.TagDeployment, or(e.deployment, t.opts.Deployment))
	f = f.AppendTag(sonde.TagJob, or(e.job, t.opts.Job))
	f = f.AppendTag(sonde.TagIndex, or(e.index, t.opts.Index))
	f = f.AppendTag(sonde.TagIP, or(e.ipAddr, t.opts.IP))
	f = f.AppendTag(sonde.TagType, sonde.EventNames[e.kind])
	switch e.kind {
	case sonde.LogMessage:
		f = f.AppendTag(envelope.TagSourceType, view(e.log.sourceType))
		typ := envelope.Err
		if e.log.kind == 1 {
			typ = envelope.Out
		}
		dst = envelope.AppendLog(dst, f, stamp, typ, e.log.message)
	case sonde.Error:
		f = f.AppendTag(sonde.TagSource, view(e.err.source))
		f = f.AppendTag(sonde.TagCode, t.decimal(int64(e.err.code)))
		dst = envelope.AppendLog(dst, f, stamp, envelope.Out, e.err.message)
	case sonde.ValueMetric:
		dst = envelope.AppendGauge(dst, f, stamp, envelope.Metric{Name: e.value.name, Unit: e.value.unit, Value: e.value.value})
	case sonde.ContainerMetric:
		dst = appendContainer(dst, f, stamp, &e.container)
	case sonde.CounterEvent:
		dst = envelope.AppendCounter(dst, f, stamp, view(e.counter.name), e.counter.delta, t.totals.add(e))
	case sonde.HTTPStartStop:
		f = t.appendHTTP(f, &e.http)
		dst = envelope.AppendTimer(dst, f, stamp, "http", e.http.start, e.http.stop)
	}
	t.fixed = f
	if cap(t.fixed)+cap(t.buf) > 2*maxDatagram {
		t.fixed, t.buf = nil, nil
	}
	return dst
}

// instance is the instance id of e's record, valid until the next use of t.buf.
func (t *translator) instance(e *event) string {
	switch e.kind {
	case sonde.LogMessage:
		return view(e.log.instance)
	case sonde.ContainerMetric:
		return t.decimal(int64(e.container.instance))
	case sonde.HTTPStartStop:
		return t.decimal(int64(e.http.instanceIndex))
	case sonde.ValueMetric, sonde.CounterEvent:
		id, _ := e.tag(sonde.TagInstanceID)
		return view(id)
	}
	return ""
}

func appendContainer(dst []byte, f envelope.Fixed, stamp int64, m *containerMetric) []byte {
	return envelope.AppendGauge(dst, f, stamp,
		envelope.Metric{Name: nameCPU, Unit: unitPercentage, Value: m.cpu},
		envelope.Metric{Name: nameMemory, Unit: unitBytes, Value: float64(m.memory)},
		envelope.Metric{Name: nameDisk, Unit: unitBytes, Value: float64(m.disk)},
		envelope.Metric{Name: nameMemoryQuota, Unit: unitBytes, Value: float64(m.memoryQuota)},
		envelope.Metric{Name: nameDiskQuota, Unit: unitBytes, Value: float64(m.diskQuota)},
	)
}

var (
	nameCPU         = []byte(sonde.MetricCPU)
	nameMemory      = []byte(sonde.MetricMemory)
	nameDisk        = []byte(sonde.MetricDisk)
	nameMemoryQuota = []byte(sonde.MetricMemoryQuota)
	nameDiskQuota   = []byte(sonde.MetricDiskQuota)
	unitPercentage  = []byte(sonde.UnitPercentage)
	unitBytes       = []byte(sonde.UnitBytes)
)

func (t *translator) appendHTTP(f envelope.Fixed, m *httpStartStop) envelope.Fixed {
	f = f.AppendTag(sonde.TagRequestID, view(m.request.text(&t.uuid)))
	peer := t.decimal(int64(m.peer))
	if m.peer > 0 && int(m.peer) < len(sonde.PeerTypes) {
		peer = sonde.PeerTypes[m.peer]
	}
	f = f.AppendTag(sonde.TagPeerType, peer)
	if m.method > 0 && int(m.method) < len(sonde.Methods) {
		f = f.AppendTag(sonde.TagMethod, sonde.Methods[m.method])
	} else {
		f = f.AppendTag(sonde.TagMethod, t.decimal(int64(m.method)))
	}
	f = f.AppendTag(sonde.TagURI, view(m.uri))
	f = f.AppendTag(sonde.TagRemoteAddress, view(m.remoteAddress))
	f = f.AppendTag(sonde.TagUserAgent, view(m.userAgent))
	f = f.AppendTag(sonde.TagStatusCode, t.decimal(int64(m.status)))
	f = f.AppendTag(sonde.TagContentLength, t.decimal(m.length))
	f = f.AppendTag(sonde.TagRouterID, view(m.instanceID))
	t.buf = t.buf[:0]
	for i, s := range m.forwarded {
		if i > 0 {
			t.buf = append(t.buf, '\n')
		}
		t.buf = append(t.buf, s...)
	}
	return f.AppendTag(sonde.TagForwarded, view(t.buf))
}

// text is the UUID as text: eight bytes of each number, the lowest first.
func (u *uuid) text(dst *[36]byte) []byte {
	var b [16]byte
	binary.LittleEndian.PutUint64(b[:], u.low)
	binary.LittleEndian.PutUint64(b[8:], u.high)
	hex.Encode(dst[0:8], b[0:4])
	hex.Encode(dst[9:13], b[4:6])
	hex.Encode(dst[14:18], b[6:8])
	hex.Encode(dst[19:23], b[8:10])
	hex.Encode(dst[24:36], b[10:16])
	dst[8], dst[13], dst[18], dst[23] = '-', '-', '-', '-'
	return dst[:]
}

// decimal is n as text, valid until the next use of t.buf.
func (t *translator) decimal(n int64) string {
	t.buf = strconv.AppendInt(t.buf[:0], n, 10)
	return view(t.buf)
}

func or(value []byte, other string) string {
	if len(value) > 0 {
		return view(value)
	}
	return other
}

// view is b as a string without a copy, for functions that only read it.
func view(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }
