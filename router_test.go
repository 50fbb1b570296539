package loggregator

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// app makes the fixed fields of an application's envelopes.
func app(name, space, org string) envelope.Fixed {
	return envelope.Identity{SourceID: name + "-guid", InstanceID: "0", Tags: map[string]string{
		envelope.TagAppName: name, envelope.TagSpaceName: space, envelope.TagOrgName: org, envelope.TagSourceType: "APP/PROC/WEB",
	}}.Encode()
}

// lines makes a batch of logs, a nanosecond apart.
func lines(f envelope.Fixed, at int64, texts ...string) envelope.Batch {
	var b envelope.Batch
	for i, text := range texts {
		b.Records = envelope.AppendLog(b.Records, f, at+int64(i), envelope.Out, []byte(text))
		b.Count++
	}
	return b
}

func write(t *testing.T, w envelope.Writer, b envelope.Batch) {
	t.Helper()
	if err := w.WriteBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// texts is the payloads of a batch; missed records are a line of their own.
func texts(b envelope.Batch) []string {
	var out []string
	if b.Missed > 0 {
		out = append(out, fmt.Sprintf("missed %d", b.Missed))
	}
	if b.Reset {
		out = append(out, "reset")
	}
	for e := range b.All() {
		out = append(out, string(e.Payload()))
	}
	return out
}

// dump reads a query that ends by itself.
func dump(t *testing.T, r *Router, q envelope.Query) []string {
	t.Helper()
	var out []string
	for b, err := range r.Batches(t.Context(), q) {
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, texts(b)...)
	}
	return out
}

// tail is a reader that follows, stepped by the test.
type tail struct {
	t      *testing.T
	got    []string
	cursor envelope.Cursor
	err    error
	cancel context.CancelFunc
	ended  chan struct{}
}

// follow starts a reader in a synctest bubble; synctest.Wait lets it read all
// there is.
func follow(t *testing.T, r *Router, q envelope.Query) *tail {
	ctx, cancel := context.WithCancel(t.Context())
	q.Follow = true
	tl := &tail{t: t, cancel: cancel, ended: make(chan struct{}), cursor: q.Cursor.Clone()}
	go func() {
		defer close(tl.ended)
		for b, err := range r.Batches(ctx, q) {
			if err != nil {
				tl.err = err
				return
			}
			tl.cursor.Advance(b)
			tl.got = append(tl.got, texts(b)...)
		}
	}()
	synctest.Wait()
	return tl
}

func (tl *tail) stop() {
	tl.cancel()
	<-tl.ended
}

func (tl *tail) want(texts ...string) {
	tl.t.Helper()
	synctest.Wait()
	if diff := cmp.Diff(texts, tl.got); diff != "" {
		tl.t.Errorf("tail got (-want +got):\n%s", diff)
	}
}

// balance checks that the router's own account is in order.
func balance(t *testing.T, r *Router) {
	t.Helper()
	s := r.Stats()
	if s.Accepted+s.Marked+s.Recovered != s.Evicted+s.Expired+s.Released+s.Held {
		t.Errorf("accepted %d + marked %d + recovered %d ≠ evicted %d + expired %d + released %d + held %d",
			s.Accepted, s.Marked, s.Recovered, s.Evicted, s.Expired, s.Released, s.Held)
	}
}

var everything = envelope.Query{Select: envelope.Everything}

func ofApp(name string) envelope.Query {
	return envelope.Query{Select: []envelope.Selector{{App: name}}}
}

