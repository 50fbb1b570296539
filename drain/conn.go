package drain

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync/atomic"
	"time"
)

const (
	writeTimeout = 25 * time.Second // without a byte of progress
	userTimeout  = 25 * time.Second // for the peer's TCP to acknowledge what was sent
	closeTimeout = time.Second      // for the peer to close, too
)

// conn is one connection to a receiver.
//
// A goroutine always reads from it, so that the peer's close is seen when it
// comes and not by a later write, whose first bytes the kernel would take and
// lose. What the peer sends is thrown away: syslog has no answers.
type conn struct {
	net.Conn // TLS or raw
	raw      *countedConn
	socket   *socket
	since    time.Time
	until    time.Time   // when it is old
	expires  time.Time   // when the first of the certificates in use ends; zero: none
	release  func() bool // of the hook that ends writes with ctx

	window  uint64 // the largest that the peer advertised
	sampled time.Time

	dead chan struct{} // closed when reading has ended, with
	err  error         // the reason
	hook atomic.Pointer[func()]
}

// onDeath has f called when reading has ended, at once if it has.
func (c *conn) onDeath(f func()) {
	if f == nil {
		c.hook.Store(nil)
		return
	}
	c.hook.Store(&f)
	select {
	case <-c.dead:
		f()
	default:
	}
}

// dial connects to t, until ctx ends. The name is resolved at every call. A write
// that hangs ends with life, and each where until says, if that is not nil.
func dial(ctx, life context.Context, t *target, o *Options, until func() time.Time) (*conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	raw, err := o.DialContext(ctx, "tcp", t.addr)
	if err != nil {
		return nil, err
	}
	c := &conn{raw: &countedConn{Conn: raw, until: until}, socket: newSocket(raw, userTimeout), since: time.Now(), dead: make(chan struct{})}
	c.Conn = c.raw
	if t.scheme == "syslog-tls" {
		secure, expires, err := handshake(ctx, c.raw, t, o)
		if err != nil {
			raw.Close()
			return nil, err
		}
		c.Conn, c.expires = secure, expires
	}
	if o.MaxAge > 0 {
		c.until = c.since.Add(o.MaxAge*4/5 + rand.N(o.MaxAge*2/5+1))
	}
	c.release = context.AfterFunc(life, c.raw.stop)
	go c.watch()
	return c, nil
}

// handshake makes a TLS connection of c, with the certificates of the moment, of
// which it gives the end of the first.
func handshake(ctx context.Context, c net.Conn, t *target, o *Options, protocols ...string) (*tls.Conn, time.Time, error) {
	config, err := o.tls(t)
	if err != nil {
		return nil, time.Time{}, &tlsError{err}
	}
	config.NextProtos = protocols
	secure := tls.Client(c, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		if _, ok := errors.AsType[tls.RecordHeaderError](err); ok {
			err = errNoTLS
		}
		return nil, time.Time{}, &tlsError{err}
	}
	var expires time.Time
	note := func(cert *x509.Certificate) {
		if cert != nil && (expires.IsZero() || cert.NotAfter.Before(expires)) {
			expires = cert.NotAfter
		}
	}
	for _, cert := range secure.ConnectionState().PeerCertificates {
		note(cert)
	}
	for _, pair := range config.Certificates {
		note(pair.Leaf)
	}
	return secure, expires, nil
}

// tlsError is a failure that has to do with certificates or the protocol.
type tlsError struct{ err error }

func (e *tlsError) Error() string { return e.err.Error() }
func (e *tlsError) Unwrap() error { return e.err }

var (
	errNoTLS = errors.New("tls: the receiver does not speak TLS")
	errTLS   = errors.New("the receiver speaks TLS: the drain's URL should begin with syslog-tls")
)

