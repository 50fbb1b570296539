package cloudfoundry_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/access/cloudfoundry"
)

type S = envelope.Selector

func TestWhatUsersSee(t *testing.T) {
	p := newPlatform(t)
	a := p.authorizer(nil)
	ann, bob, admin := p.token("ann"), p.token("bob"), p.token("root", "doppler.firehose")
	web, api, other := S{SourceID: webID}, S{SourceID: apiID}, S{SourceID: otherID}
	dev := S{Space: devID, IDs: true}
	for _, tt := range []struct {
		name  string
		token string
		asked []S
		want  []S // nil: denied
	}{
		{"an app by id", ann, []S{{App: webID}}, []S{web}},
		{"an app by source id", ann, []S{{SourceID: webID}}, []S{web}},
		{"an app by name", ann, []S{{App: "web"}}, []S{web}},
		{"the same name is another's own", bob, []S{{App: "web"}}, []S{other}},
		{"two apps", ann, []S{{App: "web"}, {SourceID: apiID}}, []S{web, api}},
		{"an app in a space by name", ann, []S{{App: "web", Space: "dev"}}, []S{web}},
		{"an app in a space by id", ann, []S{{App: webID, Space: devID}}, []S{web}},
		{"an app in an org", ann, []S{{App: "web", Org: "acme"}}, []S{web}},
		{"an app in a space of an org", ann, []S{{App: "web", Org: acmeID, Space: "dev"}}, []S{web}},
		{"an app in another space", ann, []S{{App: "web", Space: "prod"}}, nil},
		{"a space by name", ann, []S{{Space: "dev"}}, []S{dev}},
		{"a space by id", ann, []S{{Space: devID}}, []S{dev}},
		{"a space by id alone", ann, []S{{Space: devID, IDs: true}}, []S{dev}},
		{"a space by name where ids are meant", ann, []S{{Space: "dev", IDs: true}}, nil},
		{"a space of an org", ann, []S{{Space: "dev", Org: "acme"}}, []S{dev}},
		{"an org is the spaces one sees", ann, []S{{Org: "acme"}}, []S{dev}},
		{"an org of which one sees no space", bob, []S{{Org: "acme"}}, nil},
		{"everything is what one sees", ann, []S{{}}, []S{web, api, {SourceID: dbID}}},
		{"a service instance", ann, []S{{SourceID: dbID}}, []S{{SourceID: dbID}}},
		{"what is asked of records stays", ann, []S{{App: "web", Stderr: true, Instance: "1"}}, []S{{SourceID: webID, Stderr: true, Instance: "1"}}},
		{"an app by id and source id", ann, []S{{App: "web", SourceID: webID}}, []S{web}},
		{"an app by another's source id", ann, []S{{App: "web", SourceID: otherID}}, nil},
		{"an app by its own and another's id", ann, []S{{App: webID, SourceID: apiID}}, nil},
		{"another's app by id", ann, []S{{App: otherID}}, nil},
		{"another's app by source id", ann, []S{{SourceID: otherID}}, nil},
		{"one's own and another's", ann, []S{{App: webID}, {App: otherID}}, nil},
		{"another's space", ann, []S{{Space: "prod"}}, nil},
		{"another's space by id", ann, []S{{Space: prodID}}, nil},
		{"another's org", ann, []S{{Org: "evil"}}, nil},
		{"one's own app in another's space", ann, []S{{App: webID, Space: prodID}}, nil},
		{"no such app", ann, []S{{App: nobody}}, nil},
		{"no such name", ann, []S{{App: "nope"}}, nil},
		{"a platform component", ann, []S{{SourceID: "gorouter"}}, nil},
		{"an id in capitals", ann, []S{{App: strings.ToUpper(devID)}}, nil},
		{"nobody's eyes", p.token("eve"), []S{{}}, nil},
		{"an admin's everything", admin, []S{{}}, []S{{}}},
		{"an admin's component", admin, []S{{SourceID: "gorouter"}}, []S{{SourceID: "gorouter"}}},
		{"logs.admin", p.token("root", "logs.admin"), []S{{App: "any"}}, []S{{App: "any"}}},
		{"a scope that is like it", p.token("eve", "doppler.firehose.not"), []S{{App: "any"}}, nil},
	} {
		got, err := a.Authorize(t.Context(), tt.token, tt.asked)
		if (tt.want == nil) != errors.Is(err, access.ErrDenied) {
			t.Errorf("%s: %v %v", tt.name, got, err)
			continue
		}
		if tt.want != nil {
			if d := cmp.Diff(tt.want, got.Select); d != "" {
				t.Errorf("%s: %s", tt.name, d)
			}
			if got.Expires.IsZero() {
				t.Errorf("%s: for ever", tt.name)
			}
		}
		if got.User == "" {
			t.Errorf("%s: the audit does not learn who it is", tt.name)
		}
	}
}

