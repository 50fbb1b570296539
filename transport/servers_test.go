package transport_test

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

// fleet is an agent's router, the servers that its link sends to, and what was
// made.
type fleet struct {
	t       *testing.T
	network *faultnet.Network
	maker   *loggregator.Router
	link    *transport.Link
	names   []string
	up      map[string]*hop
	lives   []*loggregator.Router // of all servers there have been
	made    map[string]int        // by source
}

func newFleet(t *testing.T, n int, plan func(int) faultnet.Faults, o *loggregator.Options) *fleet {
	t.Helper()
	f := &fleet{t: t, network: &faultnet.Network{Plan: plan}, maker: loggregator.New(o), up: make(map[string]*hop), made: make(map[string]int)}
	var addresses []string
	for i := range n {
		name := fmt.Sprintf("server-%d:1", i)
		f.names = append(f.names, name)
		addresses = append(addresses, "tcp://"+name)
		f.start(name, nil)
	}
	l, err := transport.NewLink(strings.Join(addresses, ","), f.maker, &transport.LinkOptions{DialContext: f.network.DialContext, MaxUnacked: 50_000})
	if err != nil {
		t.Fatal(err)
	}
	f.link = l
	return f
}

// start brings a server up, with what it held before, if that is given.
func (f *fleet) start(name string, held *loggregator.Router) {
	f.t.Helper()
	if held == nil {
		held = loggregator.New(nil)
		f.lives = append(f.lives, held)
	}
	h := &hop{Router: held}
	h.listen(f.t, f.network, name)
	f.up[name] = h
}

// stop ends a server, whose router lives on.
func (f *fleet) stop(name string) *loggregator.Router {
	f.t.Helper()
	h := f.up[name]
	delete(f.up, name)
	h.hangUp(f.t)
	return h.Router
}

func (f *fleet) emit(source string, n int) {
	f.t.Helper()
	emit(f.t, f.maker, "m", source, f.made[source], n)
	f.made[source] += n
}

// settled waits until all is acknowledged and checks that each record arrived,
// none was told missing, each server has each record once and those of a source
// in order. It returns how many arrived at several.
func (f *fleet) settled() (repeats int) {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Hour)
	defer cancel()
	if err := f.link.Flush(ctx); err != nil {
		f.t.Errorf("flush: %v, %+v, %+v", err, f.link.Stats(), f.link.Servers())
	}
	seen := make(map[string]int)
	for i, r := range f.lives {
		last := make(map[string]int)
		for b := range r.Batches(f.t.Context(), envelope.Query{Select: envelope.Everything, History: true}) {
			for e := range b.All() {
				if n, why, ok := e.Missed(); ok {
					f.t.Errorf("server %d: %d told missing: %s", i, n, why)
					continue
				}
				var source string
				var number int
				fmt.Sscanf(string(e.Payload()), "m %s %d", &source, &number)
				if before, ok := last[source]; ok && number <= before {
					f.t.Errorf("server %d: %s %d came after %d", i, source, number, before)
				}
				last[source] = number
				seen[string(e.Payload())]++
			}
		}
	}
	total := 0
	for source, n := range f.made {
		total += n
		for i := range n {
			switch k := seen[fmt.Sprintf("m %s %d", source, i)]; {
			case k == 0:
				f.t.Errorf("%s %d did not arrive", source, i)
				return
			default:
				repeats += k - 1
			}
		}
	}
	s := f.link.Stats()
	if s.Acked != uint64(total) || s.Missed != 0 {
		f.t.Errorf("made %d, %+v", total, s)
	}
	return repeats
}

func (f *fleet) close() {
	f.t.Helper()
	f.link.Close()
	for _, name := range slices.Sorted(maps.Keys(f.up)) {
		f.stop(name)
	}
	for _, r := range f.lives {
		r.Close()
	}
	f.maker.Close()
}

// sources are those whose records a server holds.
func sources(t *testing.T, r *loggregator.Router) map[string]bool {
	seen, _ := collect(t, r)
	m := make(map[string]bool)
	for payload := range seen {
		m[strings.Fields(payload)[1]] = true
	}
	return m
}

// Each source goes to one server; a server that stops is left for the others
// within two seconds and its sources alone move; when it is back they return.
func TestServersShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 3, nil, nil)
		const apps = 60
		everyone := func(n int) {
			for i := range apps {
				f.emit(fmt.Sprint("app-", i), n)
			}
		}
		everyone(10)
		if n := f.settled(); n != 0 {
			t.Errorf("%d records went to several servers", n)
		}
		home := make(map[string]string)
		for _, name := range f.names {
			mine := sources(t, f.up[name].Router)
			if len(mine) < apps/3/2 || len(mine) > apps/3*2 {
				t.Errorf("%s has %d of %d sources", name, len(mine), apps)
			}
			for s := range mine {
				home[s] = name
			}
		}
		if len(home) != apps {
			t.Errorf("%d sources arrived", len(home))
		}

		gone := f.names[1]
		held := f.stop(gone)
		begun := time.Now()
		everyone(10)
		if n := f.settled(); n != 0 {
			t.Errorf("%d records went to several servers", n)
		}
		if d := time.Since(begun); d > 2*time.Second {
			t.Errorf("left the server that stopped after %v", d)
		}
		for _, name := range f.names {
			if name == gone {
				continue
			}
			for s := range sources(t, f.up[name].Router) {
				if home[s] != name && home[s] != gone {
					t.Errorf("%s moved from %s to %s", s, home[s], name)
				}
			}
		}

		f.start(gone, held)
		time.Sleep(10 * time.Second)
		before := held.Stats().Accepted
		everyone(10)
		if n := f.settled(); n != 0 {
			t.Errorf("%d records went to several servers", n)
		}
		mine := 0
		for _, name := range home {
			if name == gone {
				mine++
			}
		}
		if n := held.Stats().Accepted - before; n != uint64(10*mine) {
			t.Errorf("%d records at the server that is back, want those of %d sources", n, mine)
		}
		if s := f.link.Stats(); s.Moves != 2 {
			t.Errorf("%+v", s)
		}
		f.close()
	})
}

