package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/listeners"
	"github.com/cloudfoundry/loggregator/internal/packets"
)

// ErrClosed means that a Server or Link was used after its Close or Shutdown.
var ErrClosed = errors.New("transport: closed")

// ServerOptions are what a Server can be told. Nil and the zero value mean the
// defaults.
type ServerOptions struct {
	// TLS is used on every connection; nil means none. See TLSFiles for
	// certificates that are replaced while the server runs.
	TLS *tls.Config

	// MaxMessage bounds one message in bytes. Default 10 MiB.
	MaxMessage int
	// MaxConns bounds the connections open at once; further ones are closed and
	// counted. Default 4096.
	MaxConns int
	// MaxBuffered bounds what the buffers of all connections hold together, in
	// bytes, beyond the 4 KiB each that they start with. A connection that
	// needs more is closed. Default 512 MiB.
	MaxBuffered int64

	// Secrets are those that sign datagrams, see AppendDatagram: any of them
	// will do, so that senders can change to a new one one by one. Empty takes
	// datagrams unsigned. A signature says who made a datagram, not when: whoever
	// can record one can send it again, which is noticed of numbered ones only.
	Secrets [][]byte

	// NewSources bounds how many sources that it has not brought before, and that
	// the Writer does not know if it is a Router, a connection may bring a second,
	// beside ten times as many at once. A connection
	// that brings more is read no faster than that, which loses nothing of a Link;
	// of datagrams, those of further new sources are dropped and counted. Default
	// 1000; negative is no bound.
	NewSources int
	// SourceRate bounds the records of each source, over all connections, in bytes
	// a second. What is beyond it is dropped by whole batches, counted, and told in
	// the source's stream, with envelope.ReasonRate, before the next record that is
	// taken; if there is none for a second, the last one of those dropped is taken
	// after all, if it is no longer than 8 KiB. Zero is no bound.
	SourceRate int64
	// SourceBurst is how many bytes a source may bring at once within SourceRate,
	// after it has been silent. Default one second's worth, at least 64 KiB.
	SourceBurst int64

	// MessageTimeout bounds the time from the first byte of a message to its
	// last, and that of a TLS handshake. Between messages a sender may be silent
	// for as long as it likes. Default 30 s.
	MessageTimeout time.Duration
	// AckTimeout bounds the time a sender may leave its acknowledgements
	// unread. Default 10 s.
	AckTimeout time.Duration
	// DrainTime is how long Shutdown goes on reading what senders have already
	// sent. Default 200 ms.
	DrainTime time.Duration

	// Logger hears of refused input, at most once per reason and minute. Nil
	// discards.
	Logger *slog.Logger
}

