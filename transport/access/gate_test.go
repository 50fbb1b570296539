package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// book is an Authorizer of tokens that are names: what each may read.
type book map[string]Grant

func (b book) Authorize(_ context.Context, token string, sel []envelope.Selector) (Grant, error) {
	g, ok := b[token]
	if !ok {
		return Grant{}, fmt.Errorf("%w: nobody knows it", ErrToken)
	}
	if token == "broken" {
		return Grant{}, errors.New("10.0.0.1 answers with secrets")
	}
	var err error
	if g.Select, err = Within(sel, g.Select); err != nil {
		return Grant{User: g.User}, err
	}
	return g, nil
}

// wire is a Source that yields batches of size bytes for ever, and keeps the
// queries it was asked.
type wire struct {
	size  int
	asked []envelope.Query
	known bool
}

func (w *wire) Known([]envelope.Selector) bool { return w.known }

func (w *wire) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	w.asked = append(w.asked, q)
	return func(yield func(envelope.Batch, error) bool) {
		for w.size > 0 {
			if ctx.Err() != nil {
				yield(envelope.Batch{}, ctx.Err())
				return
			}
			if !yield(envelope.Batch{Records: make([]byte, w.size), Count: 1}, nil) {
				return
			}
		}
		<-ctx.Done()
		yield(envelope.Batch{}, ctx.Err())
	}
}

func web() []envelope.Selector { return []envelope.Selector{{App: "web"}} }

func TestAdmit(t *testing.T) {
	var audit, log bytes.Buffer
	w := &wire{known: true}
	g := NewGate(w, book{
		"ann":    {User: "ann", Select: []envelope.Selector{{App: "web"}, {Org: "acme"}}},
		"bob":    {User: "bob", Select: []envelope.Selector{{App: "api"}}},
		"late":   {User: "late", Select: envelope.Everything, Expires: time.Now().Add(-time.Second)},
		"broken": {},
		"idle":   {User: "idle"},
	}, &Options{MaxReaders: 3, MaxPerUser: 2, Audit: slog.New(slog.NewTextHandler(&audit, nil)), Logger: slog.New(slog.NewTextHandler(&log, nil))})
	ctx := WithPeer(t.Context(), "10.1.1.1:4000")
	for _, tt := range []struct {
		token  string
		sel    []envelope.Selector
		want   error
		status int
		says   string
	}{
		{"", web(), ErrToken, 401, "send one as Authorization: Bearer"},
		{strings.Repeat("x", MaxToken+1), web(), ErrToken, 401, "longer than 16 KiB"},
		{"eve", web(), ErrToken, 401, "nobody knows it"},
		{"late", web(), ErrToken, 401, "it has expired; log in again"},
		{"bob", web(), ErrDenied, 404, "not known here"},
		{"bob", []envelope.Selector{{App: "api"}, {App: "web"}}, ErrDenied, 404, "not known here"},
		{"bob", nil, ErrDenied, 404, "not known here"},
		{"idle", envelope.Everything, ErrDenied, 404, "not known here"},
		{"broken", web(), ErrUnavailable, 503, "it cannot be checked now"},
		{"ann", web(), nil, 0, ""},
		{"ann", envelope.Everything, nil, 0, ""},
		{"ann", web(), ErrUserBusy, 429, "you are reading 2 times already"},
		{"bob", []envelope.Selector{{App: "api"}}, nil, 0, ""},
		{"bob", []envelope.Selector{{App: "api"}}, ErrBusy, 503, "3 are being served"},
	} {
		pass, err := g.Admit(ctx, tt.token, tt.sel)
		if !errors.Is(err, tt.want) || (pass == nil) != (err != nil) {
			t.Errorf("%.10s %v: %v", tt.token, tt.sel, err)
		}
		if err == nil {
			if pass.User() != tt.token || !pass.Known() {
				t.Errorf("%+v", pass)
			}
			defer func() {
				pass.Close()
				pass.Close()
			}()
			continue
		}
		status, says := Explain(err)
		if status != tt.status || !strings.Contains(says, tt.says) || strings.Contains(says, "secrets") {
			t.Errorf("%.10s: %d %s", tt.token, status, says)
		}
	}
	if s := g.Stats(); s != (Stats{Readers: 3, Users: 2, Admitted: 3, BadToken: 4, Denied: 4, Busy: 1, UserBusy: 1, Unavailable: 1}) {
		t.Errorf("%+v", s)
	}
	t.Cleanup(func() { // after the passes' own closing
		if s := g.Stats(); s.Readers != 0 || s.Users != 0 {
			t.Errorf("%+v", s)
		}
	})
	lines := strings.Split(strings.TrimSpace(audit.String()), "\n")
	if len(lines) != 14 {
		t.Errorf("%d decisions were written down", len(lines))
	}
	for _, want := range []string{
		`decision=denied user=bob peer=10.1.1.1:4000 asked="app=api or app=web" reason="not known here"`,
		`decision=granted user=ann peer=10.1.1.1:4000 asked=everything granted="app=web or org=acme"`,
		`decision=unavailable`,
	} {
		if !strings.Contains(audit.String(), want) {
			t.Errorf("the audit lacks %s:\n%s", want, audit.String())
		}
	}
	if strings.Count(log.String(), "\n") != 1 {
		t.Errorf("log: %s", log.String())
	}
}