// A server that hangs is left after AckTimeout, and gets no source before it has
// shown that it acknowledges again.
func TestServerHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, nil, nil)
		everyone := func(n int) {
			for i := range 20 {
				f.emit(fmt.Sprint("app-", i), n)
			}
		}
		everyone(5)
		f.settled()
		f.network.Swallow(f.names[0])
		begun := time.Now()
		everyone(5)
		f.settled()
		if d := time.Since(begun); d > 10*time.Second+time.Millisecond {
			t.Errorf("left the server that hangs after %v", d)
		}
		time.Sleep(time.Minute)
		begun = time.Now()
		everyone(5)
		f.settled()
		if d := time.Since(begun); d > time.Millisecond {
			t.Errorf("while the server is gone it takes %v", d)
		}
		// It accepts connections, and that is all.
		f.network.Replan(func(int) faultnet.Faults { return faultnet.Faults{ToClient: faultnet.Way{HoleAt: 1}} })
		f.network.Heal(f.names[0])
		for range 100 {
			time.Sleep(time.Second)
			begun = time.Now()
			everyone(1)
			f.settled()
			if d := time.Since(begun); d > time.Millisecond {
				t.Fatalf("a server that only accepts costs %v", d)
			}
		}
		if s := f.link.Servers()[0]; s.Live {
			t.Errorf("%+v", s)
		}
		f.network.Replan(nil)
		time.Sleep(20 * time.Second)
		if s := f.link.Servers()[0]; !s.Live {
			t.Errorf("%+v", s)
		}
		everyone(5)
		f.settled()
		f.close()
	})
}

// A source that moves while records of it are under way moves when they are
// acknowledged, and not before.
func TestMoveWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFleet(t, 2, nil, nil)
		f.emit("app", 10)
		f.settled()
		home, other := f.names[0], f.names[1]
		if !sources(t, f.up[home].Router)["app"] {
			home, other = other, home
		}
		// The other one answers nothing for eight seconds after it has shown that it
		// is there.
		f.network.Replan(func(int) faultnet.Faults {
			return faultnet.Faults{ToClient: faultnet.Way{StallAt: 14, StallFor: 8 * time.Second}}
		})
		f.network.Reset(other)
		time.Sleep(2 * time.Second)
		f.network.Replan(nil)
		begun := time.Now()
		held := f.stop(home)
		f.emit("app", 10)
		time.Sleep(time.Second)
		f.start(home, held)
		time.Sleep(3 * time.Second)
		f.emit("app", 10)
		if n := f.settled(); n != 0 {
			t.Errorf("%d repeats", n)
		}
		if d := time.Since(begun); d < 5*time.Second || d > 7*time.Second {
			t.Errorf("moved after %v", d)
		}
		if a, b := f.up[home].Stats().Accepted, f.up[other].Stats().Accepted; a != 20 || b != 10 {
			t.Errorf("%d and %d records", a, b)
		}
		f.close()
	})
}

// A router that shuts down lets a link to several servers finish, even if one of
// them is not there; what it cannot hand over in time is counted.
func TestServersSourceEnds(t *testing.T) {
	for _, gone := range []bool{false, true} {
		t.Run(fmt.Sprint("gone=", gone), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(t, 2, nil, nil)
				f.emit("app-0", 1)
				f.settled()
				if gone {
					f.stop(f.names[0])
				}
				for i := range 20 {
					f.emit(fmt.Sprint("app-", i), 100)
				}
				if gone {
					time.Sleep(time.Second) // so that all are read
				}
				if err := f.maker.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begun := time.Now()
				if left, err := f.link.Shutdown(ctx); left != 0 || err != nil || time.Since(begun) > time.Second {
					t.Errorf("%d left, %v after %v, %+v", left, err, time.Since(begun), f.link.Stats())
				}
				total := 0
				for _, r := range f.lives {
					total += int(r.Stats().Accepted)
				}
				if total != 2001 {
					t.Errorf("%d arrived", total)
				}
				f.close()
			})
		})
	}
}

