package drain

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ErrURL is wrapped by what Open returns for a drain URL it cannot use. The text
// says what is wrong and never repeats a part of the URL.
var ErrURL = errors.New("drain: unusable URL")

// target is a drain URL, taken apart and checked.
type target struct {
	scheme string
	host   string // without port and brackets
	addr   string // host:port
	url    *url.URL

	kinds    [envelope.KindEvent + 1]bool
	types    map[string]bool // nil: all source types; else what is in or, with exclude, out
	exclude  bool
	metadata *bool // nil: as Options says
}

var defaultPorts = map[string]string{"syslog": "514", "syslog-tls": "6514", "https": "443", "https-batch": "443", "https-logplex": "443"}

// String is what may be told of a drain URL: user, password, path and query can
// be secrets.
func (t *target) String() string { return t.scheme + "://" + t.addr }

func (t *target) https() bool   { return strings.HasPrefix(t.scheme, "https") }
func (t *target) batched() bool { return strings.HasPrefix(t.scheme, "https-") }

func urlError(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrURL, fmt.Sprintf(format, args...))
}

func parseURL(raw string) (*target, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, urlError("it does not parse") // the parser's error holds the URL
	}
	port, ok := defaultPorts[u.Scheme]
	if !ok {
		return nil, urlError("the scheme must be syslog, syslog-tls, https, https-batch or https-logplex")
	}
	t := &target{scheme: u.Scheme, host: u.Hostname(), url: u}
	if t.host == "" {
		return nil, urlError("there is no host name")
	}
	if p := u.Port(); p != "" {
		port = p
	}
	t.addr = net.JoinHostPort(t.host, port)
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, urlError("the query does not parse")
	}
	if err := t.parseData(query); err != nil {
		return nil, err
	}
	if err := t.parseMetadata(query); err != nil {
		return nil, err
	}
	if err := t.parseTypes(query); err != nil {
		return nil, err
	}
	return t, nil
}

// parseData decides which kinds of records go to the drain. The older parameter
// drain-type and the newer drain-data mean different things by the same words.
func (t *target) parseData(query url.Values) error {
	const (
		log     = 1 << envelope.KindLog
		counter = 1 << envelope.KindCounter
		gauge   = 1 << envelope.KindGauge
		timer   = 1 << envelope.KindTimer
		event   = 1 << envelope.KindEvent
	)
	kinds, ok := log|event, true
	switch query.Get("drain-type") {
	case "":
	case "logs":
		kinds = log
	case "metrics":
		kinds = counter | gauge
	case "all":
		kinds = log | counter | gauge
	default:
		return urlError("drain-type must be logs, metrics or all")
	}
	switch query.Get("drain-data") {
	case "":
	case "logs":
		kinds = log | event
	case "metrics":
		kinds = counter | gauge
	case "traces":
		kinds = timer
	case "all":
		kinds = log | counter | gauge | timer | event
	default:
		ok = false
	}
	if !ok {
		return urlError("drain-data must be logs, metrics, traces or all")
	}
	if query.Get("include-metrics-deprecated") != "" {
		kinds = log | counter | gauge | timer | event
	}
	for k := range t.kinds {
		t.kinds[k] = kinds&(1<<k) != 0
	}
	return nil
}

func (t *target) parseMetadata(query url.Values) error {
	for _, name := range []string{"disable-metadata", "omit-metadata"} {
		switch query.Get(name) {
		case "":
			continue
		case "true":
			t.metadata = new(false)
		case "false":
			t.metadata = new(true)
		default:
			return urlError("%s must be true or false", name)
		}
		return nil
	}
	return nil
}

// sourceTypes are the first parts of source types that the platform writes.
var sourceTypes = map[string]bool{"API": true, "STG": true, "RTR": true, "LGR": true, "APP": true, "SSH": true, "CELL": true}

// parseTypes reads the filter by source type in the three spellings it has had.
func (t *target) parseTypes(query url.Values) error {
	lists := map[bool]string{}
	for _, exclude := range []bool{false, true} {
		verb := map[bool]string{false: "include", true: "exclude"}[exclude]
		for _, noun := range []string{"log-source-types", "source-types", "log-types"} {
			v := query.Get(verb + "-" + noun)
			if v == "" {
				continue
			}
			if lists[exclude] != "" && lists[exclude] != v {
				return urlError("%s-log-source-types is given in two spellings that differ", verb)
			}
			lists[exclude] = v
		}
	}
	if lists[false] != "" && lists[true] != "" {
		return urlError("include-log-source-types and exclude-log-source-types cannot be used together")
	}
	t.exclude = lists[true] != ""
	list := lists[t.exclude]
	if list == "" {
		return nil
	}
	t.types = make(map[string]bool)
	for name := range strings.SplitSeq(list, ",") {
		name = strings.ToUpper(strings.TrimSpace(name))
		if !sourceTypes[name] {
			return urlError("the source types to include or exclude are API, STG, RTR, LGR, APP, SSH and CELL")
		}
		t.types[name] = true
	}
	return nil
}

// wants reports whether the record goes to the drain.
func (t *target) wants(e envelope.Envelope, r *envelope.Route) bool {
	if int(r.Kind) >= len(t.kinds) || !t.kinds[r.Kind] {
		return false
	}
	if t.types == nil || r.Kind != envelope.KindLog && r.Kind != envelope.KindEvent {
		return true
	}
	v, _ := e.Tag(envelope.TagSourceType)
	for i, c := range v {
		if c == '/' {
			v = v[:i]
			break
		}
	}
	return t.types[string(v)] != t.exclude
}
