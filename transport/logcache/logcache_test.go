package logcache

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// cache is a Server over a router, and a client's view of it.
type cache struct {
	t      *testing.T
	router *loggregator.Router
	gate   *access.Gate
	*Server
}

func newCache(t *testing.T, a access.Authorizer, o *Options) *cache {
	r := loggregator.New(nil)
	gate := access.NewGate(r, a, nil)
	if o == nil {
		o = &Options{Sources: r}
	}
	c := &cache{t, r, gate, New(gate, o)}
	t.Cleanup(func() {
		c.Close()
		if s := c.Stats(); s.Active != 0 || s.Memory != 0 {
			t.Errorf("at the end: %+v", s)
		}
		if s := gate.Stats(); s.Readers != 0 {
			t.Errorf("passes not given back: %+v", s)
		}
		if s := r.Stats(); s.Accepted+s.Marked != s.Evicted+s.Expired+s.Released+s.Held {
			t.Errorf("the router's account: %+v", s)
		}
		r.Close()
	})
	return c
}

func (c *cache) write(records []byte) {
	c.t.Helper()
	b, err := envelope.Of(records)
	if err != nil {
		c.t.Fatal(err)
	}
	if err := c.router.WriteBatch(c.t.Context(), b); err != nil {
		c.t.Fatal(err)
	}
}

func identity(id string) envelope.Fixed {
	return envelope.Identity{SourceID: id, InstanceID: "0", Tags: map[string]string{"source_type": "APP/PROC/WEB"}}.Encode()
}

// log writes logs of these times, whose texts are the numbers of the calls.
func (c *cache) log(id string, times ...int64) {
	var records []byte
	for i, at := range times {
		records = envelope.AppendLog(records, identity(id), at, envelope.Out, strconv.AppendInt(nil, int64(i), 10))
	}
	c.write(records)
}

func logLine(id string, at int64, text string) []byte {
	return envelope.AppendLog(nil, identity(id), at, envelope.Out, []byte(text))
}

// get is an answer's status and body.
func (c *cache) get(path string, header ...string) (int, string) {
	c.t.Helper()
	r := httptest.NewRequest("GET", path, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	c.ServeHTTP(w, r)
	return w.Code, w.Body.String()
}

type answer struct {
	Envelopes struct {
		Batch []struct {
			Timestamp string
			Source    string `json:"source_id"`
			Tags      map[string]string
			Log       *struct{ Payload, Type string }
			Counter   *struct{ Name, Total string }
			Gauge     *struct{ Metrics map[string]any }
			Timer     *struct{ Name string }
			Event     *struct{ Title string }
		}
	}
}

// read is the envelopes of a read, each as its timestamp and text or name.
func (c *cache) read(id, query string) []string {
	c.t.Helper()
	status, body := c.get(readPath + id + "?" + query)
	got, err := parse(body)
	if err != nil || status != 200 || !strings.HasSuffix(body, "}\n") {
		c.t.Fatalf("%s: %d %q: %v", query, status, body, err)
	}
	return got
}

func parse(body string) ([]string, error) {
	var a answer
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		return nil, err
	}
	got := []string{}
	for _, e := range a.Envelopes.Batch {
		text := e.Timestamp + " "
		switch {
		case e.Log != nil:
			payload, _ := base64.StdEncoding.DecodeString(e.Log.Payload)
			text += string(payload)
		case e.Counter != nil:
			text += e.Counter.Name
		case e.Gauge != nil:
			names := []string{}
			for name := range e.Gauge.Metrics {
				names = append(names, name)
			}
			slices.Sort(names)
			text += strings.Join(names, ",")
		case e.Timer != nil:
			text += e.Timer.Name
		case e.Event != nil:
			text += e.Event.Title
		}
		got = append(got, text)
	}
	return got, nil
}

