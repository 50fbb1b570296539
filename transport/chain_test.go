package transport_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

// TestChain sends records of several makers over an agent to a server. All but
// the server have little memory, connections tear, and servers are away for
// long. Whatever was made is at the server, or is told missing there, once, by
// lines with the reason; and what the routers and links count adds up.
func TestChain(t *testing.T) {
	seeds := 30
	if testing.Short() || raceDetector { // which takes thirty times as long
		seeds = 6
	}
	first := rand.Uint64()
	t.Logf("first seed %d", first)
	var why reasons
	for i := range seeds {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { chain(t, seed, &why) })
		})
		if !ok {
			break
		}
	}
	t.Logf("missing: %v; exact in %d of %d", why.missing, why.exact, seeds)
	if seeds < 30 {
		return
	}
	if why.exact < seeds*3/5 { // nine of ten is usual
		t.Error("told twice too often")
	}
	for _, r := range []envelope.Reason{envelope.ReasonAgent, envelope.ReasonLink} {
		if why.missing[r] == 0 {
			t.Errorf("nothing was missing because of: %s", r)
		}
	}
}

type reasons struct {
	missing [envelope.Reasons]uint64
	exact   int // seeds
}

func chain(t *testing.T, seed uint64, why *reasons) {
	random := rand.New(rand.NewPCG(seed, 1))
	plan := rand.New(rand.NewPCG(seed, 2))
	network := &faultnet.Network{Plan: func(int) faultnet.Faults { return faultnet.Random(plan, 300_000) }}
	little := &loggregator.Options{Budget: 1} // that is MinBudget

	server := newHop(t, network, "server:1", nil)
	agent := newHop(t, network, "agent:1", little)
	makers := []*loggregator.Router{loggregator.New(little), loggregator.New(little), loggregator.New(little)}
	connect := func(address string, src envelope.Source, why envelope.Reason) *transport.Link {
		l, err := transport.NewLink("tcp://"+address, src, &transport.LinkOptions{DialContext: network.DialContext, MaxUnacked: 50_000, Reason: why})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	var links []*transport.Link
	for _, m := range makers {
		links = append(links, connect("agent:1", m, envelope.ReasonEmitter))
	}
	up := connect("server:1", agent, envelope.ReasonAgent)

	made, total := make(map[string]int), uint64(0)
	say := func(m, app, n int) {
		maker, source := fmt.Sprint("maker-", m), fmt.Sprint("app-", app)
		emit(t, makers[m], maker, source, made[maker+source], n)
		made[maker+source] += n
		total += uint64(n)
	}
	agentUp, serverUp := true, true
	for range 60 {
		n := random.IntN(100)
		if random.IntN(4) == 0 {
			n = random.IntN(8000)
		}
		if random.IntN(60) == 0 {
			n = 25_000 // more than a maker can hold
		}
		for m := range makers { // one of the sources is everybody's
			if random.IntN(2) == 0 {
				say(m, random.IntN(2)*(m+1), 1+n/(m+1))
			}
		}
		time.Sleep(time.Duration(random.IntN(1000)) * time.Millisecond)
		switch random.IntN(8) {
		case 0:
			if agentUp = !agentUp; agentUp {
				agent.listen(t, network, "agent:1")
			} else {
				agent.hangUp(t)
			}
		case 1, 2:
			if serverUp = !serverUp; serverUp {
				server.listen(t, network, "server:1")
			} else {
				server.hangUp(t)
			}
		case 3:
			// The pause between attempts may be long by now.
			time.Sleep(10 * time.Second)
		}
	}
	if !agentUp {
		agent.listen(t, network, "agent:1")
	}
	if !serverUp {
		server.listen(t, network, "server:1")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	flush := func() {
		for _, l := range append(links, up) {
			if err := l.Flush(ctx); err != nil {
				t.Errorf("%v: %+v", err, l.Stats())
			}
		}
	}
	flush()
	for m := range makers { // what was lost at the end of a ring is told with its next record
		say(m, 0, 1)
		say(m, m+1, 1)
	}
	flush()
	flush()

	// Lines that tell of losses can be lost too. What they told is told once more
	// then, and they are missing themselves, as soon as the next such line comes. It
	// is told twice if the line did arrive, but the connection broke before the
	// record after it and its acknowledgement, and the agent gave it up before the
	// next connection.
	seen, told, lines := make(map[string]int), uint64(0), uint64(0)
	for b := range server.Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true}) {
		for e := range b.All() {
			if n, reason, ok := e.Missed(); ok {
				told += n
				lines++
				for r := range envelope.Reasons {
					if r.String() == reason {
						why.missing[r] += n
					}
				}
			} else {
				seen[string(e.Payload())]++
			}
		}
	}
	for payload, n := range seen {
		if n != 1 {
			t.Errorf("%q arrived %d times", payload, n)
		}
	}
	ss, as := server.Stats(), agent.Stats()
	lost := as.Marked - (lines - ss.Marked) // lines
	switch n := uint64(len(seen)) + told; {
	case n >= total && n <= total+lost:
		why.exact++
	case n > total && n <= total+lost+as.Lost:
	default:
		t.Errorf("made %d, %d arrived, %d told missing, of them %d lines that told; agent %+v, server %+v", total, len(seen), told, lost, as, ss)
	}
	for i, l := range links {
		n := uint64(0)
		for _, k := range l.Stats().MissedFor {
			n += k
		}
		if n != l.Stats().Missed {
			t.Errorf("maker %d: %+v", i, l.Stats())
		}
		if ls, ms := l.Stats(), makers[i].Stats(); ls.Acked+ls.Missed != ms.Accepted {
			t.Errorf("maker %d: %+v of %d", i, ls, ms.Accepted)
		}
	}
	if s := up.Stats(); s.Acked+s.Missed != as.Accepted+as.Marked {
		t.Errorf("agent: %+v of %+v", s, as)
	}
	for _, s := range []loggregator.Stats{as, ss} {
		n := uint64(0)
		for _, k := range s.LostFor {
			n += k
		}
		if n != s.Lost {
			t.Errorf("%d lost, by reason %v", s.Lost, s.LostFor)
		}
	}
	for _, l := range append(links, up) {
		l.Close()
	}
	for _, h := range []*hop{agent, server} {
		h.hangUp(t)
		h.Close()
	}
	for _, m := range makers {
		m.Close()
	}
}

