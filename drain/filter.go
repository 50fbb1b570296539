package drain

import (
	"bytes"
	"net/url"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// maxPattern bounds a regular expression in a URL, in bytes, and maxProgram what it
// is compiled to, in steps: a short one may repeat so much that each line takes
// seconds of everybody's processor.
const (
	maxPattern = 1024
	maxProgram = 500
)

// filter is which records go to a drain, by its URL.
type filter struct {
	kinds     [envelope.KindEvent + 1]bool
	types     *list // first part of the tag source_type; of logs and events
	instances *list
	streams   *list // of logs

	include, exclude *regexp.Regexp // on the text of logs
}

// list is what is in or, with exclude, out.
type list struct {
	names   map[string]bool
	exclude bool
}

func (l *list) takes(name []byte) bool { return l == nil || l.names[string(name)] != l.exclude }

const (
	kindLog     = 1 << envelope.KindLog
	kindCounter = 1 << envelope.KindCounter
	kindGauge   = 1 << envelope.KindGauge
	kindTimer   = 1 << envelope.KindTimer
	kindEvent   = 1 << envelope.KindEvent
	kindAll     = kindLog | kindCounter | kindGauge | kindTimer | kindEvent
)

// sourceTypes are the first parts of source types that the platform writes.
var sourceTypes = map[string]bool{"API": true, "STG": true, "RTR": true, "LGR": true, "APP": true, "SSH": true, "CELL": true}

func parseFilter(query url.Values) (f filter, err error) {
	if err = f.parseKinds(query); err != nil {
		return f, err
	}
	f.types, err = parseList(query, []string{"log-source-types", "source-types", "log-types"}, strings.ToUpper,
		func(name string) bool { return sourceTypes[name] }, "API, STG, RTR, LGR, APP, SSH and CELL")
	if err != nil {
		return f, err
	}
	f.instances, err = parseList(query, []string{"instances"}, strings.Clone,
		func(name string) bool { return name != "" }, "instance ids")
	if err != nil {
		return f, err
	}
	f.streams, err = parseList(query, []string{"streams"}, strings.ToLower,
		func(name string) bool { return name == "out" || name == "err" }, "out and err")
	if err != nil {
		return f, err
	}
	if f.include, err = parsePattern(query, "include-text"); err != nil {
		return f, err
	}
	f.exclude, err = parsePattern(query, "exclude-text")
	return f, err
}

// parseKinds decides which kinds of records go to the drain. The older parameter
// drain-type and the newer drain-data mean different things by the same words.
func (f *filter) parseKinds(query url.Values) error {
	kinds := kindLog | kindEvent
	switch query.Get("drain-type") {
	case "":
	case "logs":
		kinds = kindLog
	case "metrics":
		kinds = kindCounter | kindGauge
	case "all":
		kinds = kindLog | kindCounter | kindGauge
	default:
		return urlError("drain-type must be logs, metrics or all")
	}
	switch query.Get("drain-data") {
	case "":
	case "logs":
		kinds = kindLog | kindEvent
	case "metrics":
		kinds = kindCounter | kindGauge
	case "traces":
		kinds = kindTimer
	case "all":
		kinds = kindAll
	default:
		return urlError("drain-data must be logs, metrics, traces or all")
	}
	if query.Get("include-metrics-deprecated") != "" {
		kinds = kindAll
	}
	l, err := parseList(query, []string{"envelope-types"}, strings.ToLower, func(name string) bool {
		k, ok := envelope.ParseKind(name)
		return ok && k != envelope.KindNone
	}, "log, event, counter, gauge and timer")
	if err != nil {
		return err
	}
	if l != nil && !l.exclude {
		kinds = kindAll // it says all by itself
	}
	for k := range f.kinds {
		f.kinds[k] = kinds&(1<<k) != 0 && l.takes([]byte(envelope.Kind(k).String()))
	}
	return nil
}

// parseList reads include-X or exclude-X, where X is any of nouns, which are
// spellings of one thing.
func parseList(query url.Values, nouns []string, fold func(string) string, legal func(string) bool, those string) (*list, error) {
	var texts [2]string // include, exclude
	for i, verb := range []string{"include-", "exclude-"} {
		for _, noun := range nouns {
			v := query.Get(verb + noun)
			if v == "" {
				continue
			}
			if texts[i] != "" && texts[i] != v {
				return nil, urlError("%s%s is given in two spellings that differ", verb, nouns[0])
			}
			texts[i] = v
		}
	}
	if texts[0] != "" && texts[1] != "" {
		return nil, urlError("include-%s and exclude-%[1]s cannot be used together", nouns[0])
	}
	text := texts[0] + texts[1]
	if text == "" {
		return nil, nil
	}
	l := &list{names: make(map[string]bool), exclude: texts[1] != ""}
	for name := range strings.SplitSeq(text, ",") {
		name = fold(strings.TrimSpace(name))
		if !legal(name) {
			return nil, urlError("what include-%s and exclude-%[1]s take is a list of %s", nouns[0], those)
		}
		l.names[name] = true
	}
	return l, nil
}

func parsePattern(query url.Values, name string) (*regexp.Regexp, error) {
	text := query.Get(name)
	if text == "" {
		return nil, nil
	}
	if len(text) > maxPattern {
		return nil, urlError("%s is longer than %d bytes", name, maxPattern)
	}
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, urlError("%s is not a regular expression in Go's syntax", name)
	}
	program, err := syntax.Compile(parsed.Simplify())
	if err != nil || len(program.Inst) > maxProgram {
		return nil, urlError("%s is too large once its repetitions are written out", name)
	}
	return regexp.Compile(text)
}

var streamOut, streamErr = []byte("out"), []byte("err")

// wants reports whether the record goes to the drain.
func (f *filter) wants(e envelope.Envelope, r *envelope.Route) bool {
	if int(r.Kind) >= len(f.kinds) || !f.kinds[r.Kind] {
		return false
	}
	if f.types != nil && (r.Kind == envelope.KindLog || r.Kind == envelope.KindEvent) {
		v, _ := e.Tag(envelope.TagSourceType)
		if i := bytes.IndexByte(v, '/'); i >= 0 {
			v = v[:i]
		}
		if !f.types.takes(v) {
			return false
		}
	}
	if !f.instances.takes(r.InstanceID) {
		return false
	}
	if r.Kind != envelope.KindLog {
		return true
	}
	if f.streams != nil {
		stream := streamOut
		if r.LogType == envelope.Err {
			stream = streamErr
		}
		if !f.streams.takes(stream) {
			return false
		}
	}
	return (f.include == nil || f.include.Match(r.Payload)) && (f.exclude == nil || !f.exclude.Match(r.Payload))
}
