package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

const address = "tcp://server:3456"

// serve starts a Server on the network's address, for a test to stop.
func serve(t *testing.T, n *faultnet.Network, w envelope.Writer, o *ServerOptions) *Server {
	t.Helper()
	ln, err := n.Listen("server:3456")
	if err != nil {
		t.Fatal(err)
	}
	s := NewServer(w, o)
	go func() {
		if err := s.Serve(ln); !errors.Is(err, ErrClosed) {
			t.Errorf("Serve: %v", err)
		}
	}()
	synctest.Wait()
	return s
}

func dial(t *testing.T, n *faultnet.Network, src envelope.Source, o LinkOptions) *Link {
	t.Helper()
	o.DialContext = n.DialContext
	l, err := NewLink(address, src, &o)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestConservation cuts, stalls and splits a link at random and asks for every
// record exactly once at the other end.
func TestConservation(t *testing.T) {
	seeds := 150
	if testing.Short() {
		seeds = 20
	}
	first := rand.Uint64()
	t.Logf("first seed %d", first)
	var cuts, repeats int
	for i := range seeds {
		seed := first + uint64(i)
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, r := conserve(t, seed)
				cuts += c
				repeats += r
			})
		})
		if !ok {
			break
		}
	}
	t.Logf("%d connections cut, %d records repeated", cuts, repeats)
	if cuts < 2*seeds || repeats == 0 {
		t.Errorf("this tests nothing: %d cuts, %d repeats", cuts, repeats)
	}
}

func conserve(t *testing.T, seed uint64) (cuts, repeats int) {
	random := rand.New(rand.NewPCG(seed, 1))
	plan := rand.New(rand.NewPCG(seed, 2))
	network := &faultnet.Network{Plan: func(int) faultnet.Faults { return faultnet.Random(plan, 40_000) }}
	src, dst := newRings(1+random.IntN(40)), newSink(t)
	server := serve(t, network, dst, nil)
	link := dial(t, network, src, LinkOptions{MaxUnacked: 1000 + random.IntN(100_000)})

	made := make(map[envelope.StreamID]uint64)
	for range 60 {
		id := envelope.StreamID(1 + random.IntN(4))
		n := random.IntN(100)
		src.add(id, n)
		made[id] += uint64(n)
		time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
		if random.IntN(20) == 0 { // a server is replaced; its memory of numbers lives in dst
			server.Close()
			server = serve(t, network, dst, nil)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	left, err := link.Shutdown(ctx)
	if left != 0 || err != nil {
		t.Errorf("Shutdown: %d left, %v, after %v; %+v", left, err, dst, link.Stats())
	}
	server.Close()
	dst.check(made)
	var total uint64
	for id, n := range made {
		total += n
		if dst.gaps[id] != 0 {
			t.Errorf("stream %d: %d records missed though the source lost none", id, dst.gaps[id])
		}
	}
	if s := link.Stats(); s.Acked != total || s.Missed != 0 || s.Sent < total {
		t.Errorf("made %d, stats %+v", total, s)
	}
	return int(link.Stats().Reconnects), dst.repeats
}

// A source that loses records before they could be sent says so, once.
func TestMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		src.add(1, 100)
		link := dial(t, network, src, LinkOptions{})
		time.Sleep(time.Hour) // no server: nothing is sent, everything is held
		src.drop(1, 30)
		src.add(2, 5)
		server := serve(t, network, dst, nil)
		if err := link.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		link.Close()
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 100, 2: 5})
		if dst.gaps[1] != 30 {
			t.Errorf("gap of %d, want 30", dst.gaps[1])
		}
		if s := link.Stats(); s.Acked != 75 || s.Missed != 30 || s.Connected {
			t.Errorf("stats %+v", s)
		}
		if s := server.Stats(); s.Records != 75 || s.Missed != 30 {
			t.Errorf("server stats %+v", s)
		}
	})
}