// TestServersComeAndGo stops, restarts, replaces, swallows and flaps servers at
// random, over connections that tear: everything arrives, in order, and nobody
// is told of a loss.
func TestServersComeAndGo(t *testing.T) {
	seeds := 40
	if testing.Short() {
		seeds = 10
	}
	first := rand.Uint64()
	t.Logf("first seed %d", first)
	moves, repeats := uint64(0), 0
	for i := range seeds {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, r := comeAndGo(t, seed)
				moves += m
				repeats += r
			})
		})
		if !ok {
			break
		}
	}
	t.Logf("%d moves, %d records at several servers", moves, repeats)
	if moves < uint64(seeds) {
		t.Error("this tests nothing")
	}
}

func comeAndGo(t *testing.T, seed uint64) (moves uint64, repeats int) {
	random := rand.New(rand.NewPCG(seed, 1))
	plan := rand.New(rand.NewPCG(seed, 2))
	f := newFleet(t, 2+random.IntN(3), func(int) faultnet.Faults { return faultnet.Random(plan, 100_000) }, nil)
	held := make(map[string]*loggregator.Router)
	swallowed := make(map[string]bool)
	for range 100 {
		f.emit(fmt.Sprint("app-", random.IntN(8)), 1+random.IntN(60))
		time.Sleep(time.Duration(random.IntN(600)) * time.Millisecond)
		name := f.names[random.IntN(len(f.names))]
		switch up := f.up[name] != nil; random.IntN(12) {
		case 0, 1:
			if up {
				held[name] = f.stop(name)
			} else {
				f.start(name, held[name]) // with what it held
			}
		case 2:
			if !up {
				f.start(name, nil) // with nothing
			}
		case 3:
			if swallowed[name] = !swallowed[name]; swallowed[name] {
				f.network.Swallow(name)
			} else {
				f.network.Heal(name)
			}
		case 4:
			f.network.Reset(name)
		}
		if random.IntN(30) == 0 { // flapping
			for range 5 {
				if f.up[name] == nil {
					f.start(name, held[name])
				}
				time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
				held[name] = f.stop(name)
				f.emit(fmt.Sprint("app-", random.IntN(8)), 5)
			}
		}
	}
	for _, name := range f.names {
		f.network.Heal(name)
		if f.up[name] == nil {
			f.start(name, held[name])
		}
	}
	repeats = f.settled()
	moves = f.link.Stats().Moves
	f.close()
	return moves, repeats
}

// TestServersOverflow has an agent with too little memory for the times in which
// no server is there. Each record is at a server, or is told missing at one, with
// the reason; at most those are both that were under way, and not acknowledged,
// when a server was left.
func TestServersOverflow(t *testing.T) {
	seeds := 20
	if testing.Short() || raceDetector {
		seeds = 4
	}
	first := rand.Uint64()
	t.Logf("first seed %d", first)
	exact := 0
	for i := range seeds {
		seed := first + uint64(i)
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				if overflow(t, seed) {
					exact++
				}
			})
		})
	}
	t.Logf("exact in %d of %d", exact, seeds)
	if exact == 0 {
		t.Error("never exact")
	}
}

func overflow(t *testing.T, seed uint64) (exact bool) {
	random := rand.New(rand.NewPCG(seed, 1))
	f := newFleet(t, 3, nil, &loggregator.Options{Budget: 1}) // that is MinBudget
	held := make(map[string]*loggregator.Router)
	torn := 0
	for range 40 {
		f.emit(fmt.Sprint("app-", random.IntN(6)), 1+random.IntN(6000))
		time.Sleep(time.Duration(random.IntN(3000)) * time.Millisecond)
		name := f.names[random.IntN(len(f.names))]
		switch {
		case f.up[name] == nil && random.IntN(2) == 0:
			f.start(name, held[name])
		case f.up[name] != nil && random.IntN(3) > 0:
			held[name] = f.stop(name)
			torn++
		}
	}
	for _, name := range f.names {
		if f.up[name] == nil {
			f.start(name, held[name])
		}
	}
	time.Sleep(10 * time.Second)
	for app := range 6 { // what was lost at the end of a ring is told with its next record
		f.emit(fmt.Sprint("app-", app), 1)
	}
	if err := f.link.Flush(t.Context()); err != nil {
		t.Error(err)
	}
	seen, told := make(map[string]bool), uint64(0)
	for _, r := range f.lives {
		at, n := collect(t, r)
		told += n
		for payload, k := range at {
			seen[payload] = true
			if k != 1 {
				t.Errorf("%q is there %d times", payload, k)
			}
		}
		if s := r.Stats(); s.Lost != s.LostFor[envelope.ReasonLink]+s.LostFor[envelope.ReasonAgent] {
			t.Errorf("%+v", s)
		}
	}
	total := uint64(0)
	for _, n := range f.made {
		total += uint64(n)
	}
	sum := uint64(len(seen)) + told
	if sum < total || sum > total+uint64(torn)*1000 { // 50,000 bytes under way are less
		t.Errorf("made %d, %d arrived, %d told missing", total, len(seen), told)
	}
	if s := f.link.Stats(); s.Acked+s.Missed != total {
		t.Errorf("made %d, %+v", total, s)
	}
	f.close()
	return sum == total && told > 0
}
