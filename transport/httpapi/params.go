package httpapi

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// maxSelectors bounds the combinations of apps, spaces and orgs.
	maxSelectors = 1000
	// maxLines bounds lines=.
	maxLines = 1_000_000
	// batchSize is how many bytes of records are read at a time: large enough
	// that a batch costs nothing, small enough for ten thousand readers.
	batchSize = 32 << 10
)

// params is what a request asks for.
type params struct {
	query envelope.Query
	apps  []name // each must be known
	wait  bool
	order string // "time", "source" or empty
	// many is whether lines may come from several apps, so that they need the
	// name in front.
	many bool
}

// name is an app or source id as given, with the selectors that it became.
type name struct {
	what, value string
	sel         []envelope.Selector
}

// parseParams reads the query of a request. Its errors are sentences for the
// client.
func parseParams(rawQuery string, now time.Time) (params, error) {
	var p params
	values, err := url.ParseQuery(rawQuery)
	if err != nil {
		return p, fmt.Errorf("the query cannot be read: %s", shorten(err.Error()))
	}
	var record envelope.Selector // what all selectors ask of records
	var starts []string
	for _, key := range sortedKeys(values) {
		all := values[key]
		if err := p.set(key, all[0], all, &record, now); err != nil {
			return p, err
		}
		// From here on the key is one that there is.
		if len(all) > 1 && !repeatable(key) {
			return p, fmt.Errorf("parameter %s is given %d times; it takes one value", key, len(all))
		}
		if slices.Contains(all, "") {
			return p, fmt.Errorf("parameter %s is empty", key)
		}
		if key == "since" || key == "lines" || key == "cursor" {
			starts = append(starts, key)
		}
	}
	if len(starts) > 1 {
		return p, fmt.Errorf("parameters %s exclude each other: give one of them", strings.Join(starts, " and "))
	}
	if err := p.selectors(values, record); err != nil {
		return p, err
	}
	p.query.MaxBytes = batchSize
	return p, nil
}

func repeatable(key string) bool {
	switch key {
	case "app", "space", "org", "source_id", "kind":
		return true
	}
	return false
}

// set takes one parameter in.
func (p *params) set(key, value string, all []string, record *envelope.Selector, now time.Time) error {
	bad := func(takes string) error {
		return fmt.Errorf("parameter %s takes %s, not %q", key, takes, shorten(value))
	}
	switch key {
	case "app", "space", "org", "source_id":
		// They make the selectors, all together.
	case "kind":
		for _, v := range all {
			value = v
			kind, ok := envelope.ParseKind(v)
			if !ok || kind == envelope.KindNone {
				return bad("log, counter, gauge, timer or event")
			}
			record.Kinds = append(record.Kinds, kind)
		}
	case "stream":
		switch strings.ToLower(value) {
		case "out":
			record.Stdout = true
		case "err":
			record.Stderr = true
		default:
			return bad("out or err")
		}
	case "instance":
		record.Instance = value
	case "source_type":
		record.SourceType = value
	case "since":
		since, ok := parseSince(value, now)
		if !ok {
			return bad("a duration like 10m or a time like 2006-01-02T15:04:05Z")
		}
		p.query.Since = since
	case "lines":
		n, err := strconv.Atoi(value)
		if err != nil || n < 1 || n > maxLines {
			return bad("a number from 1 to " + strconv.Itoa(maxLines))
		}
		p.query.Last = n
	case "cursor":
		c, err := envelope.ParseCursor(value)
		if err != nil || c.IsZero() {
			return bad("a cursor built from batches received before")
		}
		p.query.Cursor = c
	case "shard":
		p.query.Shard = value
	case "order":
		if value != "time" && value != "source" {
			return bad("time or source")
		}
		p.order = value
	case "wait":
		wait, err := strconv.ParseBool(value)
		if err != nil {
			return bad("true or false")
		}
		p.wait = wait
	default:
		return fmt.Errorf("there is no parameter %q; there are app, space, org, source_id, stream, instance, source_type, kind, since, lines, cursor, order, shard and wait", shorten(key))
	}
	return nil
}

// parseSince reads how long ago, or a time. A plus sign that the client left
// unescaped has become a space.
func parseSince(s string, now time.Time) (time.Time, bool) {
	if d, err := time.ParseDuration(s); err == nil {
		return now.Add(-d), d >= 0
	}
	t, err := time.Parse(time.RFC3339, strings.ReplaceAll(s, " ", "+"))
	return t, err == nil
}

// selectors makes the selectors: an app within a space within an org.
func (p *params) selectors(values url.Values, record envelope.Selector) error {
	orAny := func(key string) []string {
		if v := values[key]; len(v) > 0 {
			return v
		}
		return []string{""}
	}
	spaces, orgs := orAny("space"), orAny("org")
	for _, what := range []string{"app", "source_id"} {
		for _, value := range values[what] {
			p.apps = append(p.apps, name{what: what, value: value})
		}
	}
	if max(len(p.apps), 1)*len(spaces)*len(orgs) > maxSelectors {
		return fmt.Errorf("parameters app, space, org and source_id make more than %d combinations", maxSelectors)
	}
	within := func(s envelope.Selector) []envelope.Selector {
		from := len(p.query.Select)
		for _, s.Space = range spaces {
			for _, s.Org = range orgs {
				p.query.Select = append(p.query.Select, s)
			}
		}
		return p.query.Select[from:]
	}
	if len(p.apps) == 0 {
		within(record)
	}
	for i, n := range p.apps {
		s := record
		if n.what == "app" {
			s.App = n.value
		} else {
			s.SourceID = n.value
		}
		p.apps[i].sel = within(s)
	}
	p.many = len(p.apps) != 1
	return nil
}

func sortedKeys(values url.Values) []string {
	keys := make([]string, 0, len(values))
	for k := range values {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// shorten keeps what a client sent from filling the answer.
func shorten(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strings.ToValidUTF8(s, "\ufffd")
}