// When a server that was away is back, the link is there within the longest
// pause between attempts.
func TestServerAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		var log lines
		link := dial(t, network, src, LinkOptions{Logger: slog.New(&log)})
		src.add(1, 100)
		time.Sleep(24 * time.Hour)
		if s := link.Stats(); s.Connected || !strings.Contains(s.LastError, "refused") {
			t.Errorf("stats %+v", s)
		}
		server := serve(t, network, dst, nil)
		start := time.Now()
		if err := link.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > maxBackoff {
			t.Errorf("back after %v", d)
		}

		// The server stops. The link notices, and finds the next one.
		if err := server.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		src.add(1, 50)
		start = time.Now()
		server = serve(t, network, dst, nil)
		if err := link.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		if d := time.Since(start); d > 2*time.Second {
			t.Errorf("at the new server after %v", d)
		}
		link.Close()
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 150})
		if dst.repeats != 0 {
			t.Errorf("%d repeats after shutdown in good order", dst.repeats)
		}
		if got := log.messages(); got != "cannot connect,connected,connection lost,connected" {
			t.Errorf("log: %s", got)
		}
	})
}

// Flush cuts the pause before the next attempt short, but no more than ten times
// a second.
func TestFlushHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dials := 0
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		src.add(1, 10)
		link, err := NewLink(address, src, &LinkOptions{
			Backoff: func(int) time.Duration { return time.Hour },
			DialContext: func(ctx context.Context, a, b string) (net.Conn, error) {
				dials++
				return network.DialContext(ctx, a, b)
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for range 1000 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
			link.Flush(ctx)
			cancel()
		}
		if dials < 9 || dials > 12 {
			t.Errorf("%d attempts in a second", dials)
		}
		server := serve(t, network, dst, nil)
		time.Sleep(time.Second)
		begun := time.Now()
		if err := link.Flush(t.Context()); err != nil || time.Since(begun) > 0 {
			t.Errorf("%v after %v", err, time.Since(begun))
		}
		link.Close()
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 10})
	})
}

// A server that takes everything and says nothing is left after AckTimeout, and
// so is one that takes nothing.
func TestHungServer(t *testing.T) {
	for name, faults := range map[string]faultnet.Faults{
		"no acknowledgements": {ToClient: faultnet.Way{HoleAt: 100}},
		"takes nothing":       {ToServer: faultnet.Way{HoleAt: 30_000}},
		"one byte at a time":  {ToServer: faultnet.Way{HoleAt: 30_000, Buffer: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network := &faultnet.Network{Plan: func(n int) faultnet.Faults {
					if n == 0 {
						return faults
					}
					return faultnet.Faults{}
				}}
				src, dst := newRings(10), newSink(t)
				server := serve(t, network, dst, nil)
				link := dial(t, network, src, LinkOptions{MaxUnacked: 20_000})
				start := time.Now()
				src.add(1, 5000)
				if err := link.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if d := time.Since(start); d < 10*time.Second || d > 11*time.Second {
					t.Errorf("left after %v", d)
				}
				if s := link.Stats(); s.Sent > 5000+2000 {
					t.Errorf("sent %d records for 5000", s.Sent)
				}
				link.Close()
				server.Close()
				dst.check(map[envelope.StreamID]uint64{1: 5000})
			})
		})
	}
}

// A server that acknowledges more than was sent is believed no further than that.
func TestAckAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		ln, err := network.Listen("server:3456")
		if err != nil {
			t.Fatal(err)
		}
		more := make(chan bool)
		go func() {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 4096)) // a batch of each stream
			c.Write(appendAck(nil, []position{{2, 1 << 60}}))
			<-more
			c.Write(appendAck(nil, []position{{1, 11}}))
			io.Copy(io.Discard, c)
		}()
		src.add(1, 10)
		src.add(2, 10)
		link := dial(t, network, src, LinkOptions{})
		time.Sleep(time.Second)
		src.add(2, 90)
		time.Sleep(time.Second)
		close(more)
		time.Sleep(time.Second)
		if s := link.Stats(); s.Acked != 20 || s.Sent != 110 {
			t.Errorf("stats %+v", s)
		}
		ln.Close()
		server := serve(t, network, dst, nil)
		if err := link.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		link.Close()
		server.Close()
		if dst.taken[2] != 90 || dst.gaps[2] != 10 || link.Stats().LastError != ErrNoAck.Error() {
			t.Errorf("%v, %+v", dst, link.Stats())
		}
	})
}