func TestDumpMergesByTime(t *testing.T) {
	r := New(nil)
	defer r.Close()
	a, b, c := app("a", "s1", "o"), app("b", "s1", "o"), app("c", "s2", "o")
	write(t, r, lines(a, 10, "a10", "a11"))
	write(t, r, lines(b, 5, "b5"))
	write(t, r, lines(b, 11, "b11", "b12"))
	write(t, r, lines(c, 7, "c7"))
	write(t, r, lines(a, 20, "a20"))
	write(t, r, lines(a, 2, "a2, late")) // order within a source is order of arrival

	for name, test := range map[string]struct {
		sel  envelope.Selector
		want []string
	}{
		"org":       {envelope.Selector{Org: "o"}, []string{"b5", "c7", "a10", "a11", "b11", "b12", "a20", "a2, late"}},
		"space":     {envelope.Selector{Space: "s1"}, []string{"b5", "a10", "a11", "b11", "b12", "a20", "a2, late"}},
		"app":       {envelope.Selector{App: "c"}, []string{"c7"}},
		"source id": {envelope.Selector{SourceID: "c-guid"}, []string{"c7"}},
		"nobody":    {envelope.Selector{App: "c", Space: "s1"}, nil},
	} {
		q := envelope.Query{Select: []envelope.Selector{test.sel}, ByTime: true}
		if diff := cmp.Diff(test.want, dump(t, r, q)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if r.Known(q.Select) != (len(test.want) > 0) {
			t.Errorf("%s: Known is wrong", name)
		}
	}
	q := envelope.Query{Select: envelope.Everything, ByTime: true, Last: 3}
	if diff := cmp.Diff([]string{"b12", "a20", "a2, late"}, dump(t, r, q)); diff != "" {
		t.Errorf("last 3 (-want +got):\n%s", diff)
	}
	q = envelope.Query{Select: ofApp("a").Select, Since: time.Unix(0, 11)}
	if diff := cmp.Diff([]string{"a11", "a20", "a2, late"}, dump(t, r, q)); diff != "" {
		t.Errorf("since (-want +got):\n%s", diff)
	}
	balance(t, r)
}

func TestFiltersByRecord(t *testing.T) {
	r := New(nil)
	defer r.Close()
	f := app("a", "s", "o")
	var b envelope.Batch
	for i := range 100 {
		kind := envelope.Out
		if i%3 == 0 {
			kind = envelope.Err
		}
		b.Records = envelope.AppendLog(b.Records, f, int64(i), kind, fmt.Appendf(nil, "%d", i))
		b.Count++
	}
	b.Records = envelope.AppendCounter(b.Records, f, 100, "n", 1, 1)
	b.Count++
	write(t, r, b)
	q := envelope.Query{Select: []envelope.Selector{{App: "a", Stderr: true}}, Last: 3}
	if diff := cmp.Diff([]string{"93", "96", "99"}, dump(t, r, q)); diff != "" {
		t.Errorf("last of stderr (-want +got):\n%s", diff)
	}
	q = envelope.Query{Select: []envelope.Selector{{App: "a", Stdout: true}}}
	if n := len(dump(t, r, q)); n != 66 {
		t.Errorf("%d lines of stdout, want 66", n)
	}
	q = envelope.Query{Select: []envelope.Selector{{Instance: "1"}}}
	if n := len(dump(t, r, q)); n != 0 {
		t.Errorf("%d lines of an instance that is not there", n)
	}
	q = envelope.Query{Select: []envelope.Selector{{SourceType: "APP", Kinds: []envelope.Kind{envelope.KindCounter}}}}
	if n := len(dump(t, r, q)); n != 1 {
		t.Errorf("%d counters, want 1", n)
	}
}

func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		a := app("a", "s", "o")
		write(t, r, lines(a, 1, "1", "2", "3"))
		now := follow(t, r, ofApp("a"))
		last := follow(t, r, envelope.Query{Select: ofApp("a").Select, Last: 2})
		all := follow(t, r, envelope.Query{Select: envelope.Everything, History: true})
		write(t, r, lines(a, 4, "4"))
		write(t, r, lines(app("b", "s", "o"), 4, "of b")) // appears later, joins its readers
		synctest.Wait()
		write(t, r, lines(a, 5, "5"))
		now.want("4", "5")
		last.want("2", "3", "4", "5")
		all.want("1", "2", "3", "4", "of b", "5")

		now.stop()
		if !errors.Is(now.err, context.Canceled) {
			t.Errorf("a cancelled reader ended with %v", now.err)
		}
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		<-all.ended
		if !errors.Is(all.err, ErrClosed) {
			t.Errorf("a reader of a closed router ended with %v", all.err)
		}
		if err := r.WriteBatch(t.Context(), lines(a, 6, "6")); !errors.Is(err, ErrClosed) {
			t.Errorf("writing to a closed router: %v", err)
		}
	})
}

