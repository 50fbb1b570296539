package logcache

import (
	"regexp"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
)

// appendNamed appends the record if its counter or timer has a name that matches,
// and a gauge with those of its metrics that do, if there are any.
func appendNamed(dst, record []byte, e envelope.Envelope, kind envelope.Kind, name *regexp.Regexp) []byte {
	switch kind {
	case envelope.KindCounter:
		if n, _, _ := e.Counter(); name.Match(n) {
			return append(dst, record...)
		}
	case envelope.KindTimer:
		if n, _, _ := e.Timer(); name.Match(n) {
			return append(dst, record...)
		}
	case envelope.KindGauge:
		var buf [16]envelope.Metric
		all := e.Gauge(buf[:0])
		n := len(all)
		some := slices.DeleteFunc(all, func(m envelope.Metric) bool { return !name.Match(m.Name) })
		switch len(some) {
		case 0:
		case n:
			return append(dst, record...)
		default:
			return appendGauge(dst, e, some)
		}
	}
	return dst
}

// appendGauge appends e as a record with these metrics in place of its own.
func appendGauge(dst []byte, e envelope.Envelope, metrics []envelope.Metric) []byte {
	var rest []byte // all but the message
	for left := e; len(left) > 0; {
		num, typ, n := protowire.ConsumeTag(left)
		if n < 0 {
			return dst
		}
		size := protowire.ConsumeFieldValue(num, typ, left[n:])
		if size < 0 {
			return dst
		}
		if !(num >= 4 && num <= 7 || num == 10) {
			rest = append(rest, left[:n+size]...)
		}
		left = left[n+size:]
	}
	return envelope.AppendGauge(dst, rest, 0, metrics...) // of two timestamps the last one counts: e's
}
