package loggregator

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// stamped is a record as a reader sees it.
type stamped struct {
	time int64
	app  string
	text string
	err  bool
}

func stampedOf(b envelope.Batch) (some []stamped) {
	for e := range b.All() {
		route, _ := e.Route()
		name, _ := e.Tag(envelope.TagAppName)
		some = append(some, stamped{route.Timestamp, string(name), string(route.Payload), route.LogType == envelope.Err})
	}
	return some
}

func readStamped(t *testing.T, r *Router, q envelope.Query) (some []stamped, missed uint64) {
	t.Helper()
	for b, err := range r.Batches(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		some = append(some, stampedOf(b)...)
		missed += b.Missed
	}
	return some, missed
}

// choose is what a query by time is to give, of all that is held.
func choose(all []stamped, q *envelope.Query) []stamped {
	in := slices.DeleteFunc(slices.Clone(all), func(s stamped) bool {
		sel := q.Select[0]
		return !q.Since.IsZero() && s.time < q.Since.UnixNano() || s.time >= q.Until.UnixNano() ||
			sel.App != "" && s.app != sel.App || sel.Stderr && !s.err
	})
	byTime := slices.SortedFunc(slices.Values(in), func(a, b stamped) int { return cmp.Compare(a.time, b.time) })
	switch n := len(byTime); {
	case q.Last > 0 && q.Last < n:
		edge := byTime[n-q.Last].time
		return slices.DeleteFunc(in, func(s stamped) bool { return s.time < edge })
	case q.Last == 0 && q.First > 0 && q.First < n:
		edge := byTime[q.First-1].time
		return slices.DeleteFunc(in, func(s stamped) bool { return s.time > edge })
	}
	return in
}

// TestQueriesByTime writes records with jumbled and repeated timestamps of several
// sources into a budget that is too small, and compares queries at random with a
// choice from all that is held.
func TestQueriesByTime(t *testing.T) {
	for seed := range uint64(4) {
		rng := rand.New(rand.NewPCG(seed, 5))
		r := New(&Options{Budget: ringbuf.MinBudget})
		names := []string{"a", "b", "c"}
		jumble := 1 + rng.IntN(3000)
		number := 0
		for round := range 15 {
			for range rng.IntN(20) {
				name := names[min(rng.IntN(6), 2)]
				var b envelope.Batch
				for range 1 + rng.IntN(60) {
					number++
					kind := envelope.Out
					if rng.IntN(10) == 0 {
						kind = envelope.Err
					}
					at := int64(number - rng.IntN(jumble)/(1+rng.IntN(jumble)))
					text := fmt.Sprint(number, strings.Repeat("x", rng.IntN(300)))
					b.Records = envelope.AppendLog(b.Records, app(name, "s", "o"), at/3, kind, []byte(text))
					b.Count++
				}
				write(t, r, b)
			}
			all, _ := readStamped(t, r, everything)
			for range 15 {
				at := int64(number) / 3
				q := envelope.Query{ByTime: rng.IntN(2) == 0, MaxBytes: 500 + rng.IntN(20_000)}
				q.Until = time.Unix(0, rng.Int64N(at+100))
				if rng.IntN(2) == 0 {
					q.Since = time.Unix(0, q.Until.UnixNano()-rng.Int64N(at+100)-1)
				}
				sel := envelope.Selector{Stderr: rng.IntN(3) == 0}
				if rng.IntN(3) > 0 {
					sel.App = names[rng.IntN(3)]
				}
				q.Select = []envelope.Selector{sel}
				switch rng.IntN(3) {
				case 0:
					q.Last = 1 + rng.IntN(200)
				case 1:
					q.First = 1 + rng.IntN(200)
				}
				want := choose(all, &q)
				got, missed := readStamped(t, r, q)
				order := func(a, b stamped) int { return cmp.Compare(a.text, b.text) }
				last := map[string]int{}
				for _, s := range got {
					n, _ := strconv.Atoi(strings.TrimRight(s.text, "x"))
					if n <= last[s.app] {
						t.Fatalf("seed %d, round %d: %+v: %d of %s after %d", seed, round, q, n, s.app, last[s.app])
					}
					last[s.app] = n
				}
				slices.SortFunc(want, order)
				slices.SortFunc(got, order)
				if !slices.Equal(want, got) || missed != 0 {
					t.Fatalf("seed %d, round %d: %+v: %d records, want %d; missed %d", seed, round, q, len(got), len(want), missed)
				}
			}
		}
		if s := r.Stats(); s.Evicted == 0 {
			t.Error("nothing was given up")
		}
		balance(t, r)
		r.Close()
	}
}