// A name that has a comma in it is one name.
func TestNamesAreNoLists(t *testing.T) {
	p := newPlatform(t)
	p.authorizer(nil).Authorize(t.Context(), p.token("ann"), []S{{App: "a,b&guids=" + otherID}})
	if q := p.questions(); len(q) != 1 || !strings.Contains(q[0], "names=a%252Cb%26guids%3D"+otherID) {
		t.Errorf("%q", q)
	}
}

func TestAnswersAreKeptForAWhile(t *testing.T) {
	p := newPlatform(t)
	ask := func(a *cloudfoundry.Authorizer, token string) error {
		_, err := a.Authorize(t.Context(), token, []S{{App: "web"}})
		return err
	}
	ann := p.token("ann")
	long := p.authorizer(&cloudfoundry.Options{CacheFor: time.Hour})
	for range 3 {
		if err := ask(long, ann); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(p.questions()); n != 1 {
		t.Errorf("asked %d times", n)
	}
	// Another token is another question, whatever is kept.
	if err := ask(long, p.token("eve")); !errors.Is(err, access.ErrDenied) {
		t.Errorf("%v", err)
	}
	// A right that was taken back is gone when the answer is too old.
	short := p.authorizer(&cloudfoundry.Options{CacheFor: 50 * time.Millisecond})
	if err := ask(short, ann); err != nil {
		t.Fatal(err)
	}
	p.set(func() { p.resources = nil })
	deadline := time.Now().Add(30 * time.Second)
	for err := ask(short, ann); !errors.Is(err, access.ErrDenied); err = ask(short, ann) {
		if time.Now().After(deadline) {
			t.Fatalf("still %v", err)
		}
		time.Sleep(5 * time.Millisecond)
	}
	if err := ask(long, ann); err != nil {
		t.Errorf("what is kept: %v", err)
	}
}

// What cannot be asked is not granted.
func TestPlatformAway(t *testing.T) {
	for _, tt := range []struct {
		name   string
		broken int
		answer string
		want   error // nil: none of access's own
	}{
		{"the Cloud Controller fails", 500, "", nil},
		{"it is busy", 429, "", nil},
		{"it sends on elsewhere", 302, "", nil},
		{"it refuses the token", 401, "", access.ErrToken},
		{"it forbids", 403, "", access.ErrDenied},
		{"a page", 0, "<html>", nil},
		{"JSON of something else", 0, `{"hello":"world"}`, nil},
		{"an empty id", 0, `{"pagination":{"total_results":1},"resources":[{"guid":""}]}`, nil},
		{"a foreign id", 0, `{"pagination":{"total_results":1},"resources":[{"guid":"gorouter"}]}`, nil},
		{"too many", 0, `{"pagination":{"total_results":1001},"resources":[]}`, access.ErrUserBusy},
		{"endless", 0, `{"x":"` + strings.Repeat("x", 33<<20) + `"}`, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newPlatform(t)
			a := p.authorizer(&cloudfoundry.Options{CacheFor: time.Hour})
			ann := p.token("ann")
			if _, err := a.Authorize(t.Context(), ann, []S{{App: "web"}}); err != nil {
				t.Fatal(err) // the keys are there
			}
			p.set(func() { p.broken, p.answer = tt.broken, tt.answer })
			grant, err := a.Authorize(t.Context(), ann, []S{{App: "api"}})
			known := errors.Is(err, access.ErrToken) || errors.Is(err, access.ErrDenied) || errors.Is(err, access.ErrBusy)
			if err == nil || len(grant.Select) > 0 || tt.want != nil && !errors.Is(err, tt.want) || tt.want == nil && known {
				t.Errorf("%+v %v", grant, err)
			}
			if strings.Contains(fmt.Sprint(err), ann) {
				t.Errorf("the token is in %v", err)
			}
			// What is kept is not asked again.
			if _, err := a.Authorize(t.Context(), ann, []S{{App: "web"}}); err != nil {
				t.Errorf("what was answered before: %v", err)
			}
		})
	}
	t.Run("no keys", func(t *testing.T) {
		p := newPlatform(t)
		p.set(func() { p.broken = 500 })
		_, err := p.authorizer(nil).Authorize(t.Context(), p.token("ann"), []S{{App: "web"}})
		if err == nil || errors.Is(err, access.ErrToken) || errors.Is(err, access.ErrDenied) {
			t.Errorf("%v", err)
		}
	})
}

