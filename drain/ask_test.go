package drain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// cloud is a Cloud Controller, and a binding cache, without a network.
type cloud struct {
	mu        sync.Mutex
	urls      map[string][]string // drain URL to application ids
	aggregate []string
	answer    func(req *http.Request) *http.Response // in place of the right one, if it gives one
	asked     int
	lastPage  int
}

func (c *cloud) set(urls map[string][]string, answer func(*http.Request) *http.Response) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.urls, c.answer = urls, answer
}

func body(status int, text string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(text))}
}

func answered(status int, text string) func(*http.Request) *http.Response {
	return func(*http.Request) *http.Response { return body(status, text) }
}

func urlEntry(url string, apps ...string) string {
	type app struct {
		Hostname string `json:"hostname"`
		AppID    string `json:"app_id"`
	}
	list := []app{}
	for _, a := range apps {
		list = append(list, app{"org.space." + a, a})
	}
	credentials, _ := json.Marshal([]any{map[string]any{"cert": "", "key": "", "ca": "", "apps": list}})
	return fmt.Sprintf(`{"url": %q, "credentials": %s}`, url, credentials)
}

func (c *cloud) RoundTrip(req *http.Request) (*http.Response, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked++
	if c.answer != nil {
		if resp := c.answer(req); resp == nil {
			return nil, errors.New("connection refused")
		} else if resp.StatusCode != 0 {
			return resp, nil
		}
	}
	var all []string
	for url := range c.urls {
		all = append(all, url)
	}
	slices.Sort(all)
	var entries []string
	for _, url := range all {
		entries = append(entries, urlEntry(url, c.urls[url]...))
	}
	switch req.URL.Path {
	case "/v2/bindings":
		return body(200, "["+strings.Join(entries, ",")+"]"), nil
	case "/v2/aggregate":
		var list []string
		for _, url := range c.aggregate {
			list = append(list, fmt.Sprintf(`{"url":%q,"credentials":[{"ca":"","cert":"","key":""}]}`, url))
		}
		return body(200, "["+strings.Join(list, ",")+"]"), nil
	case "/internal/v5/syslog_drain_urls":
	default:
		return body(404, ""), nil
	}
	size, _ := strconv.Atoi(req.URL.Query().Get("batch_size"))
	from, _ := strconv.Atoi(req.URL.Query().Get("next_id"))
	c.lastPage = from
	next := "null"
	end := min(from+size, len(entries))
	if end < len(entries) {
		next = strconv.Itoa(end)
	}
	return body(200, fmt.Sprintf(`{"results": [%s], "next_id": %s}`, strings.Join(entries[from:end], ","), next)), nil
}

func (c *cloud) client() *http.Client { return &http.Client{Transport: c} }

const interval = 10 * time.Second

func (c *cloud) capi(t *testing.T) *Provider {
	t.Helper()
	p, err := CAPI("https://cloud:9023", &AskOptions{HTTP: c.client(), Interval: interval, PageSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// openSet opens a set whose drains go to rcv.
func openSet(t *testing.T, src envelope.Source, rcv *hosts, o *SetOptions, providers ...*Provider) *Set {
	t.Helper()
	if o == nil {
		o = &SetOptions{NoTest: true}
	}
	if o.Drains == nil {
		o.Drains = &Options{}
	}
	o.Drains.DialContext = rcv.dial
	s, err := OpenSet(src, o, providers...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// bound lists the bindings as "app url", sorted, leaving out those that are not
// usable.
func boundTo(s *Set) string {
	var list []string
	for _, st := range s.Status() {
		if st.State != Invalid {
			list = append(list, st.SourceID+" "+st.URL)
		}
	}
	slices.Sort(list)
	return strings.Join(list, ", ")
}

// polls waits until so many more answers were applied.
func polls(n int) {
	time.Sleep(time.Duration(n) * interval * 6 / 5)
	synctest.Wait()
}

// once waits until there was one more answer.
func (c *cloud) once() {
	asked := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.asked
	}
	for before := asked(); asked() == before; {
		time.Sleep(time.Second)
		synctest.Wait()
	}
}

func TestCAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{urls: map[string][]string{
			"syslog://a": {"app-1", "app-2"}, "syslog://b": {"app-1"}, "https://c:443/x?token=secret": {"app-3"},
			"syslog://d": {}, "syslog://e": {"app-5"},
		}}
		s := openSet(t, newMemory(), new(hosts), nil, c.capi(t))
		synctest.Wait()
		want := "app-1 syslog://a:514, app-1 syslog://b:514, app-2 syslog://a:514, app-3 https://c:443, app-5 syslog://e:514"
		if got := boundTo(s); got != want {
			t.Errorf("got %s\nwant %s", got, want)
		}
		if c.asked != 3 || c.lastPage != 4 {
			t.Errorf("asked %d times, page %d last", c.asked, c.lastPage)
		}
		p := s.Providers()[0]
		if p.Name != "capi https://cloud:9023" || p.Bindings != 5 || p.Error != "" || !p.LastGood.Equal(time.Now()) {
			t.Errorf("%+v", p)
		}
	})
}

func TestBindingCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{urls: map[string][]string{"syslog://a": {"app-1", "app-2"}, "syslog://none": {}}, aggregate: []string{"syslog://all?drain-data=all"}}
		p, err := BindingCache("https://cache:9000", &AskOptions{HTTP: c.client()})
		if err != nil {
			t.Fatal(err)
		}
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, nil, p)
		synctest.Wait()
		if got := boundTo(s); got != " syslog://all:514, app-1 syslog://a:514, app-2 syslog://a:514" {
			t.Error(got)
		}
		// An older one, that knows of no aggregate drains.
		c.set(nil, func(req *http.Request) *http.Response {
			if req.URL.Path == "/v2/aggregate" {
				return body(404, "no")
			}
			return body(200, "["+urlEntry("syslog://a", "app-1", "app-2")+"]")
		})
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := boundTo(s); got != "app-1 syslog://a:514, app-2 syslog://a:514" {
			t.Error(got)
		}
	})
}