// TestLastOfFiltered asks for the last records that a filter wants, and compares
// with a choice from all; of few among many, the rest is not read.
func TestLastOfFiltered(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 5))
	r := New(&Options{Budget: ringbuf.MinBudget})
	defer r.Close()
	text := strings.Repeat("x", 100)
	for i := range 8_000 {
		kind := envelope.Out
		if rng.IntN(1+i%1500/10) == 0 {
			kind = envelope.Err
		}
		b := envelope.Batch{Records: envelope.AppendLog(nil, app(string(rune('a'+rng.IntN(3))), "s", "o"), int64(i), kind, fmt.Append(nil, i, text)), Count: 1}
		write(t, r, b)
	}
	all, _ := readStamped(t, r, envelope.Query{Select: envelope.Everything, ByTime: true})
	for range 60 {
		q := envelope.Query{Last: 1 + rng.IntN(1+rng.IntN(500)), MaxBytes: 500 + rng.IntN(10_000), ByTime: true}
		sel := envelope.Selector{Stderr: true}
		if rng.IntN(2) == 0 {
			sel.App = string(rune('a' + rng.IntN(3)))
		}
		q.Select = []envelope.Selector{sel}
		want := slices.DeleteFunc(slices.Clone(all), func(s stamped) bool { return !s.err || sel.App != "" && s.app != sel.App })
		want = want[max(0, len(want)-q.Last):]
		if got, missed := readStamped(t, r, q); !slices.Equal(got, want) || missed != 0 {
			t.Fatalf("%+v: %d records, want %d; missed %d", q, len(got), len(want), missed)
		}
	}
	read := uint64(0)
	for b, err := range r.Batches(t.Context(), envelope.Query{Select: []envelope.Selector{{App: "a", Stderr: true}}, Last: 1}) {
		if err != nil {
			t.Fatal(err)
		}
		read += b.Next - b.First
	}
	if s := r.Stats(); read > s.Held/6 || s.Evicted == 0 {
		t.Errorf("%d positions were read for one record: %+v", read, s)
	}
}

// TestQueryByTimeReadsFewZones checks that the newest and the oldest thousand of
// many, and a moment in the middle, are found without reading the rest, also where
// filters leave out most records and others came late.
func TestQueryByTimeReadsFewZones(t *testing.T) {
	r := New(nil)
	defer r.Close()
	const n = 100_000
	for i := 0; i < n; i += 500 {
		var b envelope.Batch
		for k := i; k < i+500; k++ {
			at, kind := int64(k), envelope.Out
			if k%1000 == 999 {
				at -= 500 // late
			}
			if k%10 == 0 {
				kind = envelope.Err
			}
			b.Records = envelope.AppendLog(b.Records, app("a", "s", "o"), at, kind, []byte(strings.Repeat("x", 200)))
			b.Count++
		}
		write(t, r, b)
	}
	for name, test := range map[string]struct {
		q    envelope.Query
		want int
		most uint64 // positions that may be read for it
	}{
		"newest":         {envelope.Query{Last: 1000, Until: time.Unix(0, n)}, 1000, 3000},
		"oldest":         {envelope.Query{First: 1000, Until: time.Unix(0, n)}, 1000, 3000},
		"newest errors":  {envelope.Query{Last: 100, Until: time.Unix(0, n), Select: []envelope.Selector{{Stderr: true}}}, 100, 3000},
		"in the middle":  {envelope.Query{Since: time.Unix(0, 50_000), Until: time.Unix(0, 50_100)}, 100, 2000},
		"next page":      {envelope.Query{Since: time.Unix(0, 50_000), First: 100, Until: time.Unix(0, n)}, 100, 2000},
		"nothing at all": {envelope.Query{Since: time.Unix(0, n), Until: time.Unix(0, 2*n), Last: 10}, 0, 0},
		"empty stretch":  {envelope.Query{Since: time.Unix(0, 10), Until: time.Unix(0, 10)}, 0, 0},
		"backwards":      {envelope.Query{Since: time.Unix(0, 20), Until: time.Unix(0, 10)}, 0, 0},
	} {
		if test.q.Select == nil {
			test.q.Select = envelope.Everything
		}
		got, read := 0, uint64(0)
		for b, err := range r.Batches(t.Context(), test.q) {
			if err != nil {
				t.Fatal(err)
			}
			got += b.Count
			read += b.Next - b.First
		}
		if got != test.want || read > test.most {
			t.Errorf("%s: %d records, want %d; read %d, at most %d", name, got, test.want, read, test.most)
		}
	}
}

// TestQueryByTimeOvertaken: what is given up between the choice and the reading is
// told as missed.
func TestQueryByTimeOvertaken(t *testing.T) {
	r := New(&Options{Budget: ringbuf.MinBudget})
	defer r.Close()
	text := strings.Repeat("x", 1500)
	var want uint64
	for i := range 300 {
		write(t, r, lines(app("a", "s", "o"), int64(i), text))
		want++
	}
	var seen, missed uint64
	for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything, Until: time.Unix(0, 300), MaxBytes: 4096}) {
		if err != nil {
			t.Fatal(err)
		}
		if seen == 0 {
			for i := range 500 {
				write(t, r, lines(app("a", "s", "o"), int64(1000+i), text))
			}
		}
		seen += uint64(b.Count)
		missed += b.Missed
	}
	if missed == 0 || seen+missed != want {
		t.Errorf("seen %d and missed %d of %d", seen, missed, want)
	}
}