// watch reads until the end. The first bytes tell where plain syslog goes to a
// port that expects TLS: what comes back is an alert.
func (c *conn) watch() {
	defer func() {
		close(c.dead)
		if f := c.hook.Load(); f != nil {
			(*f)()
		}
	}()
	var buf [256]byte
	alert := false
	for first := true; ; first = false {
		n, err := c.Read(buf[:])
		if first && n >= 3 && c.Conn == net.Conn(c.raw) && buf[0] == 0x15 && buf[1] == 3 {
			alert = true
		}
		if err != nil {
			if c.err = err; alert {
				c.err = errTLS
			}
			return
		}
	}
}

// received is how many of the bytes written, as the TCP connection counts them,
// the peer's TCP has acknowledged; all of them where the system does not tell.
func (c *conn) received() uint64 {
	written := c.raw.written.Load()
	n, ok := c.socket.queued()
	if !ok {
		return written
	}
	return written - min(written, n)
}

// unread bounds how many of the bytes acknowledged the peer's process may not
// have read yet: its kernel holds about as much as the largest window that it
// advertised. It may hold somewhat more than it has advertised so far: measured
// on Linux, under half a megabyte of small buffers, and a little of large ones.
func (c *conn) unread() (n uint64, ok bool) {
	if now := time.Now(); now.Sub(c.sampled) > sampleTime {
		w, ok := c.socket.window()
		if !ok {
			return 0, false
		}
		c.sampled, c.window = now, max(c.window, w)
	}
	return c.window + max(c.window/8, 512<<10), true
}

// sampleTime is the least time between two questions for the window.
const sampleTime = 2 * time.Millisecond

// close closes the connection, in TLS with the notice that RFC 5425 asks for,
// and waits for the watcher.
func (c *conn) close() {
	c.release()
	c.Close()
	<-c.dead
}

// finish ends a connection on which everything was acknowledged, and waits a
// moment for the peer to do the same: that it does so in good order shows that it
// has read all. It reports whether it did.
func (c *conn) finish(ctx context.Context) bool {
	defer c.close()
	if secure, ok := c.Conn.(*tls.Conn); ok {
		secure.CloseWrite()
	}
	half, ok := c.raw.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return false
	}
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case <-c.dead:
		return isGoodbye(c.err)
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

// isGoodbye reports whether a read ended because the peer closed, in TLS with or
// without notice.
func isGoodbye(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// countedConn counts what is written, and gives up on a peer that takes nothing
// for writeTimeout, not on one that is slow. It writes no longer than it may.
type countedConn struct {
	net.Conn
	until   func() time.Time // nil: for ever
	written atomic.Uint64
	stopped atomic.Bool
	goodbye atomic.Pointer[time.Time] // until when TLS may take leave
}

// SetWriteDeadline is called by TLS, for its goodbye, which would else have
// writeTimeout on a connection that takes nothing.
func (c *countedConn) SetWriteDeadline(t time.Time) error {
	c.goodbye.Store(&t)
	return c.Conn.SetWriteDeadline(t)
}

// stop ends a write that is under way and all later ones. The connection stays
// open, so that the kernel can still be asked what was acknowledged.
func (c *countedConn) stop() {
	c.stopped.Store(true)
	c.Conn.SetWriteDeadline(time.Unix(1, 0))
}

func (c *countedConn) Write(p []byte) (int, error) {
	done, moved := 0, time.Now()
	for {
		c.Conn.SetWriteDeadline(c.limit(moved))
		if c.stopped.Load() {
			c.stop() // it may have come just before
		}
		n, err := c.Conn.Write(p[done:])
		c.written.Add(uint64(n))
		done += n
		now := time.Now()
		if n > 0 {
			moved = now
		}
		if err != nil && done < len(p) && !c.stopped.Load() && errors.Is(err, os.ErrDeadlineExceeded) && now.Before(c.limit(moved)) {
			continue
		}
		return done, err
	}
}

// limit is until when a write may last that has moved then.
func (c *countedConn) limit(moved time.Time) time.Time {
	limit := moved.Add(writeTimeout)
	if c.until != nil {
		if end := c.until(); end.Before(limit) {
			limit = end
		}
	}
	if end := c.goodbye.Load(); end != nil && !end.IsZero() && end.Before(limit) {
		limit = *end
	}
	return limit
}
