package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/drain/share"
	"github.com/cloudfoundry/loggregator/envelope"
)

// backend is servers whose drains are shared: what they hold, and their
// registries, from which members can be cut off.
type backend struct {
	sources []*memory
	hosts   hosts
	path    string // of the bindings
	tallies map[string]*tally

	mu         sync.Mutex
	registries []*share.Registry // nil: away
	cut        map[string]bool   // member and server
	sent       int               // lines in each ring
}

func newBackend(t *testing.T, servers, drains int) *backend {
	b := &backend{cut: make(map[string]bool), tallies: make(map[string]*tally), path: filepath.Join(t.TempDir(), "drains.json")}
	for range servers {
		b.sources = append(b.sources, newMemory())
		b.registries = append(b.registries, share.NewRegistry(nil))
	}
	fileOf(t, b.path, drains)
	return b
}

// way is one member's to one registry.
type way struct {
	*backend
	member string
	server int
}

func (w way) RoundTrip(r *http.Request) (*http.Response, error) {
	look := func() (*share.Registry, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.registries[w.server], w.cut[fmt.Sprint(w.member, w.server)]
	}
	registry, cut := look()
	if registry == nil {
		return nil, errors.New("connection refused")
	}
	answer := httptest.NewRecorder()
	if !cut {
		registry.ServeHTTP(answer, r)
		_, cut = look()
	}
	if cut {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	return answer.Result(), nil
}

func (b *backend) link(member string, server int, up bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cut[fmt.Sprint(member, server)] = !up
}

func (b *backend) registry(server int, r *share.Registry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.registries[server] = r
}

// open starts a process.
func (b *backend) open(t *testing.T, member string) *Set {
	t.Helper()
	o := &Shared{Group: "drains", Member: member}
	for i, src := range b.sources {
		o.Servers = append(o.Servers, SharedServer{Source: src, Server: share.Server{
			Name: fmt.Sprint("server ", i), URL: "http://server" + share.Path, HTTP: &http.Client{Transport: way{b, member, i}}}})
	}
	s, err := OpenSet(nil, &SetOptions{Shared: o, NoTest: true, Drains: &Options{DialContext: b.hosts.dial}}, File(b.path))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// log appends lines to a ring of each server for d, 100 a second in each.
func (b *backend) log(d time.Duration) {
	for range d / (100 * time.Millisecond) {
		for i, src := range b.sources {
			src.lines(envelope.StreamID(i+1), b.sent, b.sent+10)
		}
		b.sent += 10
		time.Sleep(100 * time.Millisecond)
	}
}

// tally is what a receiver got, as far as it was looked at.
type tally struct {
	lines, again int
	next         map[string]int
}

// look checks the order of what came since it looked last.
func (y *tally) look(t *testing.T, rcv *receiver) {
	t.Helper()
	synctest.Wait()
	rcv.mu.Lock()
	defer rcv.mu.Unlock()
	for _, m := range rcv.messages[y.lines:] {
		y.lines++
		_, text, _ := strings.Cut(strings.TrimSpace(m), "ring=")
		ring, seq, _ := strings.Cut(text, " seq=")
		n, err := strconv.Atoi(seq)
		if err != nil || n > y.next[ring] {
			t.Fatalf("%q where line %d of ring %s should be", m, y.next[ring], ring)
		}
		if n < y.next[ring] {
			y.again++
		}
		y.next[ring] = max(y.next[ring], n+1)
	}
}

// complete waits until every receiver has every line, checks their order, and
// gives how many came again at the one where the most did.
func (b *backend) complete(t *testing.T, drains int) (again int) {
	t.Helper()
	for i := range drains {
		host := fmt.Sprintf("h%d:514", i)
		y := b.tallies[host]
		if y == nil {
			y = &tally{next: make(map[string]int)}
			b.tallies[host] = y
		}
		for start := time.Now(); ; time.Sleep(100 * time.Millisecond) {
			y.look(t, b.hosts.at(host))
			missing := 0
			for ring := range b.sources {
				missing += b.sent - y.next[strconv.Itoa(ring+1)]
			}
			if missing == 0 {
				again = max(again, y.again)
				break
			}
			if time.Since(start) > time.Minute {
				t.Fatalf("h%d lacks %d lines of %d: %v", i, missing, b.sent, y.next)
			}
		}
	}
	return again
}

// owned waits until the processes have all drains between them, each one at
// least, and gives how many each has.
func owned(t *testing.T, drains int, sets ...*Set) (list []int) {
	t.Helper()
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		list = nil
		sum := 0
		for _, s := range sets {
			n := s.Sharing().Owned
			list, sum = append(list, n), sum+n
		}
		if sum == drains {
			return list
		}
		if time.Since(start) > time.Minute {
			t.Fatalf("%d drains are owned as %v", drains, list)
		}
	}
}

func TestSharedAmongProcesses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const drains = 12
		b := newBackend(t, 2, drains)
		one := b.open(t, "one")
		b.log(6 * time.Second)
		two, three := b.open(t, "two"), b.open(t, "three")
		b.log(3 * time.Second)
		list := owned(t, drains, one, two, three)
		if slices.Max(list) == drains {
			t.Errorf("%v: one has all", list)
		}
		// Those that one gave away have what it did in its numbers, and it says so.
		elsewhere := 0
		for _, st := range one.Status() {
			if st.State == Elsewhere {
				if elsewhere++; st.Delivered == 0 || st.URL == "" {
					t.Errorf("%+v", st)
				}
			}
		}
		if elsewhere != drains-list[0] {
			t.Errorf("%d of one's are elsewhere", elsewhere)
		}
		if err := two.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		b.log(3 * time.Second)
		if err := one.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		b.log(3 * time.Second)
		four := b.open(t, "four")
		b.log(3 * time.Second)
		if again := b.complete(t, drains); again != 0 {
			t.Errorf("%d lines came again, though all handed over in good order", again)
		}
		for _, s := range []*Set{one, two, three, four} {
			if st := s.Sharing(); st.Takeovers > 0 {
				t.Errorf("%+v", st)
			}
		}
		if st := three.Sharing(); st.Handovers == 0 || st.LeaseAge > time.Second || st.Drains != drains || len(st.Servers) != 2 {
			t.Errorf("%+v", st)
		}
		// What was given back by all is kept.
		three.Shutdown(t.Context())
		four.Shutdown(t.Context())
		b.log(time.Second)
		five := b.open(t, "five")
		if again := b.complete(t, drains); again != 0 {
			t.Errorf("%d lines came again from one process to the next", again)
		}
		five.Close()
	})
}