func (o *ServerOptions) withDefaults() ServerOptions {
	var c ServerOptions
	if o != nil {
		c = *o
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
	}
	c.Secrets = slices.Clone(c.Secrets)
	c.MaxMessage = cmp.Or(max(c.MaxMessage, 0), 10<<20)
	c.MaxConns = cmp.Or(max(c.MaxConns, 0), 4096)
	c.MaxBuffered = cmp.Or(max(c.MaxBuffered, 0), 512<<20)
	c.NewSources = cmp.Or(c.NewSources, 1000)
	c.SourceRate = max(c.SourceRate, 0)
	c.SourceBurst = cmp.Or(max(c.SourceBurst, 0), max(c.SourceRate, 64<<10))
	c.MessageTimeout = cmp.Or(max(c.MessageTimeout, 0), 30*time.Second)
	c.AckTimeout = cmp.Or(max(c.AckTimeout, 0), 10*time.Second)
	c.DrainTime = cmp.Or(max(c.DrainTime, 0), 200*time.Millisecond)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Server takes batches from connections and datagrams and hands them to a
// Writer. A batch is acknowledged when the Writer has returned without error; a
// Writer that returns one has its connection closed, so that the sender comes
// back with the batch later.
//
// One connection that sends rubbish is closed, counted by reason, and costs the
// others nothing.
type Server struct {
	w    envelope.Writer
	opts ServerOptions

	ctx    context.Context // of WriteBatch; ends with Close
	cancel context.CancelFunc

	conns   *listeners.Set[*conn]
	packets packets.Sockets

	complaints complaints
	buffered   atomic.Int64 // bytes of buffers beyond baseBuffer
	batches    atomic.Uint64
	records    atomic.Uint64
	bytes      atomic.Uint64
	missed     atomic.Uint64
	datagrams  atomic.Uint64
	dropped    atomic.Uint64
	limited    atomic.Uint64
	rates      rates
}

// ServerStats is what a Server has counted since it was made.
type ServerStats struct {
	Connections int    // open now
	Accepted    uint64 // connections taken
	Batches     uint64 // handed to the Writer, datagrams included
	Records     uint64 // in those, repeats included
	Bytes       uint64 // read, whatever they were
	Missed      uint64 // records that senders said were lost before they could send them, repeats included
	Datagrams   uint64 // received
	Dropped     uint64 // datagrams that the system had no room for, as far as it tells
	Limited     uint64 // records that were not taken, for SourceRate

	// Refused is how many connections and datagrams were given up, by reason:
	// http, tls, text, malformed, too_large, truncated, stalled, handshake,
	// reset, acks, writer, full, memory, signature, overflow, sources.
	Refused map[string]uint64
}

// NewServer makes a server that hands what it receives to w, whose WriteBatch
// is called by several goroutines at once. Nothing runs before Serve.
func NewServer(w envelope.Writer, o *ServerOptions) *Server {
	s := &Server{w: w, opts: o.withDefaults()}
	s.complaints.log = s.opts.Logger
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.conns = listeners.New(s.opts.MaxConns, func(nc net.Conn) *conn { return &conn{s: s, raw: nc} }, (*conn).serve,
		func(addr net.Addr, says string) { s.complaints.add(&fault{reason: reasonFull, says: says}, addr) })
	if s.opts.TLS == nil {
		s.conns.TurnAway(s.turnAway)
	}
	return s
}

// Serve accepts connections until ln fails or the server is shut down, which
// closes ln and makes Serve return ErrClosed. It starts one goroutine per
// connection. It may be called for several listeners.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.conns.Serve(ln); err != listeners.ErrStopped {
		return err
	}
	return ErrClosed
}

var errFull = &fault{reason: reasonFull, says: "too many connections are open; it is tried again later, or elsewhere"}

// turnAway tells a sender that there is no room for it.
func (s *Server) turnAway(nc net.Conn) {
	c := &conn{s: s, raw: nc, nc: nc, buf: make([]byte, baseBuffer)}
	c.explain(errFull)
}

// Shutdown accepts no more, reads for DrainTime what senders have already sent,
// acknowledges it, and closes. Nothing that was acknowledged is lost, and what
// was not is sent again by a Link, to whoever listens next. When ctx ends first,
// the rest is closed at once and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.conns.Stop((*conn).drain)
	s.packets.Stop(time.Now().Add(s.opts.DrainTime))
	done := make(chan struct{})
	go func() {
		s.wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
		s.Close()
		<-done
		return ctx.Err()
	}
}

// Close closes listeners and connections at once and returns when their
// goroutines are gone. Records that the Writer has not yet taken are not
// acknowledged.
func (s *Server) Close() error {
	s.cancel()
	s.conns.Stop(func(c *conn) { c.raw.Close() })
	s.packets.Stop(time.Now())
	s.wait()
	return nil
}

func (s *Server) wait() {
	s.conns.Wait()
	s.packets.Wait()
	s.tellAll()
}

// Stats may be called at any time. The numbers are read one after the other, so
// they fit together exactly only when nothing arrives.
func (s *Server) Stats() ServerStats {
	return ServerStats{
		Connections: s.conns.Len(),
		Accepted:    s.conns.Accepted(),
		Batches:     s.batches.Load(),
		Records:     s.records.Load(),
		Bytes:       s.bytes.Load(),
		Missed:      s.missed.Load(),
		Datagrams:   s.datagrams.Load(),
		Dropped:     s.dropped.Load(),
		Limited:     s.limited.Load(),
		Refused:     s.complaints.snapshot(),
	}
}
