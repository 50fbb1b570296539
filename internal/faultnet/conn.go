package faultnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Conn is one end of a connection in memory. Beside what net.Conn asks for it
// can be half closed, as TCP can, and be reset or muted by a test while it runs.
type Conn struct {
	in, out       *way
	local, remote addr
}

// Pipe returns the two ends of a connection, and befalls it with f.
func Pipe(f Faults) (client, server *Conn) {
	return pipe(f, "client", "server")
}

func pipe(f Faults, from, to string) (client, server *Conn) {
	up, down := newWay(f.ToServer), newWay(f.ToClient)
	up.peer, down.peer = down, up
	client = &Conn{in: down, out: up, local: addr(from), remote: addr(to)}
	server = &Conn{in: up, out: down, local: addr(to), remote: addr(from)}
	return client, server
}

func (c *Conn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *Conn) Write(p []byte) (int, error) { return c.out.write(p) }
func (c *Conn) LocalAddr() net.Addr         { return c.local }
func (c *Conn) RemoteAddr() net.Addr        { return c.remote }

// Close ends both directions. The other end reads what has been written, then
// io.EOF; its writes fail.
func (c *Conn) Close() error {
	c.out.closeWrite()
	c.in.closeRead()
	return nil
}

// CloseWrite ends this end's writing; it can still read.
func (c *Conn) CloseWrite() error {
	c.out.closeWrite()
	return nil
}

// Reset tears the connection: both ends fail with ECONNRESET, and what was
// written but not read is gone.
func (c *Conn) Reset() {
	c.in.reset()
	c.out.reset()
}

// Mute makes the other end hear nothing more of this one, without an error to
// either: writes succeed until the buffer is full.
func (c *Conn) Mute() { c.out.mute() }

// over reports whether this end is closed or reset.
func (c *Conn) over() bool {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	return c.in.readClosed || c.in.err != nil
}

func (c *Conn) SetDeadline(t time.Time) error {
	return firstError(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *Conn) SetReadDeadline(t time.Time) error  { return c.in.setDeadline(&c.in.readBy, t) }
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.out.setDeadline(&c.out.writeBy, t) }

func firstError(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

type addr string

func (a addr) Network() string { return "memory" }
func (a addr) String() string  { return string(a) }

// way is one direction of a connection: a bounded buffer between a writer and a
// reader, and the faults that strike at byte offsets of what passes.
type way struct {
	peer *way // the other direction, which a reset takes along

	mu      sync.Mutex
	changed *sync.Cond
	buf     []byte
	off     int64 // bytes read so far
	faults  Way
	stalled bool // the stall has begun
	until   time.Time
	muted   bool

	writeClosed bool  // the writer is done: EOF after the buffer
	readClosed  bool  // the reader is gone: writes fail
	err         error // reset: everything fails
	readBy      limit
	writeBy     limit
	release     *time.Timer // ends the stall
}

// limit is a deadline with the timer that wakes whoever waits.
type limit struct {
	t     time.Time
	timer *time.Timer
}

func (l *limit) passed() bool { return !l.t.IsZero() && !time.Now().Before(l.t) }

func newWay(f Way) *way {
	w := &way{faults: f}
	if w.faults.Buffer <= 0 {
		w.faults.Buffer = DefaultBuffer
	}
	w.changed = sync.NewCond(&w.mu)
	return w
}

func (w *way) mute() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.muted = true
}

func (w *way) wake() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.changed.Broadcast()
}

func (w *way) setDeadline(l *limit, t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if l.timer != nil {
		l.timer.Stop()
		l.timer = nil
	}
	l.t = t
	if !t.IsZero() && !w.readClosed && w.err == nil {
		l.timer = time.AfterFunc(time.Until(t), w.wake)
	}
	w.changed.Broadcast()
	return nil
}

func (w *way) read(p []byte) (int, error) {
	for {
		n, err, again := w.tryRead(p)
		if again {
			continue
		}
		return n, err
	}
}

func (w *way) tryRead(p []byte) (n int, err error, again bool) {
	w.mu.Lock()
	for {
		switch {
		case w.readClosed:
			w.mu.Unlock()
			return 0, net.ErrClosed, false
		case w.err != nil:
			w.mu.Unlock()
			return 0, w.err, false
		case w.readBy.passed():
			w.mu.Unlock()
			return 0, os.ErrDeadlineExceeded, false
		}
		avail := w.deliverable()
		if avail > 0 || len(p) == 0 {
			n = copy(p, w.buf[:avail])
			w.buf = append(w.buf[:0], w.buf[n:]...)
			w.off += int64(n)
			w.changed.Broadcast()
			w.mu.Unlock()
			return n, nil, false
		}
		if w.faults.ResetAt > 0 && w.off >= w.faults.ResetAt {
			w.mu.Unlock()
			w.reset()
			w.peer.reset()
			return 0, nil, true
		}
		if w.writeClosed && len(w.buf) == 0 && !w.hole() {
			w.mu.Unlock()
			return 0, io.EOF, false
		}
		w.changed.Wait()
	}
}

func (w *way) hole() bool { return w.muted || w.faults.HoleAt > 0 && w.off >= w.faults.HoleAt }

// deliverable says how many bytes of the buffer the reader may have now.
func (w *way) deliverable() int {
	f := &w.faults
	n := int64(len(w.buf))
	if w.hole() {
		return 0
	}
	for _, at := range []int64{f.HoleAt, f.ResetAt} {
		if at > 0 {
			n = min(n, at-w.off)
		}
	}
	if f.StallAt > 0 && f.StallFor > 0 {
		switch {
		case w.off < f.StallAt:
			n = min(n, f.StallAt-w.off)
		case !w.stalled:
			w.stalled, w.until = true, time.Now().Add(f.StallFor)
			w.release = time.AfterFunc(f.StallFor, w.wake)
			return 0
		case time.Now().Before(w.until):
			return 0
		}
	}
	if f.Chunk > 0 && n > 0 {
		limit := int64(f.Chunk)
		if f.Rand != nil {
			limit = 1 + f.Rand.Int64N(limit)
		}
		n = min(n, limit)
	}
	return int(max(n, 0))
}

func (w *way) write(p []byte) (n int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		switch {
		case w.writeClosed:
			return n, net.ErrClosed
		case w.err != nil:
			return n, w.err
		case w.readClosed:
			return n, syscall.EPIPE
		case w.writeBy.passed():
			return n, os.ErrDeadlineExceeded
		}
		if room := w.faults.Buffer - len(w.buf); room > 0 && len(p) > 0 {
			m := min(room, len(p))
			w.buf = append(w.buf, p[:m]...)
			p = p[m:]
			n += m
			w.changed.Broadcast()
		}
		if len(p) == 0 {
			return n, nil
		}
		w.changed.Wait()
	}
}

func (w *way) closeWrite() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writeClosed = true
	w.changed.Broadcast()
}

func (w *way) closeRead() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.readClosed = true
	w.stopTimers()
	w.changed.Broadcast()
}

func (w *way) reset() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = syscall.ECONNRESET
	}
	w.buf = nil
	w.stopTimers()
	w.changed.Broadcast()
}

// stopTimers lets a synctest bubble end: no timer outlives the connection.
func (w *way) stopTimers() {
	for _, t := range []*time.Timer{w.readBy.timer, w.writeBy.timer, w.release} {
		if t != nil {
			t.Stop()
		}
	}
}
