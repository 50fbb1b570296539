package drain

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// readAll takes messages off a connection until it ends.
func readAll(c net.Conn, got chan<- string) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		m, err := readFrame(in)
		if err != nil {
			return
		}
		got <- m
	}
}

// TestT03ResetInAFrame breaks the connection in the middle of a message: on the
// next one it comes whole.
func TestT03ResetInAFrame(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		got := make(chan string, 1000)
		var conns int
		d := open(t, "syslog://host", src, &Options{Backoff: func(int) time.Duration { return time.Millisecond },
			DialContext: func(ctx, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				conns++
				if conns > 20 {
					go readAll(there, got)
					return here, nil
				}
				n := conns
				go func() {
					there.Read(make([]byte, 100+37*n)) // ends somewhere
					there.Close()
				}()
				return &resetConn{Conn: here, err: errors.New("connection reset by peer")}, nil
			}})
		src.lines(1, 0, 100)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 100)
		for i := range 100 {
			m := <-got
			parse(t, m)
			if !strings.HasSuffix(m, fmt.Sprintf("seq=%d\n", i)) {
				t.Fatalf("%q where %d should be", m, i)
			}
		}
	})
}

// TestT05SlowReceiver takes half of what comes: the oldest goes steadily, and
// what arrives and what is told of are all there was.
func TestT05SlowReceiver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.keep, src.batch = 1000, 20
		var mu sync.Mutex
		var got []string
		d := open(t, "syslog://host", src, &Options{DialContext: func(ctx, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			frames := make(chan string)
			go func() { readAll(there, frames); close(frames) }()
			go func() {
				for m := range frames {
					mu.Lock()
					got = append(got, m)
					mu.Unlock()
					time.Sleep(20 * time.Millisecond)
				}
			}()
			return here, nil
		}})
		synctest.Wait()
		const total = 30_000 // for five minutes
		for i := range total {
			src.lines(1, i, i+1)
			time.Sleep(10 * time.Millisecond)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Minute)
		s := d.Stats()
		conserve(t, s, total)
		mu.Lock()
		defer mu.Unlock()
		var told, notices, lines, longest, run uint64
		next := uint64(0)
		for _, m := range got {
			var n uint64
			if _, text, ok := strings.Cut(m, "(output buffer overflow): "); ok {
				fmt.Sscan(text, &n)
				told += n
				notices++
				continue
			}
			fmt.Sscanf(m[strings.LastIndex(m, "seq="):], "seq=%d", &n)
			if n < next {
				t.Fatalf("line %d after %d", n, next)
			}
			if run++; n > next {
				run = 0
			}
			longest = max(longest, run)
			lines++
			next = n + 1
		}
		if told != s.Missed || lines+told != total || notices > 12 || lines < total/3 || s.Connects != 1 || s.LastGap.Reason != "they came faster than the receiver takes them" {
			t.Errorf("%d lines, told of %d in %d notices, %+v %+v", lines, told, notices, s, s.LastGap)
		}
	})
}

// TestT10PeerTalks has a receiver that sends without end: that is read and thrown
// away.
func TestT10PeerTalks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		got := make(chan string, 1000)
		d := open(t, "syslog://host", src, &Options{DialContext: func(ctx, string, string) (net.Conn, error) {
			here, there := net.Pipe()
			go readAll(there, got)
			go func() {
				for range 1 << 10 {
					if _, err := there.Write(make([]byte, 1<<10)); err != nil {
						t.Error(err)
					}
				}
			}()
			return here, nil
		}})
		synctest.Wait()
		src.lines(1, 0, 100)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s := d.Stats()
		conserve(t, s, 100)
		if s.Connects != 1 || s.Failures != 0 || len(got) != 100 {
			t.Errorf("%+v", s)
		}
	})
}

// TestO01OrderUnderRandomFaults breaks, refuses and stalls at random, from many
// seeds: the order of each ring holds but for what is sent again.
func TestO01OrderUnderRandomFaults(t *testing.T) {
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0))
			var mu sync.Mutex
			calm := false
			var got []string
			src := newMemory()
			src.batch = 7
			d := open(t, "syslog://host", src, &Options{CatchUp: -1, DialContext: func(ctx, string, string) (net.Conn, error) {
				mu.Lock()
				defer mu.Unlock()
				if !calm && random.IntN(3) == 0 {
					return nil, errors.New("connection refused")
				}
				here, there := net.Pipe()
				left, pause := random.IntN(2000), time.Duration(random.IntN(3))*time.Millisecond
				go func() {
					in := bufio.NewReaderSize(there, 16)
					for {
						m, err := readFrame(in)
						if err != nil {
							break
						}
						mu.Lock()
						got = append(got, m)
						stop := !calm && left == 0
						left--
						mu.Unlock()
						if stop {
							break
						}
						time.Sleep(pause)
					}
					there.Close()
				}()
				if random.IntN(2) == 0 {
					return &resetConn{Conn: here, err: errors.New("connection reset by peer")}, nil
				}
				return here, nil
			}})
			const rings, each = 3, 2000
			for i := range each {
				for ring := range rings {
					src.lines(1+envelopeID(ring), i, i+1)
				}
				time.Sleep(time.Millisecond)
			}
			mu.Lock()
			calm = true
			mu.Unlock()
			if err := d.Shutdown(t.Context()); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second) // the receivers
			s := d.Stats()
			conserve(t, s, rings*each)
			mu.Lock()
			defer mu.Unlock()
			next := [rings]int{}
			repeated := uint64(0)
			for _, m := range got {
				var ring, n int
				fmt.Sscanf(m[strings.LastIndex(m, "ring="):], "ring=%d seq=%d", &ring, &n)
				if n > next[ring-1] {
					t.Fatalf("seed %d: line %d of ring %d where %d should be", seed, n, ring, next[ring-1])
				}
				if n < next[ring-1] {
					repeated++
				}
				next[ring-1] = max(next[ring-1], n+1)
			}
			if next != [rings]int{each, each, each} || repeated > s.Resent {
				t.Errorf("seed %d: %v, %d repeated, %+v", seed, next, repeated, s)
			}
		})
	}
}