// An idle connection is nobody's fault and lasts.
func TestIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		server := serve(t, network, dst, nil)
		link := dial(t, network, src, LinkOptions{})
		for range 5 {
			time.Sleep(24 * time.Hour)
			src.add(1, 1)
			synctest.Wait()
			if s := link.Stats(); s.Unacked != 0 || s.Reconnects != 0 {
				t.Fatalf("stats %+v", s)
			}
		}
		link.Close()
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 5})
	})
}

// A Writer that fails keeps its batch unacknowledged, and gets it again.
func TestWriterFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		dst.refuse(errors.New("disk full"))
		server := serve(t, network, dst, nil)
		link := dial(t, network, src, LinkOptions{})
		src.add(1, 100)
		time.Sleep(time.Minute)
		if s := link.Stats(); s.Acked != 0 || s.Reconnects < 5 || s.Reconnects > 60 {
			t.Errorf("stats %+v", s)
		}
		dst.refuse(nil)
		if err := link.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		link.Close()
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 100})
		if n := server.Stats().Refused["writer"]; n == 0 {
			t.Error("not counted")
		}
	})
}

func TestFlushAndShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		link := dial(t, network, src, LinkOptions{})
		if err := link.Flush(t.Context()); err != nil {
			t.Errorf("Flush of nothing: %v", err)
		}
		src.add(1, 42)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := link.Flush(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Flush without server: %v", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		left, err := link.Shutdown(ctx)
		if left != 42 || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown without server: %d left, %v", left, err)
		}
		if left, err := link.Shutdown(t.Context()); left != 42 || !errors.Is(err, ErrClosed) {
			t.Errorf("Shutdown again: %d left, %v", left, err)
		}
		link.Close()

		server := serve(t, network, dst, nil)
		link = dial(t, network, src, LinkOptions{})
		if left, err := link.Shutdown(t.Context()); left != 0 || err != nil {
			t.Errorf("Shutdown with server: %d left, %v", left, err)
		}
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 42})
	})
}

// Flush does not wait for what the Source has given up meanwhile.
func TestFlushOfWhatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newRings(10)
		src.add(1, 10)
		src.add(2, 10)
		link := dial(t, &faultnet.Network{}, src, LinkOptions{})
		flushed := make(chan error, 1)
		go func() { flushed <- link.Flush(t.Context()) }()
		synctest.Wait()
		src.drop(1, 10)
		time.Sleep(10 * time.Second)
		select {
		case err := <-flushed:
			t.Fatalf("Flush left the other ring alone: %v", err)
		default:
		}
		src.drop(2, 10)
		start := time.Now()
		if err := <-flushed; err != nil || time.Since(start) > time.Minute {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		link.Close()
	})
}

