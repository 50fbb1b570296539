package transport

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

var (
	errGone    = errors.New("the reader has gone")
	errLeaving = errors.New("the server is shutting down")
	errIdle    = errors.New("nothing to read for a while")
	errFed     = errors.New("no credit for a while")
)

// egressConn is one connection of a reader. One goroutine reads it; what is
// written goes through out, which has one while it is busy.
type egressConn struct {
	e      *Egress
	raw    net.Conn
	nc     net.Conn // raw, or TLS over it
	in     frames
	out    *outbuf.Writer
	ctx    context.Context // of all queries
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // queries that run

	seen      []byte    // the first bytes that came
	greeted   bool      // a hello has been read
	announced time.Time // when the deadline of the next frame was set

	mu       sync.Mutex
	draining bool
	open     map[uint64]*egressQuery
}

func newEgressConn(e *Egress, nc net.Conn) *egressConn {
	c := &egressConn{e: e, raw: nc, open: make(map[uint64]*egressQuery)}
	c.ctx, c.cancel = context.WithCancelCause(e.ctx)
	c.out = outbuf.New(func(b []byte) error {
		c.raw.SetWriteDeadline(time.Now().Add(e.opts.WriteTimeout))
		if _, err := c.nc.Write(b); err != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				c.complain(&fault{reason: reasonStalled, says: "reader takes nothing for " + e.opts.WriteTimeout.String()})
			}
			c.raw.Close()
			return err
		}
		return nil
	})
	return c
}

// serve runs the connection to its end.
func (c *egressConn) serve() {
	defer c.cancel(errGone)
	defer c.raw.Close()
	keepAlive(c.raw)
	if f := c.handshake(); f != nil {
		c.complain(f)
		return
	}
	c.in = frames{in: bufio.NewReaderSize(c.nc, baseBuffer), max: maxHello}
	err := c.read()
	leaving := c.isDraining() && errors.Is(err, os.ErrDeadlineExceeded)
	if leaving {
		err = errLeaving
	} else {
		c.out.Fail(errGone) // wakes those who wait to write
		c.refuse(err)
		err = errGone
	}
	c.end(err)
	c.wg.Wait()
	if !leaving {
		c.raw.Close() // so that a write under way ends
	}
	c.out.Close()
}

func (c *egressConn) handshake() *fault {
	c.nc = c.raw
	verified := false
	if c.e.opts.TLS != nil {
		tc := tls.Server(c.raw, c.e.opts.TLS)
		ctx, cancel := context.WithTimeout(c.ctx, c.e.opts.WriteTimeout)
		defer cancel()
		if err := tc.HandshakeContext(ctx); err != nil {
			if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
				return &fault{reason: reasonHandshake, says: suspect(record.RecordHeader[:]).says + ": this port is TLS"}
			}
			return &fault{reason: reasonHandshake, says: "no TLS agreed on", err: err}
		}
		c.nc = tc
		if chains := tc.ConnectionState().VerifiedChains; len(chains) > 0 {
			names := c.e.opts.Names
			verified = len(names) == 0 || slices.ContainsFunc(names, func(name string) bool { return chains[0][0].VerifyHostname(name) == nil })
			if !verified {
				return &fault{reason: reasonPeer, says: "the certificate has none of the names that may read here"}
			}
		}
	}
	if !verified && !c.e.opts.Insecure && !isLocal(c.raw.RemoteAddr()) {
		return &fault{reason: reasonPeer, says: "reader from another machine without a certificate"}
	}
	return nil
}

// isLocal reports whether a peer is on this machine.
func isLocal(a net.Addr) bool {
	tcp, ok := a.(*net.TCPAddr)
	return !ok || tcp.IP.IsLoopback()
}

// read takes frames until something ends the connection.
func (c *egressConn) read() error {
	c.extend()
	if _, err := c.in.in.Peek(1); err != nil {
		return err
	}
	seen, _ := c.in.in.Peek(min(c.in.in.Buffered(), 32))
	c.seen = bytes.Clone(seen)
	for {
		c.extend()
		f, err := c.in.next()
		if err != nil {
			return err
		}
		if !c.greeted {
			if f.kind != kindHello || string(f.body) != greeting {
				return errHello
			}
			c.greeted, c.in.max = true, maxRequest
			if c.out.Append(helloFrame()) != nil {
				return errGone
			}
			continue
		}
		if err := c.take(f); err != nil {
			return err
		}
	}
}

// extend moves the deadline, at most once a second.
func (c *egressConn) extend() {
	now := time.Now()
	if !c.announced.IsZero() && now.Sub(c.announced) < min(time.Second, c.e.opts.SilenceTimeout/4) {
		return
	}
	c.announced = now
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.draining {
		c.raw.SetReadDeadline(now.Add(c.e.opts.SilenceTimeout))
	}
}

