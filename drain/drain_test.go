package drain

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// receiver is the other end of in-memory connections: it takes octet counting
// apart, keeps what it got, and refuses while it is told to.
type receiver struct {
	mu       sync.Mutex
	refuse   error
	dials    []time.Time
	conns    []net.Conn
	messages []string
	got      chan struct{} // one for each message, as far as it has room
}

func newReceiver() *receiver { return &receiver{got: make(chan struct{}, 1<<20)} }

func (r *receiver) dial(context.Context, string, string) (net.Conn, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dials = append(r.dials, time.Now())
	if r.refuse != nil {
		return nil, r.refuse
	}
	here, there := net.Pipe()
	r.conns = append(r.conns, there)
	go r.read(there)
	return here, nil
}

func (r *receiver) read(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		m, err := readFrame(in)
		if err != nil {
			return
		}
		r.mu.Lock()
		r.messages = append(r.messages, m)
		r.mu.Unlock()
		r.got <- struct{}{}
	}
}

func readFrame(in *bufio.Reader) (string, error) {
	var n int
	for {
		c, err := in.ReadByte()
		if err != nil {
			return "", err
		}
		if c == ' ' {
			break
		}
		if c < '0' || c > '9' {
			return "", fmt.Errorf("%q in a length", c)
		}
		n = 10*n + int(c-'0')
	}
	buf := make([]byte, n)
	_, err := io.ReadFull(in, buf)
	return string(buf), err
}

func (r *receiver) await(n int) {
	for range n {
		<-r.got
	}
}

// texts gives the messages' MSG without the LF, once all that was sent is read.
func (r *receiver) texts() (list []string) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.messages {
		if _, msg, ok := strings.Cut(m, `"] `); ok {
			m = msg
		}
		list = append(list, strings.TrimSuffix(m, "\n"))
	}
	return list
}

func (r *receiver) set(err error) {
	r.mu.Lock()
	r.refuse = err
	r.mu.Unlock()
}

// conserve checks that nothing vanished: of total records, given the drain's
// final numbers.
func conserve(t *testing.T, s Stats, total uint64) {
	t.Helper()
	if s.Accepted != total || s.Accepted != s.Delivered+s.Missed+s.Filtered+s.Refused+s.Pending {
		t.Errorf("%d records: %+v", total, s)
	}
}

func open(t *testing.T, url string, src envelope.Source, o *Options) *Drain {
	t.Helper()
	d, err := Open(url, src, everything, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func TestDelivery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		src.lines(1, 0, 1000)
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		rcv.await(1000)
		src.lines(1, 1000, 1100)
		src.lines(2, 0, 10)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		next := map[string]int{}
		for _, m := range rcv.texts() {
			ring, seq, _ := strings.Cut(m, " ")
			if seq != fmt.Sprintf("seq=%d", next[ring]) {
				t.Fatalf("%s after %d", m, next[ring])
			}
			next[ring]++
		}
		if next["ring=1"] != 1100 || next["ring=2"] != 10 {
			t.Errorf("got %v", next)
		}
		s := d.Stats()
		conserve(t, s, 1110)
		if s.Delivered != 1110 || s.Resent != 0 || s.Connects != 1 || s.State != Closed {
			t.Errorf("%+v", s)
		}
		if c := d.Cursor(); c.Rings[1] != 1101 || c.Rings[2] != 11 {
			t.Errorf("cursor %v", c)
		}
	})
}

func TestT01CloseWhileIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host:1", src, &Options{DialContext: rcv.dial})
		src.lines(1, 0, 10)
		rcv.await(10)
		time.Sleep(time.Second)
		rcv.conns[0].Close()
		synctest.Wait()
		if s := d.Stats(); s.State != Idle || len(rcv.dials) != 1 {
			t.Fatalf("after the peer's close: %+v", s)
		}
		time.Sleep(time.Minute)
		src.lines(1, 10, 20)
		rcv.await(10)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 20)
		if s.Delivered != 20 || s.Resent != 0 || s.Connects != 2 || len(rcv.texts()) != 20 {
			t.Errorf("%+v", s)
		}
	})
}

