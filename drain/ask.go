package drain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	maxAnswerList = 256 << 20 // bytes of all pages of an answer
	maxPages      = 100_000
)

// AskOptions are how a server is asked for bindings. The zero value and nil mean
// the defaults.
type AskOptions struct {
	// HTTP makes the requests; with a client certificate, as a rule. Default one
	// that gives up after a minute, without a proxy.
	HTTP *http.Client

	// Interval is the time between two answers, give or take a fifth. Default 15
	// seconds.
	Interval time.Duration

	// PageSize is how many URLs one page of the Cloud Controller's answer may
	// hold. Default 1000.
	PageSize int

	// From is where a drain starts that was not there before, as in Binding.
	// Default "1m": a binding is seen some time after it was made.
	From string
}

// CAPI asks the Cloud Controller at base, like https://cloud-controller:9023, for
// the drains that applications are bound to: GET /internal/v5/syslog_drain_urls,
// page by page.
//
// What the URLs of its drains may reach is SetOptions.Tenants' business. A
// binding goes when two complete answers in a row don't name it, or when another
// drain has taken its place; an answer that lacks more than half of them is
// believed after an hour. A failed fetch changes nothing.
func CAPI(base string, o *AskOptions) (*Provider, error) {
	a, err := newAsker(base, "/internal/v5/syslog_drain_urls", o)
	if err != nil {
		return nil, err
	}
	return a.provider("capi", a.pages), nil
}

// BindingCache asks Cloud Foundry's syslog binding cache at base, like
// https://binding-cache:9000, for the drains that applications are bound to (GET
// /v2/bindings) and for those of everything (GET /v2/aggregate). All else is as
// with CAPI.
func BindingCache(base string, o *AskOptions) (*Provider, error) {
	bindings, err := newAsker(base, "/v2/bindings", o)
	if err != nil {
		return nil, err
	}
	aggregate, err := newAsker(base, "/v2/aggregate", o)
	if err != nil {
		return nil, err
	}
	return bindings.provider("binding-cache", func(ctx context.Context, list *bindingList) (bool, error) {
		body, err := bindings.get(ctx, bindings.base, maxAnswerList)
		if err != nil {
			return false, err
		}
		all, err := aggregate.get(ctx, aggregate.base, maxAnswerList)
		if answer, ok := errors.AsType[*statusError](err); ok && answer.status == http.StatusNotFound {
			all, err = []byte("[]"), nil // an older one has none
		}
		if err != nil {
			return false, err
		}
		if !list.again && bindings.same(0, body) && aggregate.same(0, all) {
			return false, nil
		}
		if err := bindings.parseCache(body, list, false); err != nil {
			return false, err
		}
		if err := aggregate.parseCache(all, list, true); err != nil {
			return false, err
		}
		bindings.last, aggregate.last = []page{{sum: sha256.Sum256(body)}}, []page{{sum: sha256.Sum256(all)}}
		return true, nil
	}), nil
}

// asker asks one server.
type asker struct {
	base *url.URL
	opt  AskOptions
	last []page // of the last complete answer
}

// page is one page as it was read last: most answers are the same as the one
// before, and to take fifty thousand bindings apart costs a second.
type page struct {
	sum  [sha256.Size]byte
	next uint64 // the number of the following one; 0: it was the last
}

// same reports whether body is what the n-th page was the last time.
func (a *asker) same(n int, body []byte) bool {
	return n < len(a.last) && sha256.Sum256(body) == a.last[n].sum
}

func newAsker(base, path string, o *AskOptions) (*asker, error) {
	u, err := url.Parse(base)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("drain: a server to ask for bindings is like https://host:9023")
	}
	a := &asker{base: u.JoinPath(path)}
	if o != nil {
		a.opt = *o
	}
	if a.opt.HTTP == nil {
		a.opt.HTTP = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSHandshakeTimeout: dialTimeout}}
	}
	if a.opt.Interval <= 0 {
		a.opt.Interval = 15 * time.Second
	}
	if a.opt.PageSize <= 0 {
		a.opt.PageSize = 1000
	}
	if a.opt.From == "" {
		a.opt.From = "1m"
	}
	_, err = Binding{From: a.opt.From}.query()
	return a, err
}

func (a *asker) provider(kind string, fetch func(context.Context, *bindingList) (bool, error)) *Provider {
	return &Provider{
		kind: kind, name: kind + " " + a.base.Scheme + "://" + a.base.Host, interval: a.opt.Interval, tenants: true, careful: true,
		fetch: func(ctx context.Context, list *bindingList) (bool, error) {
			changed, err := fetch(ctx, list)
			if err != nil {
				err = fmt.Errorf("drain: %w", err)
			}
			return changed, err
		},
	}
}

// statusError is an answer other than 200.
type statusError struct{ status int }