// TestO05Sequence has numbers by which the receiver finds out what came twice and
// what is missing, over a restart of the drain, too.
func TestO05Sequence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		src.keep, src.batch = 200, 10
		conns := 0
		o := &Options{DialContext: func(ctx ctx, network, addr string) (net.Conn, error) {
			c, err := rcv.dial(ctx, network, addr)
			conns++
			if conns%2 == 1 && err == nil {
				return &resetConn{Conn: c, err: errors.New("connection reset by peer")}, nil
			}
			return c, err
		}}
		d := open(t, "syslog://host?sequence=on&max-message-size=1024", src, o)
		n := 0
		more := func(k int) {
			src.lines(1, n, n+k)
			n += k
			time.Sleep(time.Second)
		}
		hangUp := func() {
			rcv.mu.Lock()
			rcv.conns[len(rcv.conns)-1].Close()
			rcv.mu.Unlock()
			time.Sleep(time.Second)
		}
		more(100)
		hangUp()
		more(50)
		rcv.set(errors.New("down"))
		hangUp()
		more(150)
		more(500)
		rcv.set(nil)
		time.Sleep(time.Minute)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		q := everything
		q.Cursor = d.Cursor()
		d2, err := Open("syslog://host?sequence=on", src, q, o)
		if err != nil {
			t.Fatal(err)
		}
		more(30)
		if err := d2.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		rcv.mu.Lock()
		defer rcv.mu.Unlock()
		seen := map[string]int{}
		for _, m := range rcv.messages {
			sd := *parse(t, m).StructuredData
			if sd["gap@47450"] != nil {
				continue
			}
			var number, line int
			fmt.Sscan(sd["seq@47450"]["number"], &number)
			fmt.Sscanf(m[strings.LastIndex(m, "seq="):], "seq=%d", &line)
			if sd["seq@47450"]["stream"] != "0000000000000001" || number != line+1 {
				t.Fatalf("%q", m)
			}
			seen[sd["seq@47450"]["number"]]++
		}
		s := d.Stats()
		conserve(t, s, uint64(n-30))
		if uint64(n-len(seen)) != s.Missed || s.Missed == 0 || s.Resent == 0 {
			t.Errorf("%d numbers of %d, %+v", len(seen), n, s)
		}
	})
}

// void takes everything and keeps nothing, until it is reset.
type void struct {
	net.Conn
	reset chan struct{}
}

func (c void) Write(p []byte) (int, error) { return len(p), nil }

func (c void) Read([]byte) (int, error) {
	<-c.reset
	return 0, errors.New("connection reset by peer")
}

// TestR03NoticeIsLost has a notice that the receiver's kernel took and its process
// never read: it comes again, with what is missed besides.
func TestR03NoticeIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		src.keep, src.batch = 100, 10
		rcv.refuse = errors.New("down")
		reset, conns := make(chan struct{}), 0
		d := open(t, "syslog://host", src, &Options{DialContext: func(ctx ctx, network, addr string) (net.Conn, error) {
			c, err := rcv.dial(ctx, network, addr)
			if conns++; err == nil && conns > 1 {
				select {
				case <-reset:
				default:
					return void{c, reset}, nil
				}
			}
			return c, err
		}})
		src.lines(1, 0, 1)
		synctest.Wait()
		for i := range 50 {
			src.lines(1, 1+20*i, 21+20*i)
			time.Sleep(time.Millisecond)
		}
		src.lines(1, 1001, 2001) // more than is read ahead
		rcv.set(nil)
		time.Sleep(40 * time.Second)
		if s := d.Stats(); s.Missed == 0 || s.Delivered+s.Missed != 2001 {
			t.Fatalf("%+v", s)
		}
		close(reset)
		src.lines(1, 2001, 2011)
		time.Sleep(time.Minute)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 2011)
		rcv.mu.Lock()
		defer rcv.mu.Unlock()
		var told uint64
		for _, m := range rcv.messages {
			if _, text, ok := strings.Cut(m, "(output buffer overflow): "); ok {
				var n uint64
				fmt.Sscan(text, &n)
				told += n
			}
		}
		if told < s.Missed {
			t.Errorf("told of %d, %+v", told, s)
		}
	})
}
