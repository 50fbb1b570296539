package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

var (
	// ErrAway means that none of a Reader's servers could be read from.
	ErrAway = errors.New("transport: no server can be reached")
	// ErrRefused means a query that a server will not answer, however often it is
	// asked.
	ErrRefused = errors.New("transport: query refused")
)

// ReaderOptions are what a Reader can be told. Nil and the zero value mean the
// defaults.
type ReaderOptions struct {
	// TLS is used for tls:// addresses, at version 1.3; nil means the system's
	// roots. The name to verify is the address's host unless ServerName says
	// otherwise.
	TLS *tls.Config
	// CurrentTLS, if not nil, is asked for the configuration of each connection
	// instead, see TLSFiles.
	CurrentTLS func() *tls.Config

	// Window bounds, in bytes, what a server may send of one query that has not
	// been taken yet, beside one batch. It is 32 KiB at first, and grows for a
	// sequence that keeps up. Default 256 KiB.
	Window int
	// MaxBuffered bounds the windows of all queries together, as far as they have
	// grown beyond 32 KiB. Default 512 MiB.
	MaxBuffered int64
	// HoldBytes bounds what a sequence holds while it waits until all servers have
	// given their Last records. What goes beyond is left out, and told as missed.
	// Default 32 MiB.
	HoldBytes int

	// Quiet says nothing within sequences of servers that are away. Default: a line
	// of source type LGR, see Reader.Batches.
	Quiet bool
	// TellAfter is how long a server may be away before that is told, and a
	// sequence that does not follow goes on without it. Default 2 s.
	TellAfter time.Duration

	// DialTimeout bounds the making of one connection, its TLS handshake and the
	// server's first word included. Default 5 s.
	DialTimeout time.Duration
	// SilenceTimeout is how long a server may say nothing, although it is asked to
	// three times meanwhile, before it is left. Default 9 s.
	SilenceTimeout time.Duration
	// AskTimeout bounds how long Known and Sources wait for a server. Default 5 s.
	AskTimeout time.Duration

	// Backoff is the pause before the n-th attempt to connect, from 0, since there
	// was a connection. Default: up to 100 ms before the first, then up to twice as
	// long each time, at most 2 s, all at random.
	Backoff func(n int) time.Duration
	// DialContext makes connections. Default: net.Dialer.
	DialContext func(ctx context.Context, network, address string) (net.Conn, error)

	// Logger hears when a server is reached and when it is lost, not of every
	// attempt. Nil discards.
	Logger *slog.Logger
}