// A process that is killed is replaced within 5 s; what comes again is what it
// delivered since it last told where it was.
func TestSharedTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const drains = 8
		b := newBackend(t, 2, drains)
		one, two := b.open(t, "one"), b.open(t, "two")
		b.log(6 * time.Second)
		owned(t, drains, one, two)
		one.Close() // which tells nobody
		killed := time.Now()
		for two.Sharing().Owned < drains {
			b.log(100 * time.Millisecond)
		}
		if took := time.Since(killed); took > 4500*time.Millisecond {
			t.Errorf("taken over after %v", took)
		}
		b.log(time.Second)
		again := b.complete(t, drains)
		if most := 2 * 100 / 2; again > most { // two rings, half a second
			t.Errorf("%d lines came again", again)
		}
		if st := two.Sharing(); st.Takeovers == 0 {
			t.Errorf("%+v", st)
		}
		two.Close()
	})
}

// A process that is cut off from the registries stops before another begins, and
// goes on where others stopped.
func TestSharedCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const drains = 8
		b := newBackend(t, 2, drains)
		one, two := b.open(t, "one"), b.open(t, "two")
		b.log(6 * time.Second)
		before := owned(t, drains, one, two)
		for server := range 2 {
			b.link("one", server, false)
		}
		for two.Sharing().Owned < drains {
			b.log(100 * time.Millisecond)
		}
		if n := one.Sharing().Owned; n != 0 {
			t.Errorf("it has %d", n)
		}
		b.log(5 * time.Second)
		first := b.complete(t, drains)
		if first > 2*350 { // what it sent under its last lease, with nobody to tell
			t.Errorf("%d lines came again", first)
		}
		for server := range 2 {
			b.link("one", server, true)
		}
		b.log(5 * time.Second)
		if list := owned(t, drains, one, two); list[0] != before[0] {
			t.Errorf("%v, before %v", list, before)
		}
		if again := b.complete(t, drains); again != first {
			t.Errorf("%d lines came again when it was back", again-first)
		}
		// Each reaches one server only: each drains that one.
		b.link("one", 0, false)
		b.link("two", 1, false)
		b.log(10 * time.Second)
		if n, m := one.Sharing().Owned, two.Sharing().Owned; n != drains || m != drains {
			t.Errorf("%d and %d", n, m)
		}
		b.complete(t, drains)
		b.link("one", 0, true)
		b.link("two", 1, true)
		parted := b.complete(t, drains)
		b.log(10 * time.Second)
		owned(t, drains, one, two)
		if again := b.complete(t, drains); again != parted {
			t.Errorf("%d lines came again when all were together", again-parted)
		}
		one.Close()
		two.Close()
	})
}