// A batch that is only a position moves the cursor, but not before what was sent
// ahead of it is acknowledged.
func TestPositionOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, newSink(t)
		var mu sync.Mutex
		var cursors []map[envelope.StreamID]uint64
		src := sourceFunc(func(ctx context.Context, q envelope.Query, yield func(envelope.Batch) bool) {
			mu.Lock()
			cursors = append(cursors, q.Cursor.Rings)
			mu.Unlock()
			records := envelope.AppendLog(nil, fixed, 1, envelope.Out, payload(7, 1))
			yield(envelope.Batch{Ring: 8, Position: 5})
			yield(envelope.Batch{Records: records, Count: 1, Stream: 7, First: 1, Next: 2, Ring: 9, Position: 2})
			yield(envelope.Batch{Ring: 9, Position: 50})
			<-ctx.Done()
		})
		sessions := func() []map[envelope.StreamID]uint64 {
			mu.Lock()
			defer mu.Unlock()
			return cursors
		}
		dst.refuse(errors.New("not now"))
		server := serve(t, network, dst, nil)
		link := dial(t, network, src, LinkOptions{})
		time.Sleep(time.Minute)
		if seen := sessions(); len(seen) < 5 || len(seen[len(seen)-1]) != 0 {
			t.Errorf("%d sessions, from %v", len(seen), seen)
		}
		dst.refuse(nil)
		time.Sleep(time.Minute)
		n := len(sessions())
		server.Close()
		server = serve(t, network, dst, nil)
		time.Sleep(time.Minute)
		if last := sessions()[n]; len(last) != 1 || last[9] != 50 {
			t.Errorf("acknowledged, and the next session from %v", last)
		}
		if s := link.Stats(); s.Sent != uint64(len(sessions())) || s.Unacked != 0 {
			t.Errorf("%d sessions, %+v", len(sessions()), s)
		}
		link.Close()
		server.Close()
		if dst.taken[7] != 1 {
			t.Errorf("%v", dst)
		}
	})
}

// The cursor stays bounded, and forgets rings that have long been silent first.
func TestPositions(t *testing.T) {
	var p positions
	for i := range envelope.StreamID(5 * maxRings) {
		p.set(i+10, uint64(i))
		p.set(1, uint64(i))
		if i == 5*maxRings-maxRings/2 {
			p.set(2, 22)
		}
	}
	if n := len(p.all()); n < maxRings || n > 2*maxRings {
		t.Errorf("%d rings", n)
	}
	if p.get(1) != 5*maxRings-1 || p.get(2) != 22 || p.get(10) != 0 || p.all()[1] != p.get(1) {
		t.Errorf("%d, %d, %d", p.get(1), p.get(2), p.get(10))
	}
}

// When the Source ends, the link ends after the last acknowledgement.
func TestSourceEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{Plan: func(n int) faultnet.Faults {
			if n == 0 {
				return faultnet.Faults{ToServer: faultnet.Way{ResetAt: 500}}
			}
			return faultnet.Faults{}
		}}
		src, dst := newRings(10), newSink(t)
		src.add(1, 100)
		src.end()
		server := serve(t, network, dst, nil)
		link := dial(t, network, src, LinkOptions{})
		<-link.done
		if s := link.Stats(); s.Acked != 100 || s.Reconnects != 1 {
			t.Errorf("stats %+v", s)
		}
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 100})
	})
}

// A list of servers: the link goes to the one that answers.
func TestSeveralServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		src, dst := newRings(10), newSink(t)
		server := serve(t, network, dst, nil)
		src.add(1, 10)
		link, err := NewLink("tcp://gone:1, tcp://server:3456,tcp://gone:2", src, &LinkOptions{DialContext: network.DialContext})
		if err != nil {
			t.Fatal(err)
		}
		if left, err := link.Shutdown(t.Context()); left != 0 || err != nil {
			t.Errorf("%d left, %v", left, err)
		}
		if s := link.Stats(); s.Server != "tcp://server:3456" {
			t.Errorf("stats %+v", s)
		}
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 10})
	})
}

// Records that nobody numbered go out once, unacknowledged.
func TestUnnumbered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		dst := newSink(t)
		server := serve(t, network, dst, nil)
		records := envelope.AppendLog(nil, fixed, 1, envelope.Out, []byte("hello"))
		src := sourceFunc(func(ctx context.Context, q envelope.Query, yield func(envelope.Batch) bool) {
			if !q.Follow {
				return
			}
			for range 1000 {
				b, _ := envelope.Of(records)
				if !yield(b) {
					return
				}
			}
		})
		link := dial(t, network, src, LinkOptions{MaxUnacked: 1000})
		<-link.done
		synctest.Wait()
		server.Close()
		if s := link.Stats(); s.Acked != 1000 || dst.loose != 1000 {
			t.Errorf("stats %+v, arrived %d", s, dst.loose)
		}
	})
}
