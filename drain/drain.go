package drain

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ErrClosed is why records were left when Close came before Shutdown was done.
var ErrClosed = errors.New("drain: closed")

// DefaultReplay is the default of Options.Replay, in bytes.
const DefaultReplay = 1 << 20

// Options of a drain or of a Set. The zero value and nil mean the defaults.
type Options struct {
	// TLS is for syslog-tls; nil means the system's roots and TLS 1.2 or newer.
	// It is cloned, and the server's name is set to the URL's host if it is
	// empty.
	TLS *tls.Config

	// OmitTags leaves the tags out of messages, unless the URL says
	// disable-metadata=false.
	OmitTags bool

	// Replay is how many bytes that the receiver's kernel has acknowledged are
	// sent again after a connection broke without an orderly close, because the
	// receiver's process may not have read them. Zero means DefaultReplay,
	// negative none.
	Replay int

	// Backoff is the pause before connecting again after the given number of
	// failures in a row, 0 for the first. Nil means up to 50 ms at first, then
	// doubling up to 30 s, of each a random part.
	Backoff func(failures int) time.Duration

	// Deny are networks to which no connection is made, checked for every
	// address at the moment it is dialled, see InternalNetworks. It is for
	// drains whose URLs come from tenants; the default is none, for those that
	// the operator sets.
	Deny []netip.Prefix

	// DialContext makes connections; nil means a net.Dialer with TCP keepalive
	// that heeds Deny. One of your own has to heed it itself.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)

	// Logger is told of connects, failures and closes, with host and port but no
	// other part of a URL; nil means nobody is told.
	Logger *slog.Logger
}

