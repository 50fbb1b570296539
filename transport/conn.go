package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const (
	baseBuffer = 4 << 10   // what a connection starts with; most are idle
	readBuffer = 256 << 10 // what a busy one grows to, so that one read(2) brings many messages
	ackEvery   = 256 << 10 // bytes after which acknowledgements go out in any case
	patience   = 64        // reads that hardly use the buffer, after which it shrinks
)

// conn is one connection to a Server. One goroutine reads it, hands batches to
// the Writer and writes the acknowledgements.
type conn struct {
	s   *Server
	raw net.Conn // what was accepted: deadlines and Close, from any goroutine
	nc  net.Conn // raw, or TLS over it: the reader's alone

	buf        []byte
	start, end int // bytes read and not yet consumed: buf[start:end]
	known      *newcomers
	greeted    bool // a whole message has been read
	partial    bool // the bytes left begin a message, and its deadline is set
	slack      int  // reads in a row that hardly used the buffer

	acks   []position // not yet sent
	out    []byte     // buffer for sending them
	unsent int        // bytes consumed since acknowledgements were sent
	deaf   bool       // the peer no longer reads; only its data counts

	mu       sync.Mutex // between the reader and Shutdown: whose deadline holds
	draining bool
}

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.raw.Close()
	keepAlive(c.raw)
	if f := c.handshake(); f != nil {
		c.complain(f)
		return
	}
	c.buf, c.known = make([]byte, baseBuffer), c.s.newcomers()
	defer func() { c.s.buffered.Add(int64(baseBuffer - len(c.buf))) }()
	for {
		n, err := c.nc.Read(c.buf[c.end:])
		c.end += n
		if n > 0 {
			c.s.bytes.Add(uint64(n))
			full := c.end == len(c.buf)
			f := c.take(full)
			if f == nil {
				f = c.resize(n, full)
			}
			if f != nil {
				c.refuse(f)
				return
			}
		}
		if err != nil {
			c.ended(err)
			return
		}
	}
}

// keepAlive makes connections end whose other end has gone without a word: after
// about half a minute.
func keepAlive(nc net.Conn) {
	if tc, ok := nc.(*net.TCPConn); ok {
		tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
}

func (c *conn) handshake() *fault {
	c.nc = c.raw
	if c.s.opts.TLS == nil {
		return nil
	}
	tc := tls.Server(c.raw, c.s.opts.TLS)
	ctx, cancel := context.WithTimeout(c.s.ctx, c.s.opts.MessageTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			f := suspect(record.RecordHeader[:])
			return &fault{reason: reasonHandshake, says: f.says + ": this port is TLS"}
		}
		return &fault{reason: reasonHandshake, says: "no TLS agreed on", err: err}
	}
	c.nc = tc
	return nil
}

// refuse closes the door on f, with a word to those who will understand it.
func (c *conn) refuse(f *fault) {
	if f.reason == reasonHTTP {
		c.raw.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(c.nc, "HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\n"+
			"This port takes length-delimited protobuf, not HTTP.\n")
	}
	c.complain(f)
	if c.greeted && (f.reason == reasonTooLarge || f.reason == reasonMemory) {
		c.explain(f)
	}
}

// explain tells a sender why its connection is closed.
func (c *conn) explain(f *fault) {
	c.raw.SetWriteDeadline(time.Now().Add(lingerTime))
	if _, err := c.nc.Write(appendRefusal(nil, f.says)); err == nil {
		c.linger()
	}
}

func (c *conn) complain(f *fault) {
	if c.s.ctx.Err() == nil { // after Close whatever fails fails because of it
		c.s.complaints.add(f, c.raw.RemoteAddr())
	}
}

// ended makes of the error that ended reading what it means.
func (c *conn) ended(err error) {
	if f := c.acknowledge(); f != nil {
		c.complain(f)
		return
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && c.isDraining():
		c.linger()
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.complain(&fault{reason: reasonStalled, says: "message not complete after " + c.s.opts.MessageTimeout.String()})
	case c.start < c.end && errors.Is(err, io.EOF):
		f := &fault{reason: reasonTruncated, says: "ended in the middle of a message"}
		if !c.greeted { // perhaps it never meant to speak our language
			if g := suspect(c.buf[c.start:c.end]); g.reason != reasonMalformed {
				f = g
			}
		}
		c.complain(f)
	case errors.Is(err, io.EOF):
	default:
		c.complain(&fault{reason: reasonReset, says: "connection broke", err: err})
	}
}

// drain makes the reader stop soon. Whoever calls it is not the reader.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.raw.SetReadDeadline(time.Now().Add(c.s.opts.DrainTime))
}

func (c *conn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// deadline is the reader's own, until Shutdown has set one.
func (c *conn) deadline(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining {
		c.raw.SetReadDeadline(t)
	}
}

// lingerTime is how long a drained connection waits for its sender to hang up.
const lingerTime = 500 * time.Millisecond

// linger ends a drained connection. Closing a TCP connection that has unread
// input resets it, which may destroy the acknowledgements on their way, and
// their records would then be sent to the next server once more. So it says
// that it is done, and throws away what still comes, which nobody acknowledged.
func (c *conn) linger() {
	half, ok := c.nc.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return
	}
	until := time.Now().Add(lingerTime)
	c.raw.SetReadDeadline(until)
	for time.Now().Before(until) {
		if _, err := c.raw.Read(c.buf); err != nil {
			return
		}
	}
}
