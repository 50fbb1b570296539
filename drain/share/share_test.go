package share

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// site is a server's place: its Registry may be replaced, and members cut off.
type site struct {
	mu       sync.Mutex
	registry *Registry
	cut      map[string]bool // by the member's name
	posts    int
}

func newSites(n int) (list []*site) {
	for range n {
		list = append(list, &site{registry: NewRegistry(nil), cut: make(map[string]bool)})
	}
	return list
}

func (s *site) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.registry = NewRegistry(nil)
}

func (s *site) link(name string, up bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cut[name] = !up
}

// path is the way of one member to a site.
type path struct {
	*site
	name string
}

func (p path) RoundTrip(r *http.Request) (*http.Response, error) {
	p.mu.Lock()
	registry, cut := p.registry, p.cut[p.name]
	p.posts++
	p.mu.Unlock()
	if cut {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	if registry == nil {
		return nil, errors.New("connection refused")
	}
	w := httptest.NewRecorder()
	registry.ServeHTTP(w, r)
	p.mu.Lock()
	cut = p.cut[p.name] // the answer may be lost
	p.mu.Unlock()
	if cut {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return w.Result(), nil
}

func join(name string, sites []*site) *Member {
	var servers []Server
	for i, s := range sites {
		servers = append(servers, Server{Name: fmt.Sprint("s", i), URL: "http://x" + Path, HTTP: &http.Client{Transport: path{s, name}}})
	}
	return Join("drains", servers, &Options{Name: name})
}

func keys(n int) (list []string) {
	for i := range n {
		list = append(list, fmt.Sprint("piece-", i))
	}
	return list
}

// worker works with what its member holds: it releases what it is to give.
type worker struct {
	*Member
	stop chan struct{}
	done chan struct{}
	mu   sync.Mutex
	at   map[string]map[int]Hold
}

// Holds leaves out what is to be given.
func (w *worker) Holds(key string) []Hold {
	list, _ := w.Member.Holds(key)
	return list
}

func work(m *Member, pieces []string) *worker {
	w := &worker{Member: m, stop: make(chan struct{}), done: make(chan struct{}), at: make(map[string]map[int]Hold)}
	m.Want(pieces)
	go func() {
		defer close(w.done)
		for {
			select {
			case <-w.stop:
				return
			case <-m.Changes():
			case <-time.After(Interval):
			}
			w.look(pieces)
		}
	}()
	return w
}

func (w *worker) look(pieces []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, key := range pieces {
		now := make(map[int]Hold)
		holds, give := w.Member.Holds(key)
		for _, h := range holds {
			now[h.Server] = h
		}
		for _, server := range give {
			if _, working := w.at[key][server]; !working {
				w.Release(key, server, "")
			}
		}
		for server, h := range w.at[key] {
			if again, ok := now[server]; (!ok || again.Lease != h.Lease) && h.Lease.Valid() {
				w.Release(key, server, "after "+w.name)
				delete(now, server)
			}
		}
		w.at[key] = now
	}
}

// works reports at which sites w may work with the key.
func (w *worker) works(key string) (at []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for server, h := range w.at[key] {
		if h.Lease.Valid() {
			at = append(at, server)
		}
	}
	return at
}

func (w *worker) kill() {
	close(w.stop)
	w.Close()
	<-w.done
}

func (w *worker) leave(t *testing.T) {
	close(w.stop)
	<-w.done
	if err := w.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	w.mu.Lock()
	w.at = nil
	w.mu.Unlock()
}

// alone fails if two may work with the same piece at the same site.
func alone(t *testing.T, pieces []string, sites int, workers []*worker) {
	t.Helper()
	for _, key := range pieces {
		count := make([]int, sites)
		for _, w := range workers {
			for _, s := range w.works(key) {
				if count[s]++; count[s] > 1 {
					t.Fatalf("two work with %s at %d", key, s)
				}
			}
		}
	}
}

// all waits until every piece has a worker at every site, and gives how long it
// took.
func all(t *testing.T, pieces []string, sites int, workers ...*worker) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		alone(t, pieces, sites, workers)
		n := 0
		for _, key := range pieces {
			for _, w := range workers {
				n += len(w.works(key))
			}
		}
		if n == sites*len(pieces) {
			return time.Since(start)
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("%d of %d after a minute", n, sites*len(pieces))
		}
	}
}

