package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

// batchOf is one record of about size bytes, of a source.
func batchOf(source string, size int) envelope.Batch {
	f := envelope.Identity{SourceID: source}.Encode()
	b, err := envelope.Of(envelope.AppendLog(nil, f, 1, envelope.Out, make([]byte, size)))
	if err != nil {
		panic(err)
	}
	return b
}

// A connection that brings ever new sources is read as fast as these may come,
// and loses none; one that brings what it brought before is not held back.
func TestNewSources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		var mu sync.Mutex
		at := make(map[string]time.Duration)
		begun := time.Now()
		server := serve(t, network, envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			for e := range b.All() {
				at[string(e.PeekSourceID())] = time.Since(begun)
			}
			return nil
		}), &ServerOptions{NewSources: 5})
		more := make(chan int)
		src := sourceFunc(func(ctx context.Context, q envelope.Query, yield func(envelope.Batch) bool) {
			for n := range more {
				for i := range n {
					b := batchOf(fmt.Sprint("app-", i), 10)
					b.Stream, b.First, b.Next = envelope.StreamID(i+1), 1, 2
					if !yield(b) {
						return
					}
				}
			}
		})
		link := dial(t, network, src, LinkOptions{})
		more <- 100
		time.Sleep(time.Second + time.Millisecond)
		mu.Lock()
		if n := len(at); n != 55 {
			t.Errorf("%d sources after a second", n)
		}
		mu.Unlock()
		time.Sleep(9 * time.Second)
		mu.Lock()
		if n := len(at); n != 100 {
			t.Errorf("%d sources after ten seconds", n)
		}
		mu.Unlock()
		again := time.Since(begun)
		more <- 100
		synctest.Wait()
		mu.Lock()
		if at["app-99"] != again {
			t.Errorf("known sources held back until %v", at["app-99"])
		}
		mu.Unlock()
		if s := link.Stats(); s.Reconnects != 0 {
			t.Errorf("%+v", s)
		}
		close(more)
		link.Close()
		server.Close()
	})
}

// Unnumbered batches and datagrams may mix sources; and a Writer may know them.
func TestNewcomers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewServer(newSink(t), &ServerOptions{NewSources: 1})
		n := s.newcomers()
		admit := func(n *newcomers, b envelope.Batch) bool { return n.admit(&b) }
		mixed := envelope.Batch{}
		for i := range 11 {
			b := batchOf(fmt.Sprint("app-", i), 1)
			mixed.Records = append(mixed.Records, b.Records...)
		}
		if admit(n, mixed) || !admit(n, batchOf("app-9", 1)) || admit(n, batchOf("app-10", 1)) {
			t.Error("ten sources at once, and no more")
		}
		if d := n.wait(&mixed); d != time.Second {
			t.Errorf("wait %v", d)
		}
		time.Sleep(time.Second)
		if !admit(n, mixed) {
			t.Error("one more after a second")
		}
		n.known = func(id string) bool { return id == "known" }
		if !admit(n, batchOf("known", 1)) || admit(n, batchOf("unknown", 1)) {
			t.Error("what the Writer knows is not new")
		}
		in := &intake{s: s, v: newVerifier(nil), known: n}
		if f := in.take(batchOf("unknown", 1).Records, netip.AddrPort{}); f == nil || f.reason != reasonSources {
			t.Errorf("%v", f)
		}
		off := NewServer(newSink(t), &ServerOptions{NewSources: -1}).newcomers()
		for i := range 100_000 {
			if !admit(off, batchOf(fmt.Sprint(i), 1)) {
				t.Fatal("off is off")
			}
		}
	})
}