func TestNobodyIsAskedWithoutAnAuthorizer(t *testing.T) {
	w := &wire{}
	g := NewGate(w, nil, &Options{MaxPerUser: 1})
	for range 3 {
		p, err := g.Admit(t.Context(), "", envelope.Everything)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if p.User() != "" || len(p.Select()) != 1 || !p.Expires().IsZero() {
			t.Errorf("%+v", p)
		}
	}
}

func TestPassReadsWhatWasGranted(t *testing.T) {
	w := &wire{size: 1}
	g := NewGate(w, book{
		"a": {User: "a", Select: []envelope.Selector{{Org: "acme"}}},
		"b": {User: "b", Select: []envelope.Selector{{Org: "acme"}}},
	}, nil)
	for _, token := range []string{"a", "b"} {
		p, err := g.Admit(t.Context(), token, envelope.Everything)
		if err != nil {
			t.Fatal(err)
		}
		for range p.Batches(t.Context(), envelope.Query{Select: envelope.Everything, Shard: "mine", MaxBytes: 1 << 30}) {
			break
		}
		p.Close()
	}
	for i, q := range w.asked {
		if len(q.Select) != 1 || q.Select[0].Org != "acme" || q.MaxBytes != MaxBatch {
			t.Errorf("query %d: %+v", i, q)
		}
	}
	if w.asked[0].Shard == w.asked[1].Shard {
		t.Errorf("two users share the shard %q", w.asked[0].Shard)
	}
}

func TestSequenceEndsWithItsToken(t *testing.T) {
	for _, tt := range []struct {
		name string
		w    wire
	}{{"quiet", wire{}}, {"busy", wire{size: 10}}} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := tt.w
				g := NewGate(&w, book{"a": {User: "a", Select: envelope.Everything, Expires: time.Now().Add(time.Minute)}}, &Options{BytesPerSecond: 100})
				p, err := g.Admit(t.Context(), "a", envelope.Everything)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				start := time.Now()
				var last error
				n := 0
				for b, err := range p.Batches(t.Context(), envelope.Query{Follow: true}) {
					n += len(b.Records)
					last = err
				}
				if last != ErrExpired || time.Since(start) != time.Minute {
					t.Errorf("%v after %v", last, time.Since(start))
				}
				if s := g.Stats(); s.Expired != 1 {
					t.Errorf("%+v", s)
				}
				if tt.w.size > 0 && (n < 6000 || n > 6200) { // a minute of 100 bytes, a second's worth at the start
					t.Errorf("%d bytes in a minute", n)
				}
				// One that its reader has left has not expired.
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				for _, err := range p.Batches(ctx, envelope.Query{Follow: true}) {
					last = err
				}
				if s := g.Stats(); s.Expired != 1 || last != context.Canceled {
					t.Errorf("%v %+v", last, s)
				}
			})
		})
	}
}

func TestBearerToken(t *testing.T) {
	for _, tt := range []struct {
		headers []string
		want    string
	}{
		{nil, ""},
		{[]string{"Bearer abc"}, "abc"},
		{[]string{"bearer  abc "}, "abc"},
		{[]string{"Basic abc"}, ""},
		{[]string{"abc"}, ""},
		{[]string{"Bearer"}, ""},
		{[]string{"Bearer abc", "Bearer def"}, ""},
	} {
		r, _ := http.NewRequest("GET", "/", nil)
		for _, h := range tt.headers {
			r.Header.Add("Authorization", h)
		}
		if got := BearerToken(r); got != tt.want {
			t.Errorf("%q: %q", tt.headers, got)
		}
	}
}