func TestKeysAreReplaced(t *testing.T) {
	p := newPlatform(t)
	a := p.authorizer(nil)
	ask := func(token string) error {
		_, err := a.Authorize(t.Context(), token, []S{{App: "web"}})
		return err
	}
	newToken := sign(rsaKey2(), jose.RS256, "key-2", p.claims("ann"))
	p.set(func() { p.keys = append(p.keys, public(rsaKey2(), "key-2")) })
	if err := ask(newToken); err != nil {
		t.Errorf("a key that is there: %v", err)
	}
	// Tokens that name keys which are not there do not make the issuer's work.
	start := time.Now()
	for i := range 100 {
		if err := ask(sign(evilsKey(), jose.RS256, fmt.Sprint("none-", i), p.claims("ann"))); !errors.Is(err, access.ErrToken) {
			t.Fatalf("%v", err)
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if most := 3 + int(time.Since(start)/(5*time.Second)); p.keysAsked > most {
		t.Errorf("the keys were asked for %d times", p.keysAsked)
	}
}

func TestManyIDsAreFewQuestions(t *testing.T) {
	p := newPlatform(t)
	a := p.authorizer(&cloudfoundry.Options{CacheFor: time.Hour})
	var asked []S
	p.set(func() {
		for i := range 250 {
			id := fmt.Sprintf("44444444-0000-4000-8000-%012d", i)
			p.resources = append(p.resources, resource{"apps", id, id, devID, acmeID, []string{"ann"}})
			asked = append(asked, S{SourceID: id})
		}
	})
	ann := p.token("ann")
	got, err := a.Authorize(t.Context(), ann, asked)
	if err != nil || !slices.EqualFunc(got.Select, asked, func(a, b S) bool { return a.SourceID == b.SourceID }) {
		t.Errorf("%d of them, %v", len(got.Select), err)
	}
	if q := p.questions(); len(q) != 3 {
		t.Errorf("%d questions", len(q))
	}
	for i := range asked { // each is known now
		if _, err := a.Authorize(t.Context(), ann, asked[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := a.Authorize(t.Context(), ann, []S{{SourceID: nobody}, {SourceID: otherID}}); !errors.Is(err, access.ErrDenied) {
		t.Errorf("%v", err)
	}
	if _, err := a.Authorize(t.Context(), ann, []S{{SourceID: otherID}}); !errors.Is(err, access.ErrDenied) {
		t.Errorf("%v", err)
	}
	if q := p.questions(); len(q) != 2 {
		t.Errorf("%d more questions: %q", len(q), q)
	}
	var names []S
	for i := range 100 {
		names = append(names, S{App: fmt.Sprint("app-", i)})
	}
	p.set(func() {
		for _, n := range names {
			p.resources = append(p.resources, resource{"apps", webID, n.App, devID, acmeID, []string{"ann"}})
		}
	})
	if _, err := a.Authorize(t.Context(), p.token("ann"), names); !errors.Is(err, access.ErrUserBusy) || len(p.questions()) > 30 {
		t.Errorf("100 names: %v", err)
	}
}

// Who has the Cloud Controller asked for much at once waits for himself.
func TestOneUserDoesNotTakeAllTurns(t *testing.T) {
	p := newPlatform(t)
	a := p.authorizer(nil)
	ann := p.token("ann")
	if _, err := a.Authorize(t.Context(), p.token("bob"), []S{{App: "web"}}); err != nil { // the keys are there
		t.Fatal(err)
	}
	p.set(func() { p.slow, p.release = ann, make(chan struct{}) })
	var asking sync.WaitGroup
	for i := range 100 {
		asking.Go(func() { a.Authorize(t.Context(), ann, []S{{App: fmt.Sprint("app-", i)}}) })
	}
	for deadline := time.Now().Add(30 * time.Second); p.waiting.Load() < 8; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("nobody asks")
		}
	}
	if _, err := a.Authorize(t.Context(), p.token("bob"), []S{{Space: "prod"}}); err != nil {
		t.Errorf("another user: %v", err)
	}
	if n := p.waiting.Load(); n > 8 {
		t.Errorf("%d questions of one user at a time", n)
	}
	close(p.release)
	asking.Wait()
}

func TestAddressesThatAreNotTaken(t *testing.T) {
	for _, bad := range []string{"", "uaa", "ftp://uaa", "http://uaa.example.com", "https://me:secret@uaa", "https://uaa?x=y"} {
		for i := range 2 {
			urls := []string{"https://cc", "https://uaa"}
			urls[i] = bad
			if _, err := cloudfoundry.New(urls[0], urls[1], nil); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%q: %v", bad, err)
			}
		}
	}
}
