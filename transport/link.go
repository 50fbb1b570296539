package transport

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

var (
	// ErrNoAck means a server that takes data but has acknowledged nothing for
	// LinkOptions.AckTimeout.
	ErrNoAck = errors.New("transport: server acknowledges nothing")

	errHungUp   = errors.New("transport: server closed the connection")
	errFinished = errors.New("transport: all sent and acknowledged")
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

	// MaxUnacked bounds the bytes that are sent to a server and not acknowledged;
	// then the link waits. It is a bound on what is sent twice when a connection
	// breaks. Default 4 MiB.
	MaxUnacked int
	// AckTimeout is how long a server may leave everything that was sent to it
	// unacknowledged, and a write stuck, before the link goes elsewhere. Default
	// 10 s.
	AckTimeout time.Duration
	// DialTimeout bounds the making of one connection, its TLS handshake
	// included. Default 5 s.
	DialTimeout time.Duration

	// Secret signs the datagrams to a udp:// address, see ServerOptions.Secrets;
	// empty does not sign.
	Secret []byte
	// MaxDatagram is how many bytes a datagram may have, if it is not a single
	// record that is longer. Default 1432, which fits into one frame of an Ethernet;
	// on one machine, up to 65507 take less time.
	MaxDatagram int

	// Resume is where the link begins in the rings of a Source that is older than
	// it: Link.Acked of the link before, or Router.Begin if that is not known. What
	// went before was not lost to this link; if it did not arrive, the server's
	// numbers tell. In other rings it begins with the first record there ever was,
	// and those that are gone are missed.
	Resume envelope.Cursor

	// Reason is why records are missing that the Source gave up before they could
	// be sent, while there was a connection; without one it is
	// envelope.ReasonLink. Default envelope.ReasonAgent.
	Reason envelope.Reason

	// Backoff is the pause before the n-th attempt, from 0, since a connection
	// last got something across. Default: up to 100 ms before the first, then
	// up to twice as long each time, at most 5 s, all at random, so that
	// thousands of links do not come back in step. Flush cuts it short.
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
	c.Secret = slices.Clone(c.Secret)
	c.MaxDatagram = min(max(cmp.Or(c.MaxDatagram, 1432), 512), largestDatagram)
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

// maxBackoff is also how long a connection must have lasted that got nothing
// acknowledged, so that the next attempt counts as the first again.
const maxBackoff = 5 * time.Second

func backoff(n int) time.Duration {
	ceiling := min(100*time.Millisecond<<min(n, 10), maxBackoff)
	return time.Duration(rand.Int64N(int64(ceiling)))
}

// Link sends everything a Source holds, and then what arrives there, to a
// server, or to several that share the sources between them. It goes on through
// broken connections and absent servers until it is closed, or until the Source
// ends its sequences and all has been acknowledged.
type Link struct {
	src   envelope.Source
	opts  LinkOptions
	lanes []*lane // one for each server

	cancel context.CancelCauseFunc
	wg     sync.WaitGroup // of lanes
	done   chan struct{}  // closed when the goroutines are gone

	mu      sync.Mutex // of what follows, of lanes, and of the current sessions
	acked   positions
	resumed map[envelope.StreamID]bool // rings of LinkOptions.Resume of which nothing was acknowledged yet
	numbers positions                  // of makers' records, see course
	moved   chan struct{}              // closed when acked moves; nil if nobody waits
	ended   bool                       // the Source yields nothing more
	torn    bool                       // some lane's torn is not 0
	met     bool                       // there has been a connection
	stats   LinkStats
	share   *share    // which lane reads what
	turn    sync.Cond // lanes that wait for their turn to read
	nudged  time.Time // when Flush last cut pauses short
	nudge   chan struct{}
}

// LinkStats is what a Link has counted since it was made.
type LinkStats struct {
	Connected bool   // to a server at least
	Server    string // the ones in use, or used last, or tried
	Sent      uint64 // records written, repeats after a broken connection included
	SentBytes uint64
	Acked     uint64 // records acknowledged, each once; those that nobody numbered, or that went in datagrams, when they were written
	Missed    uint64 // records that the Source lost before they could be sent, each once
	Unacked   int    // bytes sent and not acknowledged

	MissedFor [envelope.Reasons]uint64 // Missed, by envelope.Reason

	Reconnects uint64 // connections made after the first to a server
	Moves      uint64 // times that the sources were shared out anew among several servers
	LastError  string // why the last attempt or connection failed; stays when another succeeds
}

// LinkServer is how it stands with one server of a Link.
type LinkServer struct {
	Address   string
	Connected bool
	Live      bool   // sources are sent to it
	Unacked   int    // bytes sent and not acknowledged
	LastError string // why the last attempt or connection failed; stays when another succeeds
}

// NewLink starts sending the records of src to the server at addr, which is
// tcp://host:port, tls://host:port, unix:///path, or several of these separated
// by commas.
//
// Over udp://host:port everything goes out once, in datagrams, as fast as it
// comes. What does not arrive is lost, and the server's numbers tell of it. Flush
// waits until all is written.
//
// Of several servers, each source goes to one at a time: by its id, so that all
// links that name the same servers, in whatever order, send it to the same one.
// A server that cannot be reached, or acknowledges nothing, is left, and only its
// sources go elsewhere: within a second if it stopped, after
// LinkOptions.AckTimeout if it hangs. They return when it is back and has shown
// that it acknowledges. On both ways order within a source is kept, and nothing
// is lost that src still holds. What was under way when a server was left may
// have arrived there, and is sent to the next one too. This needs a Source that
// heeds Query.Where.
//
// It returns once addr is understood, and does not wait for a server to be
// there. It starts goroutines, which Close and Shutdown end. The caller keeps
// src, which must live until then.
func NewLink(addr string, src envelope.Source, o *LinkOptions) (*Link, error) {
	targets, err := parseTargets(addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	l := &Link{src: src, opts: o.withDefaults(), cancel: cancel, done: make(chan struct{}), nudge: make(chan struct{})}
	l.turn.L = &l.mu
	l.resumed = make(map[envelope.StreamID]bool)
	for ring, at := range l.opts.Resume.Rings {
		l.acked.set(ring, at)
		l.resumed[ring] = true
	}
	l.opts.Resume = envelope.Cursor{}
	for _, t := range targets {
		l.lanes = append(l.lanes, &lane{l: l, target: t, seed: hashOf(t.String()), log: changes{to: l.opts.Logger}})
	}
	if l.several() {
		l.hopeForAll()
	}
	for _, lane := range l.lanes {
		l.wg.Go(func() { lane.run(ctx) })
	}
	go func() {
		l.wg.Wait()
		cancel(nil)
		l.despairOfAll()
		close(l.done)
	}()
	return l, nil
}

// several reports whether there are servers to choose from.
func (l *Link) several() bool { return len(l.lanes) > 1 }

// Stats may be called at any time.
func (l *Link) Stats() LinkStats {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.stats
	var connected []string
	for _, lane := range l.lanes {
		if lane.connected {
			connected = append(connected, lane.target.String())
		}
		if lane.session != nil {
			s.Unacked += lane.session.unacked
		}
	}
	if s.Connected = len(connected) > 0; s.Connected {
		s.Server = strings.Join(connected, ",")
	}
	return s
}

// Servers tells how it stands with each server, in the order of the address.
func (l *Link) Servers() []LinkServer {
	l.mu.Lock()
	defer l.mu.Unlock()
	var servers []LinkServer
	for _, lane := range l.lanes {
		s := LinkServer{Address: lane.target.String(), Connected: lane.connected, Live: lane.live, LastError: lane.lastError}
		if lane.session != nil {
			s.Unacked = lane.session.unacked
		}
		servers = append(servers, s)
	}
	return servers
}

// Close ends the link at once and returns when its goroutines are gone.
func (l *Link) Close() error {
	l.cancel(ErrClosed)
	<-l.done
	return nil
}

// gather is how long a link lets news gather: at 50,000 records a second 25 go
// together, and the log calls in between find nobody to wake.
const gather = 500 * time.Microsecond

func everything(c positions) envelope.Query {
	return envelope.Query{
		Select:  envelope.Everything,
		History: true,
		Cursor:  envelope.Cursor{Rings: c.all()},
		Gather:  gather,
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
