package transport_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

// serveRouter lets readers read from router at address.
func serveRouter(t testing.TB, n *faultnet.Network, address string, src envelope.Source, o *transport.EgressOptions) *transport.Egress {
	t.Helper()
	ln, err := n.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	e := transport.NewEgress(src, o)
	go e.Serve(ln)
	t.Cleanup(func() { e.Close() })
	return e
}

func newReader(t testing.TB, n *faultnet.Network, addr string, o *transport.ReaderOptions) *transport.Reader {
	t.Helper()
	var c transport.ReaderOptions
	if o != nil {
		c = *o
	}
	c.DialContext = n.DialContext
	r, err := transport.NewReader(addr, &c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// say writes lines of a source, numbered from first, as one that nobody numbered.
func say(t testing.TB, w envelope.Writer, source string, first, n int) {
	t.Helper()
	fixed := envelope.Identity{SourceID: source, Tags: map[string]string{envelope.TagSpaceName: "space"}}.Encode()
	var records []byte
	for i := first; i < first+n; i++ {
		records = envelope.AppendLog(records, fixed, int64(time.Millisecond)*int64(i), envelope.Out, fmt.Appendf(nil, "%s %d", source, i))
	}
	if err := w.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: n}); err != nil {
		t.Error(err)
	}
}

// collected is what one sequence gave.
type collected struct {
	mu     sync.Mutex
	lines  []string
	lgr    []string
	missed uint64
	resets int
	cursor envelope.Cursor
	ended  bool
	err    error
}

func (c *collected) add(b envelope.Batch, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err != nil {
		c.err = err
		return
	}
	c.missed += b.Missed
	if b.Reset {
		c.resets++
	}
	c.cursor.Advance(b)
	n := 0
	for e, err := range b.All() {
		n++
		r, err2 := e.Route()
		if err = errors.Join(err, err2); err != nil {
			c.err = err
			return
		}
		if t, _ := e.Tag(envelope.TagSourceType); string(t) == envelope.SourceTypeLGR {
			c.lgr = append(c.lgr, string(r.Payload))
		} else {
			c.lines = append(c.lines, string(r.Payload))
		}
	}
	if n != b.Count {
		c.err = fmt.Errorf("count %d, records %d", b.Count, n)
	}
}

func (c *collected) get() (lines, lgr []string, missed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lines), slices.Clone(c.lgr), c.missed
}

// read ranges over a sequence to its end.
func read(ctx context.Context, src envelope.Source, q envelope.Query) *collected {
	c := &collected{}
	for b, err := range src.Batches(ctx, q) {
		c.add(b, err)
	}
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	return c
}

// follow collects a sequence until the test ends: of an envelope.Follower by that.
func follow(t testing.TB, src envelope.Source, q envelope.Query) *collected {
	c := &collected{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	q.Follow = true
	go func() {
		defer close(done)
		if _, ok := src.(envelope.Follower); ok {
			src = attended{src}
		}
		for b, err := range src.Batches(ctx, q) {
			c.add(b, err)
		}
		c.mu.Lock()
		c.ended = true
		c.mu.Unlock()
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return c
}

// attended gives the sequences of an envelope.Follower.
type attended struct{ envelope.Source }

func (a attended) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		var calls atomic.Int32 // never two at once
		left := errors.New("left")
		batches, taken, ended := make(chan envelope.Batch), make(chan bool), make(chan error)
		a.Source.(envelope.Follower).Follow(ctx, q, func(b envelope.Batch) error {
			if calls.Add(1) != 1 {
				panic("two at once")
			}
			defer calls.Add(-1)
			batches <- b
			if !<-taken {
				return left
			}
			return nil
		}, func(err error) { ended <- err })
		for {
			select {
			case b := <-batches:
				taken <- yield(b, nil)
			case err := <-ended:
				if err != nil && err != left {
					yield(envelope.Batch{}, err)
				}
				return
			}
		}
	}
}

func linesOf(source string, first, n int) (lines []string) {
	for i := first; i < first+n; i++ {
		lines = append(lines, fmt.Sprintf("%s %d", source, i))
	}
	return lines
}

func wantLines(t testing.TB, what string, c *collected, want []string) {
	t.Helper()
	got, _, missed := c.get()
	if !slices.Equal(got, want) || missed > 0 || c.err != nil && !errors.Is(c.err, context.Canceled) {
		t.Errorf("%s: got %d lines %.200q, missed %d, error %v; want %d %.200q", what, len(got), got, missed, c.err, len(want), want)
	}
}

func selectSource(id string) []envelope.Selector { return []envelope.Selector{{SourceID: id}} }

// bubble is synctest.Test with a network.
func bubble(t *testing.T, f func(t *testing.T, n *faultnet.Network)) {
	synctest.Test(t, func(t *testing.T) { f(t, &faultnet.Network{}) })
}

