package drain

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
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
	port   string
	addr   string // host:port
	url    *url.URL

	filter   filter
	metadata *bool // nil: as Options says
	layout   layout
	strict   bool // MSG is made UTF-8
	lines    bool // LF ends messages, not a length before them
	gzip     bool
	numbers  bool // of records are told
	narrow   bool // of cipher suites, those for the platform's own parts
	maxSize  int
}

var defaultPorts = map[string]string{"syslog": "514", "syslog-tls": "6514", "https": "443", "https-batch": "443", "https-logplex": "443"}

// String is what may be told of a drain URL: user, password, path and query can
// be secrets.
func (t *target) String() string { return t.scheme + "://" + t.addr }

func (t *target) https() bool   { return strings.HasPrefix(t.scheme, "https") }
func (t *target) batched() bool { return strings.HasPrefix(t.scheme, "https-") }
func (t *target) logplex() bool { return t.scheme == "https-logplex" }

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
	t := &target{scheme: u.Scheme, host: u.Hostname(), url: u, maxSize: DefaultMaxMessage}
	if t.host == "" {
		return nil, urlError("there is no host name")
	}
	for _, c := range []byte(t.host) {
		if c <= ' ' || c >= 0x7f {
			return nil, urlError("the host name must be in its ASCII form (xn--…)")
		}
	}
	if p := u.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return nil, urlError("the port must be a number from 1 to 65535")
		}
		port = p
	}
	t.port, t.addr = port, net.JoinHostPort(t.host, port)
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, urlError("the query does not parse")
	}
	if t.filter, err = parseFilter(query); err != nil {
		return nil, err
	}
	if err := t.parseMetadata(query); err != nil {
		return nil, err
	}
	if err := t.parseForm(query); err != nil {
		return nil, err
	}
	return t, nil
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

// parseForm reads what messages and requests look like.
func (t *target) parseForm(query url.Values) error {
	if t.logplex() {
		t.layout = heroku
	}
	for _, p := range []struct {
		name, values string
		take         func(v string) bool
	}{
		{"format", "cf, heroku or heroku-strict", func(v string) bool {
			switch {
			case v == "cf":
				t.layout = cloudFoundry
			case v == "heroku" && (t.logplex() || t.https()):
				t.layout = heroku
			case v == "heroku", v == "heroku-strict":
				t.layout = herokuFull
			default:
				return false
			}
			return true
		}},
		{"framing", "octet-counting, or lf with syslog and syslog-tls", func(v string) bool {
			t.lines = v == "lf"
			return v == "octet-counting" || t.lines && !t.https()
		}},
		{"utf8", "any or strict", func(v string) bool {
			t.strict = v == "strict"
			return t.strict || v == "any"
		}},
		{"sequence", "on or off, with format=cf", func(v string) bool {
			t.numbers = v == "on"
			return v == "off" || t.numbers && t.layout == cloudFoundry
		}},
		{"gzip", "true or false, with https", func(v string) bool {
			t.gzip = v == "true"
			return v == "false" || t.gzip && t.https()
		}},
		{"max-message-size", fmt.Sprintf("a number of bytes from %d to %d", MinMessage, 2*envelope.MaxSize), func(v string) bool {
			n, err := strconv.Atoi(v)
			t.maxSize = n
			return err == nil && n >= MinMessage && n <= 2*envelope.MaxSize
		}},
	} {
		if v := query.Get(p.name); v != "" && !p.take(v) {
			return urlError("%s must be %s", p.name, p.values)
		}
	}
	t.narrow = query.Get("ssl-strict-internal") == "true"
	return nil
}

// formatter makes the drain's messages.
func (t *target) formatter(token string, omitTags bool) Formatter {
	if t.metadata != nil {
		omitTags = !*t.metadata
	}
	f := Formatter{OmitTags: omitTags, MaxSize: t.maxSize, layout: t.layout, strict: t.strict, lines: t.lines, token: "host"}
	if t.layout == herokuFull && !t.https() {
		f.token = token
	}
	return f
}

// token is who a drain is to a receiver of Heroku's forms: always the same for
// one URL and selection, and another for any other.
func (t *target) token(q *envelope.Query) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q", t.url.String())
	for _, s := range q.Select {
		fmt.Fprintf(h, "%q%q%q%q", s.SourceID, s.App, s.Space, s.Org)
	}
	sum := h.Sum(nil)
	sum[6], sum[8] = sum[6]&0x0f|0x40, sum[8]&0x3f|0x80 // as a random UUID
	return fmt.Sprintf("d.%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}