// Where and why records were lost is told at the end of the chain, in their
// place.
func TestReasons(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		maker := loggregator.New(&loggregator.Options{Budget: 1}) // that is MinBudget
		agent := newHop(t, network, "agent:1", nil)
		server := newHop(t, network, "server:1", nil)
		l, err := transport.NewLink("tcp://agent:1", maker, &transport.LinkOptions{DialContext: network.DialContext, Reason: envelope.ReasonEmitter})
		if err != nil {
			t.Fatal(err)
		}
		up := link(t, network, "server:1", agent)
		flush := func() {
			t.Helper()
			for _, l := range []*transport.Link{l, up} {
				if err := l.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
		}
		emit(t, maker, "m", "app", 0, 1)
		flush()
		emit(t, maker, "m", "app", 1, 30_000) // at once: the link does not get to read it
		flush()
		agent.hangUp(t)
		time.Sleep(time.Second)
		emit(t, maker, "m", "app", 30_001, 30_000)
		time.Sleep(time.Minute)
		agent.listen(t, network, "agent:1")
		flush()
		emit(t, maker, "m", "other", 0, 1)
		flush()
		records, told := uint64(0), ""
		for b := range server.Batches(t.Context(), envelope.Query{Select: []envelope.Selector{{SourceID: "app"}}, History: true}) {
			for e := range b.All() {
				if n, reason, ok := e.Missed(); ok {
					told += fmt.Sprintf("after %d records: %s; ", records, reason)
					records += n
					if app, _ := e.Tag(envelope.TagAppName); string(app) != "app" {
						t.Errorf("told in the stream of %q", app)
					}
				} else {
					records++
				}
			}
		}
		if want := "after 1 records: emitter full; after 30001 records: link down too long; "; records != 60_001 || told != want {
			t.Errorf("%d records; %s", records, told)
		}
		if s := l.Stats(); s.MissedFor[envelope.ReasonEmitter] == 0 || s.MissedFor[envelope.ReasonLink] == 0 {
			t.Errorf("%+v", s)
		}
		if s := server.Stats(); s.Lost != 0 {
			t.Errorf("lost once more on the second hop: %+v", s)
		}
		l.Close()
		up.Close()
		for _, h := range []*hop{agent, server} {
			h.hangUp(t)
			h.Close()
		}
		maker.Close()
	})
}

// FuzzRouter asks of a router, whatever numbers batches come with, that it keeps
// its books.
func FuzzRouter(f *testing.F) {
	record := envelope.AppendLog(nil, envelope.Identity{SourceID: "a"}.Encode(), 1, envelope.Out, []byte("x"))
	for _, b := range []envelope.Batch{
		{Count: 1},
		{Count: 1, Stream: 7, First: 5, Next: 6, Missed: 3, From: 2, Reason: envelope.ReasonRate},
		{Count: 1, Stream: 7, First: 9, Next: 10, Told: 2, Begin: 1, Ring: 9, Position: 40, Missed: 1},
		{Count: 1, Stream: 8, First: 1 << 63, Next: 1<<63 + 1, Ring: 9, Position: 2},
	} {
		f.Add(append(b.AppendHeader(nil), record...), append(b.AppendHeader(nil), record...))
	}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		r := loggregator.New(nil)
		defer r.Close()
		count := uint64(0)
		for _, msg := range [][]byte{first, second, second} {
			b, err := envelope.ParseBatch(append([]byte(nil), msg...))
			if err != nil {
				return
			}
			count += uint64(b.Count)
			if err := r.WriteBatch(t.Context(), b); err != nil {
				t.Fatal(err)
			}
		}
		s := r.Stats()
		if n := s.Accepted + s.Repeated + s.Malformed + s.TooLarge + s.BadSourceID + s.MixedSource + s.NoRoom; n != count {
			t.Fatalf("%d records came: %+v", count, s)
		}
		if s.Accepted+s.Marked != s.Held {
			t.Fatalf("%+v", s)
		}
		n := uint64(0)
		for _, k := range s.LostFor {
			n += k
		}
		if n != s.Lost {
			t.Fatalf("%+v", s)
		}
	})
}
