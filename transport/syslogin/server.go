package syslogin

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/gather"
	"github.com/cloudfoundry/loggregator/internal/listeners"
	"github.com/cloudfoundry/loggregator/internal/packets"
	"github.com/cloudfoundry/loggregator/internal/refusals"
)

// ErrClosed means that a Server was used after its Close or Shutdown.
var ErrClosed = errors.New("syslogin: closed")

// Options are what a Server can be told. Nil and the zero value mean the
// defaults.
type Options struct {
	// Identify says whose records an origin's messages become; see Origin. False
	// leaves them out, counted as Filtered, as does an identity without a source
	// id. It is asked once per origin and may be called by several goroutines at
	// once. Tags it gives win over those of a message. Default Origin.Identity.
	Identify func(Origin) (envelope.Identity, bool)

	// TLS is used on every connection; nil means none. Its GetConfigForClient is
	// where certificates change while the server runs.
	TLS *tls.Config

	// Location is where the clocks of senders are that name no zone (RFC 3164).
	// Default time.Local.
	Location *time.Location

	// MaxMessage bounds one record's text in bytes, and what is held of a message
	// that has not ended; longer messages are split. At least 1 KiB, at most 512
	// KiB. Default 64 KiB.
	MaxMessage int
	// MaxConns bounds the connections open at once; further ones are closed and
	// counted. Default 4096.
	MaxConns int
	// MaxBuffered bounds what the buffers of all connections hold together, in
	// bytes, beyond the 4 KiB each that they start with. A connection that needs
	// more is closed. Default 128 MiB.
	MaxBuffered int64

	// MessageTimeout bounds the time from the first byte of a message to its
	// last, or to the end of a part of a long one, and that of a TLS handshake.
	// Between messages a sender may be silent for as long as it likes. Default
	// 30 s.
	MessageTimeout time.Duration
	// DrainTime is how long Shutdown goes on reading what senders have already
	// sent. Default 200 ms.
	DrainTime time.Duration

	// Logger hears of refused input, at most once per reason and minute. Nil
	// discards.
	Logger *slog.Logger
}

const (
	minMessage = 1 << 10
	maxMessage = 512 << 10
	maxOrigins = 4096
)

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
	}
	if c.Location == nil {
		c.Location = time.Local
	}
	c.MaxMessage = min(max(cmp.Or(c.MaxMessage, 64<<10), minMessage), maxMessage)
	c.MaxConns = cmp.Or(max(c.MaxConns, 0), 4096)
	c.MaxBuffered = cmp.Or(max(c.MaxBuffered, 0), 128<<20)
	c.MessageTimeout = cmp.Or(max(c.MessageTimeout, 0), 30*time.Second)
	c.DrainTime = cmp.Or(max(c.DrainTime, 0), 200*time.Millisecond)
	return c
}

// Server takes syslog from connections and datagrams and hands it to a Writer.
type Server struct {
	w       envelope.Writer
	opts    Options
	origins *gather.Cache[Origin, *origin]
	desks   sync.Pool // of *desk

	ctx    context.Context // of WriteBatch; ends with Close
	cancel context.CancelFunc

	conns   *listeners.Set[*conn]
	packets packets.Sockets

	refused  *refusals.Counter
	buffered atomic.Int64 // bytes of buffers beyond baseBuffer
	counts   counts
}

type counts struct {
	datagrams, bytes                  atomic.Uint64
	rfc5424, rfc3164, unparsed        atomic.Uint64
	split, parts, truncated, bounded  atomic.Uint64
	records, filtered, lost, overflow atomic.Uint64
}

// Stats is what a Server has counted since it was made. Messages and Parts are
// what came in, Records, Filtered and Lost what became of it.
type Stats struct {
	Connections int    // open now
	Accepted    uint64 // connections taken
	Datagrams   uint64 // received
	Bytes       uint64 // read, whatever they were

	Messages uint64 // read: RFC5424 + RFC3164 + Unparsed
	RFC5424  uint64
	RFC3164  uint64
	Unparsed uint64 // lines that are neither, kept as they are
	Parts    uint64 // records that messages longer than MaxMessage are more than one

	Records  uint64 // taken by the Writer
	Filtered uint64 // that Identify left out
	Lost     uint64 // for which the Writer returned an error

	Split     uint64 // messages longer than MaxMessage
	Truncated uint64 // messages whose end did not come
	Bounded   uint64 // messages with more, or longer, tags than are kept
	Dropped   uint64 // datagrams that the system had no room for, where it tells

	// Refused is how many connections were given up, by reason: http, tls,
	// handshake, stalled, reset, writer, full, memory.
	Refused map[string]uint64
}

