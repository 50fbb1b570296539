package drain

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"

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
	// oldest record held, and the default; "now" leaves out what was before.
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
	q := envelope.Query{Select: []envelope.Selector{s}, History: true}
	switch b.From {
	case "", "oldest":
	case "now":
		q.History = false
	default:
		return q, errors.New(`drain: "from" must be oldest or now`)
	}
	return q, nil
}

// options are o with the binding's own certificates. The pool of trusted ones is
// the drain's alone: what one binding trusts no other does.
func (b Binding) options(o *Options) (*Options, error) {
	if b.CA == "" && b.Cert == "" && b.Key == "" {
		return o, nil
	}
	c := o.withDefaults()
	if b.CA != "" {
		pool := c.TLS.RootCAs
		if pool != nil {
			pool = pool.Clone()
		} else if system, err := x509.SystemCertPool(); err == nil {
			pool = system // a copy
		} else {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM([]byte(b.CA)) {
			return nil, errors.New(`drain: "ca" holds no certificate in PEM`)
		}
		c.TLS.RootCAs = pool
	}
	if b.Cert != "" || b.Key != "" {
		if b.Cert == "" || b.Key == "" {
			return nil, errors.New(`drain: "cert" and "key" go together`)
		}
		pair, err := tls.X509KeyPair([]byte(b.Cert), []byte(b.Key))
		if err != nil {
			return nil, errors.New(`drain: "cert" and "key" are not a certificate and its key in PEM`)
		}
		c.TLS.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

// check says what is wrong with the binding, without a word of the URL.
func (b Binding) check(o *Options) error {
	if _, err := parseURL(b.URL); err != nil {
		return err
	}
	if _, err := b.query(); err != nil {
		return err
	}
	_, err := b.options(o)
	return err
}

func (b Binding) open(src envelope.Source, o *Options, from envelope.Cursor) (*Drain, error) {
	q, err := b.query()
	if err != nil {
		return nil, err
	}
	if o, err = b.options(o); err != nil {
		return nil, err
	}
	q.Cursor = from
	return Open(b.URL, src, q, o)
}

// listed is one entry of a binding file: a binding, or why it is none.
type listed struct {
	Binding
	err error
}

// parseBindings reads a binding file. The error is for a file that is broken as
// a whole; entries that are wrong are in the list, with the reason.
func parseBindings(text []byte, o *Options) ([]listed, error) {
	var file struct {
		Drains *[]json.RawMessage `json:"drains"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		return nil, fmt.Errorf("drain: binding file: %w", err)
	}
	if file.Drains == nil {
		return nil, errors.New(`drain: binding file: there is no list "drains"`)
	}
	list := make([]listed, len(*file.Drains))
	seen := make(map[Binding]int)
	for i, raw := range *file.Drains {
		entry := &list[i]
		in := json.NewDecoder(bytes.NewReader(raw))
		in.DisallowUnknownFields() // a misspelt selection would be one of everything
		if entry.err = in.Decode(&entry.Binding); entry.err != nil {
			continue
		}
		if entry.err = entry.check(o); entry.err != nil {
			continue
		}
		if first, ok := seen[entry.Binding]; ok {
			entry.err = fmt.Errorf("drain: the same as entry %d", first)
			continue
		}
		seen[entry.Binding] = i
	}
	return list, nil
}