func TestSourceMovesSpace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		s1 := follow(t, r, envelope.Query{Select: []envelope.Selector{{Space: "s1"}}})
		s2 := follow(t, r, envelope.Query{Select: []envelope.Selector{{Space: "s2"}}})
		at := int64(0)
		say := func(space, text string) {
			at++
			write(t, r, lines(app("a", space, "o"), at, text))
		}
		say("s1", "1")
		say("s1", "2")
		say("s2", "3")
		say("s2", "4")
		s1.want("1", "2")
		s2.want("3", "4")
		say("s1", "5")
		s1.want("1", "2", "5")
		s2.want("3", "4")
		if s := r.Stats(); s.Readers != 2 || s.Sources != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		numbered := func(first uint64, texts ...string) envelope.Batch {
			b := lines(app("a", "s", "o"), int64(first), texts...)
			b.Stream, b.First = 77, first
			b.Next = first + uint64(b.Count)
			return b
		}
		r := New(nil)
		write(t, r, numbered(5, "5", "6"))
		tl := follow(t, r, ofApp("a"))
		write(t, r, numbered(7, "7", "8"))
		tl.want("7", "8")
		tl.stop()
		write(t, r, numbered(8, "8", "9", "10"))

		// In the same life the place is exact.
		q := ofApp("a")
		q.Cursor, _ = envelope.ParseCursor(tl.cursor.String())
		again := follow(t, r, q)
		again.want("9", "10")
		again.stop()
		if s := r.Stats(); s.Repeated != 1 || s.Accepted != 6 {
			t.Errorf("%+v", s)
		}
		balance(t, r)
		r.Close()

		// In another life it is found by the maker's numbers: what the sender
		// repeats is left out, and what only the old router had is counted.
		for name, test := range map[string]struct {
			sent []envelope.Batch
			want []string
		}{
			"repeated":       {[]envelope.Batch{numbered(6, "6", "7", "8", "9"), numbered(10, "10")}, []string{"9", "10"}},
			"just so":        {[]envelope.Batch{numbered(9, "9")}, []string{"9"}},
			"lost":           {[]envelope.Batch{numbered(12, "12", "13")}, []string{"missed 3", "12", "13"}},
			"lost, then gap": {[]envelope.Batch{numbered(12, "12"), numbered(15, "15")}, []string{"missed 3", "12", "2 lines are missing here: lost on the way", "15"}},
		} {
			r := New(nil)
			write(t, r, test.sent[0])
			before := ofApp("a")
			before.Cursor = tl.cursor
			tl2 := follow(t, r, before)
			for _, b := range test.sent[1:] {
				write(t, r, b)
			}
			synctest.Wait()
			if diff := cmp.Diff(test.want, tl2.got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", name, diff)
			}
			tl2.stop()
			// The same for a source that appears only after the reader.
			r2 := New(nil)
			tl3 := follow(t, r2, before)
			for _, b := range test.sent {
				write(t, r2, b)
			}
			synctest.Wait()
			if diff := cmp.Diff(test.want, tl3.got); diff != "" {
				t.Errorf("%s, source later (-want +got):\n%s", name, diff)
			}
			balance(t, r2)
			r.Close()
			r2.Close()
			<-tl3.ended
		}

		// The sender itself lost some while the server was away: told by a line,
		// and not counted twice.
		r = New(nil)
		b := numbered(20, "20")
		b.Missed = 4 // of 16..19; 9..15 went with the old router
		write(t, r, b)
		q.Cursor = tl.cursor
		tl4 := follow(t, r, q)
		tl4.want("4 lines are missing here: lost on the way", "missed 7", "20")
		r.Close()

		// Records that nobody numbered leave no trace in a cursor of another life.
		r = New(nil)
		write(t, r, lines(app("a", "s", "o"), 1, "1"))
		tl5 := follow(t, r, ofApp("a"))
		write(t, r, lines(app("a", "s", "o"), 2, "2"))
		tl5.want("2")
		r.Close()
		<-tl5.ended
		r = New(nil)
		write(t, r, lines(app("a", "s", "o"), 3, "3"))
		q.Cursor = tl5.cursor
		tl6 := follow(t, r, q)
		tl6.want("reset", "3")
		r.Close()
	})
}

