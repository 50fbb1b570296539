package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	dialTimeout  = 10 * time.Second // connect and TLS handshake, each
	writeTimeout = 30 * time.Second // without a byte of progress
	userTimeout  = 30 * time.Second // for the peer's TCP to acknowledge what was sent
)

var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}

// conn is one connection to a receiver.
//
// A goroutine always reads from it, so that the peer's close is seen when it
// comes and not by a later write, whose first bytes the kernel would take and
// lose. What the peer sends is thrown away: syslog has no answers.
type conn struct {
	net.Conn // TLS or raw
	raw      *countedConn
	queue    *sendQueue
	since    time.Time
	release  func() bool // of the hook that ends writes with ctx

	dead chan struct{} // closed when reading has ended, with
	err  error         // the reason
}

// dial connects to t, until ctx ends. The name is resolved at every call. A write
// that hangs ends with life.
func dial(ctx, life context.Context, t *target, o *Options) (*conn, error) {
	dialCtx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := o.DialContext(dialCtx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: &countedConn{Conn: raw}, queue: newSendQueue(raw, userTimeout), since: time.Now(), dead: make(chan struct{})}
	c.Conn = c.raw
	if t.scheme == "syslog-tls" {
		config := o.TLS.Clone()
		if config.ServerName == "" {
			config.ServerName = t.host
		}
		secure := tls.Client(c.raw, config)
		shakeCtx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if err := secure.HandshakeContext(shakeCtx); err != nil {
			raw.Close()
			return nil, err
		}
		c.Conn = secure
	}
	c.release = context.AfterFunc(life, c.raw.stop)
	go c.watch()
	return c, nil
}

func (c *conn) watch() {
	defer close(c.dead)
	buf := make([]byte, 512)
	for {
		if _, err := c.Read(buf); err != nil {
			c.err = err
			return
		}
	}
}

// received is how many of the bytes written, as the TCP connection counts them,
// the peer's TCP has acknowledged; all of them where the system does not tell.
func (c *conn) received() uint64 {
	written := c.raw.written.Load()
	n, ok := c.queue.bytes()
	if !ok {
		return written
	}
	return written - min(written, n)
}

// close closes the connection, in TLS with the notice that RFC 5425 asks for,
// and waits for the watcher.
func (c *conn) close() {
	c.release()
	c.Close()
	<-c.dead
}

// countedConn counts what is written, and gives up on a peer that takes nothing
// for writeTimeout, not on one that is slow.
type countedConn struct {
	net.Conn
	written atomic.Uint64
	stopped atomic.Bool
}

// stop ends a write that is under way and all later ones. The connection stays
// open, so that the kernel can still be asked what was acknowledged.
func (c *countedConn) stop() {
	c.stopped.Store(true)
	c.Conn.SetWriteDeadline(time.Unix(1, 0))
}

func (c *countedConn) Write(p []byte) (int, error) {
	done := 0
	for {
		c.Conn.SetWriteDeadline(time.Now().Add(writeTimeout))
		if c.stopped.Load() {
			c.stop() // it may have come just before
		}
		n, err := c.Conn.Write(p[done:])
		c.written.Add(uint64(n))
		done += n
		if err != nil && n > 0 && done < len(p) && !c.stopped.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		return done, err
	}
}
