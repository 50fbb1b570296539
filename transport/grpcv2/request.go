package grpcv2

import (
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Limits of a request. Stock servers have none; no client comes near.
const (
	maxRequest   = 1 << 20 // bytes
	maxSelectors = 10_000
)

// The texts are those of the stock server.
var (
	errNoSelectors = status.Error(codes.InvalidArgument, "Selectors cannot be empty")
	errNoMessage   = status.Error(codes.InvalidArgument, "Selectors must have a Message")
	errRequest     = status.Error(codes.InvalidArgument, "this is not an EgressRequest")
	errTooMany     = status.Errorf(codes.InvalidArgument, "a request takes at most %d selectors", maxSelectors)
)

// request is an EgressRequest or an EgressBatchRequest, which are laid out alike.
type request struct {
	shard, member string // shard_id, deterministic_name
	preferred     bool   // use_preferred_tags
	selectors     []selector
}

// selector is one of the request's.
type selector struct {
	source string
	kind   envelope.Kind // KindNone: the oneof is not set
	names  []string      // of a counter (one) or of all metrics of a gauge; empty: any
}

func parseRequest(m []byte) (request, error) {
	var r request
	var legacy []selector
	if len(m) > maxRequest {
		return r, status.Errorf(codes.InvalidArgument, "a request takes at most %d bytes", maxRequest)
	}
	for len(m) > 0 {
		num, typ, field, value, ok := split(m)
		if !ok {
			return r, errRequest
		}
		m = m[len(field):]
		switch {
		case num == 3 && typ == protowire.VarintType:
			_, _, n := protowire.ConsumeTag(field)
			v, _ := protowire.ConsumeVarint(field[n:])
			r.preferred = v != 0
		case typ != protowire.BytesType:
		case num == 1:
			r.shard = string(value)
		case num == 5:
			r.member = string(value)
		case num == 2: // given twice, the two merge
			if legacy == nil {
				legacy = make([]selector, 1)
			}
			if !legacy[0].parse(value) {
				return r, errRequest
			}
		case num == 4:
			var s selector
			if !s.parse(value) {
				return r, errRequest
			}
			if r.selectors = append(r.selectors, s); len(r.selectors) > maxSelectors {
				return r, errTooMany
			}
		}
	}
	if !utf8.ValidString(r.shard) || !utf8.ValidString(r.member) {
		return r, errRequest
	}
	if len(r.selectors) == 0 {
		r.selectors = legacy
	}
	if len(r.selectors) == 0 {
		return r, errNoSelectors
	}
	for i := range r.selectors {
		if r.selectors[i].kind == envelope.KindNone {
			return r, errNoMessage
		}
	}
	return r, nil
}

var selectorKinds = [...]envelope.Kind{
	2: envelope.KindLog, 3: envelope.KindCounter, 4: envelope.KindGauge, 5: envelope.KindTimer, 6: envelope.KindEvent,
}

func (s *selector) parse(m []byte) bool {
	for len(m) > 0 {
		num, typ, field, value, ok := split(m)
		if !ok {
			return false
		}
		m = m[len(field):]
		if typ != protowire.BytesType {
			continue
		}
		if num == 1 {
			s.source = string(value)
			if !utf8.ValidString(s.source) {
				return false
			}
		}
		if num < 2 || int(num) >= len(selectorKinds) {
			continue
		}
		if kind := selectorKinds[num]; kind != s.kind { // of a oneof the last member counts, and the same one merges
			s.kind, s.names = kind, nil
		}
		if !s.parseNames(value) {
			return false
		}
	}
	return true
}

// parseNames reads a CounterSelector's name or a GaugeSelector's names.
func (s *selector) parseNames(m []byte) bool {
	for len(m) > 0 {
		num, typ, field, value, ok := split(m)
		if !ok {
			return false
		}
		m = m[len(field):]
		if num != 1 || typ != protowire.BytesType {
			continue
		}
		name := string(value)
		switch s.kind {
		case envelope.KindCounter:
			s.names = nil
			if name != "" {
				s.names = []string{name}
			}
		case envelope.KindGauge:
			if !slices.Contains(s.names, name) {
				s.names = append(s.names, name)
			}
		default:
			continue
		}
		if !utf8.ValidString(name) {
			return false
		}
	}
	return true
}

// sel is what the request selects, as far as sources and kinds go: one Selector
// for each source, sorted, so that requests that mean the same are the same. One
// for all five kinds asks nothing of single records, which makes it free.
func (r *request) sel() []envelope.Selector {
	kinds := make(map[string][]envelope.Kind)
	for i := range r.selectors {
		s := &r.selectors[i]
		if !slices.Contains(kinds[s.source], s.kind) {
			kinds[s.source] = append(kinds[s.source], s.kind)
		}
	}
	sel := make([]envelope.Selector, 0, len(kinds))
	for source, of := range kinds {
		s := envelope.Selector{SourceID: source}
		if len(of) < len(selectorKinds)-2 {
			slices.Sort(of)
			s.Kinds = of
		}
		sel = append(sel, s)
	}
	slices.SortFunc(sel, func(a, b envelope.Selector) int { return strings.Compare(a.SourceID, b.SourceID) })
	return sel
}

// byName reports whether single records must be looked at: what names a counter
// or the metrics of a gauge says more than a Selector can.
func (r *request) byName() bool {
	return slices.ContainsFunc(r.selectors, func(s selector) bool { return len(s.names) > 0 })
}

// wants reports whether any of the selectors describes the record.
func (r *request) wants(e envelope.Envelope) bool {
	route, err := e.Route()
	if err != nil {
		return false
	}
	var counter []byte
	var gauge []envelope.Metric
	for i := range r.selectors {
		s := &r.selectors[i]
		if s.kind != route.Kind || s.source != "" && s.source != string(route.SourceID) {
			continue
		}
		switch {
		case len(s.names) == 0:
			return true
		case s.kind == envelope.KindCounter:
			if counter == nil {
				counter, _, _ = e.Counter()
			}
			if s.names[0] == string(counter) {
				return true
			}
		default: // all of the gauge's metrics, and no others
			if gauge == nil {
				gauge = e.Gauge(nil)
			}
			if len(gauge) == len(s.names) && !slices.ContainsFunc(gauge, func(m envelope.Metric) bool {
				return !slices.Contains(s.names, string(m.Name))
			}) {
				return true
			}
		}
	}
	return false
}

// wantsLogs reports whether logs of a source are selected, so that a line that
// tells of missing ones may be put between them.
func (r *request) wantsLogs(source []byte) bool {
	return slices.ContainsFunc(r.selectors, func(s selector) bool {
		return s.kind == envelope.KindLog && (s.source == "" || s.source == string(source))
	})
}
