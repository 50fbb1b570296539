package transport_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

// hop is a router behind a server, as in a daemon.
type hop struct {
	*loggregator.Router
	server *transport.Server
	served chan error
}

func newHop(t *testing.T, n *faultnet.Network, address string, o *loggregator.Options) *hop {
	t.Helper()
	h := &hop{Router: loggregator.New(o)}
	h.listen(t, n, address)
	return h
}

// listen replaces the server; the router stays.
func (h *hop) listen(t *testing.T, n *faultnet.Network, address string) {
	t.Helper()
	ln, err := n.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	h.server, h.served = transport.NewServer(h.Router, nil), make(chan error, 1)
	go func() { h.served <- h.server.Serve(ln) }()
	synctest.Wait()
}

func (h *hop) hangUp(t *testing.T) {
	t.Helper()
	h.server.Close()
	if err := <-h.served; !errors.Is(err, transport.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

func link(t *testing.T, n *faultnet.Network, address string, src envelope.Source) *transport.Link {
	t.Helper()
	l, err := transport.NewLink("tcp://"+address, src, &transport.LinkOptions{DialContext: n.DialContext, MaxUnacked: 50_000})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// emit writes n records of one source, which say their number.
func emit(t *testing.T, w envelope.Writer, maker, source string, from, n int) {
	t.Helper()
	f := envelope.Identity{SourceID: source, InstanceID: maker, Tags: map[string]string{envelope.TagAppName: source}}.Encode()
	var records []byte
	for i := range n {
		records = envelope.AppendLog(records, f, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "%s %s %d", maker, source, from+i))
	}
	b, err := envelope.Of(records)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.WriteBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
}

// collect reads all a router holds, by payload, without the lines that tell of
// missing ones.
func collect(t *testing.T, src envelope.Source) (seen map[string]int, told uint64) {
	t.Helper()
	seen = make(map[string]int)
	for b, err := range src.Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true}) {
		if err != nil {
			t.Fatal(err)
		}
		for e, err := range b.All() {
			if err != nil {
				t.Fatal(err)
			}
			if n, _, ok := e.Missed(); ok {
				told += n
				continue
			}
			r, err := e.Route()
			if err != nil {
				t.Fatal(err)
			}
			seen[string(r.Payload)]++
		}
	}
	return seen, told
}

// TestRouters sends two makers' records over two hops whose links are cut at
// random: each is in the last router exactly once.
func TestRouters(t *testing.T) {
	seeds := 20
	if testing.Short() {
		seeds = 3
	}
	first := rand.Uint64()
	t.Logf("first seed %d", first)
	for i := range seeds {
		t.Run(fmt.Sprint(first+uint64(i)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { routers(t, first+uint64(i)) })
		})
	}
}

func routers(t *testing.T, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 1))
	plan := rand.New(rand.NewPCG(seed, 2))
	network := &faultnet.Network{Plan: func(int) faultnet.Faults { return faultnet.Random(plan, 60_000) }}

	last := newHop(t, network, "last:1", nil)
	middle := newHop(t, network, "middle:1", nil)
	makers := []*loggregator.Router{loggregator.New(nil), loggregator.New(nil)}
	links := []*transport.Link{
		link(t, network, "middle:1", makers[0]),
		link(t, network, "middle:1", makers[1]),
		link(t, network, "last:1", middle),
	}
	counts := make(map[string]int)
	total := 0
	for range 80 {
		m, source := random.IntN(2), fmt.Sprint("app-", random.IntN(3))
		maker := fmt.Sprint("maker-", m)
		n := 1 + random.IntN(60)
		emit(t, makers[m], maker, source, counts[maker+source], n)
		counts[maker+source] += n
		total += n
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		if random.IntN(25) == 0 {
			middle.hangUp(t)
			middle.listen(t, network, "middle:1")
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for i, l := range links { // in the direction of flow
		if left, err := l.Shutdown(ctx); left != 0 || err != nil {
			t.Errorf("link %d: %d left, %v, %+v", i, left, err, l.Stats())
		}
	}
	seen, told := collect(t, last)
	if len(seen) != total || told != 0 {
		t.Errorf("made %d records, %d arrived, %d told missing", total, len(seen), told)
	}
	for payload, n := range seen {
		if n != 1 {
			t.Errorf("%q arrived %d times", payload, n)
		}
	}
	if s := last.Stats(); s.Accepted != uint64(total) || s.Lost != 0 {
		t.Errorf("%+v", s)
	}
	for _, h := range []*hop{middle, last} {
		h.hangUp(t)
		h.Close()
	}
	for _, m := range makers {
		m.Close()
	}
}

// A maker whose ring overflows while nobody listens: what is gone is told at the
// other end, to the record.
func TestRouterOverflow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		maker := loggregator.New(&loggregator.Options{Budget: 1}) // that is MinBudget
		l := link(t, network, "server:1", maker)
		total := 0
		for maker.Stats().Evicted < 1000 {
			emit(t, maker, "m", "app", total, 500)
			total += 500
		}
		server := newHop(t, network, "server:1", nil)
		if err := l.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		evicted := maker.Stats().Evicted
		// What the ring gives up from now on has been sent.
		emit(t, maker, "m", "app", total, 500)
		total += 500
		left, err := l.Shutdown(t.Context())
		if left != 0 || err != nil {
			t.Errorf("%d left, %v", left, err)
		}
		seen, told := collect(t, server)
		if uint64(len(seen))+told != uint64(total) || told != evicted || told == 0 {
			t.Errorf("made %d, %d arrived, %d told missing, %d evicted", total, len(seen), told, evicted)
		}
		if s := l.Stats(); s.Acked+s.Missed != uint64(total) {
			t.Errorf("made %d: %+v", total, s)
		}
		server.hangUp(t)
		server.Close()
		maker.Close()
	})
}

