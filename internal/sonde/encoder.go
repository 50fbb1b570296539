package sonde

import (
	"encoding/binary"
	"encoding/hex"
	"math"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Encoder makes v1 envelopes of today's, by the rules of go-loggregator's package
// conversion. It is for one goroutine. Its zero value is ready.
//
// It goes beyond these rules where they make what no decoder takes: an empty log
// has an empty text, a request without an id the one that is all zeros. What does not fit the numbers of
// v1, such as a negative quota, becomes the nearest that does.
type Encoder struct {
	msg, event []byte // being made

	tags       []envelope.Tag // of the envelope
	all        []envelope.Tag // with the deprecated ones among them
	deprecated []envelope.DeprecatedTag
	metrics    []envelope.Metric

	// What the last log said beside its time, text and stream, and how it is
	// written: most logs say the same as the one before them.
	fixed      envelope.Fixed
	head, tail []byte // of the envelope: before its time, after its event
	rest       []byte // of the event: after its time
}

// maxKept bounds what an Encoder keeps of each kind from one envelope to the next,
// in bytes.
const maxKept = 64 << 10

// Each calls put with each of the v1 envelopes that e becomes, encoded, in memory
// that is used again, and with its event type: none of an event or of what has no
// message, one of most, one for each metric of a gauge that is no container's. e
// has passed envelope.Check.
func (c *Encoder) Each(e envelope.Envelope, put func(event int32, msg []byte)) {
	if at, t, text, ok := c.fixed.Log(e); ok {
		put(LogMessage, c.log(at, t, text))
		return
	}
	r, err := e.Route()
	if err != nil || r.Kind == envelope.KindNone || r.Kind == envelope.KindEvent {
		return
	}
	c.readTags(e)
	switch r.Kind {
	case envelope.KindLog:
		if string(c.tag(TagType)) == EventNames[Error] {
			m := appendBytes(c.event[:0], 1, c.tag(TagSource))
			m = appendNumber(m, 2, uint64(int32(c.number(TagCode))))
			m = appendBytes(m, 3, r.Payload)
			put(Error, c.envelope(Error, &r, m, nil, TagSource, TagCode))
			break
		}
		c.remember(e, &r)
		put(LogMessage, c.log(r.Timestamp, r.LogType, r.Payload))
	case envelope.KindCounter:
		name, delta, total := e.Counter()
		m := appendBytes(c.event[:0], 1, name)
		m = appendNumber(m, 2, delta)
		m = appendNumber(m, 3, total)
		put(CounterEvent, c.envelope(CounterEvent, &r, m, r.InstanceID))
	case envelope.KindGauge:
		c.metrics = e.Gauge(c.metrics[:0])
		if m, ok := c.container(&r); ok {
			put(ContainerMetric, c.envelope(ContainerMetric, &r, m, nil))
			break
		}
		for _, metric := range c.metrics {
			m := appendBytes(c.event[:0], 1, metric.Name)
			m = appendDouble(m, 2, metric.Value)
			m = appendBytes(m, 3, metric.Unit)
			put(ValueMetric, c.envelope(ValueMetric, &r, m, r.InstanceID))
		}
	case envelope.KindTimer:
		put(HTTPStartStop, c.envelope(HTTPStartStop, &r, c.request(e, &r), nil, requestTags...))
	}
	c.shrink()
}

// shrink gives up memory that grew for one large envelope.
func (c *Encoder) shrink() {
	if max(cap(c.msg), cap(c.event), cap(c.fixed), cap(c.head), cap(c.tail), cap(c.rest)) > maxKept ||
		max(cap(c.tags), cap(c.all), cap(c.deprecated), cap(c.metrics)) > maxKept/64 {
		*c = Encoder{}
		return
	}
	clear(c.tags) // they point into the envelope
	clear(c.all)
	clear(c.deprecated)
	clear(c.metrics)
}

// readTags reads e's tags.
func (c *Encoder) readTags(e envelope.Envelope) {
	c.tags = e.AppendTags(c.tags[:0])
	c.deprecated = e.AppendDeprecatedTags(c.deprecated[:0])
	if c.all = c.all[:0]; len(c.deprecated) > 0 {
		c.all = e.AppendAllTags(c.all, text)
	}
}

// text is a deprecated tag's value as v1 has it: decimals as %f.
func text(v envelope.Value) []byte {
	if v.Type == envelope.ValueDecimal {
		return strconv.AppendFloat(nil, v.Decimal, 'f', 6, 64)
	}
	return v.AppendText(nil)
}

// tag is the value of a tag, empty if there is none. A deprecated one counts where
// there is no other: the other way round than among the tags of a v1 envelope.
func (c *Encoder) tag(key string) []byte {
	for _, tags := range [...][]envelope.Tag{c.tags, c.all} {
		for _, t := range tags {
			if string(t.Key) == key {
				return t.Value
			}
		}
	}
	return nil
}

// number is a tag's value as a number, 0 if it is none.
func (c *Encoder) number(key string) int64 {
	n, err := strconv.ParseInt(string(c.tag(key)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// envelope makes a v1 envelope of an event, with the instance among the tags if it
// is not empty, and without the tags that are fields of the event.
func (c *Encoder) envelope(event int32, r *envelope.Route, m, instance []byte, without ...string) []byte {
	c.event = m[:0]
	c.msg = c.appendHead(c.msg[:0], event)
	c.msg = appendNumber(c.msg, 6, uint64(r.Timestamp))
	c.msg = appendBytes(c.msg, protowire.Number(EventFields[event]), m)
	c.msg = c.appendTail(c.msg, r, instance, without)
	return c.msg
}

func (c *Encoder) appendHead(dst []byte, event int32) []byte {
	dst = appendBytes(dst, 1, c.tag(TagOrigin))
	return appendNumber(dst, 2, uint64(event))
}

func (c *Encoder) appendTail(dst []byte, r *envelope.Route, instance []byte, without []string) []byte {
	dst = appendBytes(dst, 13, c.tag(TagDeployment))
	dst = appendBytes(dst, 14, c.tag(TagJob))
	dst = appendBytes(dst, 15, c.tag(TagIndex))
	dst = appendBytes(dst, 16, c.tag(TagIP))
	tags := c.tags
	if len(c.deprecated) > 0 {
		tags = c.all
	}
	for _, t := range tags {
		switch k := string(t.Key); k {
		case TagOrigin, TagDeployment, TagJob, TagIndex, TagIP, TagType:
		case TagSourceID:
			if len(r.SourceID) == 0 {
				dst = appendTag(dst, t.Key, t.Value)
			}
		default:
			if k == TagInstanceID && len(instance) > 0 || slices.Contains(without, k) {
				continue
			}
			dst = appendTag(dst, t.Key, t.Value)
		}
	}
	if len(r.SourceID) > 0 {
		dst = appendTag(dst, []byte(TagSourceID), r.SourceID)
	}
	if len(instance) > 0 {
		dst = appendTag(dst, []byte(TagInstanceID), instance)
	}
	return dst
}

// remember writes down what a log says beside its time, text and stream.
func (c *Encoder) remember(e envelope.Envelope, r *envelope.Route) {
	c.fixed = append(c.fixed[:0], envelope.FixedOf(e, r)...)
	c.head = c.appendHead(c.head[:0], LogMessage)
	c.tail = c.appendTail(c.tail[:0], r, nil, []string{envelope.TagSourceType})
	c.rest = appendBytes(c.rest[:0], 4, r.SourceID)
	c.rest = appendBytes(c.rest, 5, c.tag(envelope.TagSourceType))
	c.rest = appendBytes(c.rest, 6, r.InstanceID)
}

// log makes the v1 envelope of a log that says what was written down.
func (c *Encoder) log(timestamp int64, t envelope.LogType, text []byte) []byte {
	kind := uint64(2)
	if t == envelope.Out {
		kind = 1
	}
	at := uint64(timestamp)
	size := 1 + protowire.SizeBytes(len(text)) + 2 + 1 + protowire.SizeVarint(at) + len(c.rest)
	m := append(c.msg[:0], c.head...)
	m = appendNumber(m, 6, at)
	m = protowire.AppendTag(m, protowire.Number(EventFields[LogMessage]), protowire.BytesType)
	m = protowire.AppendVarint(m, uint64(size))
	m = appendBytes(m, 1, text)
	m = appendNumber(m, 2, kind)
	m = appendNumber(m, 3, at)
	m = append(m, c.rest...)
	c.msg = append(m, c.tail...)
	return c.msg
}

// container makes a ContainerMetric, if the metrics are those of a container.
func (c *Encoder) container(r *envelope.Route) (m []byte, ok bool) {
	if len(c.metrics) == 1 {
		return nil, false
	}
	var values [5]float64
	for i, name := range [...]string{MetricCPU, MetricMemory, MetricDisk, MetricMemoryQuota, MetricDiskQuota} {
		metric, ok := c.metric(name)
		if !ok || len(metric.Unit) == 0 && metric.Value == 0 {
			return nil, false
		}
		values[i] = metric.Value
	}
	index := instanceIndex(r)
	if metric, ok := c.metric("instance_index"); ok {
		index = toInt32(metric.Value)
	}
	m = appendBytes(c.event[:0], 1, r.SourceID)
	m = appendNumber(m, 2, uint64(index))
	m = appendDouble(m, 3, values[0])
	for i, v := range values[1:] {
		m = appendNumber(m, protowire.Number(4+i), toUint64(v))
	}
	return m, true
}

func (c *Encoder) metric(name string) (envelope.Metric, bool) {
	for _, m := range c.metrics {
		if string(m.Name) == name {
			return m, true
		}
	}
	return envelope.Metric{}, false
}

func instanceIndex(r *envelope.Route) int32 {
	n, err := strconv.ParseInt(string(r.InstanceID), 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func toInt32(f float64) int32 {
	if math.IsNaN(f) {
		return 0
	}
	return int32(max(math.MinInt32, min(f, math.MaxInt32)))
}

func toUint64(f float64) uint64 {
	switch {
	case math.IsNaN(f) || f <= 0:
		return 0
	case f >= 1<<64:
		return math.MaxUint64
	}
	return uint64(f)
}

// requestTags are the tags that become fields of an HttpStartStop.
var requestTags = []string{
	TagRequestID, TagPeerType, TagMethod, TagURI, TagRemoteAddress, TagUserAgent,
	TagStatusCode, TagContentLength, TagRouterID, TagForwarded,
}

// request makes an HttpStartStop.
func (c *Encoder) request(e envelope.Envelope, r *envelope.Route) []byte {
	_, start, stop := e.Timer()
	m := appendNumber(c.event[:0], 1, uint64(start))
	m = appendNumber(m, 2, uint64(stop))
	id, _ := parseUUID(c.tag(TagRequestID))
	m = appendUUID(m, 3, id)
	m = appendNumber(m, 4, uint64(indexOf(PeerTypes[:], c.tag(TagPeerType))))
	m = appendNumber(m, 5, uint64(indexOf(Methods[:], c.tag(TagMethod))))
	m = appendBytes(m, 6, c.tag(TagURI))
	m = appendBytes(m, 7, c.tag(TagRemoteAddress))
	m = appendBytes(m, 8, c.tag(TagUserAgent))
	m = appendNumber(m, 9, uint64(int32(c.number(TagStatusCode))))
	m = appendNumber(m, 10, uint64(c.number(TagContentLength)))
	if app, ok := parseUUID(r.SourceID); ok {
		m = appendUUID(m, 12, app)
	}
	m = appendNumber(m, 13, uint64(instanceIndex(r)))
	m = appendBytes(m, 14, c.tag(TagRouterID))
	rest := c.tag(TagForwarded)
	for {
		i := slices.Index(rest, '\n')
		if i < 0 {
			return appendBytes(m, 15, rest)
		}
		m = appendBytes(m, 15, rest[:i])
		rest = rest[i+1:]
	}
}

// indexOf is the number of a name, 0 if it is none of them.
func indexOf(names []string, name []byte) int {
	if len(name) == 0 {
		return 0
	}
	return max(0, slices.Index(names, string(name)))
}

// parseUUID reads a UUID in its usual form, whatever stands between its parts.
func parseUUID(text []byte) (id [16]byte, ok bool) {
	if len(text) != 36 {
		return id, false
	}
	for i, part := range [...][2]int{{0, 8}, {9, 13}, {14, 18}, {19, 23}, {24, 36}} {
		if _, err := hex.Decode(id[[...]int{0, 4, 6, 8, 10}[i]:], text[part[0]:part[1]]); err != nil {
			return [16]byte{}, false
		}
	}
	return id, true
}

func appendUUID(dst []byte, num protowire.Number, id [16]byte) []byte {
	var buf [24]byte
	m := appendNumber(buf[:0], 1, binary.LittleEndian.Uint64(id[:8]))
	m = appendNumber(m, 2, binary.LittleEndian.Uint64(id[8:]))
	return appendBytes(dst, num, m)
}

func appendTag(dst, key, value []byte) []byte {
	dst = protowire.AppendTag(dst, 17, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(2+protowire.SizeBytes(len(key))+protowire.SizeBytes(len(value))))
	dst = appendBytes(dst, 1, key)
	return appendBytes(dst, 2, value)
}

func appendBytes(dst []byte, num protowire.Number, v []byte) []byte {
	dst = protowire.AppendTag(dst, num, protowire.BytesType)
	return protowire.AppendBytes(dst, v)
}

func appendNumber(dst []byte, num protowire.Number, v uint64) []byte {
	dst = protowire.AppendTag(dst, num, protowire.VarintType)
	return protowire.AppendVarint(dst, v)
}

func appendDouble(dst []byte, num protowire.Number, v float64) []byte {
	dst = protowire.AppendTag(dst, num, protowire.Fixed64Type)
	return protowire.AppendFixed64(dst, math.Float64bits(v))
}