// Nothing but an answer that says so, and says so again, ends a drain.
func TestB05FailedAnswersRemoveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		urls := map[string][]string{"syslog://a": {"app-1"}, "syslog://b": {"app-2"}, "syslog://c": {"app-3"}, "syslog://d": {"app-4"}, "syslog://e": {"app-5"}}
		c := &cloud{urls: urls}
		src, rcv := newMemory(), new(hosts)
		var log lockedBuffer
		s := openSet(t, src, rcv, &SetOptions{NoTest: true, Drains: &Options{MaxIdle: -1, MaxAge: -1, Logger: slog.New(slog.NewTextHandler(&log, nil))}}, c.capi(t))
		synctest.Wait()
		all := boundTo(s)
		page := func(n int, bad *http.Response) func(*http.Request) *http.Response {
			return func(req *http.Request) *http.Response {
				if req.URL.Query().Get("next_id") == strconv.Itoa(n) {
					return bad
				}
				return &http.Response{}
			}
		}
		for name, answer := range map[string]func(*http.Request) *http.Response{
			"no connection":     func(*http.Request) *http.Response { return nil },
			"500":               answered(500, `{"results":[],"next_id":null}`),
			"401":               answered(401, ""),
			"redirect":          answered(304, ""),
			"nothing":           answered(200, ""),
			"truncated":         answered(200, `{"results":[{"url":"syslog://a"`),
			"another page":      answered(200, "<html>"),
			"no results":        answered(200, `{}`),
			"results null":      answered(200, `{"results":null}`),
			"two values":        answered(200, `{"results":[]} {}`),
			"500 on page 2":     page(2, body(500, "")),
			"truncated page 3":  page(4, body(200, `{"results":[`)),
			"page without end":  page(4, body(200, `{"results":[],"next_id":2}`)),
			"empty":             answered(200, `{"results":[],"next_id":null}`),
			"half are missing":  answered(200, fmt.Sprintf(`{"results":[%s,%s],"next_id":null}`, urlEntry("syslog://a", "app-1"), urlEntry("syslog://b", "app-2"))),
			"one is gone, once": nil,
		} {
			if answer == nil {
				answer = answered(200, fmt.Sprintf(`{"results":[%s,%s,%s,%s]}`, urlEntry("syslog://a", "app-1"), urlEntry("syslog://b", "app-2"), urlEntry("syslog://c", "app-3"), urlEntry("syslog://d", "app-4")))
				c.mu.Lock()
				once := false
				c.answer = func(req *http.Request) *http.Response {
					if once {
						return &http.Response{}
					}
					once = true
					return answer(req)
				}
				c.mu.Unlock()
			} else {
				c.set(urls, answer)
			}
			polls(4)
			if got := boundTo(s); got != all {
				t.Errorf("%s: %s", name, got)
			}
			p := s.Providers()[0]
			if p.Error == "" && p.Kept == 0 && name != "one is gone, once" {
				t.Errorf("%s: %+v does not say so", name, p)
			}
			c.set(urls, nil)
			polls(2)
		}
		for _, st := range s.Status() {
			if st.Connects != 1 || st.State != Connected {
				t.Errorf("%s was opened anew: %+v", st.URL, st.Stats)
			}
		}
		// One that is gone for good.
		delete(urls, "syslog://e")
		c.set(urls, nil)
		c.once()
		if s.Providers()[0].Kept != 1 {
			t.Error("it does not take two answers")
		}
		polls(2)
		if got := boundTo(s); strings.Contains(got, "app-5") || strings.Count(got, "app") != 4 {
			t.Error(got)
		}
		// All of them, said for an hour.
		c.set(map[string][]string{}, nil)
		time.Sleep(doubtTime - time.Minute)
		if got := boundTo(s); strings.Count(got, "app") != 4 {
			t.Error(got)
		}
		time.Sleep(2 * time.Minute)
		synctest.Wait()
		if got := boundTo(s); got != "" {
			t.Error(got)
		}
	})
}

