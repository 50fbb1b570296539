// Package wsout is the server's end of a WebSocket by which records leave.
package wsout

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

	"github.com/cloudfoundry/loggregator/internal/outbuf"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

var (
	// ErrSilent is the cause with which a Conn's context ends whose client does not
	// answer pings.
	ErrSilent = errors.New("the client did not answer a ping")
	// ErrFlood is the error of a Conn whose client said too much. It has been told
	// so, and is cut.
	ErrFlood = errors.New("the client sends too much")
)

// Options say how a WebSocket is kept alive. All are required.
type Options struct {
	WriteTimeout time.Duration // for the client to take 32 KiB
	PingAfter    time.Duration // until the first ping
	PingInterval time.Duration // from an answer to the next ping
	PongTimeout  time.Duration // for the answer
}

// Conn is the server's end of a connection that carries binary messages one
// way.
//
// The library does the handshake, the control frames and the closing. Data frames go beside it into the same buffer: its
// writer would need a message in one piece, and takes locks, timers and a system
// call for each. What keeps the frames apart is that the buffer takes each whole.
type Conn struct {
	opt  Options
	wire *wire
	ws   *websocket.Conn

	mu     sync.Mutex
	closed bool
	ping   *time.Timer
	cancel context.CancelCauseFunc

	running sync.WaitGroup // reading and pinging
}

// Accept upgrades a request, wherever it comes from, or answers why not. The Conn
// must be Run. The request's handler may return before that, which frees its
// buffers.
func Accept(w http.ResponseWriter, r *http.Request, o Options) (*Conn, error) {
	hj := &hijacker{ResponseWriter: w, timeout: o.WriteTimeout}
	// Without compression: a message that a client sends is as large as it is.
	ws, err := websocket.Accept(hj, r, &websocket.AcceptOptions{InsecureSkipVerify: true, CompressionMode: websocket.CompressionDisabled})
	if err != nil {
		return nil, err
	}
	return &Conn{opt: o, wire: hj.wire, ws: ws}, nil
}

// Run calls deliver, whose context ends when the client has left or does not
// answer any more (then with the cause ErrSilent), writes out what deliver has
// appended, and closes the connection with the status and reason that closing
// gives for deliver's error. It returns when everything has ended. Its error is
// ErrFlood, outlet.ErrStalled, outlet.ErrAborted, or another for which the client
// does not have all of it.
func (s *Conn) Run(ctx context.Context, deliver func(context.Context) error, closing func(error) (status int, reason string)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.running.Go(func() {
		s.read()
		cancel(nil)
	})
	s.mu.Lock()
	s.cancel = cancel
	s.ping = time.AfterFunc(s.opt.PingAfter, s.onPing)
	s.mu.Unlock()

	err := deliver(ctx)
	sent := s.wire.out.Flush()
	if s.wire.flooded.Load() {
		sent = ErrFlood
	}
	if sent != nil {
		s.ws.CloseNow()
	} else {
		if cause := context.Cause(ctx); cause == ErrSilent {
			err = ErrSilent
		}
		status, reason := closing(err)
		s.ws.Close(websocket.StatusCode(status), reason)
	}
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.ping.Stop()
	s.running.Wait()
	s.wire.out.Close()
	return sent
}

// Append appends whole frames, see AppendFrame. It blocks while the buffer is
// full. The error is that of an earlier write.
func (s *Conn) Append(parts ...[]byte) error { return s.wire.out.Append(parts...) }

// Abort cuts the connection.
func (s *Conn) Abort() {
	s.wire.out.Fail(outlet.ErrAborted)
	s.wire.Close()
}

// AppendFrame appends the head of an unmasked, final binary frame of n bytes (RFC
// 6455, section 5.2).
func AppendFrame(dst []byte, n int) []byte {
	dst = append(dst, 0x80|0x2)
	switch {
	case n < 126:
		return append(dst, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, 126), uint16(n))
	}
	return binary.BigEndian.AppendUint64(append(dst, 127), uint64(n))
}

// read answers pings until the client is gone or has closed. What else it says,
// as clients do that keep a connection alive with messages, is dropped.
func (s *Conn) read() {
	defer s.wire.Close()
	var buf [controlSize]byte
	for {
		_, r, err := s.ws.Reader(context.Background())
		for err == nil {
			_, err = r.Read(buf[:])
		}
		if err != io.EOF {
			return
		}
	}
}

// onPing pings, in the goroutine of the timer.
func (s *Conn) onPing() {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return
	}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()

	before := s.wire.out.Written()
	ctx, cancel := context.WithTimeout(context.Background(), s.opt.PongTimeout)
	defer cancel()
	if err := s.ws.Ping(ctx); err != nil {
		if ctx.Err() == nil {
			s.wire.Close()
			return
		}
		// A slow reader may not have come to the ping yet; while it takes
		// more than that, it is alive.
		if s.wire.out.Written() <= before+pingSize {
			s.cancel(ErrSilent)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.ping.Reset(s.opt.PingInterval)
	}
}

// wire is the client's connection with an outbuf.Writer in front of its writes.
type wire struct {
	net.Conn
	out   *outbuf.Writer
	early []byte // what the client sent with its request

	minute  time.Time // since when the client's bytes are counted
	taken   int
	flooded atomic.Bool
}

// maxInbound is how many bytes a client may send in a minute: it has nothing to
// say but that it is there.
const maxInbound = 256 << 10

func (c *wire) Read(p []byte) (int, error) {
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
		return 0, ErrFlood
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
func (c *wire) Write(p []byte) (int, error) {
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

func (c *wire) Close() error {
	c.out.Fail(net.ErrClosed)
	return c.Conn.Close()
}

// hijacker hands the library a wire in place of the connection, and small
// buffers in place of net/http's two of 4 KiB.
type hijacker struct {
	http.ResponseWriter
	timeout time.Duration
	wire    *wire
}

func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	nc, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, _ := rw.Reader.Peek(rw.Reader.Buffered())
	c := &wire{Conn: nc, early: append([]byte(nil), early...)}
	timeout := h.timeout // h holds on to the request
	c.out = outbuf.New(func(p []byte) error { return outlet.Send(nc, p, timeout) })
	h.wire = c
	return c, bufio.NewReadWriter(bufio.NewReaderSize(c, controlSize), bufio.NewWriterSize(c, controlSize)), nil
}