// A router that shuts down in good order lets its link finish.
func TestRouterShutsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		maker := loggregator.New(nil)
		server := newHop(t, network, "server:1", nil)
		l := link(t, network, "server:1", maker)
		synctest.Wait() // it reads; a router that is closed before gives nobody anything
		emit(t, maker, "m", "app", 0, 5000)
		if err := maker.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
			t.Errorf("%d left, %v", left, err)
		}
		if seen, _ := collect(t, server); len(seen) != 5000 {
			t.Errorf("%d arrived", len(seen))
		}
		server.hangUp(t)
		server.Close()
	})
}

// What a source sends beyond its rate is told in its stream, to the record, while
// it goes on and when it stops; others are not touched.
func TestRateLimited(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{Plan: func(n int) faultnet.Faults {
			if n == 0 {
				return faultnet.Faults{ToServer: faultnet.Way{ResetAt: 150_000}}
			}
			return faultnet.Faults{}
		}}
		router, maker := loggregator.New(nil), loggregator.New(nil)
		server := transport.NewServer(router, &transport.ServerOptions{SourceRate: 20_000, SourceBurst: 100_000})
		ln, err := network.Listen("server:1")
		if err != nil {
			t.Fatal(err)
		}
		go server.Serve(ln)
		l := link(t, network, "server:1", maker)
		for i := range 100 {
			emit(t, maker, "m", "loud", 100*i, 100)
			emit(t, maker, "m", "other", 10*i, 10)
			time.Sleep(100 * time.Millisecond)
		}
		if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
			t.Errorf("%d left, %v", left, err)
		}
		time.Sleep(2 * time.Second)
		seen, told := collect(t, router)
		if s := router.Stats(); uint64(len(seen))+told != 11_000 || told < 1000 || s.LostFor[envelope.ReasonRate] != told || server.Stats().Limited < told {
			t.Errorf("%d arrived, %d told; %+v, %+v", len(seen), told, s, server.Stats())
		}
		for i := range 1000 {
			if seen[fmt.Sprint("m other ", i)] != 1 {
				t.Fatalf("record %d of the other", i)
			}
		}
		server.Close()
		maker.Close()
		router.Close()
	})
}

// Datagrams that are lost on the way to a router are told in their source's
// stream, to the record, with the reason.
func TestDatagramsLost(t *testing.T) {
	router := loggregator.New(nil)
	defer router.Close()
	maker := loggregator.New(nil)
	defer maker.Close()
	emit(t, maker, "m", "app", 0, 1000)
	server := transport.NewServer(router, nil)
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.ServePacket(pc) }()
	c, err := net.Dial("udp", pc.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	i, lost := 0, uint64(0)
	for b := range maker.Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true, MaxBytes: 1000}) {
		if i++; i%7 == 3 {
			lost += uint64(b.Count)
			continue
		}
		if _, err := c.Write(transport.AppendDatagram(nil, b, nil)); err != nil {
			t.Fatal(err)
		}
		for server.Stats().Datagrams+lost == 0 { // the first is there, whatever the system does with the rest
			time.Sleep(time.Millisecond)
		}
	}
	emit(t, maker, "m", "app", 1000, 1)
	if err := server.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-served
	seen, told := collect(t, router)
	if s := router.Stats(); lost == 0 || told != lost || uint64(len(seen))+told != 1000 || s.LostFor[envelope.ReasonDatagram] != lost {
		t.Errorf("%d arrived, %d told, %d lost; %+v, %+v", len(seen), told, lost, s, server.Stats())
	}
}

// A link to a router that is older than it begins where it is told to. What went
// before is no loss to a new server; one that knows the makers tells what did
// not arrive.
func TestResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		maker := loggregator.New(&loggregator.Options{Budget: 1}) // that is MinBudget
		connect := func(resume envelope.Cursor) *transport.Link {
			t.Helper()
			l, err := transport.NewLink("tcp://server:1", maker, &transport.LinkOptions{DialContext: network.DialContext, Resume: resume})
			if err != nil {
				t.Fatal(err)
			}
			return l
		}
		emit(t, maker, "m", "app", 0, 100)
		old := newHop(t, network, "server:1", nil)
		l := connect(envelope.Cursor{})
		if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
			t.Fatal(left, err)
		}
		acked := l.Acked()
		old.hangUp(t)
		for maker.Stats().Evicted < 5000 {
			emit(t, maker, "m", "app", 100, 1000)
		}

		fresh := newHop(t, network, "server:1", nil)
		l = connect(maker.Begin()) // where the link before stood is not known
		if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
			t.Fatal(left, err)
		}
		fresh.hangUp(t)
		if s := fresh.Stats(); s.Accepted != maker.Stats().Held || s.Lost != 0 {
			t.Errorf("a new server: %+v", s)
		}

		old.listen(t, network, "server:1")
		l = connect(maker.Begin())
		if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
			t.Fatal(left, err)
		}
		if s := old.Stats(); s.Accepted+s.Lost != maker.Stats().Accepted || s.Lost == 0 {
			t.Errorf("one that knows the maker: %+v, of %+v", s, maker.Stats())
		}
		old.hangUp(t)

		known := newHop(t, network, "server:1", nil)
		l = connect(acked)
		if left, err := l.Shutdown(t.Context()); left != 0 || err != nil {
			t.Fatal(left, err)
		}
		if s, made := known.Stats(), maker.Stats().Accepted; s.Accepted+s.Lost != made-100 {
			t.Errorf("from where the first one stood: %+v, made %d", s, made)
		}
		known.hangUp(t)
		for _, h := range []*hop{old, fresh, known} {
			h.Close()
		}
		maker.Close()
	})
}