// TestAdmitAs checks that who needs no token is behind the same limits.
func TestAdmitAs(t *testing.T) {
	g := NewGate(&wire{}, book{}, &Options{MaxPerUser: 1})
	grant := Grant{User: "nozzle", Select: envelope.Everything}
	pass, err := g.AdmitAs(t.Context(), grant)
	if err != nil || pass.User() != "nozzle" || len(pass.Select()) != 1 {
		t.Fatal(pass, err)
	}
	if _, err := g.AdmitAs(t.Context(), grant); !errors.Is(err, ErrUserBusy) {
		t.Errorf("beyond MaxPerUser: %v", err)
	}
	pass.Close()
	if pass, err = g.AdmitAs(t.Context(), grant); err != nil {
		t.Fatal(err)
	}
	pass.Close()
	if s := g.Stats(); s.Admitted != 2 || s.UserBusy != 1 || s.Readers != 0 || s.Users != 0 {
		t.Errorf("%+v", s)
	}
}

func TestSelectorsOfOneUser(t *testing.T) {
	g := NewGate(&wire{}, book{
		"a": {User: "a", Select: []envelope.Selector{{App: "1"}, {App: "2"}, {App: "3"}}},
		"b": {User: "b", Select: []envelope.Selector{{App: "1"}, {App: "2"}, {App: "3"}}},
	}, &Options{MaxSelectors: 7})
	var passes []*Pass
	admit := func(token string) error {
		p, err := g.Admit(t.Context(), token, envelope.Everything)
		if err == nil {
			passes = append(passes, p)
		}
		return err
	}
	for _, token := range []string{"a", "a", "b"} {
		if err := admit(token); err != nil {
			t.Errorf("within the limit: %v", err)
		}
	}
	if err := admit("a"); !errors.Is(err, ErrUserBusy) || !strings.Contains(err.Error(), "read 9 applications at once, and the limit is 7") {
		t.Errorf("beyond it: %v", err)
	}
	passes[0].Close()
	if err := admit("a"); err != nil {
		t.Errorf("after one has ended: %v", err)
	}
}

// turncoat is an Authorizer that can be told what to answer.
type turncoat struct {
	mu    sync.Mutex
	grant Grant
	err   error
	asked int
}

func (a *turncoat) Authorize(context.Context, string, []envelope.Selector) (Grant, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	return a.grant, a.err
}

func TestRightsThatAreTakenBack(t *testing.T) {
	web, api := envelope.Selector{App: "web"}, envelope.Selector{App: "api", Kinds: []envelope.Kind{envelope.KindLog}}
	for _, tt := range []struct {
		name string
		now  []envelope.Selector
		err  error
		ends bool
	}{
		{"the same", []envelope.Selector{api, web}, nil, false},
		{"more", []envelope.Selector{web, {App: "new"}, api}, nil, false},
		{"less", []envelope.Selector{web}, nil, true},
		{"another kind", []envelope.Selector{web, {App: "api", Kinds: []envelope.Kind{envelope.KindGauge}}}, nil, true},
		{"nothing", nil, nil, true},
		{"denied", nil, ErrDenied, true},
		{"the token is refused", nil, ErrToken, true},
		{"nobody can tell", nil, errors.New("away"), false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &turncoat{grant: Grant{User: "a", Select: []envelope.Selector{web, api}}}
				var audit bytes.Buffer
				g := NewGate(&wire{}, a, &Options{Recheck: time.Minute, Audit: slog.New(slog.NewTextHandler(&audit, nil))})
				p, err := g.Admit(t.Context(), "token", envelope.Everything)
				if err != nil {
					t.Fatal(err)
				}
				defer p.Close()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				time.AfterFunc(10*time.Minute, func() {
					a.mu.Lock()
					defer a.mu.Unlock()
					a.grant.Select, a.err = tt.now, tt.err
				})
				start := time.Now()
				var last error
				for _, last = range p.Batches(ctx, envelope.Query{Follow: true}) {
				}
				d := time.Since(start)
				if tt.ends && (last != ErrRevoked || !errors.Is(last, ErrExpired) || d < 10*time.Minute || d > 12*time.Minute || g.Stats().Expired != 1) {
					t.Errorf("%v after %v", last, d)
				}
				if !tt.ends && (last != context.DeadlineExceeded || d != time.Hour || g.Stats().Expired != 0) {
					t.Errorf("%v after %v", last, d)
				}
				if strings.Contains(audit.String(), `decision=ended user=a reason="what you may read has changed`) != tt.ends {
					t.Errorf("the audit: %s", audit.String())
				}
				if a.asked > 122 {
					t.Errorf("asked %d times", a.asked)
				}
				asked := a.asked
				time.Sleep(time.Hour)
				if a.asked != asked {
					t.Error("asked after the end")
				}
			})
		})
	}
}