func owned(w *worker, pieces []string) (n int) {
	for _, key := range pieces {
		n += len(w.works(key))
	}
	return n
}

func TestShareAndTakeOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(2), keys(60)
		a := work(join("a", sites), pieces)
		if d := all(t, pieces, 2, a); d > graceTime+2*Interval {
			t.Errorf("the first began after %v", d)
		}
		b, c := work(join("b", sites), pieces), work(join("c", sites), pieces)
		time.Sleep(2 * time.Second)
		all(t, pieces, 2, a, b, c)
		for _, w := range []*worker{a, b, c} {
			if n := owned(w, pieces) / 2; n < 4 || n > 45 {
				t.Errorf("%s has %d of %d", w.name, n, len(pieces))
			}
		}
		before := owned(b, pieces)
		c.kill()
		if d := all(t, pieces, 2, a, b); d > 4*time.Second {
			t.Errorf("taken over after %v", d)
		}
		if owned(b, pieces) < before {
			t.Error("what was not the dead one's moved, too")
		}
		expired := 0
		for _, key := range pieces {
			for _, h := range a.Holds(key) {
				if h.After == Expired {
					expired++
				}
			}
		}
		if expired == 0 {
			t.Error("it does not say how the last holder ended")
		}
		b.leave(t)
		if d := all(t, pieces, 2, a); d > 2*Interval {
			t.Errorf("handed over after %v", d)
		}
		notes := 0
		for _, key := range pieces {
			for _, h := range a.Holds(key) {
				if h.Note != "" {
					notes++
				}
			}
		}
		a.kill()
		if notes == 0 {
			t.Error("no note was handed over")
		}
	})
}

// A member that hangs stops by itself before another begins, and finds that it
// has lost everything when it wakes up.
func TestHungMember(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(2), keys(20)
		a, b := work(join("a", sites), pieces), work(join("b", sites), pieces)
		all(t, pieces, 2, a, b)
		old := a.Holds(first(t, a, pieces))[0].Lease
		for _, s := range sites {
			s.link("a", false)
		}
		start := time.Now()
		for owned(a, pieces) > 0 {
			alone(t, pieces, 2, []*worker{a, b})
			time.Sleep(10 * time.Millisecond)
		}
		all(t, pieces, 2, a, b)
		if d := time.Since(start); d < LeaseTime-2*Interval || d > 4*time.Second {
			t.Errorf("taken over after %v", d)
		}
		if owned(a, pieces) > 0 || old.Valid() {
			t.Error("it still works")
		}
		for _, s := range sites {
			s.link("a", true)
		}
		time.Sleep(3 * time.Second)
		all(t, pieces, 2, a, b)
		if owned(a, pieces) == 0 || old.Valid() {
			t.Error("it does not work again, or under its old lease")
		}
		a.kill()
		b.kill()
	})
}

func first(t *testing.T, w *worker, pieces []string) string {
	t.Helper()
	for _, key := range pieces {
		if len(w.works(key)) > 0 {
			return key
		}
	}
	t.Fatal("it has nothing")
	return ""
}

// A break that is shorter than a lease changes nothing.
func TestShortBreak(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(1), keys(20)
		a, b := work(join("a", sites), pieces), work(join("b", sites), pieces)
		all(t, pieces, 1, a, b)
		key := first(t, a, pieces)
		a.Note(key, 0, "here")
		time.Sleep(time.Second)
		old := a.Holds(key)[0]
		for range 5 {
			sites[0].link("a", false)
			time.Sleep(time.Second)
			sites[0].link("a", true)
			time.Sleep(2 * time.Second)
		}
		if now := a.Holds(key); len(now) != 1 || now[0].Lease != old.Lease || now[0].Note != "here" {
			t.Errorf("%+v, before %+v", now, old)
		}
		a.kill()
		b.kill()
	})
}

