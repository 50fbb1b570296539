package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

var (
	// ErrNoAck means a server that takes data but has acknowledged nothing for
	// LinkOptions.AckTimeout.
	ErrNoAck = errors.New("transport: server acknowledges nothing")

	errHungUp = errors.New("transport: server closed the connection")
)

// LinkOptions are what a Link can be told. Nil and the zero value mean the
// defaults.
type LinkOptions struct {
	// TLS is used for tls:// addresses; nil means the system's roots. The name to
	// verify is the address's host unless ServerName says otherwise.
	TLS *tls.Config
	// CurrentTLS, if not nil, is asked for the configuration of each connection
	// instead, see TLSFiles.
	CurrentTLS func() *tls.Config

	// MaxUnacked bounds the bytes that are sent and not acknowledged; then the
	// link waits. It is a bound on what is sent twice when a connection breaks.
	// Default 4 MiB.
	MaxUnacked int
	// AckTimeout is how long a server may leave everything that was sent to it
	// unacknowledged, and a write stuck, before the link goes elsewhere. Default
	// 10 s.
	AckTimeout time.Duration
	// DialTimeout bounds the making of one connection, its TLS handshake
	// included. Default 5 s.
	DialTimeout time.Duration

	// Backoff is the pause before the n-th attempt, from 0, since a connection
	// last got something across. Default: up to 100 ms before the first, then
	// up to twice as long each time, at most 5 s, all at random, so that
	// thousands of links do not come back in step.
	Backoff func(n int) time.Duration

	// DialContext makes connections. Default: net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Logger hears when the link is made and when it is lost, and, of a link that
	// comes and goes, no more than ten lines a minute. Nil discards.
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
	c.MaxUnacked = cmp.Or(max(c.MaxUnacked, 0), 4<<20)
	c.AckTimeout = cmp.Or(max(c.AckTimeout, 0), 10*time.Second)
	c.DialTimeout = cmp.Or(max(c.DialTimeout, 0), 5*time.Second)
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

// maxBackoff is also how long a connection must have lasted that got nothing
// acknowledged, so that the next attempt counts as the first again.
const maxBackoff = 5 * time.Second

func backoff(n int) time.Duration {
	ceiling := min(100*time.Millisecond<<min(n, 10), maxBackoff)
	return time.Duration(rand.Int64N(int64(ceiling)))
}

// Link sends everything a Source holds, and then what arrives there, to a
// server. It goes on through broken connections and absent servers until it is
// closed, or until the Source ends its sequence and all has been acknowledged.
type Link struct {
	src     envelope.Source
	targets []target
	opts    LinkOptions

	cancel context.CancelFunc
	done   chan struct{} // closed when the goroutines are gone

	mu    sync.Mutex // of what follows, and of the current session
	acked positions
	moved chan struct{} // closed when acked moves; nil if nobody waits
	ended bool          // the Source yields nothing more
	torn  uint64        // records that the last connection left unacknowledged, until the Source is read again
	stats LinkStats

	log changes // of the goroutine that connects
}

// LinkStats is what a Link has counted since it was made.
type LinkStats struct {
	Connected  bool
	Server     string // the one in use, or tried last
	Sent       uint64 // records written, repeats after a broken connection included
	SentBytes  uint64
	Acked      uint64 // records acknowledged, each once; those that nobody numbered when they were written
	Missed     uint64 // records that the Source lost before they could be sent, each once
	Unacked    int    // bytes sent and not acknowledged
	Reconnects uint64 // connections made after the first
	LastError  string // why the last attempt or connection failed; stays when another succeeds
}

// NewLink starts sending the records of src to the server at addr, which is
// tcp://host:port, tls://host:port, unix:///path, or several of these separated
// by commas: the link begins with any of them and, when a connection fails,
// tries the next.
//
// It returns once addr is understood, and does not wait for the server to be
// there. It starts goroutines, which Close and Shutdown end. The caller keeps
// src, which must live until then.
func NewLink(addr string, src envelope.Source, o *LinkOptions) (*Link, error) {
	targets, err := parseTargets(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &Link{src: src, targets: targets, opts: o.withDefaults(), cancel: cancel, done: make(chan struct{})}
	l.log.to = l.opts.Logger
	go l.run(ctx)
	return l, nil
}

// run makes one connection after the other.
func (l *Link) run(ctx context.Context) {
	defer close(l.done)
	at := rand.IntN(len(l.targets))
	for failures := 0; ; failures++ {
		t := l.targets[at%len(l.targets)]
		progress, err := l.connect(ctx, t)
		if progress {
			failures = 0
		}
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			l.opts.Logger.Info("the source has ended, and all it gave is acknowledged", "server", t.String())
			return
		}
		l.lost(t, err)
		if !pause(ctx, l.opts.Backoff(failures)) {
			return
		}
		at++
	}
}

// connect dials, and sends until the connection ends. A nil error means that
// there will be nothing more to send. It reports whether anything got across.
func (l *Link) connect(ctx context.Context, t target) (progress bool, err error) {
	l.mu.Lock()
	l.stats.Server = t.String()
	l.mu.Unlock()
	nc, err := l.dial(ctx, t)
	if err != nil {
		return false, fmt.Errorf("dial: %w", err)
	}
	l.made(t)
	began := time.Now()
	s := newSession(l, nc)
	err = s.run(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stats.Connected, l.stats.Unacked = false, 0
	if n := s.pending(); n > 0 {
		l.torn = n
	}
	return s.progress || time.Since(began) > maxBackoff, err
}

func (l *Link) dial(ctx context.Context, t target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, l.opts.DialTimeout)
	defer cancel()
	nc, err := l.opts.DialContext(ctx, t.network, t.address)
	if err != nil || t.host == "" {
		return nc, err
	}
	config := l.opts.TLS
	if l.opts.CurrentTLS != nil {
		config = l.opts.CurrentTLS()
	}
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = t.host
	}
	tc := tls.Client(nc, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	return tc, nil
}

func (l *Link) made(t target) {
	l.mu.Lock()
	l.stats.Connected = true
	if l.log.seen {
		l.stats.Reconnects++
	}
	l.mu.Unlock()
	l.log.up(t)
}

func (l *Link) lost(t target, err error) {
	l.mu.Lock()
	l.stats.LastError = err.Error()
	l.mu.Unlock()
	l.log.down(t, err)
}

// Stats may be called at any time.
func (l *Link) Stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Close ends the link at once and returns when its goroutines are gone.
func (l *Link) Close() error {
	l.cancel()
	<-l.done
	return nil
}

func everything(c positions) envelope.Query {
	return envelope.Query{
		Select:  envelope.Everything,
		History: true,
		Cursor:  envelope.Cursor{Rings: c.all()},
	}
}

// advance moves the acknowledged cursor. The lock is held.
func (l *Link) advance(ring envelope.StreamID, position uint64) {
	if ring == 0 {
		return
	}
	l.acked.set(ring, position)
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
}