// The reasons why a connection is given up.
const (
	refusedHTTP      = "http"      // somebody speaks HTTP
	refusedTLS       = "tls"       // a TLS hello on a port without TLS
	refusedHandshake = "handshake" // TLS that could not be agreed on
	refusedStalled   = "stalled"   // a message that did not complete in time
	refusedReset     = "reset"     // the network or the peer tore the connection
	refusedWriter    = "writer"    // our Writer refused a batch
	refusedFull      = "full"      // MaxConns connections are open
	refusedMemory    = "memory"    // MaxBuffered is spent
)

// NewServer makes a server that hands what it receives to w, whose WriteBatch is
// called by several goroutines at once. Nothing runs before Serve.
func NewServer(w envelope.Writer, o *Options) *Server {
	s := &Server{
		w:       w,
		opts:    o.withDefaults(),
		origins: gather.NewCache[Origin, *origin](maxOrigins),
	}
	s.conns = listeners.New(s.opts.MaxConns,
		func(nc net.Conn) *conn { return newConn(s, nc) },
		(*conn).serve,
		func(addr net.Addr, says string) { s.refused.Add(refusedFull, remoteOf(addr), says) })
	s.desks.New = func() any { return &desk{out: gather.New(w)} }
	s.refused = refusals.New(s.opts.Logger)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Serve accepts connections, over TCP or a unix stream socket, until ln fails or
// the server is shut down, which closes ln and makes Serve return ErrClosed. It
// starts one goroutine per connection. It may be called for several listeners.
func (s *Server) Serve(ln net.Listener) error {
	if err := s.conns.Serve(ln); err != listeners.ErrStopped {
		return err
	}
	return ErrClosed
}

// ServePacket takes datagrams, over UDP or from a unix datagram socket, until pc
// fails or the server is shut down, which makes it return ErrClosed. It closes
// pc. One datagram is one message (RFC 5426).
func (s *Server) ServePacket(pc net.PacketConn) error {
	err := s.packets.Serve(pc, max(s.opts.MaxMessage, maxDatagram), newDatagrams(s, pc))
	if errors.Is(err, net.ErrClosed) && s.conns.Stopped() {
		return ErrClosed
	}
	return err
}

// Shutdown accepts no more, reads for DrainTime what senders have already sent,
// and closes. A message that has not ended by then is taken as far as it has
// come. When ctx ends first, the rest is closed at once and ctx's error is
// returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.stop(time.Now().Add(s.opts.DrainTime), (*conn).drain)
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
// goroutines are gone.
func (s *Server) Close() error {
	s.cancel()
	s.stop(time.Now(), func(c *conn) { c.raw.Close() })
	s.wait()
	return nil
}

func (s *Server) wait() {
	s.conns.Wait()
	s.packets.Wait()
}

// stop ends accepting, reads datagrams until then, and applies f to every
// connection.
func (s *Server) stop(then time.Time, f func(*conn)) {
	s.conns.Stop(f)
	s.packets.Stop(then)
}

// Stats may be called at any time. The numbers are read one after the other, so
// they fit together exactly only when nothing arrives.
func (s *Server) Stats() Stats {
	c := &s.counts
	st := Stats{
		Connections: s.conns.Len(),
		Accepted:    s.conns.Accepted(),
		Datagrams:   c.datagrams.Load(),
		Bytes:       c.bytes.Load(),
		RFC5424:     c.rfc5424.Load(),
		RFC3164:     c.rfc3164.Load(),
		Unparsed:    c.unparsed.Load(),
		Parts:       c.parts.Load(),
		Records:     c.records.Load(),
		Filtered:    c.filtered.Load(),
		Lost:        c.lost.Load(),
		Split:       c.split.Load(),
		Truncated:   c.truncated.Load(),
		Bounded:     c.bounded.Load(),
		Dropped:     c.overflow.Load(),
		Refused:     s.refused.Counts(),
	}
	st.Messages = st.RFC5424 + st.RFC3164 + st.Unparsed
	return st
}