// TestQueryByTimeWhileWriting has readers by time beside writers in a budget that
// is too small.
func TestQueryByTimeWhileWriting(t *testing.T) {
	r := New(&Options{Budget: ringbuf.MinBudget})
	defer r.Close()
	ctx, stop := context.WithCancel(t.Context())
	var writers, readers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			text := []byte(strings.Repeat("x", 200))
			for n := range 6_000 {
				b := envelope.Batch{Records: envelope.AppendLog(nil, app(fmt.Sprint(w), "s", "o"), int64(n), envelope.Out, text), Count: 1}
				r.WriteBatch(ctx, b)
			}
		})
	}
	for k := range 4 {
		readers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 9))
			for ctx.Err() == nil {
				from := rng.Int64N(6_000)
				q := envelope.Query{Select: envelope.Everything, Since: time.Unix(0, from), Until: time.Unix(0, from+300), First: 10}
				last := map[string]int64{}
				for b, err := range r.Batches(ctx, q) {
					if err != nil {
						break
					}
					for _, s := range stampedOf(b) {
						if before, again := last[s.app]; s.time < from || s.time >= from+300 || again && s.time <= before {
							t.Errorf("%d after %d for [%d, %d)", s.time, before, from, from+300)
							return
						}
						last[s.app] = s.time
					}
				}
			}
		})
	}
	writers.Wait()
	stop()
	readers.Wait()
	balance(t, r)
}

func TestSources(t *testing.T) {
	r := New(&Options{Budget: ringbuf.MinBudget})
	defer r.Close()
	tagged := envelope.Identity{SourceID: "guid", Tags: map[string]string{
		envelope.TagAppName: "shop", envelope.TagAppID: "guid", envelope.TagSpaceName: "dev", envelope.TagSpaceID: "s-id",
		envelope.TagOrgName: "acme", envelope.TagOrgID: "o-id",
	}}.Encode()
	write(t, r, lines(tagged, 7, "1", "2", "3"))
	for i := range 2000 {
		write(t, r, lines(app("loud", "prod", "acme"), int64(i+1), strings.Repeat("x", 1000)))
	}
	list := func(sel ...envelope.Selector) map[string]envelope.SourceInfo {
		got := map[string]envelope.SourceInfo{}
		for s := range r.Sources(sel) {
			if s.Ring == 0 || s.Held > 0 && s.Bytes == 0 {
				t.Errorf("%+v", s)
			}
			s.Ring, s.Bytes = 0, 0
			got[s.SourceID] = s
		}
		return got
	}
	all := list(envelope.Everything...)
	loud := all["loud-guid"]
	s := r.Stats()
	if len(all) != 2 || loud.Gone == 0 || loud.Held+loud.Gone != 2000 || loud.Gone != s.Evicted || loud.Held+3 != s.Held ||
		loud.Newest != 2000 || loud.Oldest != int64(loud.Gone+1) {
		t.Errorf("%+v", loud)
	}
	want := map[string]envelope.SourceInfo{"guid": {
		SourceID: "guid", App: "shop", AppID: "guid", Space: "dev", SpaceID: "s-id", Org: "acme", OrgID: "o-id",
		Held: 3, Oldest: 7, Newest: 9,
	}}
	for name, sel := range map[string][]envelope.Selector{
		"by space":          {{Space: "dev"}},
		"by several ids":    {{SourceID: "guid"}, {SourceID: "guid"}, {SourceID: "unknown"}},
		"by id and by name": {{SourceID: "guid"}, {App: "shop", Kinds: []envelope.Kind{envelope.KindEvent}}},
	} {
		if diff := gocmp.Diff(want, list(sel...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	if got := list(); len(got) != 0 {
		t.Errorf("of no selector: %v", got)
	}
	for range r.Sources(envelope.Everything) {
		write(t, r, lines(tagged, 10, "4")) // no lock is held
		break
	}
}

func BenchmarkByTime(b *testing.B) {
	r := New(nil)
	defer r.Close()
	const n = 400_000
	text := []byte(strings.Repeat("x", 200))
	for i := 0; i < n; i += 100 {
		var batch envelope.Batch
		for k := i; k < i+100; k++ {
			batch.Records = envelope.AppendLog(batch.Records, app("a", "s", "o"), int64(k), envelope.Out, text)
			batch.Count++
		}
		r.WriteBatch(b.Context(), batch)
	}
	for name, q := range map[string]envelope.Query{
		"newest=1000": {Last: 1000}, "newest=1": {Last: 1}, "page=100": {Since: time.Unix(0, n/2), First: 100},
	} {
		b.Run(name, func(b *testing.B) {
			q.Select, q.Until = envelope.Everything, time.Unix(0, n)
			b.ReportAllocs()
			cpu := cpuTime()
			for b.Loop() {
				for range r.Batches(b.Context(), q) {
				}
			}
			b.ReportMetric(float64(cpuTime()-cpu)/1e3/float64(b.N), "cpu-µs/op")
		})
	}
	b.Run("first", func(b *testing.B) {
		for b.Loop() {
			for _, src := range r.sources {
				src.times = timeline{}
			}
			for range r.Batches(b.Context(), envelope.Query{Select: envelope.Everything, Until: time.Unix(0, n), Last: 1}) {
			}
		}
	})
}