// A registry that is restarted is told who holds what, and gives nothing to
// others meanwhile; notes are there again for who comes later.
func TestRegistryRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(2), keys(20)
		a, b := work(join("a", sites), pieces), work(join("b", sites), pieces)
		all(t, pieces, 2, a, b)
		key := first(t, a, pieces)
		a.Note(key, 0, "here")
		time.Sleep(time.Second)
		lease := a.Holds(key)[0].Lease
		n := owned(a, pieces)
		for range 20 {
			sites[0].restart()
			for range 100 {
				alone(t, pieces, 2, []*worker{a, b})
				time.Sleep(20 * time.Millisecond)
			}
		}
		if now := a.Holds(key); len(now) != 2 || now[0].Lease != lease || owned(a, pieces) != n || owned(b, pieces) != 40-n {
			t.Errorf("%+v; %d, before %d", now, owned(a, pieces), n)
		}
		a.kill()
		all(t, pieces, 2, b)
		if now := b.Holds(key); now[0].Note != "here" || now[0].After != Expired {
			t.Errorf("%+v", now)
		}
		sites[0].mu.Lock()
		sites[0].registry = nil
		sites[0].mu.Unlock()
		time.Sleep(5 * time.Second) // away for longer than a lease
		if now := b.Holds(key); len(now) != 1 || now[0].Server != 1 || b.Err() == nil {
			t.Errorf("%+v, %v", now, b.Err())
		}
		sites[0].restart()
		all(t, pieces, 2, b)
		b.kill()
	})
}

// Whoever reaches only some servers works there, and nobody twice anywhere.
func TestCutOffFromSome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(2), keys(20)
		a, b := work(join("a", sites), pieces), work(join("b", sites), pieces)
		all(t, pieces, 2, a, b)
		sites[0].link("a", false)
		sites[1].link("b", false)
		for range 400 {
			alone(t, pieces, 2, []*worker{a, b})
			time.Sleep(10 * time.Millisecond)
		}
		all(t, pieces, 2, a, b)
		if owned(a, pieces) != 20 || owned(b, pieces) != 20 || slices.Contains(a.works(pieces[0]), 0) {
			t.Error(owned(a, pieces), owned(b, pieces))
		}
		sites[0].link("a", true)
		sites[1].link("b", true)
		time.Sleep(3 * time.Second)
		all(t, pieces, 2, a, b)
		for _, key := range pieces {
			if n := len(a.works(key)); n == 1 {
				t.Errorf("%s is still parted", key)
			}
		}
		a.kill()
		b.kill()
	})
}

// Not all want the same; what one wants alone is its own.
func TestWants(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(1), keys(60)
		a, b := work(join("a", sites), pieces), work(join("b", sites), pieces[:40])
		all(t, pieces, 1, a, b)
		for _, key := range pieces[40:] {
			if len(a.works(key)) != 1 {
				t.Errorf("%s is not a's", key)
			}
		}
		key := first(t, a, pieces[:40])
		a.Release(key, 0, "done")
		a.Want(pieces[40:])
		a.Want(pieces) // before anybody was told
		time.Sleep(time.Second)
		all(t, pieces, 1, a, b)
		a.Release(key, 0, "done")
		a.Want(pieces[40:])
		time.Sleep(time.Second)
		if got := b.Holds(key); len(got) != 1 || got[0].Note != "done" || got[0].After != Released {
			t.Errorf("%+v", got)
		}
		a.kill()
		b.kill()
	})
}

// Whatever breaks, no two work with a piece at one site, and in the end each has
// a worker everywhere.
func TestRandomFaults(t *testing.T) {
	for range 4 {
		seed := rand.Uint64()
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rng := rand.New(rand.NewPCG(seed, 0))
				sites, pieces := newSites(3), keys(12)
				names := []string{"a", "b", "c", "d"}
				workers := make(map[string]*worker)
				list := func() (l []*worker) {
					for _, w := range workers {
						l = append(l, w)
					}
					return l
				}
				for range 250 {
					name, s := names[rng.IntN(4)], sites[rng.IntN(3)]
					switch w := workers[name]; rng.IntN(6) {
					case 0, 1:
						s.link(name, rng.IntN(2) == 0)
					case 2:
						s.restart()
					case 3:
						if w == nil {
							workers[name] = work(join(name, sites), pieces)
						}
					case 4:
						if w != nil && rng.IntN(2) == 0 {
							w.kill() // its leases are valid for a while: nobody else may work
							time.Sleep(time.Millisecond)
						}
					case 5:
						if w != nil {
							for _, key := range pieces {
								w.Note(key, rng.IntN(3), fmt.Sprint(rng.Uint64()))
							}
						}
					}
					if w := workers[name]; w != nil && w.ctx.Err() != nil {
						delete(workers, name)
					}
					for range rng.IntN(40) {
						time.Sleep(50 * time.Millisecond)
						alone(t, pieces, 3, list())
					}
				}
				for _, s := range sites {
					for _, name := range names {
						s.link(name, true)
					}
				}
				if workers["a"] == nil {
					workers["a"] = work(join("a", sites), pieces)
				}
				time.Sleep(10 * time.Second)
				all(t, pieces, 3, list()...)
				for _, w := range workers {
					w.kill()
				}
			})
		})
	}
}

