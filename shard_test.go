package loggregator

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestShardsSplitSources checks that each source is read by one member, whole,
// and that the members that stay take over from one that leaves.
func TestShardsSplitSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		const sources = 40
		say := func(text string) {
			for i := range sources {
				write(t, r, lines(app(fmt.Sprint("app", i), "s", "o"), time.Now().UnixNano(), fmt.Sprint(i, " ", text)))
			}
		}
		say("before")
		q := envelope.Query{Select: envelope.Everything, Shard: "nozzle", History: true}
		a := follow(t, r, q)
		b := follow(t, r, q)
		c := follow(t, r, q)
		alone := follow(t, r, envelope.Query{Select: envelope.Everything, Shard: "other", History: true})
		say("1")
		synctest.Wait()
		if len(a.got) < sources || len(b.got) == 0 || len(c.got) == 0 || len(a.got)+len(b.got)+len(c.got) != 2*sources {
			t.Errorf("members got %d, %d, %d of %d", len(a.got), len(b.got), len(c.got), 2*sources)
		}
		b.stop()
		say("2")
		a.stop()
		say("3")
		synctest.Wait()
		all := make(map[string]int)
		for _, m := range []*tail{a, b, c} {
			for _, text := range m.got {
				all[text]++
			}
		}
		for i := range sources {
			for _, text := range []string{"before", "1", "2", "3"} {
				if n := all[fmt.Sprint(i, " ", text)]; n != 1 {
					t.Errorf("line %d %s was read %d times", i, text, n)
				}
			}
		}
		if len(alone.got) != 4*sources {
			t.Errorf("a group of its own got %d of %d", len(alone.got), 4*sources)
		}
	})
}

// TestShardsComeAndGo has members come and go at random under load: together
// they see each line once and in order, or count it.
func TestShardsComeAndGo(t *testing.T) {
	const sources, perSource, members = 20, 2000, 5
	r := New(&Options{Budget: 2 << 20})
	defer r.Close()
	ctx, cancel := context.WithCancel(t.Context())
	var mu sync.Mutex
	next := make(map[string]int)
	total := uint64(0)
	complete := make(chan struct{})
	var all sync.WaitGroup
	q := envelope.Query{Select: envelope.Everything, Shard: "s", History: true, Follow: true, MaxBytes: 4096}
	stays := make(chan struct{})
	for k := range members {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 7))
			for ctx.Err() == nil {
				for b, err := range r.Batches(ctx, q) {
					if err != nil {
						break
					}
					if k == 0 {
						select {
						case <-stays:
						default:
							close(stays)
						}
					}
					mu.Lock()
					total += b.Missed + uint64(b.Count)
					for e := range b.All() {
						route, _ := e.Route()
						i := 0
						fmt.Sscan(string(e.Payload()), &i)
						if i < next[string(route.SourceID)] {
							t.Errorf("%s: line %d came again", route.SourceID, i)
						}
						next[string(route.SourceID)] = i + 1
					}
					if total == sources*perSource && uint64(b.Count)+b.Missed > 0 {
						close(complete)
					}
					mu.Unlock()
					// One member stays, so that the group does.
					if k > 0 && rng.IntN(20) == 0 {
						break
					}
				}
			}
		})
		if k == 0 {
			write(t, r, lines(app("app0", "s", "o"), 1, "0"))
			<-stays
		}
	}
	for n := range perSource {
		for i := range sources {
			if n > 0 || i > 0 {
				write(t, r, lines(app(fmt.Sprint("app", i), "s", "o"), int64(n), fmt.Sprint(n, " ", longText)))
			}
		}
	}
	select {
	case <-complete:
	case <-time.After(20 * time.Second):
		t.Errorf("members saw and missed %d of %d", total, sources*perSource)
	}
	cancel()
	all.Wait()
	mu.Lock()
	defer mu.Unlock()
	if total != sources*perSource {
		t.Errorf("members saw and missed %d of %d", total, sources*perSource)
	}
	balance(t, r)
}

var longText = fmt.Sprintf("%200d", 0)

// TestNamedMembersKeepTheirSources checks that which sources a member reads
// depends on the members' names alone: not on the order in which they came, nor
// on the process, and a member that returns has its own again.
func TestNamedMembersKeepTheirSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const sources = 40
		q := envelope.Query{Select: envelope.Everything, Shard: "nozzle"}
		split := func(names ...string) map[string]string {
			r := New(nil)
			defer r.Close()
			tails := make(map[string]*tail)
			for _, name := range names {
				q.Member = name
				tails[name] = follow(t, r, q)
			}
			synctest.Wait()
			for i := range sources {
				write(t, r, lines(app(fmt.Sprint("app", i), "s", "o"), time.Now().UnixNano(), fmt.Sprint(i)))
			}
			synctest.Wait()
			owner := make(map[string]string)
			for name, m := range tails {
				for _, text := range m.got {
					if was := owner[text]; was != "" {
						t.Errorf("line %s went to %s and %s", text, was, name)
					}
					owner[text] = name
				}
				if len(m.got) == 0 {
					t.Errorf("%s got nothing", name)
				}
				m.stop()
			}
			if len(owner) != sources {
				t.Errorf("%d of %d lines were read", len(owner), sources)
			}
			return owner
		}
		first, again := split("a", "b", "c"), split("c", "a", "b")
		for text, name := range first {
			if again[text] != name {
				t.Errorf("line %s went to %s, then to %s", text, name, again[text])
			}
		}
		two := split("c", "a")
		for text, name := range first {
			if name != "b" && two[text] != name {
				t.Errorf("line %s moved from %s to %s though %[2]s has stayed", text, name, two[text])
			}
		}
	})
}