// What a source brings beyond its rate is dropped, counted, and told with the
// next record that is taken; other sources have theirs.
func TestSourceRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // timers write, too
		taken, told := make(map[string]int), make(map[string]uint64)
		var fail error
		s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			if fail != nil {
				return fail
			}
			for e := range b.All() {
				taken[string(e.PeekSourceID())]++
			}
			e, _, _ := envelope.Next(b.Records)
			if b.Missed > 0 && b.Reason != envelope.ReasonRate {
				t.Errorf("missing because of %s", b.Reason)
			}
			told[string(e.PeekSourceID())] += b.Missed
			return nil
		}), &ServerOptions{SourceRate: 1000, SourceBurst: 10_000})
		defer s.Close()
		look := func(f func()) {
			mu.Lock()
			defer mu.Unlock()
			f()
		}
		number := uint64(1)
		bring := func(source string, size int, stream envelope.StreamID) {
			b := batchOf(source, size)
			if stream != 0 {
				b.Stream, b.First, b.Next = stream, number, number+1
				b.Ring, b.Position = stream, number+1
				number++
			}
			if err := s.hand(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		for range 40 {
			bring("loud", 980, 7) // with its framing about a kilobyte
			bring("other", 100, 0)
		}
		if taken["loud"] != 11 && taken["loud"] != 10 || taken["other"] != 40 || told["loud"] != 0 {
			t.Errorf("taken %v, told %v", taken, told)
		}
		dropped := 40 - taken["loud"]
		if s.Stats().Limited != uint64(dropped) {
			t.Errorf("%+v", s.Stats())
		}
		look(func() { fail = errors.New("not now") })
		time.Sleep(time.Second / 2)
		s.rates.buckets["loud"].bytes = 1 // it may bring one more
		b := batchOf("loud", 10)
		b.Stream, b.Ring, b.First, b.Next, b.Position = 7, 7, number, number+1, number+1
		if err := s.hand(t.Context(), b); err != fail {
			t.Error(err)
		}
		look(func() { fail = nil })
		bring("loud", 10, 7)
		if told["loud"] != uint64(dropped) {
			t.Errorf("%d dropped, %d told", dropped, told["loud"])
		}
		bring("loud", 10, 7)
		time.Sleep(time.Minute)
		synctest.Wait()
		if told["loud"] != uint64(dropped) {
			t.Errorf("told twice: %v", told)
		}

		// Nothing comes any more: the last one goes with what is told of the others.
		look(func() { clear(taken); clear(told) })
		before := s.Stats().Limited
		for range 40 {
			bring("loud", 980, 7)
		}
		var at int
		look(func() { at = taken["loud"] })
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if taken["loud"] != at+1 || told["loud"] != uint64(39-at) || s.Stats().Limited-before != uint64(39-at) || s.rates.kept != 0 {
			t.Errorf("%v, %v, %+v", taken, told, s.Stats())
		}
		// Mixed and unnumbered: each source by itself.
		time.Sleep(time.Minute)
		synctest.Wait()
		mixed := batchOf("loud", 30_000)
		mixed.Records = append(append(mixed.Records, batchOf("a", 10).Records...), batchOf("loud", 10).Records...)
		mixed.Count = 3
		look(func() { clear(taken) })
		if err := s.hand(t.Context(), mixed); err != nil || taken["loud"] != 1 || taken["a"] != 1 {
			t.Errorf("%v, %v", err, taken)
		}
		for i := range 2 * maxBuckets { // a flood of names costs bounded memory
			bring(fmt.Sprint("app-", i), 10, 0)
		}
		if n := len(s.rates.buckets); n > maxBuckets+1 {
			t.Errorf("%d buckets", n)
		}
	})
}

// A server that ends tells at once.
func TestSourceRateClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		taken, told := 0, uint64(0)
		s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
			taken += b.Count
			told += b.Missed
			return nil
		}), &ServerOptions{SourceRate: 1, SourceBurst: 1})
		for range 10 {
			s.hand(t.Context(), batchOf("a", 10))
		}
		s.hand(t.Context(), batchOf("b", 10))
		s.hand(t.Context(), batchOf("b", maxKept)) // too long to be kept
		s.Close()
		if taken != 3 || told != 8 || s.Stats().Limited != 9 {
			t.Errorf("taken %d, told %d, %+v", taken, told, s.Stats())
		}
	})
}