func (o *Options) withDefaults() *Options {
	var c Options
	if o != nil {
		c = *o
	}
	if c.TLS != nil {
		c.TLS = c.TLS.Clone()
	} else {
		c.TLS = new(tls.Config)
	}
	c.TLS.MinVersion = max(c.TLS.MinVersion, tls.VersionTLS12)
	if c.Replay == 0 {
		c.Replay = DefaultReplay
	}
	if c.Backoff == nil {
		c.Backoff = backoff
	}
	if c.DialContext == nil {
		c.DialContext = dialer(slices.Clone(c.Deny))
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &c
}

// backoff is half a heartbeat at first, because most receivers that close are
// back at once; then full jitter, so that a thousand drains don't return in the
// same moment.
func backoff(failures int) time.Duration {
	limit := 30 * time.Second
	if failures < 10 {
		limit = min(limit, 50*time.Millisecond<<failures)
	}
	return rand.N(limit)
}

// Stats are the numbers of a drain since it was opened. For every record that
// the source gave to it,
//
//	Accepted = Delivered + Missed + Filtered + Refused + Pending
type Stats struct {
	Accepted  uint64 `json:"accepted"`
	Delivered uint64 `json:"delivered"` // received by the receiver's kernel or answered with 2xx; where the system does not tell, handed to ours
	Missed    uint64 `json:"missed"`    // lost before the drain could read them; the receiver was told
	Filtered  uint64 `json:"filtered"`  // not wanted by the drain's URL, or without content
	Refused   uint64 `json:"refused"`   // by an HTTPS receiver for good, in whole or in part
	Pending   uint64 `json:"pending"`   // read, and neither delivered nor filtered yet

	// Resent records may have reached the receiver twice. A record that was sent
	// three times counts twice. It is in Delivered once.
	Resent uint64 `json:"resent"`
	// Resets of the source, by each of which an unknown number was lost.
	Resets uint64 `json:"resets"`

	Connects  uint64        `json:"connects"` // connections made
	Failures  uint64        `json:"failures"` // attempts to connect that failed, and connections that broke
	State     State         `json:"state"`
	LastError string        `json:"last_error,omitempty"` // of the last failure, without secrets; empty when none since the last connect
	Lag       time.Duration `json:"lag_ns"`               // age of the oldest pending record, by its timestamp
}

// State is what a drain is doing.
type State string

const (
	Connecting State = "connecting"
	Connected  State = "connected"
	Idle       State = "idle"    // the receiver closed the connection; the next record opens it
	Waiting    State = "waiting" // until it tries to connect again
	Closed     State = "closed"
	Invalid    State = "invalid" // a binding that is not usable
)

// Drain sends what a query selects to one receiver.
type Drain struct {
	feed   feed
	src    envelope.Source
	query  envelope.Query
	opts   *Options
	log    *slog.Logger
	opened time.Time

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	flush  chan struct{} // closed by Shutdown
	once   sync.Once
	done   chan struct{} // closed when all goroutines are gone

	// Guarded by feed.feed.mu.
	stats  Stats
	oldest int64  // timestamp of the oldest record written and not acknowledged; 0: none
	left   uint64 // records not delivered when the drain ended
}

// Open starts a drain: it checks url, then reads from src what q selects and
// sends it, until Shutdown or Close. It does not wait for the connection, and a
// receiver that is not there is no error: what happens shows in Stats.
//
// q.Follow is implied; where to start is q's choice: at its Cursor, or with the
// oldest record held if History is set, or now. q.MaxBytes is the drain's.
//
// The source has to number its records, as all Sources of this module do,
// because a drain goes back to a number after a failure.
func Open(url string, src envelope.Source, q envelope.Query, o *Options) (*Drain, error) {
	t, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	d := &Drain{
		src:    src,
		query:  q,
		opts:   o.withDefaults(),
		opened: time.Now(),
		flush:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	d.query.MaxBytes = batchSize
	d.log = d.opts.Logger.With("drain", t.String())
	d.stats.State = Connecting
	omit := d.opts.OmitTags
	if t.metadata != nil {
		omit = !*t.metadata
	}
	d.feed = feed{
		target:  t,
		format:  Formatter{OmitTags: omit, logplex: t.scheme == "https-logplex"},
		opened:  d.opened,
		ready:   make(chan struct{}, 1),
		space:   make(chan struct{}, 1),
		counted: make(map[envelope.StreamID]uint64),
		good:    clone(q.Cursor),
		seen:    make(map[envelope.StreamID]uint32),
		aged:    d.opened,
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	s := &sender{Drain: d}
	go func() {
		defer close(d.done)
		s.run()
	}()
	return d, nil
}

// String is the scheme, host and port of the drain's URL.
func (d *Drain) String() string { return d.feed.target.String() }

// Stats gives the drain's numbers.
func (d *Drain) Stats() Stats {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	s := d.stats
	s.Pending = d.feed.pending
	oldest := d.oldest
	if oldest == 0 && d.feed.cur != nil && len(d.feed.cur.entries) > 0 {
		oldest = d.feed.cur.entries[0].oldest
	}
	if oldest != 0 {
		s.Lag = max(0, time.Since(time.Unix(0, oldest)))
	}
	s.Accepted = s.Delivered + s.Missed + s.Filtered + s.Refused + s.Pending
	return s
}

// Cursor is the place up to which everything is known to be received. A drain
// opened there later goes on without a gap; what it repeats is bounded by
// Options.Replay and what is on its way.
func (d *Drain) Cursor() envelope.Cursor {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	return clone(d.feed.good)
}

// UndeliveredError says that a drain ended before it had sent everything.
type UndeliveredError struct {
	Records uint64 // read or still held by the source, and not delivered
	Err     error  // why it had to end
}

func (e *UndeliveredError) Error() string {
	return fmt.Sprintf("drain: %d records were not delivered: %v", e.Records, e.Err)
}

func (e *UndeliveredError) Unwrap() error { return e.Err }

// Shutdown sends what the source holds now, waits until it is known to be
// received, and closes. When ctx ends first, it stops at once and returns an
// *UndeliveredError. The source should outlive it: from one that is closed
// already nothing can be sent again.
func (d *Drain) Shutdown(ctx context.Context) error {
	d.once.Do(func() { close(d.flush) })
	var cause error
	select {
	case <-d.done:
	case <-ctx.Done():
		cause = context.Cause(ctx)
		d.cancel()
		<-d.done
	}
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	if d.left > 0 {
		if cause == nil {
			cause = ErrClosed
		}
		return &UndeliveredError{Records: d.left, Err: cause}
	}
	return nil
}

// Close stops now. What is on its way may or may not arrive.
func (d *Drain) Close() error {
	d.cancel()
	<-d.done
	return nil
}
