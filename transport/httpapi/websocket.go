package httpapi

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// tail is one WebSocket.
//
// The library does the handshake, the control frames and the closing. Data
// frames go beside it into the same buffer: its writer would need header and
// records in one piece, and takes locks, timers and a system call for each
// message, where a tail of many quiet apps has a message for every line. What
// keeps the frames apart is that the buffer takes each whole, see conn.Write.
type tail struct {
	h    *Handler
	conn *conn
	ws   *websocket.Conn

	mu     sync.Mutex
	closed bool
	ping   *time.Timer

	running sync.WaitGroup // reading and pinging
}

// serveWebSocket upgrades the request and leaves the tail to a goroutine of its
// own, so that the request and its buffers are free.
func (h *Handler) serveWebSocket(w http.ResponseWriter, r *http.Request, rd *reader, q envelope.Query) {
	hj := &hijacker{ResponseWriter: w, timeout: h.opt.WriteTimeout}
	// Without compression: a message that a client sends is as large as it is. Where
	// it comes from has been looked at.
	ws, err := websocket.Accept(hj, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil { // Accept has answered
		h.leave(rd)
		return
	}
	t := &tail{h: h, conn: hj.conn, ws: ws}
	h.onAbort(rd, func() { t.conn.Close() })
	go func() {
		defer h.leave(rd)
		t.run(rd.pass, q)
	}()
}

// run sends until the source, the client or the server ends it.
func (t *tail) run(pass *access.Pass, q envelope.Query) {
	ctx, cancel := context.WithCancel(t.h.ctx)
	defer cancel()
	t.running.Go(func() {
		t.read()
		cancel()
	})
	t.mu.Lock()
	t.ping = time.AfterFunc(t.h.opt.PingInterval, t.onPing)
	t.mu.Unlock()

	err := t.h.deliver(ctx, pass, q, t.put)
	sent := t.conn.out.Flush()

	switch {
	case t.conn.flooded.Load():
		t.h.flooded.Add(1)
		t.ws.CloseNow() // it has been told
	case sent != nil:
		if sent == errStalled {
			t.h.stalled.Add(1)
		}
		t.ws.CloseNow()
	case errors.Is(err, access.ErrExpired):
		t.ws.Close(websocket.StatusPolicyViolation, err.Error())
	case t.h.ctx.Err() != nil:
		t.ws.Close(websocket.StatusGoingAway, "the server is shutting down; come again with your cursor")
	case err != nil:
		t.ws.Close(websocket.StatusInternalError, "the logs cannot be read; come again with your cursor")
	default:
		t.ws.Close(websocket.StatusNormalClosure, "")
	}
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.ping.Stop()
	t.running.Wait()
	t.conn.out.Close()
}

// read answers pings until the client is gone or has closed. What else it says,
// as clients do that keep a connection alive with messages, is dropped.
func (t *tail) read() {
	defer t.conn.Close()
	var buf [controlSize]byte
	for {
		_, r, err := t.ws.Reader(context.Background())
		for err == nil {
			_, err = r.Read(buf[:])
		}
		if err != io.EOF {
			return
		}
	}
}

// put sends a batch as one binary message of one frame (RFC 6455, section 5.2).
func (t *tail) put(b envelope.Batch) error {
	var header [envelope.MaxBatchHeader]byte
	h := b.AppendHeader(header[:0])
	n := len(h) + len(b.Records)
	if n == 0 {
		return nil
	}
	var frame [10]byte
	return t.conn.out.Append(appendFrame(frame[:0], n), h, b.Records)
}

// appendFrame appends the head of an unmasked, final binary frame of n bytes.
func appendFrame(dst []byte, n int) []byte {
	dst = append(dst, 0x80|0x2)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
}

// onPing pings, in the goroutine of the timer.
func (t *tail) onPing() {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return
	}
	t.running.Add(1)
	t.mu.Unlock()
	defer t.running.Done()

	before := t.conn.out.Written()
	ctx, cancel := context.WithTimeout(context.Background(), t.h.opt.WriteTimeout)
	defer cancel()
	if err := t.ws.Ping(ctx); err != nil {
		// A slow reader may not have come to the ping yet; while it takes
		// more than that, it is alive.
		if ctx.Err() == nil || t.conn.out.Written() <= before+pingSize {
			if ctx.Err() != nil {
				t.conn.out.Fail(errStalled)
			}
			t.conn.Close()
			return
		}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.closed {
		t.ping.Reset(t.h.opt.PingInterval)
	}
}

// conn is the client's connection with an outbuf.Writer in front of its writes.
type conn struct {
	net.Conn
	out     *outbuf.Writer
	timeout time.Duration
	early   []byte // what the client sent with its request

	minute  time.Time // since when the client's bytes are counted
	taken   int
	flooded atomic.Bool
}

// maxInbound is how many bytes a client may send in a minute: it has nothing to
// say but that it is there.
const maxInbound = 256 << 10

func (c *conn) Read(p []byte) (int, error) {
	if len(c.early) > 0 {
		n := copy(p, c.early)
		c.early = c.early[n:]
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if now := time.Now(); now.Sub(c.minute) >= time.Minute {
		c.minute, c.taken = now, 0
	}
	if c.taken += n; c.taken > maxInbound {
		c.flooded.Store(true)
		c.out.Append(appendClose(nil, websocket.StatusPolicyViolation, "you send more than 256 KiB a minute, and nothing is read here"))
		c.out.Flush()
		return 0, errFlood
	}
	return n, err
}

// appendClose appends a frame that closes (RFC 6455, section 5.5.1).
func appendClose(dst []byte, code websocket.StatusCode, reason string) []byte {
	dst = append(dst, 0x80|opcodeClose, byte(2+len(reason)))
	return append(binary.BigEndian.AppendUint16(dst, uint16(code)), reason...)
}

const (
	controlSize = 256 // more than a control frame, so the library writes it in one piece
	pingSize    = 32  // more than a ping of the library's
	opcodeClose = 0x8
)

// Write takes a control frame from the library. One that finds the buffer full
// is dropped: the library would close the connection after five seconds of
// waiting, and a reader that has so much before it is watched by its deadline.
// The frame that closes is waited for, because Close follows it.
func (c *conn) Write(p []byte) (int, error) {
	if p[0]&0xf == opcodeClose {
		if _, err := c.out.Write(p); err != nil {
			return 0, err
		}
		return len(p), c.out.Flush()
	}
	if err := c.out.TryAppend(p); err != nil && err != outbuf.ErrFull {
		return 0, err
	}
	return len(p), nil
}

func (c *conn) Close() error {
	c.out.Fail(net.ErrClosed)
	return c.Conn.Close()
}

// send is the sink of out.
func (c *conn) send(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), chunk)
		c.Conn.SetWriteDeadline(time.Now().Add(c.timeout))
		if _, err := c.Conn.Write(p[:n]); err != nil {
			return stalled(err)
		}
		p = p[n:]
	}
	return nil
}

// hijacker hands the library a conn in place of the connection, and small
// buffers in place of net/http's two of 4 KiB.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration
	conn    *conn
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	c := &conn{Conn: nc, timeout: h.timeout, early: append([]byte(nil), early...)}
	c.out = outbuf.New(c.send)
	h.conn = c
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, controlSize), bufio.NewWriterSize(c, controlSize)), nil
}