// Nothing comes again for a registry that forgets all, or is away for long.
func TestSharedRegistryRestarted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const drains = 8
		b := newBackend(t, 2, drains)
		one, two := b.open(t, "one"), b.open(t, "two")
		b.log(6 * time.Second)
		before := owned(t, drains, one, two)
		for i := range 6 {
			b.registry(i%2, nil)
			b.log(time.Duration(i) * 300 * time.Millisecond)
			b.registry(i%2, share.NewRegistry(nil))
			b.log(4 * time.Second)
		}
		if list := owned(t, drains, one, two); list[0] != before[0] {
			t.Errorf("%v, before %v", list, before)
		}
		for i := range 2 { // longer than a lease
			b.registry(i, nil)
			b.log(8 * time.Second)
			b.registry(i, share.NewRegistry(nil))
			b.log(8 * time.Second)
		}
		owned(t, drains, one, two)
		if again := b.complete(t, drains); again != 0 {
			t.Errorf("%d lines came again", again)
		}
		for _, st := range append(one.Status(), two.Status()...) {
			if st.Missed > 0 || st.Resent > 0 || st.Failures > 0 || st.State == Connected && st.Behind != nil {
				t.Errorf("%+v", st)
			}
		}
		one.Close()
		two.Close()
	})
}

// Bindings come, go and change while drains are shared: one whose URL changes goes
// on where it was, whoever has it.
func TestSharedBindingsChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, 1, 4)
		one, two := b.open(t, "one"), b.open(t, "two")
		b.log(6 * time.Second)
		owned(t, 4, one, two)
		first := b.sent
		text := []string{}
		for i := range 4 {
			text = append(text, fmt.Sprintf(`{"source_id":"app-%d","url":"syslog://new%d"}`, i, i))
		}
		text = append(text, `{"source_id":"app-9","url":"syslog://late","from":"now"}`)
		bindings(t, b.path, `{"drains":[`+strings.Join(text, ",")+`]}`)
		time.Sleep(5 * time.Second)
		owned(t, 5, one, two)
		b.log(3 * time.Second)
		two.Close()
		b.log(8 * time.Second)
		synctest.Wait()
		for i := range 4 {
			old, now := b.hosts.at(fmt.Sprintf("h%d:514", i)).texts(), b.hosts.at(fmt.Sprintf("new%d:514", i)).texts()
			if len(old) != first || len(now) < b.sent-first || now[0] != fmt.Sprintf("ring=1 seq=%d", first) {
				t.Errorf("%d and %d lines of %d, from %q", len(old), len(now), b.sent, now[0])
			}
		}
		if late := b.hosts.at("late:514").texts(); len(late) < b.sent-first || late[0] != fmt.Sprintf("ring=1 seq=%d", first) {
			t.Errorf("%d lines from %q", len(late), late[0])
		}
		bindings(t, b.path, `{"drains":[]}`)
		time.Sleep(20 * time.Second)
		if st := one.Sharing(); st.Drains != 0 || st.Owned != 0 || st.Servers[0].Held != 0 {
			t.Errorf("%+v", st)
		}
		one.Close()
	})
}

// HTTPS drains whose receiver is away are left at once.
func TestSharedLeaveWhileReceiverIsAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, 1, 0)
		bindings(t, b.path, `{"drains":[{"app":"a","url":"https-batch://away"},{"app":"b","url":"syslog://away"}]}`)
		b.hosts.at("away:443").set(errors.New("down"))
		b.hosts.at("away:514").set(errors.New("down"))
		s := b.open(t, "one")
		b.log(6 * time.Second)
		start := time.Now()
		if err := s.Shutdown(t.Context()); err != nil || time.Since(start) > time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestSharedOptions(t *testing.T) {
	for _, o := range []*SetOptions{
		{Shared: &Shared{}}, {Shared: &Shared{Group: "g"}},
		{Positions: "p", Shared: &Shared{Group: "g", Servers: []SharedServer{{}}}},
	} {
		if _, err := OpenSet(nil, o); err == nil {
			t.Errorf("%+v", o)
		}
	}
}

// A drain that may not write any more does not, though it has what to send and a
// write hangs; when it may again it goes on.
func TestLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		var mu sync.Mutex
		end := time.Now().Add(3 * time.Second)
		until := func() time.Time {
			mu.Lock()
			defer mu.Unlock()
			return end
		}
		d, err := openAgain("syslog://host", src, everything, &Options{DialContext: rcv.dial}, until, gap{})
		if err != nil {
			t.Fatal(err)
		}
		src.lines(1, 0, 100)
		rcv.await(100)
		time.Sleep(5 * time.Second)
		src.lines(1, 100, 200)
		time.Sleep(5 * time.Second)
		if n := len(rcv.texts()); n != 100 {
			t.Fatalf("%d lines, 100 before the lease ended", n)
		}
		mu.Lock()
		end = time.Now().Add(3 * time.Second)
		mu.Unlock()
		rcv.await(100)
		time.Sleep(time.Second)
		if c, _ := d.taken(); c.Rings[1] != 201 {
			t.Errorf("it is at %v", c)
		}
		d.leave(context.Background())
		if c := d.Cursor(); c.Rings[1] != 201 {
			t.Errorf("it ended at %v", c)
		}
		if s := d.Stats(); s.Resent > 0 || s.Connects != 1 {
			t.Errorf("%+v", s)
		}
	})
}

