package drain

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Binding says what goes where: one line of a binding file. Of the first four,
// all that are given must hold; a binding with none of them is for everything.
type Binding struct {
	SourceID string `json:"source_id,omitempty"` // application GUID or component name
	App      string `json:"app,omitempty"`       // name or GUID, and so on
	Space    string `json:"space,omitempty"`
	Org      string `json:"org,omitempty"`

	URL string `json:"url"`

	// From is where a drain starts that was not there before: "oldest" is the
	// oldest record held, and the default; "now" leaves out what was before; a
	// duration like "10m" is so long ago.
	From string `json:"from,omitempty"`

	// PEM texts: certificates that this drain trusts besides the usual ones, and
	// the certificate and key it shows to the receiver.
	CA   string `json:"ca,omitempty"`
	Cert string `json:"cert,omitempty"`
	Key  string `json:"key,omitempty"`
}

// selection is what b selects, and nothing else.
func (b Binding) selection() Binding {
	return Binding{SourceID: b.SourceID, App: b.App, Space: b.Space, Org: b.Org}
}

func (b Binding) query() (envelope.Query, error) {
	s := envelope.Selector{SourceID: b.SourceID, App: b.App, Space: b.Space, Org: b.Org}
	q := envelope.Query{Select: []envelope.Selector{s}}
	switch b.From {
	case "", "oldest":
		q.History = true
	case "now":
	default:
		ago, err := time.ParseDuration(b.From)
		if err != nil || ago < 0 {
			return q, errors.New(`drain: "from" must be oldest, now, or a duration`)
		}
		q.Since = time.Now().Add(-ago)
	}
	return q, nil
}

// options are o with the binding's own certificates. The pool of trusted ones is
// the drain's alone: what one binding trusts no other does.
func (b Binding) options(o *Options) (*Options, error) {
	if b.CA == "" && b.Cert == "" && b.Key == "" {
		return o, nil
	}
	var pair []tls.Certificate
	if b.Cert != "" || b.Key != "" {
		if b.Cert == "" || b.Key == "" {
			return nil, errors.New(`drain: "cert" and "key" go together`)
		}
		p, err := tls.X509KeyPair([]byte(b.Cert), []byte(b.Key))
		if err != nil {
			return nil, errors.New(`drain: "cert" and "key" are not a certificate and its key in PEM`)
		}
		pair = []tls.Certificate{p}
	}
	if b.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(b.CA)) {
		return nil, errors.New(`drain: "ca" holds no certificate in PEM`)
	}
	with := func(config *tls.Config) *tls.Config {
		c := config.Clone()
		if pair != nil {
			c.Certificates = pair
		}
		if b.CA != "" {
			if c.RootCAs != nil {
				c.RootCAs = c.RootCAs.Clone()
			} else if system, err := x509.SystemCertPool(); err == nil {
				c.RootCAs = system // a copy
			} else {
				c.RootCAs = x509.NewCertPool()
			}
			c.RootCAs.AppendCertsFromPEM([]byte(b.CA))
		}
		return c
	}
	c := o.withDefaults()
	c.TLS = with(c.TLS)
	if get := c.GetTLS; get != nil {
		c.GetTLS = func() (*tls.Config, error) {
			config, err := get()
			if err != nil {
				return nil, err
			}
			return with(config), nil
		}
	}
	return c, nil
}

// check says what is wrong with the binding, without a word of the URL.
func (b Binding) check(o *Options) error {
	t, err := parseURL(b.URL)
	if err != nil {
		return err
	}
	if o != nil && o.own != nil && !o.own.mayPermit(t) {
		return fmt.Errorf("%w: %w", ErrURL, ErrDenied)
	}
	if _, err := b.query(); err != nil {
		return err
	}
	_, err = b.options(o)
	return err
}

// open opens the drain at from, or if that is empty where the binding says.
func (b Binding) open(src envelope.Source, o *Options, from envelope.Cursor) (*Drain, error) {
	return b.openAgain(src, o, from, time.Time{}, nil, gap{})
}

// openAgain is open with nothing that is older than since, if that is set, in
// place of what the binding says, for no longer than until says, and with what the
// receiver is yet to be told of.
func (b Binding) openAgain(src envelope.Source, o *Options, from envelope.Cursor, since time.Time, until func() time.Time, owed gap) (*Drain, error) {
	q, err := b.query()
	if err != nil {
		return nil, err
	}
	if o, err = b.options(o); err != nil {
		return nil, err
	}
	q.Cursor = from
	if !since.IsZero() {
		q.Since, q.History = since, false
	}
	return openAgain(b.URL, src, q, o, until, owed)
}

// listed is one entry of a provider's answer: a binding, or why it is none.
type listed struct {
	Binding
	err error
}

// bindingList gathers the entries of one answer. Checks are not cheap, since keys
// are parsed: what was found good before is not checked again.
type bindingList struct {
	opts    *Options
	known   map[Binding]bool // found good in the last answer
	again   bool             // the entries are wanted, the same as before or not
	entries []listed
	seen    map[Binding]int
}

// add takes an entry in. One that is there already is refused, or passed over if
// the provider may repeat itself.
func (l *bindingList) add(b Binding, repeats bool) {
	if l.seen == nil {
		l.seen = make(map[Binding]int)
	}
	if first, ok := l.seen[b]; ok {
		if !repeats {
			l.refuse(b, fmt.Errorf("drain: the same as entry %d", first))
		}
		return
	}
	if !l.known[b] {
		if err := b.check(l.opts); err != nil {
			l.refuse(b, err)
			return
		}
	}
	l.seen[b] = len(l.entries)
	l.entries = append(l.entries, listed{Binding: b})
}

func (l *bindingList) refuse(b Binding, err error) {
	l.entries = append(l.entries, listed{b, err})
}

// parseBindings reads a binding file. The error is for a file that is broken as
// a whole; entries that are wrong are in the list, with the reason.
func parseBindings(text []byte, list *bindingList) error {
	var file struct {
		Drains *[]json.RawMessage `json:"drains"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return fmt.Errorf("drain: binding file: %w", err)
	}
	if file.Drains == nil {
		return errors.New(`drain: binding file: there is no list "drains"`)
	}
	for _, raw := range *file.Drains {
		var b Binding
		in := json.NewDecoder(bytes.NewReader(raw))
		in.DisallowUnknownFields() // a misspelt selection would be one of everything
		if err := in.Decode(&b); err != nil {
			list.refuse(b, err)
			continue
		}
		list.add(b, false)
	}
	return nil
}