func (e *statusError) Error() string {
	return fmt.Sprintf("the answer is %d %s", e.status, http.StatusText(e.status))
}

// get reads an answer of at most limit bytes, whole.
func (a *asker) get(ctx context.Context, u *url.URL, limit int) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, errors.New("the address cannot be used")
	}
	req.Header.Set("Accept", "application/json")
	resp, err := a.opt.HTTP.Do(req)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err // without the address
		}
		if e, ok := errors.AsType[*net.OpError](err); ok && e.Op == "dial" {
			err = e.Err
		}
		return nil, fmt.Errorf("no answer: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		io.CopyN(io.Discard, resp.Body, 64<<10)
		return nil, &statusError{resp.StatusCode}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, int64(limit)+1))
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if len(body) > limit {
		return nil, fmt.Errorf("the answer is larger than %d bytes", maxAnswerList)
	}
	return body, nil
}

// pages asks the Cloud Controller for page after page. Only all of them are an
// answer.
func (a *asker) pages(ctx context.Context, list *bindingList) (changed bool, err error) {
	var bodies [][]byte // as long as all are what they were
	var read []page
	next, left := uint64(0), maxAnswerList
	changed = list.again
	for range maxPages {
		u := *a.base
		q := u.Query()
		q.Set("batch_size", strconv.Itoa(a.opt.PageSize))
		if next > 0 {
			q.Set("next_id", strconv.FormatUint(next, 10))
		}
		u.RawQuery = q.Encode()
		body, err := a.get(ctx, &u, left)
		if err != nil {
			return false, err
		}
		left -= len(body)
		p := page{sum: sha256.Sum256(body)}
		if n := len(read); !changed && a.same(n, body) {
			p.next = a.last[n].next
			bodies = append(bodies, body)
		} else {
			changed = true
			for _, before := range bodies {
				if _, err := a.parsePage(before, list); err != nil {
					return false, err
				}
			}
			bodies = nil
			if p.next, err = a.parsePage(body, list); err != nil {
				return false, err
			}
		}
		read = append(read, p)
		switch {
		case p.next == 0:
			a.last = read
			return changed, nil
		case p.next <= next:
			return false, fmt.Errorf("the page after %d is said to be %d", next, p.next)
		}
		next = p.next
	}
	return false, errors.New("the pages do not end")
}

// parsePage reads one page of the Cloud Controller's answer, and gives the number
// of the next one, or 0.
func (a *asker) parsePage(body []byte, list *bindingList) (next uint64, err error) {
	var page struct {
		Results *[]json.RawMessage `json:"results"`
		NextID  *uint64            `json:"next_id"`
	}
	if err := json.Unmarshal(body, &page); err != nil {
		return 0, fmt.Errorf("the answer cannot be read: %w", err)
	}
	if page.Results == nil {
		return 0, errors.New(`the answer cannot be read: there is no list "results"`)
	}
	for _, raw := range *page.Results {
		a.addURL(raw, list, false)
	}
	if page.NextID == nil {
		return 0, nil
	}
	return *page.NextID, nil
}

// parseCache reads what the binding cache says.
func (a *asker) parseCache(body []byte, list *bindingList, aggregate bool) error {
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("[")) {
		return errors.New("the answer cannot be read: it is no list")
	}
	var entries []json.RawMessage
	if err := json.Unmarshal(body, &entries); err != nil {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	for _, raw := range entries {
		a.addURL(raw, list, aggregate)
	}
	return nil
}

// boundURL is one drain URL and the applications that are bound to it, in groups
// of the same certificates.
type boundURL struct {
	URL         string `json:"url"`
	Credentials []struct {
		Cert string `json:"cert"`
		Key  string `json:"key"`
		CA   string `json:"ca"`
		Apps []struct {
			AppID string `json:"app_id"`
		} `json:"apps"`
	} `json:"credentials"`
}

// addURL makes bindings of one URL. Those of an aggregate drain name no
// application and are for everything; any other that names none is for nothing.
func (a *asker) addURL(raw json.RawMessage, list *bindingList, aggregate bool) {
	var u boundURL
	if err := json.Unmarshal(raw, &u); err != nil {
		list.refuse(Binding{}, fmt.Errorf("drain: an entry cannot be read: %w", err))
		return
	}
	for _, c := range u.Credentials {
		b := Binding{URL: u.URL, Cert: c.Cert, Key: c.Key, CA: c.CA, From: a.opt.From}
		if aggregate {
			if len(c.Apps) > 0 {
				list.refuse(b, errors.New("drain: an aggregate drain names applications"))
				continue
			}
			list.add(b, true)
			continue
		}
		for _, app := range c.Apps {
			b.SourceID = app.AppID
			if app.AppID == "" || len(app.AppID) > envelope.MaxSourceID {
				list.refuse(b, errors.New(`drain: "app_id" is missing or too long`))
				continue
			}
			list.add(b, true)
		}
	}
}
