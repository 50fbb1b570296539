package drain_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
)

var identity = envelope.Identity{
	SourceID: "0d1e2f30-1111-4222-8333-444455556666", InstanceID: "0",
	Tags: map[string]string{
		"app_id": "0d1e2f30-1111-4222-8333-444455556666", "app_name": "shop", "organization_name": "acme",
		"space_name": "prod", "source_type": "APP/PROC/WEB", "process_type": "web",
	},
}

var all = envelope.Query{Select: envelope.Everything, History: true}

// crashing is a receiver that is killed again and again: it resets its
// connection at a random moment, and forgets what it had received and not read.
type crashing struct {
	ln    net.Listener
	calm  chan struct{} // closed: no more crashes
	wg    sync.WaitGroup
	mu    sync.Mutex
	lines []int // numbers of the lines, in order
	died  int
}

func (c *crashing) serve() {
	for {
		conn, err := c.ln.Accept()
		if err != nil {
			return
		}
		conn.(*net.TCPConn).SetReadBuffer(256 << 10) // what it can lose is less than DefaultReplay
		c.wg.Go(func() { c.read(conn.(*net.TCPConn)) })
	}
}

func (c *crashing) read(conn *net.TCPConn) {
	defer conn.Close()
	left := rand.N(20_000) // more than it can lose, or it would get nowhere
	in := bufio.NewReaderSize(conn, 4096)
	for {
		length, err := in.ReadString(' ')
		if err != nil {
			return
		}
		var n int
		fmt.Sscanf(length, "%d", &n)
		message := make([]byte, n)
		if _, err := io.ReadFull(in, message); err != nil {
			return
		}
		var number int
		i := bytes.Index(message, []byte("seq="))
		fmt.Sscanf(string(message[i:]), "seq=%d", &number)
		c.mu.Lock()
		c.lines = append(c.lines, number)
		c.mu.Unlock()
		if left--; left > 0 {
			continue
		}
		select {
		case <-c.calm:
		default:
			c.mu.Lock()
			c.died++
			c.mu.Unlock()
			conn.SetLinger(0) // what the kernel does for a process that is killed with data unread
			return
		}
	}
}

func TestT02KilledReceiverLosesNothing(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &crashing{ln: ln, calm: make(chan struct{})}
	go c.serve()
	router := loggregator.New(nil)
	defer router.Close()
	d, err := drain.Open("syslog://"+ln.Addr().String(), router, all, &drain.Options{
		Backoff: func(int) time.Duration { return time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	const total = 100_000
	fixed := identity.Encode()
	for i := 0; i < total; i += 100 {
		var records []byte
		for j := i; j < i+100; j++ {
			records = envelope.AppendLog(records, fixed, time.Now().UnixNano(), envelope.Out, fmt.Appendf(nil, "seq=%d %s", j, strings.Repeat("x", 100)))
		}
		b, err := envelope.Of(records)
		if err != nil {
			t.Fatal(err)
		}
		if err := router.WriteBatch(t.Context(), b); err != nil {
			t.Fatal(err)
		}
		if i == total*3/4 {
			close(c.calm)
		}
		time.Sleep(time.Millisecond) // the load: 100,000 lines a second
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		t.Fatal(err)
	}
	ln.Close()
	c.wg.Wait()

	s := d.Stats()
	if s.Accepted != total || s.Delivered != total || s.Missed != 0 {
		t.Errorf("%+v", s)
	}
	next := 0
	for _, n := range c.lines {
		if n > next {
			t.Fatalf("line %d where %d should be", n, next)
		}
		next = max(next, n+1)
	}
	repeated := len(c.lines) - next
	if next != total || uint64(repeated) > s.Resent || c.died == 0 {
		t.Errorf("received up to %d, %d repeated, %d counted as resent, %d crashes", next, repeated, s.Resent, c.died)
	}
	// Of each crash at most what was not acknowledged, a send buffer, and what
	// may have been acknowledged and not read.
	if limit := c.died * (4<<20 + drain.DefaultReplay) / 300; repeated > limit {
		t.Errorf("%d lines repeated by %d crashes, more than %d", repeated, c.died, limit)
	}
	t.Logf("%d crashes, %d lines of %d repeated, %d counted as resent, %d connects", c.died, repeated, total, s.Resent, s.Connects)
}

// BenchmarkRouterToTCP sends lines of 200 bytes with six tags from a router over
// loopback to a receiver that throws them away.
func BenchmarkRouterToTCP(b *testing.B) {
	addr := discard(b)
	const lines = 100_000
	router := loggregator.New(nil)
	defer router.Close()
	var records []byte
	for range lines {
		records = envelope.AppendLog(records, identity.Encode(), time.Now().UnixNano(), envelope.Out, bytes.Repeat([]byte{'x'}, 200))
	}
	batch, err := envelope.Of(records)
	if err != nil {
		b.Fatal(err)
	}
	if err := router.WriteBatch(b.Context(), batch); err != nil {
		b.Fatal(err)
	}
	var f drain.Formatter
	e, _, _ := envelope.Next(records)
	b.SetBytes(int64(lines * len(f.AppendFrames(nil, e))))
	b.ReportAllocs()
	for b.Loop() {
		d, err := drain.Open("syslog://"+addr, router, all, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Shutdown(b.Context()); err != nil {
			b.Fatal(err)
		}
		if s := d.Stats(); s.Delivered != lines || s.Missed != 0 {
			b.Fatalf("%+v", s)
		}
	}
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines/s")
}