func TestBadRequests(t *testing.T) {
	r := NewRegistry(&RegistryOptions{MaxBytes: 5000})
	long := strings.Repeat("x", MaxName+1)
	for _, tc := range []struct {
		method, body string
		status       int
		says         string
	}{
		{"PUT", "", 405, "members post here"},
		{"POST", "what", 400, "no request of a member"},
		{"POST", `{}`, 400, "has to have 1 to 256 bytes"},
		{"POST", `{"group":"g","member":"` + long + `"}`, 400, "has to have 1 to 256 bytes"},
		{"POST", `{"group":"g","member":"m","name":"` + long + `"}`, 400, "member's name"},
		{"POST", `{"group":"g","member":"m","want":[""]}`, 400, "the name of a piece"},
		{"POST", `{"group":"g","member":"m","notes":{"p":"` + strings.Repeat("x", maxNote+1) + `"}}`, 400, "a note has more than"},
		{"POST", `{"group":"g","member":"` + strings.Repeat("x", MaxRequest), 413, "too large"},
		{"POST", `{"group":"g","member":"m","session":1,"seq":1}`, 200, `"known":false`},
		{"POST", `{"group":"g","member":"m","session":1,"seq":1,"join":true,"want":["p"]}`, 200, `"known":true`},
		{"POST", `{"group":"g","member":"m","session":1,"seq":1}`, 409, "a later request"},
		{"POST", `{"group":"g","member":"n","session":1,"seq":1,"join":true,"want":["` + strings.Join(keys(100), `","`) + `"]}`, 507, "more than 5000 bytes"},
		{"GET", "", 200, `"name":"g"`},
	} {
		w := httptest.NewRecorder()
		r.ServeHTTP(w, httptest.NewRequest(tc.method, Path, strings.NewReader(tc.body)))
		if w.Code != tc.status || !strings.Contains(w.Body.String(), tc.says) {
			t.Errorf("%s %.80s: %d %.200s", tc.method, tc.body, w.Code, w.Body)
		}
	}
}

// A registry holds no more than it may, whatever is posted, and nothing for ever.
func TestRegistryBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := NewRegistry(&RegistryOptions{MaxBytes: 20_000})
		time.Sleep(graceTime)
		post := func(q request) (answer, error) { return r.take(&q) }
		a, err := post(request{Group: "g", Member: "m", Session: 1, Seq: 1, Join: true, Want: []string{"p", "q"}})
		if err != nil || len(a.Granted) != 2 {
			t.Fatal(a, err)
		}
		a, err = post(request{Group: "g", Member: "m", Session: 1, Seq: 2, Heard: 1, Notes: map[string]string{"p": strings.Repeat("x", 18_000), "none": "x"}})
		if err != nil || len(a.Refused) != 0 || len(a.Granted) != 0 {
			t.Fatal(a, err)
		}
		a, err = post(request{Group: "g", Member: "m", Session: 1, Seq: 3, Notes: map[string]string{"q": strings.Repeat("x", 18_000)}})
		if err != nil || !slices.Equal(a.Refused, []string{"q"}) {
			t.Fatal(a, err)
		}
		if s := r.Stats(); s.Bytes > 20_000 || s.Groups[0].Held != 2 || s.Groups[0].Members[0].Held != 2 {
			t.Errorf("%+v", s)
		}
		for i := range 2 * maxGroups {
			_, err = post(request{Group: fmt.Sprint(i), Member: "m", Session: 1, Seq: 1, Join: true})
		}
		if err == nil {
			t.Error("any number of groups")
		}
		time.Sleep(graceTime + keepTime + time.Minute)
		if s := r.Stats(); s.Bytes != 0 || len(s.Groups) != 0 {
			t.Errorf("%+v is left", s)
		}
	})
}

