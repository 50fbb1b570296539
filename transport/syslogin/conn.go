package syslogin

import (
	"bytes"
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
	baseBuffer = 4 << 10 // what a connection starts with; most are idle
	patience   = 64      // reads that hardly use the buffer, after which it shrinks
)

// conn is one connection. One goroutine reads it and hands over what it brings.
type conn struct {
	s      *Server
	raw    net.Conn // what was accepted: deadlines and Close, from any goroutine
	remote string   // for the log

	in    intake
	frame framer
	slack int  // reads in a row that hardly used the buffer
	timed bool // a deadline is set for the message under way

	mu       sync.Mutex // between the reader and Shutdown: whose deadline holds
	draining bool
}

func newConn(s *Server, nc net.Conn) *conn {
	c := &conn{s: s, raw: nc, remote: remoteOf(nc.RemoteAddr())}
	host, local := c.remote, false
	switch a := nc.RemoteAddr().(type) {
	case *net.TCPAddr:
		host = a.IP.String()
	case *net.UnixAddr:
		host, local = "", true
	}
	c.in = newIntake(s, local, host)
	c.frame = framer{in: &c.in, limit: s.opts.MaxMessage}
	return c
}

// remoteOf is who is at the other end, for the log: unix sockets have no names
// there.
func remoteOf(addr net.Addr) string {
	if _, ok := addr.(*net.UnixAddr); ok {
		return addr.Network()
	}
	return addr.String()
}

// fault is an error that closes one connection.
type fault struct{ reason, says string }

// serve runs the connection to its end.
func (c *conn) serve() {
	defer c.raw.Close()
	if tc, ok := c.raw.(*net.TCPConn); ok {
		// A connection whose other end has gone without a word ends too.
		tc.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3})
	}
	nc, f := c.handshake()
	if f == nil {
		f = c.read(nc)
	}
	if f != nil && c.s.ctx.Err() == nil { // after Close whatever fails fails because of it
		c.s.refused.Add(f.reason, c.remote, f.says)
	}
}

func (c *conn) handshake() (net.Conn, *fault) {
	tc, ok := c.raw.(*tls.Conn) // from a listener of its own
	switch {
	case ok:
	case c.s.opts.TLS == nil:
		return c.raw, nil
	default:
		tc = tls.Server(c.raw, c.s.opts.TLS)
	}
	ctx, cancel := context.WithTimeout(c.s.ctx, c.s.opts.MessageTimeout)
	defer cancel()
	if err := tc.HandshakeContext(ctx); err != nil {
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			return nil, &fault{refusedHandshake, "not TLS: this port is TLS only"}
		}
		return nil, &fault{refusedHandshake, "no TLS agreed on: " + err.Error()}
	}
	return tc, nil
}

func (c *conn) read(nc net.Conn) *fault {
	r := &c.frame
	r.buf = make([]byte, baseBuffer)
	defer func() { c.s.buffered.Add(int64(baseBuffer - len(r.buf))) }()
	for first := true; ; {
		n, err := nc.Read(r.buf[r.end:])
		r.end += n
		if n > 0 {
			c.s.counts.bytes.Add(uint64(n))
			if first {
				f, known := sniff(r.buf[:r.end])
				if f != nil {
					c.answer(nc, f)
					return f
				}
				first = !known
			}
			if f := c.consume(n); f != nil {
				return f
			}
		}
		if err != nil {
			return c.ended(nc, err)
		}
	}
}

// consume takes the messages that are whole in the buffer, after a read of n
// bytes.
func (c *conn) consume(n int) *fault {
	c.in.begin()
	full := c.frame.end == len(c.frame.buf)
	progress := c.frame.consume()
	c.in.end()
	if c.in.err != nil {
		return &fault{refusedWriter, "records not taken: " + c.in.err.Error()}
	}
	switch pending := c.frame.pending(); {
	case !pending && c.timed:
		c.timed = false
		c.deadline(time.Time{})
	case pending && (progress || !c.timed):
		c.timed = true
		c.deadline(time.Now().Add(c.s.opts.MessageTimeout))
	}
	return c.resize(n, full)
}

// ended makes of the error that ended reading what it means. What has come of a
// message is taken.
func (c *conn) ended(nc net.Conn, err error) *fault {
	pending := c.frame.pending()
	if pending {
		c.in.begin()
		if c.frame.finish() {
			c.s.counts.truncated.Add(1)
		}
		c.in.end()
	}
	switch {
	case c.in.err != nil:
		return &fault{refusedWriter, "records not taken: " + c.in.err.Error()}
	case errors.Is(err, io.EOF), errors.Is(err, os.ErrDeadlineExceeded) && c.isDraining():
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &fault{refusedStalled, "message not complete after " + c.s.opts.MessageTimeout.String()}
	}
	return &fault{refusedReset, "connection broke: " + err.Error()}
}

// answer tells those something who will understand it.
func (c *conn) answer(nc net.Conn, f *fault) {
	if f.reason == refusedHTTP {
		c.raw.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(nc, "HTTP/1.0 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n\r\nThis port takes syslog, not HTTP.\n")
	}
}

// sniff recognises, from the first bytes of a connection, protocols that are
// certainly not syslog. Known is false while more bytes are needed to tell.
func sniff(b []byte) (f *fault, known bool) {
	if b[0] == 0x16 { // SYN, which begins no line
		if len(b) >= 2 && b[1] != 0x03 {
			return nil, true
		}
		if len(b) < 3 {
			return nil, false
		}
		return &fault{refusedTLS, "looks like a TLS hello: this port is not TLS"}, true
	}
	if b[0] < 'A' || b[0] > 'Z' {
		return nil, true
	}
	line, _, whole := bytes.Cut(b, []byte{'\n'})
	if !whole {
		return nil, len(b) >= baseBuffer
	}
	// A request line: method, target, version, and no more.
	method, rest, _ := bytes.Cut(bytes.TrimSuffix(line, []byte{'\r'}), []byte{' '})
	target, version, _ := bytes.Cut(rest, []byte{' '})
	if len(bytes.Trim(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-")) == 0 && len(target) > 0 && bytes.HasPrefix(version, []byte("HTTP/")) && len(version) <= len("HTTP/1.1") {
		return &fault{refusedHTTP, "looks like HTTP"}, true
	}
	return nil, true
}

// resize makes room for the next read, after one of n bytes. Memory follows the
// bytes that have arrived: a length that was announced allocates nothing.
func (c *conn) resize(n int, full bool) *fault {
	r := &c.frame
	r.compact()
	size, top := len(r.buf), c.s.opts.MaxMessage+baseBuffer
	switch {
	case r.end == size || full && size < top: // a long message, or a busy connection
		if !c.setBuffer(min(2*size, top)) && r.end == size {
			return &fault{refusedMemory, "no memory left for a message of this length"}
		}
	case size > baseBuffer && n < size/8 && r.end < size/2:
		if c.slack++; c.slack >= patience {
			c.setBuffer(max(size/2, baseBuffer))
		}
		return nil
	}
	c.slack = 0
	return nil
}

// setBuffer moves what is unconsumed to a buffer of another size, and fails if
// that would take more memory than all connections may.
func (c *conn) setBuffer(size int) bool {
	more := int64(size - len(c.frame.buf))
	if c.s.buffered.Add(more) > c.s.opts.MaxBuffered && more > 0 {
		c.s.buffered.Add(-more)
		return false
	}
	c.frame.move(make([]byte, size))
	c.slack = 0
	return true
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