// What is wrong with one entry costs the others nothing, and is told.
func TestEntriesThatAreWrong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{answer: answered(200, `{"results":[5, {"url":7}, {"url":"syslog://user:secret@h:1","credentials":[]},
			{"url":"udp://secret@h","credentials":[{"apps":[{"app_id":"app-1"}]}]},
			{"url":"syslog-tls://h","credentials":[{"cert":"x","apps":[{"app_id":"app-2"}]}]},
			{"url":"syslog-tls://h","credentials":[{"ca":"secret","apps":[{"app_id":"app-3"}]}]},
			{"url":"syslog://h","credentials":[{"apps":[{"app_id":""},{"app_id":"app-4"},{"app_id":"app-4"}]}]},
			{"url":"syslog://h","unknown":1,"credentials":[{"apps":[{"app_id":"app-5","more":true}]},{"apps":"none"}]},
			{"url":"syslog://h","unknown":1,"credentials":[{"apps":[{"app_id":"app-6","more":true}]}]}]}`)}
		var log lockedBuffer
		told := new(toldApps)
		s := openSet(t, newMemory(), new(hosts), &SetOptions{NoTest: true, Drains: &Options{Tell: told, Logger: slog.New(slog.NewTextHandler(&log, nil))}}, c.capi(t))
		synctest.Wait()
		if got := boundTo(s); got != "app-4 syslog://h:514, app-6 syslog://h:514" {
			t.Error(got)
		}
		polls(5)
		if n := strings.Count(log.String(), "binding not usable"); n != 7 || s.Providers()[0].Unusable != 7 {
			t.Errorf("%d told in the log, %+v\n%s", n, s.Providers()[0], log.String())
		}
		for app, want := range map[string]string{
			"app-1": "The syslog drain with url unknown cannot be used: drain: unusable URL: the scheme must be",
			"app-2": `The syslog drain with url syslog-tls://h:6514 cannot be used: drain: "cert" and "key" go together`,
			"app-3": `The syslog drain with url syslog-tls://h:6514 cannot be used: drain: "ca" holds no certificate in PEM`,
		} {
			if list := told.of(app); len(list) != 1 || !strings.HasPrefix(list[0], want) {
				t.Errorf("%s was told %q", app, list)
			}
		}
		if strings.Contains(log.String(), "secret") {
			t.Error("a secret in the log")
		}
	})
}

// toldApps is a Writer that keeps what applications are told.
type toldApps struct {
	mu    sync.Mutex
	lines map[string][]string
}

func (w *toldApps) WriteBatch(_ context.Context, b envelope.Batch) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for e := range b.All() {
		r, err := e.Route()
		if tag, _ := e.Tag(envelope.TagSourceType); err != nil || string(tag) != envelope.SourceTypeLGR || r.LogType != envelope.Err {
			return errors.New("no line of Loggregator's")
		}
		if w.lines == nil {
			w.lines = make(map[string][]string)
		}
		w.lines[string(r.SourceID)] = append(w.lines[string(r.SourceID)], string(r.Payload))
	}
	return nil
}

func (w *toldApps) of(app string) []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lines[app]
}