func (c *egressConn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	c.raw.SetReadDeadline(time.Now())
}

func (c *egressConn) isDraining() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.draining
}

// take heeds one frame. Kinds of a later version are an error.
func (c *egressConn) take(f frame) error {
	switch f.kind {
	case kindOpen:
		return c.begin(f)
	case kindCredit:
		n, m := binary.Uvarint(f.body)
		if m <= 0 {
			return errFrame
		}
		c.mu.Lock()
		q := c.open[f.id]
		c.mu.Unlock()
		if q != nil { // or it has just ended
			q.give(n)
		}
	case kindCancel:
		c.mu.Lock()
		q := c.open[f.id]
		c.mu.Unlock()
		if q != nil {
			q.end(errGone)
		}
	case kindPing:
		if c.out.Append(appendFrame(nil, kindPong, 0)) != nil {
			return errGone
		}
	default:
		return errFrame
	}
	return nil
}

// begin opens a query.
func (c *egressConn) begin(f frame) error {
	if len(f.body) == 0 {
		return errFrame
	}
	mode := f.body[0]
	credit, m := binary.Uvarint(f.body[1:])
	if m <= 0 || f.id == 0 {
		return errFrame
	}
	q := &egressQuery{c: c, id: f.id, mode: mode, size: int64(len(f.body))}
	q.give(credit)
	var err error
	if q.q, err = envelope.ParseQuery(f.body[1+m:]); err != nil {
		return c.endQuery(f.id, endRefused, err.Error())
	}
	if mode > modeSources || mode == modeKnown && c.e.known == nil || mode == modeSources && c.e.list == nil {
		return c.endQuery(f.id, endRefused, "this server cannot tell that")
	}
	if q.q.MaxBytes <= 0 || q.q.MaxBytes > egressBatch {
		q.q.MaxBytes = egressBatch
	}
	if c.e.buffered.Add(q.size) > c.e.opts.MaxBuffered {
		c.e.buffered.Add(-q.size)
		c.complain(&fault{reason: reasonMemory, says: "no memory left for one more query"})
		return c.endQuery(f.id, endBusy, "no memory left for one more query")
	}
	c.mu.Lock()
	_, twice := c.open[f.id]
	full := len(c.open) >= c.e.opts.MaxQueries
	if !twice && !full {
		c.open[f.id] = q
	}
	c.mu.Unlock()
	if twice || full {
		c.e.buffered.Add(-q.size)
		if twice {
			return errFrame
		}
		c.complain(&fault{reason: reasonFull, says: "too many queries"})
		return c.endQuery(f.id, endBusy, "too many queries on one connection")
	}
	c.e.opened.Add(1)
	c.e.queries.Add(1)
	c.wg.Add(1)
	go q.run()
	return nil
}

func (c *egressConn) endQuery(id uint64, code byte, text string) error {
	text = text[:min(len(text), maxText)]
	frame := appendFrameHead(nil, kindEnd, id, 1+len(text))
	if c.out.Append(append(append(frame, code), text...)) != nil {
		return errGone
	}
	return nil
}

// forget drops a query that is over.
func (c *egressConn) forget(q *egressQuery) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.open, q.id)
	c.e.queries.Add(-1)
	c.e.buffered.Add(-q.size)
}

// end ends all queries, and returns before they are over.
func (c *egressConn) end(err error) {
	c.mu.Lock()
	open := slices.Collect(maps.Values(c.open))
	c.mu.Unlock()
	for _, q := range open {
		q.end(err)
	}
}

// refuse says what ended a connection that did not end well.
func (c *egressConn) refuse(err error) {
	switch {
	case err == errHello, !c.greeted && len(c.seen) > 0:
		f := suspect(c.seen)
		if f.reason == reasonMalformed {
			f.says = errHello.Error()
		}
		c.complain(f)
	case err == errFrame:
		c.complain(&fault{reason: reasonMalformed, says: err.Error()})
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.complain(&fault{reason: reasonStalled, says: "reader says nothing for " + c.e.opts.SilenceTimeout.String()})
	case errors.Is(err, io.ErrUnexpectedEOF):
		c.complain(&fault{reason: reasonTruncated, says: "ended in the middle of a frame"})
	case errors.Is(err, io.EOF), err == errGone, errors.Is(err, net.ErrClosed):
	default:
		c.complain(&fault{reason: reasonReset, says: "connection broke", err: err})
	}
}

func (c *egressConn) complain(f *fault) {
	if c.e.ctx.Err() == nil {
		c.e.complaints.add(f, c.raw.RemoteAddr())
	}
}
