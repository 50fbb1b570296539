package grpcv2

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

var (
	// ErrNoAck means a server that has taken nothing, or has not answered, for
	// LinkOptions.AckTimeout.
	ErrNoAck = errors.New("grpcv2: server acknowledges nothing")
	// ErrNotIngress means a server that is no Loggregator agent or router.
	ErrNotIngress = errors.New("grpcv2: the server has no loggregator.v2.Ingress/BatchSender: it is no agent or router")

	errFinished = errors.New("grpcv2: all sent and acknowledged")
)

// LinkOptions are what a Link can be told. Nil and the zero value mean the
// defaults.
type LinkOptions struct {
	// TLS is used for grpcs:// addresses; nil means the system's roots. The name
	// to verify is that of the address, unless ServerName says otherwise.
	TLS *tls.Config
	// CurrentTLS, if not nil, is asked for the configuration of each connection
	// instead, see transport.TLSFiles.
	CurrentTLS func() *tls.Config

	// MaxRecords bounds the records of a message. Default 100, as of stock clients.
	MaxRecords int
	// MaxUnacked bounds the bytes that are sent and not acknowledged; then the link
	// asks for an acknowledgement, and waits for it. It is a bound on what is sent
	// twice when a connection breaks. Default 1 MiB.
	MaxUnacked int
	// AckAfter is how long a record may be unacknowledged before the link asks.
	// Default 1 s.
	AckAfter time.Duration
	// AckTimeout is how long an answer may take, and a write be stuck, before the
	// link goes elsewhere. Default 10 s.
	AckTimeout time.Duration
	// DialTimeout bounds the making of one connection. Default 5 s.
	DialTimeout time.Duration

	// Resume is where the link begins in the rings of a Source that is older than
	// it: Link.Acked of the link before. In other rings it begins with the first
	// record there ever was, and those that are gone are missed.
	Resume envelope.Cursor

	// Reason is why records are missing that the Source gave up before they could
	// be sent, while there was a connection; without one it is
	// envelope.ReasonLink. Default envelope.ReasonAgent.
	Reason envelope.Reason

	// Backoff is the pause before the n-th attempt, from 0, since a connection
	// last got something across. Default: up to 100 ms before the first, then up
	// to twice as long each time, at most 5 s, all at random. Flush cuts it short.
	Backoff func(n int) time.Duration

	// DialContext makes connections. Default: net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Logger hears when the link is made and when it is lost. Nil discards.
	Logger *slog.Logger
}

func (o *LinkOptions) withDefaults() LinkOptions {
	var c LinkOptions
	if o != nil {
		c = *o
	}
	if c.TLS == nil {
		c.TLS = &tls.Config{}
	}
	c.TLS = c.TLS.Clone()
	c.MaxRecords = cmp.Or(max(c.MaxRecords, 0), 100)
	c.MaxUnacked = cmp.Or(max(c.MaxUnacked, 0), 1<<20)
	c.AckAfter = cmp.Or(max(c.AckAfter, 0), time.Second)
	c.AckTimeout = cmp.Or(max(c.AckTimeout, 0), 10*time.Second)
	c.DialTimeout = cmp.Or(max(c.DialTimeout, 0), 5*time.Second)
	c.Reason = cmp.Or(c.Reason, envelope.ReasonAgent)
	if c.Backoff == nil {
		c.Backoff = backoff
	}
	if c.DialContext == nil {
		c.DialContext = (&net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
			Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3,
		}}).DialContext
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

func backoff(n int) time.Duration {
	return time.Duration(rand.Int64N(int64(min(100*time.Millisecond<<min(n, 10), 5*time.Second))))
}

// Link sends everything a Source holds, and then what arrives there, to a
// Loggregator agent or router of today. It goes on through broken connections and
// absent servers until it is closed, or until the Source ends its sequence and all
// has been acknowledged.
//
// The protocol has no acknowledgements, but a server that is told that a stream
// ends answers when it has read it to the end. So a link ends its stream whenever
// LinkOptions.MaxUnacked or AckAfter say so, waits for the answer, and begins
// another one. When a connection breaks, it goes back to what was acknowledged
// last: what was sent since is sent again, and may then be there twice, because
// a stock server does not know records by their numbers. Nothing is lost that the
// Source still holds. What it no longer holds is told by a line of source type LGR
// in the stream of the application. What a stock server does with records that it
// has read, and it drops some when it is flooded, is beyond this link's knowledge.
type Link struct {
	src     envelope.Source
	opts    LinkOptions
	targets []target
	cancel  context.CancelCauseFunc
	done    chan struct{} // closed when the goroutines are gone

	mu       sync.Mutex // of what follows
	acked    positions
	moved    chan struct{} // closed when acked moves; nil if nobody waits
	flushing int           // calls of Flush that wait
	nudge    chan struct{} // closed to cut a pause short
	ready    chan struct{} // capacity 1: the session has something to do
	ended    bool          // the Source yields nothing more
	met      bool          // there has been a connection
	stats    LinkStats
}