func (o *ReaderOptions) withDefaults() ReaderOptions {
	var c ReaderOptions
	if o != nil {
		c = *o
	}
	if c.TLS == nil {
		c.TLS = &tls.Config{}
	}
	c.TLS = only13(c.TLS)
	c.Window = cmp.Or(max(c.Window, 0), 256<<10)
	c.MaxBuffered = cmp.Or(max(c.MaxBuffered, 0), 512<<20)
	c.HoldBytes = cmp.Or(max(c.HoldBytes, 0), 32<<20)
	c.TellAfter = cmp.Or(max(c.TellAfter, 0), 2*time.Second)
	c.DialTimeout = cmp.Or(max(c.DialTimeout, 0), 5*time.Second)
	c.SilenceTimeout = cmp.Or(max(c.SilenceTimeout, 0), 9*time.Second)
	c.AskTimeout = cmp.Or(max(c.AskTimeout, 0), 5*time.Second)
	if c.Backoff == nil {
		c.Backoff = func(n int) time.Duration { return min(backoff(n), maxReaderBackoff) }
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

// maxReaderBackoff is shorter than that of a Link, which has elsewhere to go: people
// wait.
const maxReaderBackoff = 2 * time.Second

// Reader reads from servers in other processes: the other side of Egress. It is an
// envelope.Source, an envelope.Waker and an envelope.Follower, for any number of
// goroutines, and has the methods of a Router by which readers ask what is known.
//
// It has one connection to each server, which it makes anew for as long as it
// lives, and which carries all queries.
type Reader struct {
	opts    ReaderOptions
	remotes []*remote
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu       sync.Mutex
	watchers map[*watcher]struct{} // told when a server comes or goes

	reserved atomic.Int64 // bytes of all windows
	opened   atomic.Uint64
	sequence atomic.Int64
	records  atomic.Uint64
	bytes    atomic.Uint64
	missed   atomic.Uint64
	repeated atomic.Uint64
}

// watcher is told when a server comes or goes.
type watcher struct{ changed func() }

// NewReader makes a Reader of the servers at addr: tcp://host:port,
// tls://host:port, unix:///path, or several of these separated by commas. It starts
// goroutines that connect, and does not wait for them; Close ends them.
func NewReader(addr string, o *ReaderOptions) (*Reader, error) {
	targets, err := parseTargets(addr)
	if err != nil {
		return nil, err
	}
	for _, t := range targets {
		if t.network == "udp" {
			return nil, fmt.Errorf("%w: there is no reading over udp", ErrAddress)
		}
	}
	r := &Reader{opts: o.withDefaults(), watchers: make(map[*watcher]struct{})}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	for _, t := range targets {
		r.remotes = append(r.remotes, newRemote(r, t))
	}
	for _, m := range r.remotes {
		r.wg.Go(m.run)
	}
	return r, nil
}

// ReaderStats is what a Reader has counted since it was made.
type ReaderStats struct {
	Servers   int    // there are
	Connected int    // of those
	Sequences int    // being ranged over
	Opened    uint64 // queries, anew after a broken connection included
	Records   uint64 // yielded
	Bytes     uint64 // of those
	Missed    uint64 // records that sequences were told they missed
	Repeated  uint64 // records that came from two servers and were left out once

	Reconnects uint64 // connections made after the first to a server
}

// ReaderServer is how it stands with one server of a Reader.
type ReaderServer struct {
	Address   string
	Connected bool
	Queries   int       // open
	Since     time.Time // connected or away since then
	LastError string    // why the last attempt or connection failed; stays when another succeeds
}

// Stats may be called at any time.
func (r *Reader) Stats() ReaderStats {
	s := ReaderStats{
		Servers: len(r.remotes), Sequences: int(r.sequence.Load()), Opened: r.opened.Load(),
		Records: r.records.Load(), Bytes: r.bytes.Load(), Missed: r.missed.Load(), Repeated: r.repeated.Load(),
	}
	for _, m := range r.remotes {
		m.mu.Lock()
		if m.session != nil {
			s.Connected++
		}
		if m.made > 0 {
			s.Reconnects += m.made - 1
		}
		m.mu.Unlock()
	}
	return s
}

// Servers tells how it stands with each server, in the order of the address.
func (r *Reader) Servers() []ReaderServer {
	var servers []ReaderServer
	for _, m := range r.remotes {
		m.mu.Lock()
		s := ReaderServer{Address: m.target.String(), Connected: m.session != nil, Since: m.since}
		if m.lastErr != nil {
			s.LastError = m.lastErr.Error()
		}
		session := m.session
		m.mu.Unlock()
		if session != nil {
			s.Queries = session.queries()
		}
		servers = append(servers, s)
	}
	return servers
}

// Close ends all sequences, with ErrClosed, and returns when the goroutines that
// NewReader started have ended.
func (r *Reader) Close() error {
	r.cancel()
	r.wg.Wait()
	r.changed()
	return nil
}

// firstWindow is that of a query that has not shown yet that it keeps up.
const firstWindow = 32 << 10

// reserve lets a window of so many bytes grow by more, if there is room for it.
func (r *Reader) reserve(window, more int64) bool {
	if window+more > int64(r.opts.Window) {
		return false
	}
	for {
		now := r.reserved.Load()
		if now+more > r.opts.MaxBuffered {
			return false
		}
		if r.reserved.CompareAndSwap(now, now+more) {
			return true
		}
	}
}

// watch has w told when a server comes or goes, until unwatch.
func (r *Reader) watch(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[w] = struct{}{}
}

func (r *Reader) unwatch(w *watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.watchers, w)
}

func (r *Reader) changed() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for w := range r.watchers {
		w.changed()
	}
}

// away is the error that says which servers cannot be reached, and why.
func (r *Reader) away() error {
	var parts []string
	for _, s := range r.Servers() {
		if !s.Connected {
			parts = append(parts, s.Address+": "+cmp.Or(s.LastError, "not yet connected"))
		}
	}
	return fmt.Errorf("%w (%s)", ErrAway, strings.Join(parts, "; "))
}

var _ interface {
	envelope.Source
	envelope.Waker
	envelope.Follower
} = (*Reader)(nil)