// What a member says costs the same however many drains it holds, as long as
// nothing changes.
func TestQuietRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sites, pieces := newSites(1), keys(5000)
		m := join("a", sites)
		m.Want(pieces)
		time.Sleep(5 * time.Second)
		if s := m.Stats(); s[0].Held != 5000 || s[0].Members != 1 || s[0].Age > 2*Interval || !m.Settled() {
			t.Fatalf("%+v", s)
		}
		m.mu.Lock()
		q := m.peers[0].request()
		m.mu.Unlock()
		if len(q.Want)+len(q.Keep)+len(q.Notes)+len(q.Release) > 0 {
			t.Errorf("%+v", q)
		}
		m.Close()
	})
}

// FuzzRegistry posts anything: no panic, no more memory than allowed, and no
// piece with two holders.
func FuzzRegistry(f *testing.F) {
	f.Add([]byte(`{"group":"g","member":"m","session":1,"seq":1,"join":true,"want":["p"],"keep":["p"],"notes":{"p":"x"}}` + "\n" +
		`{"group":"g","member":"n","session":1,"seq":1,"join":true,"want":["p"]}` + "\n" + `{"group":"g","member":"m","session":2,"seq":2,"join":true,"drop":["p"],"release":["p"],"leave":true}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r := NewRegistry(&RegistryOptions{MaxBytes: 4096})
		for i, line := range bytes.Split(text, []byte("\n")) {
			if i%2 == 1 {
				r.started = r.started.Add(-graceTime)
			}
			r.ServeHTTP(httptest.NewRecorder(), httptest.NewRequestWithContext(context.Background(), "POST", Path, bytes.NewReader(line)))
		}
		if r.bytes < 0 || r.bytes > 4096 {
			t.Errorf("%d bytes", r.bytes)
		}
		for _, g := range r.groups {
			for key, p := range g.pieces {
				for _, m := range g.members {
					if (m.holds[key] != nil) != (p.holder == m) {
						t.Errorf("%s: two holders", key)
					}
				}
			}
		}
	})
}

// Notes outlive the registry, with a file; who held what does not.
func TestNotesInFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "notes")
		open := func() *Registry {
			t.Helper()
			r, err := OpenRegistry(file, nil)
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		s := &site{registry: open(), cut: make(map[string]bool)}
		pieces := keys(20)
		a := work(join("a", []*site{s}), pieces)
		all(t, pieces, 1, a)
		for _, key := range pieces[:10] {
			a.Note(key, 0, "at "+key)
		}
		time.Sleep(3 * time.Second)
		a.kill()
		before := s.registry // which is killed: it is not closed before the next begins
		s.mu.Lock()
		s.registry = open()
		s.mu.Unlock()
		b := work(join("b", []*site{s}), pieces)
		all(t, pieces, 1, b)
		for i, key := range pieces {
			want := ""
			if i < 10 {
				want = "at " + key
			}
			if got := b.Holds(key); len(got) != 1 || got[0].Note != want {
				t.Errorf("%s: %+v", key, got)
			}
		}
		b.Note(pieces[0], 0, "the last word")
		time.Sleep(10 * time.Millisecond)
		b.leave(t)
		before.Close() // it has nothing new to say
		if err := s.registry.Close(); err != nil {
			t.Error(err)
		}
		last := open()
		if p := last.groups["drains"].pieces[pieces[0]]; p.note != "the last word" || p.holder != nil {
			t.Errorf("%+v", p)
		}
		bytes := last.bytes
		time.Sleep(keepTime + time.Hour)
		if st := last.Stats(); bytes == 0 || st.Bytes != 0 {
			t.Errorf("%d bytes, and then %+v", bytes, st)
		}
		last.Close()
		last.Close()
		for _, text := range []string{"what", `{"a":1}`} {
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := OpenRegistry(file, nil); err == nil {
				t.Errorf("%q is taken", text)
			}
		}
	})
}
