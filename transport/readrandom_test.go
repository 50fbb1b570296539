package transport_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
	"github.com/cloudfoundry/loggregator/transport"
)

// TestReadersThroughFaults has a program's records go to two servers, and be read
// from both by readers of all kinds, while connections tear, stall and fall silent,
// servers are started anew, and readers leave and go on by their cursors. For each
// reader, what it was given and told as missed is what was made, once, in order.
func TestReadersThroughFaults(t *testing.T) {
	seeds := 12
	if testing.Short() || raceDetector {
		seeds = 3
	}
	first := rand.Uint64()
	t.Logf("first seed %d", first)
	for i := range seeds {
		t.Run(fmt.Sprint(first+uint64(i)), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { readersThroughFaults(t, first+uint64(i), i%3 == 2) })
		})
	}
}

// relay is a router between a server for senders and one for readers.
type relay struct {
	number int
	router *loggregator.Router
	server *transport.Server
	egress *transport.Egress
}

func (y *relay) listen(t *testing.T, n *faultnet.Network) {
	in, err := n.Listen(fmt.Sprint("in:", y.number))
	if err != nil {
		t.Fatal(err)
	}
	out, err := n.Listen(fmt.Sprint("out:", y.number))
	if err != nil {
		t.Fatal(err)
	}
	y.server = transport.NewServer(y.router, nil)
	y.egress = transport.NewEgress(y.router, nil)
	go y.server.Serve(in)
	go y.egress.Serve(out)
	synctest.Wait() // until they do: those that never did would leave the address in use
}

func (y *relay) hangUp(t *testing.T, gently bool) {
	if gently {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		y.server.Shutdown(ctx)
		y.egress.Shutdown(ctx)
		return
	}
	y.server.Close()
	y.egress.Close()
}

// tally is what one reader was given of each source.
type tally struct {
	mu     sync.Mutex
	name   string
	lines  map[string]int // source: how many
	last   map[string]int // source: number of the last
	missed uint64
	resets int
	broken []string
	cursor envelope.Cursor
}

func (c *tally) add(b envelope.Batch) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.missed += b.Missed
	if b.Reset {
		c.resets++
	}
	c.cursor.Advance(b)
	for e := range b.All() {
		if s, _ := e.Tag(envelope.TagSourceType); string(s) == envelope.SourceTypeLGR {
			continue
		}
		r, _ := e.Route()
		f := strings.Fields(string(r.Payload))
		n, _ := strconv.Atoi(f[2])
		source := f[1]
		if last, ok := c.last[source]; ok && n <= last {
			c.broken = append(c.broken, fmt.Sprintf("%s: %d after %d", source, n, last))
		}
		c.last[source] = n
		c.lines[source]++
	}
}

func (c *tally) total() (n int, missed uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.lines {
		n += k
	}
	return n, c.missed
}

func readersThroughFaults(t *testing.T, seed uint64, silent bool) {
	random := rand.New(rand.NewPCG(seed, 1))
	plan := rand.New(rand.NewPCG(seed, 2))
	network := &faultnet.Network{Plan: func(int) faultnet.Faults {
		f := faultnet.Random(plan, 60_000)
		if plan.IntN(2) == 0 {
			f.ToClient, f.ToServer = f.ToServer, f.ToClient
		}
		return f
	}}
	relays := []*relay{{number: 1, router: newRouter(t)}, {number: 2, router: newRouter(t)}}
	for _, y := range relays {
		y.listen(t, network)
	}
	defer func() {
		for _, y := range relays {
			y.hangUp(t, false)
		}
	}()
	maker := newRouter(t)
	l, err := transport.NewLink("tcp://in:1,tcp://in:2", maker, &transport.LinkOptions{DialContext: network.DialContext, MaxUnacked: 50_000})
	if err != nil {
		t.Fatal(err)
	}
	reader := newReader(t, network, "tcp://out:1,tcp://out:2", &transport.ReaderOptions{Window: 8 << 10, TellAfter: 30 * time.Second})

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	var tallies []*tally
	start := func(name string, q envelope.Query, leaves, slow bool) {
		c := &tally{name: name, lines: make(map[string]int), last: make(map[string]int)}
		tallies = append(tallies, c)
		own := rand.New(rand.NewPCG(seed, uint64(len(tallies)+10)))
		var src envelope.Source = reader
		if own.IntN(2) == 0 {
			src = attended{reader}
		}
		q.Follow, q.History, q.MaxBytes = true, true, 500+own.IntN(5000)
		running.Go(func() {
			for ctx.Err() == nil {
				left := 1 + own.IntN(200)
				q.Cursor = c.cursor.Clone()
				for b, err := range src.Batches(ctx, q) {
					if err != nil {
						break
					}
					c.add(b)
					if slow {
						time.Sleep(time.Duration(own.IntN(50)) * time.Millisecond)
					}
					if left--; left <= 0 && leaves && b.Count > 0 {
						break
					}
				}
			}
		})
	}
	everything := envelope.Query{Select: envelope.Everything}
	start("everything", everything, false, false)
	start("slow", everything, false, true)
	start("leaves", everything, true, false)
	start("one", envelope.Query{Select: selectSource("app-1")}, false, false)
	start("one that leaves", envelope.Query{Select: selectSource("app-1")}, true, false)
	start("filtered", envelope.Query{Select: []envelope.Selector{{Stdout: true}}}, false, false)
	byTime := everything
	byTime.ByTime = true
	start("by time", byTime, false, false)
	start("by time, leaves", byTime, true, true)

	counts := make(map[string]int)
	made := 0
	for range 120 {
		source := fmt.Sprint("app-", random.IntN(4))
		n := 1 + random.IntN(60)
		emit(t, maker, "m", source, counts[source], n)
		counts[source] += n
		made += n
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		y := relays[random.IntN(2)]
		switch k := random.IntN(40); {
		case k == 0:
			y.hangUp(t, random.IntN(2) == 0)
			if random.IntN(2) == 0 {
				time.Sleep(time.Duration(random.IntN(1500)) * time.Millisecond)
			}
			y.listen(t, network)
		case k == 1 && silent:
			addr := fmt.Sprint([]string{"in:", "out:"}[random.IntN(2)], y.number)
			network.Swallow(addr)
			time.AfterFunc(time.Duration(random.IntN(20_000))*time.Millisecond, func() { network.Heal(addr) })
		case k == 2:
			network.Reset(fmt.Sprint("out:", y.number))
		}
	}
	network.Replan(nil)
	time.Sleep(time.Minute)
	for source := range counts { // so that what is missing shows
		emit(t, maker, "m", source, counts[source], 1)
		counts[source]++
		made++
	}
	flush, stop := context.WithTimeout(t.Context(), time.Hour)
	defer stop()
	if left, err := l.Shutdown(flush); left != 0 || err != nil {
		t.Errorf("%d left, %v", left, err)
	}
	time.Sleep(5 * time.Minute)
	cancel()
	running.Wait()
	for _, c := range tallies {
		want := made
		if strings.HasPrefix(c.name, "one") {
			want = counts["app-1"]
		}
		n, missed := c.total()
		if n+int(missed) != want || len(c.broken) > 0 && !silent || c.resets > 0 || missed > 0 && !silent {
			t.Errorf("%s: made %d, given %d, missed %d, resets %d, %.10q", c.name, want, n, missed, c.resets, c.broken)
		}
	}
	if !t.Failed() {
		return
	}
	t.Logf("made %v; reader %+v", counts, reader.Stats())
	for _, y := range relays {
		t.Logf("relay %d: %+v", y.number, y.router.Stats())
	}
}