func TestDoorKeepsTheRest(t *testing.T) {
	r := New(nil)
	defer r.Close()
	f := app("a", "s", "o")
	var b envelope.Batch
	add := func(record []byte) { b.Records, b.Count = append(b.Records, record...), b.Count+1 }
	add(envelope.AppendLog(nil, f, 1, envelope.Out, []byte("1")))
	add(envelope.AppendRecord(nil, []byte{0x0a, 0x01, 'x'}))                                         // no source id
	add(envelope.AppendRecord(nil, []byte{0xff}))                                                    // no protobuf
	add(envelope.AppendLog(nil, envelope.Fixed("\x12\x02a\n"), 1, envelope.Out, nil))                // a source id of two lines
	add(envelope.AppendLog(nil, f, 2, envelope.Out, []byte("2")))                                    //
	add(envelope.AppendLog(nil, f, 2, envelope.Out, make([]byte, envelope.MaxSize)))                 // too large
	add(envelope.AppendLog(nil, append(f[:len(f):len(f)], "\x4a\x01\xff"...), 3, envelope.Out, nil)) // a tag that is no message
	add(envelope.AppendLog(nil, f, 3, envelope.Out, []byte("3")))
	write(t, r, b)
	if diff := cmp.Diff([]string{"1", "2", "3"}, dump(t, r, everything)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s := r.Stats(); s.Accepted != 3 || s.BadSourceID != 2 || s.Malformed != 2 || s.TooLarge != 1 {
		t.Errorf("%+v", s)
	}
	balance(t, r)
}

// TestOvertaken reads slower than a flood writes, next to a quiet source.
func TestOvertaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{Budget: ringbuf.MinBudget})
		defer r.Close()
		quiet, loud := app("quiet", "s", "o"), app("loud", "s", "o")
		write(t, r, lines(quiet, 1, "first words"))
		seen, missed, quietSeen := 0, uint64(0), 0
		const n = 20_000
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		step := make(chan struct{})
		go func() {
			defer close(done)
			for b, err := range r.Batches(ctx, envelope.Query{Select: envelope.Everything, History: true, Follow: true, MaxBytes: 4096}) {
				if err != nil {
					return
				}
				missed += b.Missed
				for e := range b.All() {
					if route, _ := e.Route(); string(route.SourceID) == "quiet-guid" {
						quietSeen++
					} else {
						seen++
					}
				}
				select {
				case <-step:
				case <-ctx.Done():
				}
			}
		}()
		text := strings.Repeat("x", 200)
		for i := range n {
			write(t, r, lines(loud, int64(i), text))
			if i%50 == 0 {
				step <- struct{}{}
			}
		}
		close(step)
		synctest.Wait()
		cancel()
		<-done
		if missed == 0 || uint64(seen)+missed != n || quietSeen != 1 {
			t.Errorf("seen %d + missed %d of %d; quiet source seen %d", seen, missed, n, quietSeen)
		}
		if got := dump(t, r, ofApp("quiet")); !slices.Equal(got, []string{"first words"}) {
			t.Errorf("the quiet source kept %q", got)
		}
		balance(t, r)
	})
}

func TestAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(&Options{MaxAge: time.Hour})
		defer r.Close()
		write(t, r, lines(app("a", "s", "o"), 1, "1", "2", "3"))
		slow := follow(t, r, envelope.Query{Select: envelope.Everything})
		time.Sleep(3 * time.Hour)
		if s := r.Stats(); s.Held != 0 || s.Expired != 3 || s.Sources != 0 {
			t.Errorf("after three hours: %+v", s)
		}
		write(t, r, lines(app("a", "s", "o"), 4, "4"))
		slow.want("4")
		balance(t, r)
	})
}