// Another URL or certificate for the same application is a move: what the old
// drain has not sent the new one does, and nothing twice.
func TestB04ChangedURL(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{urls: map[string][]string{"syslog://a": {"app"}}}
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, nil, c.capi(t))
		synctest.Wait()
		src.lines(1, 0, 100)
		rcv.at("a:514").await(100)
		rcv.at("b:514").set(errors.New("down"))
		c.set(map[string][]string{"syslog://b": {"app"}}, nil)
		c.once()
		src.lines(1, 100, 200)
		time.Sleep(time.Minute)
		c.set(map[string][]string{"syslog://c": {"app"}}, nil)
		polls(2)
		src.lines(1, 200, 300)
		rcv.at("c:514").await(200)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if a, c := rcv.at("a:514").texts(), rcv.at("c:514").texts(); len(a) != 100 || len(c) != 200 || c[0] != "ring=1 seq=100" {
			t.Errorf("%d and %d lines", len(a), len(c))
		}
	})
}

func TestB06LimitOfAnApplication(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		urls := map[string][]string{}
		for i := range 5 {
			urls[fmt.Sprintf("syslog://m%d", i)] = []string{"app"}
		}
		c := &cloud{urls: urls}
		told := new(toldApps)
		s := openSet(t, newMemory(), new(hosts), &SetOptions{NoTest: true, Drains: &Options{Tell: told}}, c.capi(t))
		synctest.Wait()
		five := boundTo(s)
		c.mu.Lock()
		urls["syslog://a-first-by-name"] = []string{"app", "other"}
		c.mu.Unlock()
		polls(5)
		if got := boundTo(s); got != five+", other syslog://a-first-by-name:514" {
			t.Error(got)
		}
		if list := told.of("app"); len(list) != 1 || !strings.Contains(list[0], "the application has 5 drains already") {
			t.Errorf("told %q", list)
		}
		// One goes, and there is room.
		c.mu.Lock()
		delete(urls, "syslog://m0")
		c.mu.Unlock()
		polls(4)
		if got := boundTo(s); !strings.Contains(got, "app syslog://a-first-by-name:514") || strings.Contains(got, "m0") {
			t.Error(got)
		}
	})
}

// A list that stays the same changes nothing; one change of many changes one.
func TestB10PollsWithoutChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		urls := map[string][]string{}
		for i := range 300 {
			urls[fmt.Sprintf("syslog://h%d?include-log-source-types=APP,STG", i)] = []string{fmt.Sprintf("app-%d", i)}
		}
		c := &cloud{urls: urls}
		p, err := CAPI("https://cloud", &AskOptions{HTTP: c.client(), Interval: interval})
		if err != nil {
			t.Fatal(err)
		}
		s := openSet(t, newMemory(), new(hosts), &SetOptions{NoTest: true, Drains: &Options{MaxIdle: -1, MaxAge: -1}}, p)
		polls(100)
		c.mu.Lock()
		urls["syslog://new"] = []string{"app-0"}
		c.mu.Unlock()
		c.once()
		for _, st := range s.Status() {
			if st.Connects != 1 {
				t.Errorf("%s connected %d times", st.URL, st.Connects)
			}
		}
		if n := len(s.Status()); n != 301 {
			t.Errorf("%d drains", n)
		}
	})
}

// An answer that is the same as before is not taken apart again; a change on any
// page is seen.
func TestSamePagesAreNotReadAgain(t *testing.T) {
	c := &cloud{urls: map[string][]string{}}
	for i := range 10 {
		c.urls[fmt.Sprint("syslog://h", i)] = []string{"app"}
	}
	a, err := newAsker("https://cloud/internal/v5/syslog_drain_urls", "", &AskOptions{HTTP: c.client(), PageSize: 3})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(again bool) (int, bool) {
		list := bindingList{again: again}
		changed, err := a.pages(t.Context(), &list)
		if err != nil {
			t.Fatal(err)
		}
		return len(list.entries), changed
	}
	for i, step := range []struct {
		url, gone string
		again     bool
		entries   int
		changed   bool
	}{
		{"", "", false, 10, true},
		{"", "", false, 0, false},
		{"", "", true, 10, true},
		{"", "", false, 0, false},
		{"syslog://h8x", "", false, 11, true}, // on the last page
		{"", "", false, 0, false},
		{"", "syslog://h0", false, 10, true}, // on the first
		{"", "", false, 0, false},
	} {
		if step.url != "" {
			c.urls[step.url] = []string{"app"}
		}
		delete(c.urls, step.gone)
		if n, changed := ask(step.again); n != step.entries || changed != step.changed {
			t.Errorf("step %d: %d entries, changed %t", i, n, changed)
		}
	}
}