func newRouter(t testing.TB) *loggregator.Router {
	r := loggregator.New(nil)
	t.Cleanup(func() { r.Close() })
	return r
}

func TestReaderDumpsAndFollows(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		router := newRouter(t)
		e := serveRouter(t, n, "server:1", router, nil)
		r := newReader(t, n, "tcp://server:1", nil)
		say(t, router, "a", 0, 100)
		say(t, router, "b", 0, 10)

		wantLines(t, "dump", read(t.Context(), r, envelope.Query{Select: selectSource("a")}), linesOf("a", 0, 100))
		wantLines(t, "dump", read(t.Context(), r, envelope.Query{Select: selectSource("a"), Last: 7}), linesOf("a", 93, 7))
		if c := read(t.Context(), r, envelope.Query{Select: envelope.Everything, Where: func(id string, _ envelope.StreamID) bool { return id == "b" }}); true {
			wantLines(t, "c", c, linesOf("b", 0, 10))
		}

		fromNow := follow(t, r, envelope.Query{Select: selectSource("a")})
		last := follow(t, r, envelope.Query{Select: selectSource("a"), Last: 5})
		space := follow(t, r, envelope.Query{Select: []envelope.Selector{{Space: "space"}}})
		synctest.Wait()
		say(t, router, "a", 100, 3)
		synctest.Wait()
		time.Sleep(10 * time.Second) // they fall asleep
		synctest.Wait()
		if s := e.Stats(); s.Asleep != 3 || s.Queries != 3 {
			t.Errorf("not asleep: %+v", s)
		}
		for i := range 5 {
			say(t, router, "a", 103+i, 1)
			synctest.Wait()
		}
		say(t, router, "new", 0, 1)
		synctest.Wait()
		wantLines(t, "fromNow", fromNow, linesOf("a", 100, 8))
		wantLines(t, "last", last, linesOf("a", 95, 13))
		wantLines(t, "space", space, append(linesOf("a", 100, 8), "new 0"))

		if !r.Known(selectSource("a")) || r.Known(selectSource("nobody")) {
			t.Error("Known")
		}
		held := make(map[string]uint64)
		for s := range r.Sources(envelope.Everything) {
			held[s.SourceID] = s.Held
		}
		if want := map[string]uint64{"a": 108, "b": 10, "new": 1}; !maps.Equal(held, want) {
			t.Errorf("sources %v", held)
		}
	})
}

func TestReaderGoesOnAfterABreak(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		router := newRouter(t)
		serveRouter(t, n, "server:1", router, nil)
		r := newReader(t, n, "tcp://server:1", nil)
		say(t, router, "a", 0, 10)
		now := follow(t, r, envelope.Query{Select: selectSource("a")})
		all := follow(t, r, envelope.Query{Select: selectSource("a"), History: true})
		asleep := follow(t, r, envelope.Query{Select: []envelope.Selector{{Space: "space"}}})
		synctest.Wait()
		time.Sleep(5 * time.Second)
		at := 10
		for range 20 {
			n.Reset("server:1")
			say(t, router, "a", at, 3)
			at += 3
			time.Sleep(300 * time.Millisecond)
			say(t, router, "a", at, 2)
			at += 2
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		wantLines(t, "now", now, linesOf("a", 10, 100))
		wantLines(t, "all", all, linesOf("a", 0, 110))
		wantLines(t, "asleep", asleep, linesOf("a", 10, 100))
		if s := r.Stats(); s.Reconnects == 0 || s.Connected != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestReaderWithoutAServer(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		r := newReader(t, n, "tcp://server:1", nil)
		began := time.Now()
		c := read(t.Context(), r, envelope.Query{Select: selectSource("a")})
		if !errors.Is(c.err, transport.ErrAway) || !strings.Contains(c.err.Error(), "tcp://server:1") {
			t.Errorf("error %v", c.err)
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("it took %v", d)
		}
		tail := follow(t, r, envelope.Query{Select: selectSource("a")})
		time.Sleep(10 * time.Second)
		router := newRouter(t)
		say(t, router, "a", int(time.Now().UnixMilli()), 1)
		serveRouter(t, n, "server:1", router, nil)
		time.Sleep(10 * time.Second)
		lines, lgr, _ := tail.get()
		if len(lines) != 1 || len(lgr) != 2 || !strings.Contains(lgr[0], "cannot be reached") || !strings.Contains(lgr[1], "is back") {
			t.Errorf("%q %q", lines, lgr)
		}
	})
}

