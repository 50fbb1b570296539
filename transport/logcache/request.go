package logcache

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Bounds of a request. The first two are Log Cache's.
const (
	defaultLimit  = 100
	maxLimit      = 1000
	maxNameFilter = 4 << 10 // bytes
	maxTypes      = 1000    // envelope_types given
)

// request is a read.
type request struct {
	source     string
	start, end int64 // nanoseconds since 1970; end is not included
	limit      int
	kinds      []envelope.Kind // none: all
	descending bool
	name       *regexp.Regexp // nil: any
	nothing    bool           // no envelope can be what is asked for
}

// raw is a read as it was sent: a ReadRequest.
type raw struct {
	source     string
	start, end int64
	limit      int64
	types      []int64
	descending bool
	name       string
}

// kinds are the numbers of EnvelopeType. The first is ANY.
var kinds = [...]envelope.Kind{
	envelope.KindNone, envelope.KindLog, envelope.KindCounter, envelope.KindGauge, envelope.KindTimer, envelope.KindEvent,
}

var typeNames = map[string]int64{"ANY": 0, "LOG": 1, "COUNTER": 2, "GAUGE": 3, "TIMER": 4, "EVENT": 5}

// check makes a request of what was sent. Its errors are those that Log Cache
// answers as UNKNOWN, which is status 500 over HTTP.
func (m *raw) check(now time.Time) (*request, error) {
	r := &request{source: m.source, start: m.start, end: m.end, descending: m.descending}
	switch {
	case m.end != 0 && m.start > m.end:
		return nil, fmt.Errorf("start_time %d is after end_time %d", m.start, m.end)
	case m.limit > maxLimit || m.limit < 0:
		return nil, fmt.Errorf("limit %d is not between 0 and %d", m.limit, maxLimit)
	case len(m.name) > maxNameFilter:
		return nil, fmt.Errorf("name_filter takes at most %d bytes", maxNameFilter)
	}
	if m.end == 0 {
		r.end = now.UnixNano()
	}
	if r.limit = int(m.limit); r.limit == 0 {
		r.limit = defaultLimit
	}
	for _, t := range m.types {
		switch {
		case t < 0 || t >= int64(len(kinds)): // a newer client's: there is none of it
			r.nothing = true
		case t > 0 && !slices.Contains(r.kinds, kinds[t]):
			r.kinds = append(r.kinds, kinds[t])
		}
	}
	// A selector without a source would be everybody's.
	r.nothing = r.source == "" || r.nothing && len(r.kinds) == 0
	if m.name != "" {
		var err error
		if r.name, err = regexp.Compile(m.name); err != nil {
			return nil, fmt.Errorf("name_filter is not a regular expression: %w", err)
		}
		named := []envelope.Kind{envelope.KindCounter, envelope.KindGauge, envelope.KindTimer}
		if len(r.kinds) > 0 {
			named = slices.DeleteFunc(named, func(k envelope.Kind) bool { return !slices.Contains(r.kinds, k) })
		}
		r.kinds, r.nothing = named, r.nothing || len(named) == 0
	}
	return r, nil
}

// wantsLogs reports whether a log that tells of missing envelopes fits in.
func (r *request) wantsLogs() bool {
	return r.name == nil && (len(r.kinds) == 0 || slices.Contains(r.kinds, envelope.KindLog))
}

// sel is what to ask the Gate for.
func (r *request) sel() []envelope.Selector {
	return []envelope.Selector{{SourceID: r.source, Kinds: r.kinds}}
}

// parseQuery reads the parameters of a read over HTTP. Those that it does not know
// are ignored, and names may be in camel case, as everywhere in protobuf's JSON. Its
// errors are status 400.
func parseQuery(source, query string) (*raw, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, errors.New("the query cannot be read: " + shorten(err.Error()))
	}
	m := &raw{source: source}
	for key, all := range values {
		bad := func(takes string) error {
			return fmt.Errorf("%s takes %s, not %q", shorten(key), takes, shorten(all[0]))
		}
		switch key {
		case "start_time", "startTime":
			m.start, err = strconv.ParseInt(all[0], 10, 64)
		case "end_time", "endTime":
			m.end, err = strconv.ParseInt(all[0], 10, 64)
		case "limit":
			m.limit, err = strconv.ParseInt(all[0], 10, 64)
		case "descending":
			if m.descending, err = strconv.ParseBool(all[0]); err != nil {
				return nil, bad("true or false")
			}
		case "name_filter", "nameFilter":
			if m.name = all[0]; !utf8.ValidString(m.name) {
				return nil, bad("a regular expression in UTF-8")
			}
		case "envelope_types", "envelopeTypes":
			if len(all)+len(m.types) > maxTypes {
				return nil, fmt.Errorf("envelope_types is given more than %d times", maxTypes)
			}
			for _, v := range all {
				t, known := typeNames[v]
				if !known {
					if t, err = strconv.ParseInt(v, 10, 32); err != nil {
						return nil, fmt.Errorf("envelope_types takes LOG, COUNTER, GAUGE, TIMER, EVENT or ANY, not %q", shorten(v))
					}
				}
				m.types = append(m.types, t)
			}
			continue
		default:
			continue
		}
		if err != nil {
			return nil, bad("a whole number")
		}
		if len(all) > 1 {
			return nil, fmt.Errorf("%s is given %d times; it takes one value", key, len(all))
		}
	}
	return m, nil
}

// shorten keeps what a client sent from filling the answer.
func shorten(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}

var errMalformed = errors.New("this is not a ReadRequest")

// parseRequest reads an encoded ReadRequest.
func parseRequest(b []byte) (*raw, error) {
	m := &raw{}
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 || num > protowire.MaxValidNumber {
			return nil, errMalformed
		}
		size := protowire.ConsumeFieldValue(num, typ, b[n:])
		if size < 0 {
			return nil, errMalformed
		}
		value := b[n : n+size]
		b = b[n+size:]
		switch typ {
		case protowire.VarintType:
			v, _ := protowire.ConsumeVarint(value)
			switch num {
			case 2:
				m.start = int64(v)
			case 3:
				m.end = int64(v)
			case 4:
				m.limit = int64(v)
			case 5:
				if !m.addType(v) {
					return nil, errMalformed
				}
			case 6:
				m.descending = v != 0
			}
		case protowire.BytesType:
			v, _ := protowire.ConsumeBytes(value)
			switch num {
			case 1:
				m.source = string(v)
			case 5: // packed
				for len(v) > 0 {
					t, n := protowire.ConsumeVarint(v)
					if n < 0 || !m.addType(t) {
						return nil, errMalformed
					}
					v = v[n:]
				}
			case 7:
				m.name = string(v)
			default:
				continue
			}
			if !utf8.ValidString(m.source) || !utf8.ValidString(m.name) {
				return nil, errMalformed
			}
		}
	}
	return m, nil
}

func (m *raw) addType(v uint64) bool {
	m.types = append(m.types, int64(int32(v)))
	return len(m.types) <= maxTypes
}