// TestReadParameters is the table of what a read's parameters mean.
func TestReadParameters(t *testing.T) {
	c := newCache(t, nil, nil)
	f := identity("a")
	var records []byte
	records = envelope.AppendLog(records, f, -5, envelope.Out, []byte("old"))
	records = envelope.AppendLog(records, f, 10, envelope.Out, []byte("out"))
	records = envelope.AppendLog(records, f, 40, envelope.Err, []byte("err"))
	records = envelope.AppendCounter(records, f, 20, "requests", 1, 2) // came late
	records = envelope.AppendGauge(records, f, 30, envelope.Metric{Name: []byte("cpu"), Value: 1}, envelope.Metric{Name: []byte("memory"), Value: 2})
	records = envelope.AppendTimer(records, f, 50, "http", 1, 2)
	records = envelope.AppendEvent(records, f, 60, "crash", "body")
	records = envelope.AppendCounter(records, f, 70, "errors", 1, 2)
	records = envelope.AppendLog(records, f, time.Now().Add(time.Hour).UnixNano(), envelope.Out, []byte("of the future"))
	c.write(records)
	var hundreds []int64
	for i := range int64(1200) {
		hundreds = append(hundreds, 1+i)
	}
	c.log("many", hundreds...)

	all := []string{"10 out", "20 requests", "30 cpu,memory", "40 err", "50 http", "60 crash", "70 errors"}
	for name, test := range map[string]struct {
		query string
		want  []string
	}{
		"nothing said: oldest first, up to now":         {"", all},
		"start_time is included":                        {"start_time=40", all[3:]},
		"start_time may be negative":                    {"start_time=-5", append([]string{"-5 old"}, all...)},
		"start_time of Go's zero time":                  {"start_time=-6795364578871345152", append([]string{"-5 old"}, all...)},
		"start_time default is 0":                       {"end_time=11", all[:1]},
		"end_time is not included":                      {"end_time=40", all[:3]},
		"end_time 0 is now":                             {"end_time=0", all},
		"start_time is end_time":                        {"start_time=40&end_time=40", nil},
		"limit":                                         {"limit=2", all[:2]},
		"limit with start_time":                         {"limit=2&start_time=11", all[1:3]},
		"envelope_types by name":                        {"envelope_types=LOG", []string{"10 out", "40 err"}},
		"envelope_types by number":                      {"envelope_types=4", []string{"50 http"}},
		"envelope_types, several":                       {"envelope_types=EVENT&envelope_types=GAUGE", []string{"30 cpu,memory", "60 crash"}},
		"envelope_types ANY is all":                     {"envelope_types=ANY", all},
		"envelope_types ANY beside others is no choice": {"envelope_types=ANY&envelope_types=COUNTER", []string{"20 requests", "70 errors"}},
		"envelope_types of a later version":             {"envelope_types=17", nil},
		"limit is after envelope_types":                 {"envelope_types=COUNTER&limit=1&descending=true", all[6:]},
		"descending":                                    {"descending=true&limit=3", []string{"70 errors", "60 crash", "50 http"}},
		"descending with end_time":                      {"descending=true&limit=1&end_time=40", []string{"30 cpu,memory"}},
		"descending=false":                              {"descending=false&limit=1", all[:1]},
		"name_filter leaves out logs and events":        {"name_filter=.*", []string{"20 requests", "30 cpu,memory", "50 http", "70 errors"}},
		"name_filter is not anchored":                   {"name_filter=e.*rs", []string{"70 errors"}},
		"name_filter reduces gauges":                    {"name_filter=^mem", []string{"30 memory"}},
		"name_filter and envelope_types":                {"name_filter=e&envelope_types=COUNTER", []string{"20 requests", "70 errors"}},
		"name_filter and envelope_types LOG":            {"name_filter=e&envelope_types=LOG", nil},
		"name_filter before limit":                      {"name_filter=errors&limit=1", []string{"70 errors"}},
		"name_filter before limit, descending":          {"name_filter=requests&limit=1&descending=true", []string{"20 requests"}},
		"unknown parameters are ignored":                {"page=7&limit=1", all[:1]},
		"names in camel case":                           {"startTime=70&envelopeTypes=COUNTER", all[6:]},
	} {
		if got := c.read("a", test.query); !slices.Equal(got, test.want) {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
	if n := len(c.read("many", "")); n != 100 {
		t.Errorf("limit default is 100, got %d", n)
	}
	if n := len(c.read("many", "limit=1000")); n != 1000 {
		t.Errorf("limit=1000: %d", n)
	}
	if _, body := c.get(readPath + "unknown"); body != `{"envelopes":{"batch":[]}}`+"\n" {
		t.Errorf("an unknown source: %q", body)
	}
}

// TestNamesAmongManyOthers: a page of few names is found among thousands of others,
// whole, in both directions.
func TestNamesAmongManyOthers(t *testing.T) {
	c := newCache(t, nil, nil)
	var records []byte
	var want []string
	for i := range int64(7000) {
		name := "other"
		if i%331 == 0 || i > 1 && (i%1000 == 1 || i%1000 == 999) { // at the edges of what is looked at
			name = "wanted"
			want = append(want, fmt.Sprintf("%d wanted", 1+i/4))
		}
		records = envelope.AppendCounter(records, identity("a"), 1+i/4, name, 1, 1)
	}
	c.write(records)
	for limit := 1; limit < len(want)+2; limit++ {
		query := fmt.Sprintf("name_filter=wanted&limit=%d", limit)
		n := min(limit, len(want))
		if got := c.read("a", query); !slices.Equal(got, want[:n]) {
			t.Errorf("limit %d: %q", limit, got)
		}
		last := slices.Clone(want[len(want)-n:])
		slices.Reverse(last)
		if got := c.read("a", query+"&descending=true"); !slices.Equal(got, last) {
			t.Errorf("limit %d, descending: %q", limit, got)
		}
	}
}

// TestErrors is the table of what requests are refused with.
func TestErrors(t *testing.T) {
	c := newCache(t, nil, nil)
	c.log("a", 1)
	for name, test := range map[string]struct {
		method, path string
		status, code int
	}{
		"limit above 1000":              {"GET", "/api/v1/read/a?limit=1001", 500, 2},
		"limit below 0":                 {"GET", "/api/v1/read/a?limit=-1", 500, 2},
		"start_time after end_time":     {"GET", "/api/v1/read/a?start_time=2&end_time=1", 500, 2},
		"name_filter no expression":     {"GET", "/api/v1/read/a?name_filter=(", 500, 2},
		"name_filter too long":          {"GET", "/api/v1/read/a?name_filter=" + strings.Repeat("a", maxNameFilter+1), 500, 2},
		"start_time no number":          {"GET", "/api/v1/read/a?start_time=x", 400, 3},
		"start_time empty":              {"GET", "/api/v1/read/a?start_time=", 400, 3},
		"limit beyond 64 bits":          {"GET", "/api/v1/read/a?limit=9223372036854775808", 400, 3},
		"limit twice":                   {"GET", "/api/v1/read/a?limit=1&limit=2", 400, 3},
		"descending no bool":            {"GET", "/api/v1/read/a?descending=perhaps", 400, 3},
		"envelope_types unknown":        {"GET", "/api/v1/read/a?envelope_types=log", 400, 3},
		"envelope_types without end":    {"GET", "/api/v1/read/a?x=1" + strings.Repeat("&envelope_types=1", maxTypes+1), 400, 3},
		"query that cannot be read":     {"GET", "/api/v1/read/a?a=%zz", 400, 3},
		"no source":                     {"GET", "/api/v1/read/", 404, 5},
		"unknown path":                  {"GET", "/api/v1/unknown", 404, 5},
		"read by POST":                  {"POST", "/api/v1/read/a", 501, 12},
		"meta by DELETE":                {"DELETE", "/api/v1/meta", 501, 12},
		"a path of Log Cache before v2": {"GET", "/v1/read/a", 404, 5},
	} {
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(test.method, test.path, nil))
		var body struct {
			Code    int
			Message string
			Details []any
		}
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || w.Code != test.status || body.Code != test.code ||
			body.Message == "" || body.Details == nil || w.Header().Get("Content-Type") != "application/json" || w.Body.Len() > 400 {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	for _, path := range []string{"/api/v1/query?query=up", "/api/v1/query_range"} {
		status, body := c.get(path)
		var e struct{ Status, ErrorType, Error string }
		if err := json.Unmarshal([]byte(body), &e); status != 501 || err != nil || e.Status != "error" || e.ErrorType == "" || !strings.Contains(e.Error, "PromQL") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if s := c.Stats(); s.Malformed != 13 || s.Unimplemented != 2 {
		t.Errorf("%+v", s)
	}
}

func TestInfo(t *testing.T) {
	c := newCache(t, access.Authorizer(denyAll{}), nil)
	for _, method := range []string{"GET", "POST"} {
		w := httptest.NewRecorder()
		c.ServeHTTP(w, httptest.NewRequest(method, "/api/v1/info", nil))
		if w.Code != 200 || !regexp.MustCompile(`^\{"version":"[2-9]\d*\.\d+\.\d+","vm_uptime":"\d+"\}\n$`).MatchString(w.Body.String()) {
			t.Errorf("%s: %d %q", method, w.Code, w.Body)
		}
	}
}

// TestJSON is the form of the answers, byte for byte as the gateway before Log
// Cache writes them, but for the blanks that it puts in at random.
func TestJSON(t *testing.T) {
	c := newCache(t, nil, nil)
	c.write(envelope.AppendLog(nil, identity(`a/b "c"`), 7, envelope.Err, []byte("\xff\x00<ü>")))
	_, body := c.get("/api/v1/read/" + url.PathEscape(`a/b "c"`))
	if want := `{"envelopes":{"batch":[{"timestamp":"7","source_id":"a/b \"c\"","instance_id":"0","deprecated_tags":{},` +
		`"tags":{"source_type":"APP/PROC/WEB"},"log":{"payload":"/wA8w7w+","type":"ERR"}}]}}` + "\n"; body != want {
		t.Errorf("read:\n%s\nwant\n%s", body, want)
	}
	c.log("b", 9, 3)
	_, body = c.get("/api/v1/meta")
	if want := `{"meta":{"a/b \"c\"":{"count":"1","expired":"0","oldest_timestamp":"7","newest_timestamp":"7"},` +
		`"b":{"count":"2","expired":"0","oldest_timestamp":"3","newest_timestamp":"9"}}}` + "\n"; body != want {
		t.Errorf("meta:\n%s\nwant\n%s", body, want)
	}
	if got := c.read("a/b%20%22c%22", ""); len(got) != 1 {
		t.Errorf("a source id with a slash that is not escaped: %q", got)
	}
}

// TestEqualTimestampsStayTogether turns pages over logs of which many have the same
// timestamp, in both directions: none is lost, and none comes twice.
func TestEqualTimestampsStayTogether(t *testing.T) {
	c := newCache(t, nil, nil)
	var times []int64
	for i := range int64(40) {
		for range 1 + i*i%70 {
			times = append(times, 1000+i)
		}
	}
	for range 1500 {
		times = append(times, 2000)
	}
	for i := range len(times) { // they arrive in some disorder
		if k := i + i%7; k < len(times) {
			times[i], times[k] = times[k], times[i]
		}
	}
	c.log("a", times...)
	for _, limit := range []int{1, 3, 100, 1000} {
		for _, descending := range []bool{false, true} {
			seen := map[string]int{}
			start, end := int64(1), int64(5000)
			for range 200 {
				page := c.read("a", fmt.Sprintf("limit=%d&descending=%v&start_time=%d&end_time=%d", limit, descending, start, end))
				if len(page) == 0 {
					break
				}
				var last int64
				for i, text := range page {
					seen[text]++
					var at int64
					fmt.Sscan(text, &at)
					if i > 0 && at != last && (at < last) != descending {
						t.Fatalf("limit %d, descending %v: %d after %d", limit, descending, at, last)
					}
					last = at
				}
				if descending {
					end = last
				} else {
					start = last + 1
				}
			}
			if len(seen) != len(times) {
				t.Errorf("limit %d, descending %v: %d of %d", limit, descending, len(seen), len(times))
			}
			for text, n := range seen {
				if n != 1 {
					t.Errorf("limit %d, descending %v: %s came %d times", limit, descending, text, n)
				}
			}
		}
	}
}

// TestOneTimestampKeepsArrival: logs of one timestamp come in the order of their
// arrival, and the other way round when descending.
func TestOneTimestampKeepsArrival(t *testing.T) {
	c := newCache(t, nil, nil)
	c.log("a", 5, 5, 4, 5)
	if got := c.read("a", ""); !slices.Equal(got, []string{"4 2", "5 0", "5 1", "5 3"}) {
		t.Errorf("%q", got)
	}
	if got := c.read("a", "descending=true&limit=1"); !slices.Equal(got, []string{"5 3", "5 1", "5 0"}) {
		t.Errorf("descending: %q", got)
	}
}

// TestLargePagesGetShorter: what does not fit into an answer comes with the next
// page, and an answer's memory is bounded.
func TestLargePagesGetShorter(t *testing.T) {
	c := newCache(t, nil, nil)
	c.reply = 32 << 10
	const n = 60
	text := []byte(strings.Repeat("x", 1<<10-60))
	for i := range int64(n) {
		c.write(envelope.AppendLog(nil, identity("a"), i+1, envelope.Out, text))
	}
	for _, descending := range []bool{false, true} {
		pages, seen := 0, 0
		start, end := int64(0), int64(n+1)
		for {
			_, body := c.get(fmt.Sprintf("%sa?limit=1000&descending=%v&start_time=%d&end_time=%d", readPath, descending, start, end))
			var a answer
			if err := json.Unmarshal([]byte(body), &a); err != nil {
				t.Fatal(err)
			}
			if len(a.Envelopes.Batch) == 0 {
				break
			}
			for _, e := range a.Envelopes.Batch {
				at, _ := strconv.ParseInt(e.Timestamp, 10, 64)
				if want := start + 1; !descending && at != max(want, 1) {
					if at != start {
						t.Fatalf("%d after %d", at, start)
					}
				}
				if seen++; descending {
					end = at
				} else {
					start = at + 1
				}
			}
			pages++
		}
		if seen != n || pages < 2 || pages > 10 {
			t.Errorf("descending %v: %d of %d in %d pages", descending, seen, n, pages)
		}
	}
	if s := c.Stats(); s.Cut != 0 || s.Bytes != 2*c.bytesHeld() {
		t.Errorf("%+v", s)
	}
}

func (c *cache) bytesHeld() (n uint64) {
	for b := range c.router.Batches(c.t.Context(), envelope.Query{Select: envelope.Everything}) {
		n += uint64(len(b.Records))
	}
	return n
}

// TestOneTimestampTooLarge: of what has one timestamp and does not fit into an
// answer the rest is left out, and counted.
func TestOneTimestampTooLarge(t *testing.T) {
	c := newCache(t, nil, nil)
	c.reply = 32 << 10
	text := []byte(strings.Repeat("x", 1<<10-60))
	for range 40 {
		c.write(envelope.AppendLog(nil, identity("a"), 1, envelope.Out, text))
	}
	if n := len(c.read("a", "")); n != 32 {
		t.Errorf("%d came", n)
	}
	if s := c.Stats(); s.Cut != 8 || s.Records != 32 || s.Bytes > 32<<10 {
		t.Errorf("%+v", s)
	}
}

func TestMemoryIsBounded(t *testing.T) {
	c := newCache(t, nil, nil)
	c.opt.Memory = memoryStep
	c.log("a", 1)
	if got := c.read("a", ""); len(got) != 1 {
		t.Errorf("%q", got)
	}
	text := []byte(strings.Repeat("x", 1<<20-200))
	for i := range int64(3) {
		c.write(envelope.AppendLog(nil, identity("large"), i+1, envelope.Out, text))
	}
	if status, body := c.get(readPath + "large"); status != 503 || !strings.Contains(body, "try again") || c.Stats().Busy != 1 {
		t.Errorf("%d %s", status, body)
	}
}

// denyAll is an Authorizer for nobody.
type denyAll struct{}

func (denyAll) Authorize(context.Context, string, []envelope.Selector) (access.Grant, error) {
	return access.Grant{}, access.ErrDenied
}

// owners are who may read which source, by token.
type owners map[string][]string

func (o owners) Authorize(_ context.Context, token string, sel []envelope.Selector) (access.Grant, error) {
	all, known := o[token]
	if !known {
		return access.Grant{}, access.ErrToken
	}
	g := access.Grant{User: token}
	for _, s := range sel {
		for _, id := range all {
			if s.SourceID == "" || s.SourceID == id {
				own := s
				own.SourceID = id
				g.Select = append(g.Select, own)
			}
		}
	}
	if len(g.Select) == 0 {
		return g, access.ErrDenied
	}
	return g, nil
}

// TestAccess is the table of who reads what.
func TestAccess(t *testing.T) {
	c := newCache(t, owners{"anna": {"a", "b"}, "otto": {"o"}}, nil)
	for _, id := range []string{"a", "b", "o"} {
		c.log(id, 1)
	}
	for name, test := range map[string]struct {
		path, authorization string
		status              int
	}{
		"own":                           {"/api/v1/read/a", "bearer anna", 200},
		"own, as some clients write it": {"/api/v1/read/a", "Bearer anna", 200},
		"own, nothing there":            {"/api/v1/read/b?start_time=5", "bearer anna", 200},
		"another's":                     {"/api/v1/read/o", "bearer anna", 404},
		"what is not there":             {"/api/v1/read/x", "bearer anna", 404},
		"no token":                      {"/api/v1/read/a", "", 404},
		"a token that is no good":       {"/api/v1/read/a", "bearer nobody", 404},
		"meta without token":            {"/api/v1/meta", "", 404},
		"info without token":            {"/api/v1/info", "", 200},
	} {
		status, body := c.get(test.path, "Authorization", test.authorization)
		if status != test.status || status == 404 && body != "" {
			t.Errorf("%s: %d %q", name, status, body)
		}
	}
	for token, want := range map[string][]string{"anna": {"a", "b"}, "otto": {"o"}} {
		_, body := c.get("/api/v1/meta", "Authorization", "bearer "+token)
		var m struct{ Meta map[string]any }
		if err := json.Unmarshal([]byte(body), &m); err != nil || len(m.Meta) != len(want) {
			t.Errorf("meta for %s: %s", token, body)
		}
		for _, id := range want {
			if m.Meta[id] == nil {
				t.Errorf("meta for %s: %s", token, body)
			}
		}
	}
}

// busy is an Authorizer that fails in a given way.
type failing struct{ err error }

func (f failing) Authorize(context.Context, string, []envelope.Selector) (access.Grant, error) {
	return access.Grant{}, f.err
}

func TestBusyAndUnavailable(t *testing.T) {
	for _, test := range []struct {
		err    error
		status int
	}{
		{access.ErrUserBusy, 429}, {access.ErrBusy, 503}, {io.ErrUnexpectedEOF, 503}, {access.ErrDenied, 404}, {access.ErrToken, 404},
	} {
		c := newCache(t, failing{test.err}, nil)
		for _, path := range []string{"/api/v1/read/a", "/api/v1/meta"} {
			if status, body := c.get(path, "Authorization", "bearer x"); status != test.status || strings.Contains(body, "unexpected EOF") {
				t.Errorf("%v: %s: %d %s", test.err, path, status, body)
			}
		}
	}
}

// TestUnavailable: a source that fails is 503 with code 14, not an empty answer.
func TestUnavailable(t *testing.T) {
	c := newCache(t, nil, nil)
	c.log("a", 1)
	c.router.Close()
	if status, body := c.get("/api/v1/read/a"); status != 503 || !strings.HasPrefix(body, `{"code":14,`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestMetaOfSeveralRings(t *testing.T) {
	c := newCache(t, nil, &Options{Sources: lister{
		{SourceID: "a", Ring: 1, Held: 2, Gone: 3, Oldest: 10, Newest: 20},
		{SourceID: "a", Ring: 2, Held: 5, Gone: 1, Oldest: -7, Newest: 15},
		{SourceID: "empty", Ring: 3, Gone: 9},
	}})
	_, body := c.get("/api/v1/meta")
	if want := `{"meta":{"a":{"count":"7","expired":"4","oldest_timestamp":"-7","newest_timestamp":"20"}}}` + "\n"; body != want {
		t.Errorf("%s", body)
	}
	if status, _ := newCache(t, nil, &Options{}).get("/api/v1/meta"); status != 501 {
		t.Errorf("without a lister: %d", status)
	}
}

type lister []envelope.SourceInfo

func (l lister) Sources([]envelope.Selector) iter.Seq[envelope.SourceInfo] { return slices.Values(l) }

// TestMissedIsTold: what is given up while an answer is put together is told in it.
func TestMissedIsTold(t *testing.T) {
	src := source{
		{Missed: 4, Records: envelope.AppendLog(nil, identity("a"), 5, envelope.Out, []byte("next"))},
	}
	s := New(access.NewGate(src, nil, nil), nil)
	defer s.Close()
	c := &cache{t: t, Server: s}
	got := c.read("a", "")
	if len(got) != 2 || !strings.Contains(got[0], "4 lines are missing here") || got[1] != "5 next" || s.Stats().Missed != 4 {
		t.Errorf("%q %+v", got, s.Stats())
	}
	if got := c.read("a", "envelope_types=COUNTER"); len(got) != 1 {
		t.Errorf("where logs are not wanted: %q", got)
	}
}

// source gives the same batches to everybody.
type source []envelope.Batch

func (s source) Known([]envelope.Selector) bool { return true }

func (s source) Batches(context.Context, envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		for _, b := range s {
			b.Count = 1
			if !yield(b, nil) {
				return
			}
		}
	}
}

// TestShutdown: an answer under way is finished, later requests are refused, and
// Close cuts off a client who takes nothing.
func TestShutdown(t *testing.T) {
	c := newCache(t, nil, nil)
	text := []byte(strings.Repeat("x", 1<<20-200))
	for i := range int64(30) {
		c.write(envelope.AppendLog(nil, identity("a"), i+1, envelope.Out, text))
	}
	web := httptest.NewServer(c)
	defer web.Close()
	res, err := http.Get(web.URL + "/api/v1/read/a")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if c.Stats().Active != 1 { // 40 MB do not fit into a socket
		t.Errorf("%+v", c.Stats())
	}
	c.Close()
	if _, err := io.ReadAll(res.Body); err == nil {
		t.Error("an answer that was cut off looks whole")
	}
	if status, body := c.get("/api/v1/read/a"); status != 503 || !strings.Contains(body, "shutting down") {
		t.Errorf("%d %s", status, body)
	}
	if err := c.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