// A name that does not resolve for a while ends no drain.
func TestD05NameServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &cloud{urls: map[string][]string{"syslog://a": {"app"}}}
		src, rcv := newMemory(), new(hosts)
		s := openSet(t, src, rcv, nil, c.capi(t))
		synctest.Wait()
		rcv.at("a:514").set(errors.New("no such host"))
		rcv.at("a:514").conns[0].Close()
		src.lines(1, 0, 10)
		polls(10)
		rcv.at("a:514").set(nil)
		rcv.at("a:514").await(10)
		if got := boundTo(s); got != "app syslog://a:514" {
			t.Error(got)
		}
	})
}

// Whoever binds a drain does not reach into the operator's network; the
// operator's own file does.
func TestD07TenantsAreKeptOut(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "10.0.0.1", "169.254.169.254", "[::1]", "[::ffff:10.0.0.1]", "[fd00::1]"} {
		c := &cloud{urls: map[string][]string{"syslog://" + host + ":514": {"app"}}}
		asked := make(chan struct{})
		once := sync.OnceFunc(func() { close(asked) })
		p, err := CAPI("https://cloud", &AskOptions{HTTP: c.client(), Interval: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		fetch := p.fetch
		p.fetch = func(ctx context.Context, l *bindingList) (bool, error) {
			c.mu.Lock()
			again := c.asked > 0
			c.mu.Unlock()
			if again {
				once() // the first answer has been applied
			}
			return fetch(ctx, l)
		}
		s, err := OpenSet(newMemory(), &SetOptions{NoTest: true}, p)
		if err != nil {
			t.Fatal(err)
		}
		<-asked
		if st := s.Status(); len(st) != 1 || st[0].State != Invalid || !strings.Contains(st[0].LastError, ErrDenied.Error()) {
			t.Errorf("%s: %+v", host, st)
		}
		s.Close()
	}
}

func TestAskersOptions(t *testing.T) {
	for _, base := range []string{"", "cloud:9023", "ftp://cloud", "https://"} {
		if _, err := CAPI(base, nil); err == nil {
			t.Errorf("CAPI takes %q", base)
		}
		if _, err := BindingCache(base, nil); err == nil {
			t.Errorf("BindingCache takes %q", base)
		}
	}
	if _, err := CAPI("https://cloud", &AskOptions{From: "yesterday"}); err == nil {
		t.Error("From is not checked")
	}
	p, err := CAPI("https://user:secret@cloud/?token=secret", nil)
	if err != nil || p.name != "capi https://cloud" {
		t.Errorf("%v %v", p, err)
	}
	low, high := time.Hour, time.Duration(0)
	for range 1000 {
		low, high = min(low, p.pause()), max(high, p.pause())
	}
	if low < 12*time.Second || high > 18*time.Second || high-low < 3*time.Second {
		t.Errorf("pauses from %v to %v", low, high)
	}
}

// Whatever a server answers, it is taken apart or refused, and each entry that is
// taken is a binding of one application.
func FuzzParsePage(f *testing.F) {
	f.Add([]byte(`{"results":[`+urlEntry("syslog://a", "app")+`],"next_id":5}`), false)
	f.Add([]byte(`[`+urlEntry("syslog://a", "app")+`,{"url":"syslog://b","credentials":[{}]}]`), true)
	a, err := newAsker("https://cloud", "/", nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte, cache bool) {
		var list bindingList
		var err error
		if cache {
			err = a.parseCache(text, &list, false)
		} else {
			_, err = a.parsePage(text, &list)
		}
		if err == nil && !json.Valid(text) {
			t.Error("what is no JSON is an answer")
		}
		for _, e := range list.entries {
			if e.err == nil && (e.SourceID == "" || e.App != "" || e.Space != "" || e.Org != "" || e.check(nil) != nil) {
				t.Errorf("%+v", e)
			}
		}
	})
}

func FuzzParseBindings(f *testing.F) {
	f.Add([]byte(`{"drains":[{"app":"shop","url":"syslog://h"},{"url":"https://h"}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var list bindingList
		if parseBindings(text, &list) == nil && !json.Valid(text) {
			t.Error("what is no JSON is a file")
		}
		seen := map[Binding]bool{}
		for _, e := range list.entries {
			if e.err == nil && (seen[e.Binding] || e.check(nil) != nil) {
				t.Errorf("%+v", e)
			}
			seen[e.Binding] = seen[e.Binding] || e.err == nil
		}
	})
}
