package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"iter"
	"log/slog"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/listeners"
)

// EgressOptions are what an Egress can be told. Nil and the zero value mean the
// defaults.
type EgressOptions struct {
	// TLS is used on every connection, at version 1.3; nil means none. See
	// TLSFiles, which with a CA lets in only readers that show a certificate.
	TLS *tls.Config
	// Names are DNS names of which a reader's certificate must have one. Empty:
	// any certificate that TLS verifies will do.
	Names []string
	// Insecure lets in readers from other machines that show no certificate.
	Insecure bool

	// MaxConns bounds the connections open at once. Default 1024.
	MaxConns int
	// MaxQueries bounds the queries open at once on one connection. Default
	// 100,000.
	MaxQueries int
	// MaxBuffered bounds the queries of all connections together, their cursors
	// included, in bytes as they came. Default 256 MiB.
	MaxBuffered int64

	// WriteTimeout bounds the time a reader may leave what was sent to it
	// unread, and that of a TLS handshake. Default 10 s.
	WriteTimeout time.Duration
	// SilenceTimeout is how long a reader may say nothing, which one that lives
	// does not. Default 30 s.
	SilenceTimeout time.Duration
	// RestAfter is how long there must be nothing to read for a query before it
	// gives up its goroutine, if the Source is an envelope.Waker. Default 1 s.
	RestAfter time.Duration

	// Logger hears of refused readers, at most once per reason and minute. Nil
	// discards.
	Logger *slog.Logger
}

func (o *EgressOptions) withDefaults() EgressOptions {
	var c EgressOptions
	if o != nil {
		c = *o
	}
	c.TLS = only13(c.TLS)
	c.Names = slices.Clone(c.Names)
	c.MaxConns = cmp.Or(max(c.MaxConns, 0), 1024)
	c.MaxQueries = cmp.Or(max(c.MaxQueries, 0), 100_000)
	c.MaxBuffered = cmp.Or(max(c.MaxBuffered, 0), 256<<20)
	c.WriteTimeout = cmp.Or(max(c.WriteTimeout, 0), 10*time.Second)
	c.SilenceTimeout = cmp.Or(max(c.SilenceTimeout, 0), 30*time.Second)
	c.RestAfter = cmp.Or(max(c.RestAfter, 0), time.Second)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// only13 is c for TLS 1.3 and nothing older.
func only13(c *tls.Config) *tls.Config {
	if c == nil {
		return nil
	}
	c = c.Clone()
	c.MinVersion = tls.VersionTLS13
	if each := c.GetConfigForClient; each != nil {
		c.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			now, err := each(hello)
			return only13(now), err
		}
	}
	return c
}

// Egress is the server's side of the read link: it lets Readers in other processes
// read from a Source. A reader is trusted with everything that the Source holds;
// it is for him to ask who may read what.
//
// One connection carries all queries of a reader. Each has its own credit, so that
// one that is not read on falls behind in the Source, is told what it missed, and
// holds up no other. One that has had nothing to read for a second costs no
// goroutine and no buffer, if the Source is an envelope.Waker.
type Egress struct {
	src    envelope.Source
	waker  envelope.Waker // nil: src is none
	known  func(sel []envelope.Selector) bool
	list   func(sel []envelope.Selector) iter.Seq[envelope.SourceInfo]
	opts   EgressOptions
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	conns  *listeners.Set[*egressConn]

	complaints complaints
	buffered   atomic.Int64 // bytes of queries
	queries    atomic.Int64
	asleep     atomic.Int64
	opened     atomic.Uint64
	batches    atomic.Uint64
	records    atomic.Uint64
	bytes      atomic.Uint64
	missed     atomic.Uint64
}

// EgressStats is what an Egress has counted since it was made.
type EgressStats struct {
	Connections int    // open now
	Queries     int    // open now
	Asleep      int    // of those, without a goroutine
	Accepted    uint64 // connections taken
	Opened      uint64 // queries
	Batches     uint64 // sent
	Records     uint64 // in those, each reader counted
	Bytes       uint64 // of those
	Missed      uint64 // records that readers were told they missed

	// Refused is how many connections and queries were given up, by reason: http,
	// tls, text, malformed, too_large, truncated, stalled, handshake, reset, full,
	// memory, peer.
	Refused map[string]uint64
}

// NewEgress makes the server's side of the read link to src. Readers can ask what
// is known and listed if src has the methods of a loggregator.Router: Known and
// Sources. Nothing runs before Serve.
func NewEgress(src envelope.Source, o *EgressOptions) *Egress {
	e := &Egress{src: src, opts: o.withDefaults()}
	e.waker, _ = src.(envelope.Waker)
	if k, ok := src.(interface {
		Known(sel []envelope.Selector) bool
	}); ok {
		e.known = k.Known
	}
	if l, ok := src.(interface {
		Sources(sel []envelope.Selector) iter.Seq[envelope.SourceInfo]
	}); ok {
		e.list = l.Sources
	}
	e.complaints.log = e.opts.Logger
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.conns = listeners.New(e.opts.MaxConns, func(nc net.Conn) *egressConn { return newEgressConn(e, nc) }, (*egressConn).serve,
		func(addr net.Addr, says string) { e.complaints.add(&fault{reason: reasonFull, says: says}, addr) })
	return e
}

// Serve accepts readers until ln fails or the Egress is shut down, which closes ln
// and makes Serve return ErrClosed. It may be called for several listeners.
func (e *Egress) Serve(ln net.Listener) error {
	if err := e.conns.Serve(ln); err != listeners.ErrStopped {
		return err
	}
	return ErrClosed
}

// Shutdown accepts no more, ends each query where it stands, and closes each
// connection when its reader has taken what was on the way to it. Readers go on
// elsewhere, or here when there is somebody again; for them to have all there is,
// shut the Source down before. When ctx ends first, the rest is closed at once and
// ctx's error is returned.
func (e *Egress) Shutdown(ctx context.Context) error {
	e.conns.Stop(func(c *egressConn) { c.drain() })
	done := make(chan struct{})
	go func() {
		e.conns.Wait()
		close(done)
	}()
	select {
	case <-done:
		e.cancel()
		return nil
	case <-ctx.Done():
		e.Close()
		<-done
		return ctx.Err()
	}
}

// Close closes listeners and connections at once and returns when their goroutines
// are gone.
func (e *Egress) Close() error {
	e.cancel()
	e.conns.Stop(func(c *egressConn) { c.raw.Close() })
	e.conns.Wait()
	return nil
}

// Stats may be called at any time.
func (e *Egress) Stats() EgressStats {
	return EgressStats{
		Connections: e.conns.Len(),
		Queries:     int(e.queries.Load()),
		Asleep:      int(e.asleep.Load()),
		Accepted:    e.conns.Accepted(),
		Opened:      e.opened.Load(),
		Batches:     e.batches.Load(),
		Records:     e.records.Load(),
		Bytes:       e.bytes.Load(),
		Missed:      e.missed.Load(),
		Refused:     e.complaints.snapshot(),
	}
}