// Datagrams that follow each other are handed on together. What did not come is
// told by the numbers.
func TestDatagramsJoined(t *testing.T) {
	var got []envelope.Batch
	s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		b.Records = nil
		got = append(got, b)
		return nil
	}), nil)
	in := &intake{s: s, v: newVerifier(nil), known: s.newcomers()}
	send := func(b envelope.Batch) {
		if f := in.take(AppendDatagram(nil, b, nil), netip.AddrPort{}); f != nil {
			t.Fatal(f)
		}
	}
	numbered := func(stream envelope.StreamID, first uint64) envelope.Batch {
		b := batchOf("app", 10)
		b.Stream, b.First, b.Next, b.Ring, b.Position = stream, first, first+1, stream, first+1
		return b
	}
	send(batchOf("a", 10))
	send(batchOf("b", 10))
	send(numbered(7, 1))
	send(numbered(7, 2))
	send(numbered(7, 5))
	send(numbered(8, 6))
	missed := numbered(8, 9)
	missed.Missed, missed.Reason = 2, envelope.ReasonEmitter
	send(missed)
	if f := in.flush(); f != nil {
		t.Fatal(f)
	}
	want := []string{
		"0: 0-0 2 0", "7: 1-3 2 0", "7: 5-6 1 0", "8: 6-7 1 0", "8: 9-10 1 2",
	}
	if len(got) != len(want) {
		t.Fatalf("%+v", got)
	}
	for i, b := range got {
		if s := fmt.Sprintf("%d: %d-%d %d %d", b.Stream, b.First, b.Next, b.Count, b.Missed); s != want[i] {
			t.Errorf("%d: %s, want %s", i, s, want[i])
		}
		reason := envelope.ReasonDatagram
		if i == 0 {
			reason = envelope.ReasonUnknown
		} else if b.Missed > 0 {
			reason = envelope.ReasonEmitter
		}
		if b.Reason != reason {
			t.Errorf("%d: %s", i, b.Reason)
		}
	}
	if st := s.Stats(); st.Batches != 7 || st.Records != 7 || st.Missed != 2 {
		t.Errorf("%+v", st)
	}
}

// FuzzDatagrams asks that it makes no difference to the Writer, beside the number
// of batches, whether datagrams come together or one by one.
func FuzzDatagrams(f *testing.F) {
	b := batchOf("app", 10)
	f.Add(AppendDatagram(nil, b, nil), AppendDatagram(nil, b, nil), []byte("<14>hello"))
	b.Stream, b.First, b.Next, b.Ring, b.Position = 7, 1, 2, 7, 2
	c := b
	c.First, c.Next, c.Position = 2, 3, 3
	f.Add(AppendDatagram(nil, b, nil), AppendDatagram(nil, c, nil), AppendDatagram(nil, b, nil))
	f.Fuzz(func(t *testing.T, one, two, three []byte) {
		run := func(each bool) (got []string, st ServerStats) {
			s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
				if b.Missed > 0 {
					got = append(got, fmt.Sprint("missed ", b.Missed, b.Reason))
				}
				if b.Next < b.First || b.Next-b.First < uint64(b.Count) && b.Stream != 0 {
					t.Errorf("%+v", b)
				}
				n := b.First
				for e, err := range b.All() {
					if err != nil {
						t.Error(err)
					}
					got = append(got, fmt.Sprint(b.Stream, n, []byte(e)))
					if b.Stream != 0 {
						n++
					}
				}
				return nil
			}), nil)
			in := &intake{s: s, v: newVerifier(nil), known: s.newcomers()}
			for _, msg := range [][]byte{one, two, three} {
				if f := in.take(bytes.Clone(msg), netip.AddrPort{}); f != nil {
					in.refuse(f, netip.AddrPort{})
				}
				if each {
					in.flush()
				}
			}
			in.flush()
			return got, s.Stats()
		}
		got, st := run(false)
		want, wantSt := run(true)
		if !slices.Equal(got, want) || st.Records != wantSt.Records || st.Batches != wantSt.Batches || !maps.Equal(st.Refused, wantSt.Refused) {
			t.Errorf("together %q, %+v\none by one %q, %+v", got, st, want, wantSt)
		}
	})
}