// script is a Source that gives batches as they are sent to it, behind the cursor.
type script struct {
	mu      sync.Mutex
	batches []envelope.Batch
	more    chan struct{}
}

func (s *script) add(b envelope.Batch, lines int) {
	for range lines {
		b.Records = envelope.AppendLog(b.Records, shop.Encode(), stamp, envelope.Out, []byte("line"))
	}
	b.Count, b.Next = lines, b.First+uint64(lines)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.batches = append(s.batches, b)
	close(s.more)
	s.more = make(chan struct{})
}

func (s *script) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		for i := 0; ; i++ {
			s.mu.Lock()
			more := s.more
			for i < len(s.batches) && q.Cursor.Rings[s.batches[i].Ring] >= s.batches[i].Position {
				i++
			}
			var b envelope.Batch
			if i < len(s.batches) {
				b = s.batches[i]
			}
			s.mu.Unlock()
			if b.Count > 0 {
				if !yield(b, nil) {
					return
				}
				continue
			}
			i--
			select {
			case <-more:
			case <-ctx.Done():
				return
			}
		}
	}
}

// What a maker's numbers say is missing on the way to a ring that goes on without a
// gap is missed; and what the receiver has not been told of yet when a process is
// killed, the next one tells.
func TestUntoldGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := &script{more: make(chan struct{})}, newReceiver()
		until := func() time.Time { return time.Now().Add(time.Second) }
		d, err := openAgain("syslog://host", src, everything, &Options{DialContext: rcv.dial}, until, gap{})
		if err != nil {
			t.Fatal(err)
		}
		src.add(envelope.Batch{Ring: 1, Stream: 77, First: 1, Position: 11}, 10)
		src.add(envelope.Batch{Ring: 1, Stream: 77, First: 16, Position: 21, Missed: 5}, 10)
		rcv.await(21) // and one that tells
		time.Sleep(time.Second)
		src.add(envelope.Batch{Ring: 1, Stream: 77, First: 29, Position: 31, Missed: 3}, 10)
		rcv.await(10)
		time.Sleep(time.Second)
		s := d.Stats()
		conserve(t, s, 38)
		if s.Missed != 8 || s.Delivered != 30 {
			t.Errorf("%+v", s)
		}
		at, owed := d.taken()
		if owed.records != 3 {
			t.Errorf("%+v is to be told", owed)
		}
		d.Close() // as if killed

		q := everything
		q.Cursor = at
		after := newReceiver()
		d, err = openAgain("syslog://host", src, q, &Options{DialContext: after.dial}, until, owed)
		if err != nil {
			t.Fatal(err)
		}
		src.add(envelope.Batch{Ring: 1, Stream: 77, First: 39, Position: 41}, 10)
		after.await(11)
		time.Sleep(time.Second)
		if told := after.messages[0]; !strings.Contains(told, `missed="3"`) {
			t.Errorf("%q", told)
		}
		if _, owed := d.taken(); owed.any() || d.Stats().Missed != 0 {
			t.Errorf("%+v is to be told, %+v", owed, d.Stats())
		}
		d.Close()
	})
}

// Whoever takes a drain over tells what its last holders had not told, once: though
// it is noted at several servers, by several of them, and by itself before.
func TestInherit(t *testing.T) {
	note := func(by string, n uint64, of ...string) *untold {
		g := gap{records: n}
		return g.note(by, of)
	}
	for name, test := range map[string]struct {
		own   uint64
		notes []*untold
		want  uint64
	}{
		"nothing":                         {0, nil, 0},
		"own":                             {4, nil, 4},
		"noted at two servers":            {0, []*untold{note("b", 5), note("b", 5)}, 5},
		"of two":                          {0, []*untold{note("b", 5), note("c", 6)}, 11},
		"own, noted":                      {4, []*untold{note("me", 4), note("b", 5)}, 9},
		"one has taken over the other":    {0, []*untold{note("b", 5), note("c", 6, "b")}, 6},
		"another has taken over and told": {4, []*untold{note("me", 4), note("b", 0, "me")}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := &bound{name: "me", owed: gap{records: test.own}}
			var all *untold
			for _, u := range test.notes {
				all = u.with(all)
			}
			b.inherit(all)
			if b.owed.records != test.want || b.name == "me" || b.name == "" {
				t.Errorf("%+v, as %q", b.owed, b.name)
			}
			again := b.owed
			if b.inherit(all); b.owed != again {
				t.Errorf("%+v the second time", b.owed)
			}
		})
	}
}