func TestT08RefusedForAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		rcv.refuse = errors.New("connection refused")
		start := time.Now()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		for i := range 100 {
			src.lines(1, 10*i, 10*i+10)
			time.Sleep(36 * time.Second)
		}
		if s := d.Stats(); s.State != Waiting && s.State != Connecting || s.LastError != "connection refused" {
			t.Errorf("%+v", s)
		}
		if first := rcv.dials[1].Sub(start); first > 50*time.Millisecond {
			t.Errorf("first retry after %v", first)
		}
		// Half of 30 s on average, after a quick start.
		if n := len(rcv.dials); n < 150 || n > 400 {
			t.Errorf("%d attempts in an hour", n)
		}
		rcv.set(nil)
		rcv.await(1000)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 1000)
		if s.Delivered != 1000 || s.Resent != 0 {
			t.Errorf("%+v", s)
		}
	})
}

func TestT11BackoffDoesNotResetOnConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		src.lines(1, 0, 10)
		var asked []int
		open(t, "syslog://host", src, &Options{
			Backoff: func(n int) time.Duration { asked = append(asked, n); return time.Second },
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				here, there := net.Pipe()
				there.Close()
				return here, nil
			},
		})
		_ = rcv
		time.Sleep(5500 * time.Millisecond)
		synctest.Wait()
		if want := []int{0, 1, 2, 3, 4, 5}; fmt.Sprint(asked) != fmt.Sprint(want) {
			t.Errorf("failures %v, want %v", asked, want)
		}
	})
}

// TestR01MissedIsTold has a source that gives up records while the receiver is
// away: what arrives and what is told of are all there was. The first notice
// stands in the place of its gap; those within 30 s are added up.
func TestR01MissedIsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		src.keep = 100
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		src.lines(1, 0, 50)
		rcv.await(50)
		time.Sleep(time.Second)
		rcv.set(errors.New("down"))
		rcv.conns[0].Close()
		synctest.Wait()
		for i := 50; i < 5050; i++ {
			src.lines(1, i, i+1)
		}
		time.Sleep(time.Minute)
		rcv.set(nil)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 5050)
		var next, skipped, told uint64
		for _, m := range rcv.texts() {
			var n uint64
			if _, notice, ok := strings.Cut(m, "(output buffer overflow): "); ok {
				fmt.Sscanf(notice, "%d messages dropped since 2026-02-03T04:05:06+00:00.", &n)
				if told == 0 {
					next += n // the first is exactly here
					skipped += n
				}
				told += n
				continue
			}
			if fmt.Sscanf(m, "ring=1 seq=%d", &n); n < next || n > next && told == 0 {
				t.Fatalf("line %d where %d should be", n, next)
			}
			skipped += n - next
			next = n + 1
		}
		if s.Missed == 0 || told != s.Missed || skipped != told || next != 5050 || s.LastGap == nil || s.LastGap.Reason != "the receiver was away" {
			t.Errorf("told of %d, %d skipped, last line %d: %+v", told, skipped, next-1, s)
		}
	})
}

func TestR02Filtered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host?drain-data=metrics", src, &Options{DialContext: rcv.dial})
		src.lines(1, 0, 500)
		src.append(1, envelope.AppendCounter(nil, shop.Encode(), stamp, "c", 1, 1))
		src.lines(1, 0, 500)
		rcv.await(1)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 1001)
		if s.Delivered != 1 || s.Filtered != 1000 || len(rcv.texts()) != 1 {
			t.Errorf("%+v", s)
		}
	})
}

func TestPlatformNoticeIsDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		src.append(1, envelope.AppendMissed(nil, shop.Encode(), stamp, 7, "too slow"))
		rcv.await(1)
		d.Shutdown(t.Context())
		if m := rcv.messages[0]; !strings.Contains(m, `[LGR/0]`) || !strings.HasSuffix(m, "7 lines are missing here: too slow\n") {
			t.Errorf("%q", m)
		}
		conserve(t, d.Stats(), 1)
	})
}

func TestX02ShutdownDeadlineCountsWhatIsLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		rcv.refuse = errors.New("down")
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		src.lines(1, 0, 10000)
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		start := time.Now()
		err := d.Shutdown(ctx)
		left, ok := errors.AsType[*UndeliveredError](err)
		if !ok || left.Records != 10000 || !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 10*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestReplayAfterDisorderlyEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.batch = 10
		rcv := newReceiver()
		broken := errors.New("connection reset by peer")
		var first *resetConn
		d := open(t, "syslog://host", src, &Options{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
			c, err := rcv.dial(ctx, n, a)
			if first == nil {
				first = &resetConn{Conn: c, err: broken}
				return first, nil
			}
			return c, err
		}})
		src.lines(1, 0, 100)
		rcv.await(100)
		synctest.Wait()
		rcv.conns[0].Close() // seen as a reset
		rcv.await(100)       // within the time a receiver may take to read, so all of it again
		src.lines(1, 100, 150)
		rcv.await(50)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		s := d.Stats()
		conserve(t, s, 150)
		if s.Delivered != 150 || s.Resent != 100 || len(rcv.texts()) != 250 {
			t.Errorf("%d messages, %+v", len(rcv.texts()), s)
		}
	})
}