// LinkStats is what a Link has counted since it was made.
type LinkStats struct {
	Connected bool   // to a server
	Server    string // the one in use, or used last, or tried
	Sent      uint64 // records written, repeats after a broken connection included
	SentBytes uint64
	Acked     uint64 // records acknowledged, each once
	Missed    uint64 // records that the Source lost before they could be sent, as far as that has been acknowledged
	Unacked   int    // bytes sent and not acknowledged

	MissedFor [envelope.Reasons]uint64 // Missed, by envelope.Reason

	Reconnects uint64 // connections made after the first
	LastError  string // why the last attempt or connection failed; stays when another succeeds
}

// NewLink starts sending the records of src to the server at addr, which is
// grpc://host:port, grpcs://host:port with TLS, or several of these separated by
// commas, of which the next one is tried when one fails. A stock server's
// certificate says metron (agents) or doppler (routers) rather than its host:
// grpcs://127.0.0.1:3458?name=metron.
//
// It returns once addr is understood, and does not wait for a server to be there.
// It starts goroutines, which Close and Shutdown end. The caller keeps src, which
// must live until then.
func NewLink(addr string, src envelope.Source, o *LinkOptions) (*Link, error) {
	targets, err := parseTargets(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &Link{
		src: src, opts: o.withDefaults(), targets: targets, cancel: cancel, done: make(chan struct{}),
		nudge: make(chan struct{}), ready: make(chan struct{}, 1),
	}
	for ring, at := range l.opts.Resume.Rings {
		l.acked.set(ring, at)
	}
	l.opts.Resume = envelope.Cursor{}
	go func() {
		defer close(l.done)
		l.run(ctx)
	}()
	return l, nil
}

// Stats may be called at any time.
func (l *Link) Stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Acked is where the server's answers stand, ring by ring: what the Source holds
// before it need not be kept for this link.
func (l *Link) Acked() envelope.Cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	return envelope.Cursor{Rings: l.acked.all()}
}

// Close ends the link at once and returns when its goroutines are gone.
func (l *Link) Close() error {
	l.cancel(ErrClosed)
	<-l.done
	return nil
}

// Shutdown flushes, closes, and returns how many records that the Source holds
// have not been acknowledged. They are not lost as long as the Source lives.
func (l *Link) Shutdown(ctx context.Context) (left uint64, err error) {
	err = l.Flush(ctx)
	l.Close()
	_, left, heldErr := l.held(context.WithoutCancel(ctx))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended { // the Source has closed: what it held is gone
		heldErr = nil
	}
	return left, errors.Join(err, heldErr)
}

// Flush waits until everything that the Source held when Flush was called has
// been acknowledged, or was lost in the Source meanwhile. It returns ctx's error
// if that does not happen in time, ErrClosed if the link is closed first. Where
// there is no connection, it is tried to make one at once.
func (l *Link) Flush(ctx context.Context) error {
	l.mu.Lock()
	l.flushing++
	close(l.nudge)
	l.nudge = make(chan struct{})
	l.mu.Unlock()
	l.wake()
	defer func() {
		l.mu.Lock()
		l.flushing--
		l.mu.Unlock()
	}()
	end, _, err := l.held(ctx)
	closed := err != nil && ctx.Err() == nil // then what is being read now is all there will be
	interval := time.Second
	again := time.NewTimer(interval)
	defer again.Stop()
	for {
		l.mu.Lock()
		if !closed && l.covers(end) {
			l.mu.Unlock()
			return nil
		}
		if l.moved == nil {
			l.moved = make(chan struct{})
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-again.C: // the Source may have given up what is waited for
			if now, _, err := l.held(ctx); err == nil {
				maps.DeleteFunc(end, func(ring envelope.StreamID, _ uint64) bool { return now[ring] == 0 })
			}
			interval *= 2
			again.Reset(interval)
		case <-ctx.Done():
			return ctx.Err()
		case <-l.done:
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ended && l.stats.Unacked == 0 || !closed && l.covers(end) {
				return nil
			}
			return ErrClosed
		}
	}
}

// covers reports whether what is acknowledged has passed all of end. The lock is
// held.
func (l *Link) covers(end map[envelope.StreamID]uint64) bool {
	for ring, position := range end {
		if l.acked.get(ring) < position {
			return false
		}
	}
	return true
}

// held is where a reader would stand, ring by ring, after all records that the
// Source holds beyond what is acknowledged, and how many there are.
func (l *Link) held(ctx context.Context) (end map[envelope.StreamID]uint64, records uint64, err error) {
	end = make(map[envelope.StreamID]uint64)
	for b, err := range l.src.Batches(ctx, l.everything(false)) {
		if err != nil {
			return end, records, err
		}
		if b.Count > 0 && b.Ring != 0 {
			end[b.Ring] = b.Position
		}
		records += uint64(b.Count)
	}
	return end, records, nil
}

func (l *Link) everything(follow bool) envelope.Query {
	return envelope.Query{Select: envelope.Everything, History: true, Cursor: l.Acked(), Follow: follow}
}

// wake tells the session that there is something to do.
func (l *Link) wake() {
	select {
	case l.ready <- struct{}{}:
	default:
	}
}