// TestEveryReaderBalances writes from several goroutines to readers that come,
// stall, leave and resume, in a budget that is too small, and checks that each
// source's records come in order and that seen + missed is what was written.
func TestEveryReaderBalances(t *testing.T) {
	const sources, perSource, readers = 5, 4000, 8
	r := New(&Options{Budget: ringbuf.MinBudget})
	defer r.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var writers, all, started sync.WaitGroup
	started.Add(readers) // before anything is given up, so that all of it is in their account
	fixed := make([]envelope.Fixed, sources)
	for i := range fixed {
		fixed[i] = app(fmt.Sprint("app", i), fmt.Sprint("s", i%2), "o")
		write(t, r, lines(fixed[i], 0, "0"))
	}
	for k := range readers {
		all.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(k), 2))
			seen := make(map[string]int)
			untold := make(map[envelope.StreamID]uint64) // by batches without records
			total := uint64(0)
			cursor := envelope.Cursor{}
			start := sync.OnceFunc(started.Done)
			for total < sources*perSource {
				q := envelope.Query{Select: envelope.Everything, History: true, Follow: true, Cursor: cursor, ByTime: k%2 == 0, MaxBytes: 1 + rng.IntN(10_000)}
				for b, err := range r.Batches(ctx, q) {
					if err != nil {
						t.Errorf("reader %d: %v after %d of %d", k, err, total, sources*perSource)
						return
					}
					if b.Count > 0 {
						start()
					}
					lost := int(b.Missed + untold[b.Ring])
					if untold[b.Ring] = 0; b.Count == 0 {
						untold[b.Ring] = uint64(lost)
					}
					total += b.Missed + uint64(b.Count)
					for e := range b.All() {
						route, _ := e.Route()
						id, i := string(route.SourceID), 0
						fmt.Sscan(string(e.Payload()), &i)
						if want := seen[id] + lost; i != want {
							t.Errorf("reader %d: %s: %d after %d, told of %d missed", k, id, i, seen[id]-1, lost)
							return
						}
						seen[id], lost = i+1, 0
					}
					cursor.Advance(b)
					if total >= sources*perSource || b.Count > 0 && rng.IntN(50) == 0 {
						break // leave, and resume
					}
				}
			}
			if total != sources*perSource {
				t.Errorf("reader %d: seen and missed %d of %d", k, total, sources*perSource)
			}
		})
	}
	started.Wait()
	for i := range sources {
		writers.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			for n := 1; n < perSource; {
				var b envelope.Batch
				for range min(1+rng.IntN(30), perSource-n) {
					text := fmt.Sprint(n, " ", strings.Repeat("x", rng.IntN(400)))
					b.Records = envelope.AppendLog(b.Records, fixed[i], time.Now().UnixNano(), envelope.Out, []byte(text))
					b.Count++
					n++
				}
				if err := r.WriteBatch(t.Context(), b); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	all.Wait()
	balance(t, r)
	if s := r.Stats(); s.Accepted != sources*perSource || s.Readers != 0 {
		t.Errorf("%+v", s)
	}
}

// TestOvertakenInTheBacklog: what a reader that follows had yet to read when it
// began is given up while it is busy. That is told with a record, so that who
// hands it on can say of which source it is.
func TestOvertakenInTheBacklog(t *testing.T) {
	for _, byTime := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := New(&Options{Budget: 1 << 20})
			f := app("a", "s", "o")
			text := strings.Repeat("x", 1500)
			write(t, r, lines(f, 1, text, text, text, text, text))
			write(t, r, lines(app("b", "s", "o"), 1, "other"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			busy, goOn := make(chan struct{}), make(chan struct{})
			var seen, missed, untold uint64
			go func() {
				q := envelope.Query{Select: []envelope.Selector{{Space: "s"}}, History: true, Follow: true, ByTime: byTime, MaxBytes: 300}
				first := true
				for b, err := range r.Batches(ctx, q) {
					if err != nil {
						return
					}
					if b.Count > 0 && first {
						first = false
						close(busy)
						<-goOn
					}
					seen += uint64(b.Count)
					missed += b.Missed
					if b.Count == 0 {
						untold += b.Missed
					}
				}
			}()
			<-busy
			for i := range 2000 {
				write(t, r, lines(f, int64(i+10), text))
			}
			close(goOn)
			synctest.Wait()
			if s := r.Stats(); untold > 0 || missed == 0 || seen+missed != s.Accepted {
				t.Errorf("by time %v: seen %d, missed %d, of these %d without a record; accepted %d", byTime, seen, missed, untold, s.Accepted)
			}
			r.Close()
		})
	}
}