// resetConn shows the peer's close as a reset.
type resetConn struct {
	net.Conn
	err error
}

func (c *resetConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err == io.EOF {
		err = c.err
	}
	return n, err
}

func TestS05PacingGathersLines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		var c *writeCounter
		d := open(t, "syslog://host", src, &Options{DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
			conn, err := rcv.dial(ctx, n, a)
			c = &writeCounter{Conn: conn}
			return c, err
		}})
		for i := range 10000 { // one line each 10 µs
			src.lines(1, i, i+1)
			time.Sleep(10 * time.Microsecond)
		}
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		conserve(t, d.Stats(), 10000)
		if c.writes > 300 { // in a tenth of a second
			t.Errorf("%d writes", c.writes)
		}
	})
}

type writeCounter struct {
	net.Conn
	writes int
}

func (c *writeCounter) Write(p []byte) (int, error) {
	c.writes++
	return c.Conn.Write(p)
}

// TestSourceClosedFirst is a source that ends before what is on its way is
// known to be received.
func TestSourceClosedFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		ended := errors.New("closed")
		closed := make(chan struct{})
		d := open(t, "syslog://host", closing{src, closed, ended}, &Options{
			DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
				c, err := rcv.dial(ctx, n, a)
				return &resetConn{Conn: c, err: errors.New("reset")}, err
			},
		})
		src.lines(1, 0, 100)
		rcv.await(100)
		synctest.Wait()
		close(closed)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		conserve(t, d.Stats(), 100)
	})
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		closed := make(chan struct{})
		here, there := net.Pipe()
		d := open(t, "syslog://host", closing{src, closed, errors.New("closed")}, &Options{
			DialContext: func(ctx context.Context, n, a string) (net.Conn, error) { return here, nil },
		})
		src.lines(1, 0, 100)
		synctest.Wait() // in the middle of a write
		close(closed)
		synctest.Wait()
		there.Close()
		err := d.Shutdown(t.Context())
		if left, ok := errors.AsType[*UndeliveredError](err); !ok || left.Records != 100 {
			t.Errorf("%v", err)
		}
		conserve(t, d.Stats(), 100)
	})
}

// closing is a source that ends with err once it is closed.
type closing struct {
	*memory
	closed chan struct{}
	err    error
}

func (c closing) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			select {
			case <-c.closed:
				cancel()
			case <-ctx.Done():
			}
		}()
		defer func() { cancel(); <-stopped }()
		for b, err := range c.memory.Batches(ctx, q) {
			select {
			case <-c.closed:
				yield(envelope.Batch{}, c.err)
				return
			default:
			}
			if !yield(b, err) || err != nil {
				return
			}
		}
	}
}

// silent is a receiver that accepts and never reads.
func silent(context.Context, string, string) (net.Conn, error) {
	here, _ := net.Pipe()
	return here, nil
}

func TestT04NeverReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		src.lines(1, 0, 100)
		d := open(t, "syslog://host", src, &Options{DialContext: silent})
		time.Sleep(10 * time.Minute)
		s := d.Stats()
		conserve(t, s, 100)
		if s.Delivered != 0 || s.Failures < 12 || s.Failures > 30 {
			t.Errorf("%+v", s)
		}
		time.Sleep(15 * time.Second) // in the middle of a write
		start := time.Now()
		d.Close()
		if took := time.Since(start); took != 0 {
			t.Errorf("Close took %v", took)
		}
	})
}