func TestReaderWake(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		router := newRouter(t)
		e := serveRouter(t, n, "server:1", router, nil)
		r := newReader(t, n, "tcp://server:1", nil)
		say(t, router, "a", 0, 10)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		q := envelope.Query{Select: selectSource("a"), Follow: true, History: true}
		c := &collected{}
		for b, err := range r.Batches(ctx, q) {
			c.add(b, err)
			if len(c.lines) == 10 {
				cancel()
			}
		}
		var mu sync.Mutex
		woken := 0
		count := func() int {
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			return woken
		}
		wake := func() {
			mu.Lock()
			woken++
			mu.Unlock()
		}
		q.Cursor = c.cursor
		stop := r.Wake(q, wake)
		time.Sleep(time.Minute)
		if count() != 0 {
			t.Error("woken for nothing")
		}
		if s := e.Stats(); s.Asleep != 1 || s.Queries != 1 {
			t.Errorf("%+v", s)
		}
		say(t, router, "a", 10, 1)
		if count() != 1 {
			t.Error("not woken")
		}
		stop()
		stop = r.Wake(q, wake)
		if count() != 2 {
			t.Error("not woken by what is there")
		}
		stop()
		q.Cursor = read(t.Context(), r, envelope.Query{Select: q.Select}).cursor
		stop = r.Wake(q, wake)
		before := count()
		n.Reset("server:1")
		if count() == before {
			t.Error("not woken by a break")
		}
		time.Sleep(10 * time.Second)
		stop()
		synctest.Wait()
		if s := e.Stats(); s.Queries != 0 || s.Asleep != 0 {
			t.Errorf("left behind: %+v", s)
		}
	})
}

// A sequence that is not read on falls behind in the ring, and is told to the record
// what it missed; one beside it on the same connection misses nothing, and the
// server keeps no goroutine for it meanwhile.
func TestSlowReaderFallsBehind(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		router := loggregator.New(&loggregator.Options{Budget: 1}) // that is MinBudget
		t.Cleanup(func() { router.Close() })
		e := serveRouter(t, n, "server:1", router, nil)
		r := newReader(t, n, "tcp://server:1", &transport.ReaderOptions{Window: 16 << 10})
		fast := follow(t, r, envelope.Query{Select: selectSource("a")})
		slow := &collected{}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		going, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			first := true
			for b, err := range r.Batches(ctx, envelope.Query{Select: selectSource("a"), Follow: true}) {
				slow.add(b, err)
				if b.Count > 0 && first {
					first = false
					<-going
				}
			}
		}()
		synctest.Wait()
		made := 0
		for router.Stats().Evicted < 20_000 {
			say(t, router, "a", made, 100)
			made += 100
			synctest.Wait()
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if s := e.Stats(); s.Asleep != 2 {
			t.Errorf("%+v", s)
		}
		close(going)
		time.Sleep(10 * time.Second)
		say(t, router, "a", made, 100)
		made += 100
		synctest.Wait()
		wantLines(t, "fast", fast, linesOf("a", 0, made))
		lines, _, missed := slow.get()
		if len(lines)+int(missed) != made || missed == 0 || lines[len(lines)-1] != fmt.Sprint("a ", made-1) {
			t.Errorf("made %d, given %d, missed %d", made, len(lines), missed)
		}
		if s := r.Stats(); s.Records != uint64(made+len(lines)) || s.Missed != missed {
			t.Errorf("%+v", s)
		}
		cancel()
		<-done
	})
}

// A server that shuts down in good order, its router first, has given all it had.
func TestEgressShutsDown(t *testing.T) {
	bubble(t, func(t *testing.T, n *faultnet.Network) {
		router := newRouter(t)
		e := serveRouter(t, n, "server:1", router, nil)
		r := newReader(t, n, "tcp://server:1", nil)
		tail := follow(t, r, envelope.Query{Select: selectSource("a")})
		synctest.Wait()
		say(t, router, "a", 0, 5000)
		if err := router.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := e.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		wantLines(t, "tail", tail, linesOf("a", 0, 5000))
		if s := e.Stats(); s.Connections != 0 || s.Queries != 0 {
			t.Errorf("%+v", s)
		}
		if err := e.Close(); err != nil { // again
			t.Error(err)
		}
		// The sequence goes on with whoever listens next, and ends with the reader.
		next := newRouter(t)
		serveRouter(t, n, "server:1", next, nil)
		time.Sleep(5 * time.Second)
		say(t, next, "a", 5000, 10)
		synctest.Wait()
		lines, lgr, _ := tail.get()
		if len(lines) != 5010 || tail.resets != 1 { // how many were lost with the old one cannot be known
			t.Errorf("%d lines, %q, %d resets", len(lines), lgr, tail.resets)
		}
		r.Close()
		synctest.Wait()
		if !errors.Is(tail.err, transport.ErrClosed) {
			t.Errorf("%v", tail.err)
		}
	})
}
