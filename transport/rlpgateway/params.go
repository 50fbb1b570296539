package rlpgateway

import (
	"net/url"
	"slices"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxSources bounds the source ids of a request. Each must be authorized.
const maxSources = 1000

// refusal is an answer other than a stream: status, and the members of its body.
type refusal struct {
	status        int
	code, message string
}

var (
	notFound       = &refusal{404, "not_found", "resource not found"}
	badMethod      = &refusal{405, "method_not_allowed", "method not allowed"}
	emptyQuery     = &refusal{400, "empty_query", "query cannot be empty"}
	missingType    = &refusal{400, "missing_envelope_type", "query must provide at least one envelope type"}
	malformedQuery = &refusal{400, "malformed_query", "query cannot be read: a % begins an escape of two hexadecimal digits, and parameters are separated by &"}
	tooManySources = &refusal{400, "too_many_sources", "query cannot have more than 1000 values of source_id"}
	unsupported    = &refusal{500, "streaming_unsupported", "request does not support streaming"}
	unavailable    = &refusal{503, "streaming_unavailable", "streaming is temporarily unavailable"}
)

// params is what a request asks for.
type params struct {
	sel    []envelope.Selector
	shard  string
	member string
	names  names
	logs   bool   // may be among what is selected
	source string // the only source asked for, if it is one
}

// parseParams reads a query. If it is no good, bad says so, and sel is what can be
// read of it, for the question of who may ask at all.
func parseParams(query string) (p params, bad *refusal) {
	values, err := url.ParseQuery(query)
	ids := slices.Compact(slices.Sorted(slices.Values(values["source_id"])))
	if len(ids) > maxSources {
		ids, bad = ids[:maxSources], tooManySources
	}
	if err != nil {
		bad = malformedQuery
	}
	var kinds []envelope.Kind
	for kind := envelope.KindLog; kind <= envelope.KindEvent; kind++ {
		if values.Has(kind.String()) || values.Has(kind.String()+".name") && (kind == envelope.KindCounter || kind == envelope.KindGauge) {
			kinds = append(kinds, kind)
		}
	}
	p.logs = slices.Contains(kinds, envelope.KindLog)
	switch {
	case bad != nil:
	case query == "":
		bad = emptyQuery
	case len(kinds) == 0:
		bad = missingType
	case len(kinds) == int(envelope.KindEvent):
		kinds = nil // all there are, so nobody need look
	}
	p.sel = []envelope.Selector{{Kinds: kinds}}
	if len(ids) > 0 && (len(ids) > 1 || ids[0] != "") {
		p.sel = p.sel[:0]
		for _, id := range ids {
			p.sel = append(p.sel, envelope.Selector{SourceID: id, Kinds: kinds})
		}
	}
	if len(p.sel) == 1 {
		p.source = p.sel[0].SourceID
	}
	if slices.Contains(ids, "") { // of all sources, among others
		p.sel, p.source = []envelope.Selector{{Kinds: kinds}}, ""
	}
	p.shard, p.member = values.Get("shard_id"), values.Get("deterministic_name")
	p.names = namesOf(values["counter.name"], values["gauge.name"])
	return p, bad
}

// names are those of counters and gauges. Nil is all of them.
type names struct {
	counters []string
	gauges   [][]string // each a sorted set
}

func namesOf(counters, gauges []string) (n names) {
	if !slices.Contains(counters, "") { // an empty one is all
		n.counters = counters
	}
	if slices.Contains(gauges, "") {
		return n
	}
	for _, list := range gauges {
		set := strings.Split(list, ",")
		slices.Sort(set)
		n.gauges = append(n.gauges, slices.Compact(set))
	}
	return n
}

// any reports whether there are none to look for.
func (n *names) any() bool { return n.counters == nil && n.gauges == nil }

// match reports whether e is no counter or gauge, or one of those.
func (n *names) match(e envelope.Envelope) bool {
	r, err := e.Route()
	switch {
	case err != nil:
		return false
	case r.Kind == envelope.KindCounter && n.counters != nil:
		name, _, _ := e.Counter()
		return slices.Contains(n.counters, string(name))
	case r.Kind == envelope.KindGauge && n.gauges != nil:
		var buf [8]envelope.Metric
		metrics := e.Gauge(buf[:0])
		return slices.ContainsFunc(n.gauges, func(set []string) bool {
			if len(metrics) != len(set) { // each metric comes once
				return false
			}
			for _, m := range metrics {
				if _, ok := slices.BinarySearch(set, string(m.Name)); !ok {
					return false
				}
			}
			return true
		})
	}
	return true
}