func TestT09BlackholeAtDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}
		src := newMemory()
		d := open(t, "syslog://host", src, &Options{DialContext: dial})
		time.Sleep(time.Minute)
		if s := d.Stats(); s.Failures < 4 || s.Failures > 6 {
			t.Errorf("%+v", s)
		}
		start := time.Now()
		if err := d.Shutdown(t.Context()); err != nil || time.Since(start) != 0 {
			t.Errorf("%v after %v, with nothing to send", err, time.Since(start))
		}

		d = open(t, "syslog://host", src, &Options{DialContext: dial})
		src.lines(1, 0, 10)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if err := d.Shutdown(ctx); err == nil || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestResetIsTold(t *testing.T) {
	target, _ := parseURL("syslog://host")
	f := feed{target: target, format: target.formatter("", false), opened: time.Unix(0, stamp), counted: map[envelope.StreamID]uint64{}}
	c := new(chunk)
	f.render(c, envelope.Batch{Reset: true, Ring: 1, Position: 5})
	f.toldAt = time.Time{} // long ago
	f.render(c, envelope.Batch{Missed: 2, Reset: true, Ring: 1, Position: 7})
	messages := unframe(t, c.buf)
	if len(messages) != 2 || !strings.Contains(messages[0], ": an unknown number of messages dropped since 2026-02-03T04:05:06+00:00.") ||
		!strings.Contains(messages[1], ": an unknown number of messages and 2 messages dropped since") {
		t.Errorf("%q", messages)
	}
	var missed, resets uint64
	for _, e := range c.entries {
		missed, resets = missed+e.missed, resets+e.resets
	}
	if missed != 2 || resets != 2 {
		t.Errorf("%+v", c.entries)
	}
}

// endless is a source that always has more.
type endless struct{ record []byte }

func (e endless) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		next := max(q.Cursor.Rings[1], 1)
		for ctx.Err() == nil {
			b := envelope.Batch{Records: e.record, Count: 1, Ring: 1, Stream: 1, First: next, Next: next + 1, Position: next + 1}
			next++
			if !yield(b, nil) || !q.Follow {
				return
			}
		}
		yield(envelope.Batch{}, ctx.Err())
	}
}

func TestX01ShutdownUnderLoad(t *testing.T) {
	src := endless{envelope.AppendLog(nil, shop.Encode(), stamp, envelope.Out, []byte("x"))}
	d := open(t, "syslog://host", src, &Options{DialContext: func(context.Context, string, string) (net.Conn, error) {
		here, there := net.Pipe()
		go io.Copy(io.Discard, there)
		return here, nil
	}})
	for d.Stats().Delivered < 10_000 {
		time.Sleep(time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if s := d.Stats(); s.Pending != 0 || s.Accepted != s.Delivered || d.Cursor().Rings[1] != s.Delivered+1 {
		t.Errorf("%+v, cursor %v", s, d.Cursor().Rings)
	}
}

func TestForgetsRingsThatAreGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src, rcv := newMemory(), newReceiver()
		d := open(t, "syslog://host", src, &Options{DialContext: rcv.dial})
		for day := range 10 {
			for i := range 10 {
				src.lines(envelope.StreamID(100+10*day+i), 0, 1)
			}
			src.lines(1, 0, 1)
			time.Sleep(agePeriod)
			for i := range 10 {
				src.drop(envelope.StreamID(100 + 10*day + i))
			}
		}
		src.lines(1, 0, 1)
		rcv.await(111)
		if err := d.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
		if c := d.Cursor(); c.Rings[1] != 12 || len(c.Rings) > 40 || len(d.feed.counted) > 40 || len(d.feed.seen) > 41 {
			t.Errorf("%d positions in the cursor, %d counted, %d seen; ring 1 at %d", len(c.Rings), len(d.feed.counted), len(d.feed.seen), c.Rings[1])
		}
		conserve(t, d.Stats(), 111)
	})
}

func TestI01OneHangsTheOthersDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := newMemory()
		var drains []*Drain
		var receivers []*receiver
		for i := range 100 {
			rcv := newReceiver()
			o := &Options{DialContext: rcv.dial}
			if i%10 == 0 {
				o.DialContext = silent
			}
			drains, receivers = append(drains, open(t, "syslog://host", src, o)), append(receivers, rcv)
		}
		start := time.Now()
		for i := range 1000 {
			src.lines(1, i, i+1)
		}
		for i, rcv := range receivers {
			if i%10 != 0 {
				rcv.await(1000)
			}
		}
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		for i, d := range drains {
			d.Close()
			if s := d.Stats(); i%10 != 0 && s.Delivered+s.Pending != 1000 {
				t.Errorf("%+v", s)
			}
		}
	})
}
