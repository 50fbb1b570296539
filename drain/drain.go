package drain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ErrClosed is why records were left when Close came before Shutdown was done.
var ErrClosed = errors.New("drain: closed")

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
	// Shortened messages are those that a limit did not let say all: tags were
	// left out, or a measurement's text cut. Lines in parts are not among them.
	Shortened uint64 `json:"shortened"`
	LastGap   *Gap   `json:"last_gap,omitempty"` // what was missed last

	Bytes    uint64 `json:"bytes"`    // sent, repeats included, without TLS and HTTP around them
	Connects uint64 `json:"connects"` // connections made
	Failures uint64 `json:"failures"` // attempts to connect that failed, connections that broke, requests that were not accepted
	Moves    uint64 `json:"moves"`    // connections given up for their age or because the name no longer means the address

	State     State         `json:"state"`
	Since     time.Time     `json:"since"`                // of the state
	Cause     Cause         `json:"cause,omitempty"`      // of LastError
	LastError string        `json:"last_error,omitempty"` // of the last failure, without secrets; empty when none since the last connect
	LastSent  time.Time     `json:"last_sent,omitzero"`   // when the receiver last acknowledged something
	Lag       time.Duration `json:"lag_ns"`               // age of the oldest pending record, by its timestamp
	Expires   time.Time     `json:"expires,omitzero"`     // when the first of the certificates in use ends, ours or the receiver's
}

// Gap is a run of records that a drain missed.
type Gap struct {
	Records uint64    `json:"records"`
	From    time.Time `json:"from"`  // timestamp of the last record before it
	Until   time.Time `json:"until"` // and of the first after it
	Reason  string    `json:"reason"`
}

// State is what a drain is doing.
type State string

const (
	Connecting State = "connecting"
	Connected  State = "connected"
	Idle       State = "idle"     // there is no connection and nothing to send; the next record opens one
	Waiting    State = "waiting"  // until it tries again
	Held       State = "held"     // an answer says that a person has to act; it tries again every few minutes
	Disabled   State = "disabled" // the receiver has said for a day that it is gone for good; it tries again every hour
	Closed     State = "closed"
	Elsewhere  State = "elsewhere" // a drain that is shared is, or is about to be, another process's
	Invalid    State = "invalid"   // a binding that is not usable
)

// Drain sends what a query selects to one receiver.
type Drain struct {
	feed   feed
	src    envelope.Source
	query  envelope.Query
	opts   *Options
	token  string
	log    *slog.Logger
	opened time.Time

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	flush  chan struct{} // closed by Shutdown
	once   sync.Once
	done   chan struct{} // closed when all goroutines are gone
	wake   func()        // should it sleep

	leaving atomic.Bool // flush means leave

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
	return openAgain(url, src, q, o, nil, gap{})
}

// openAgain is Open of a drain that has been open elsewhere: with a lease, unless
// until is nil, that says until when it may write, and with what the receiver is yet
// to be told of.
func openAgain(url string, src envelope.Source, q envelope.Query, o *Options, until func() time.Time, owed gap) (*Drain, error) {
	t, err := parseURL(url)
	if err != nil {
		return nil, err
	}
	opts := o
	if o == nil || !o.prepared || o.TLS == nil || o.Backoff == nil || o.DialContext == nil || o.Logger == nil {
		opts = o.withDefaults()
	}
	if opts.own != nil && !opts.own.mayPermit(t) {
		return nil, fmt.Errorf("%w: %w", ErrURL, ErrDenied)
	}
	token := opts.Token
	if token == "" {
		token = t.token(&q)
	}
	d := &Drain{
		src:    src,
		query:  q,
		opts:   opts,
		token:  token,
		opened: time.Now(),
		flush:  make(chan struct{}),
		done:   make(chan struct{}),
	}
	d.query.MaxBytes = batchSize
	d.log = d.opts.Logger
	if d.log.Enabled(context.Background(), slog.LevelError) {
		d.log = d.log.With("drain", t.String())
	}
	d.stats.State, d.stats.Since = Connecting, d.opened
	d.feed = feed{
		target:  t,
		format:  t.formatter(token, opts.OmitTags),
		opened:  d.opened,
		ready:   make(chan struct{}, 1),
		space:   make(chan struct{}, 1),
		counted: make(map[envelope.StreamID]uint64),
		good:    clone(q.Cursor),
		seen:    make(map[envelope.StreamID]uint32),
		aged:    d.opened,
		untold:  owed,
		owe:     owed,
		tell:    opts.Tell != nil && !selectsAll(q.Select),
	}
	if until != nil {
		d.feed.lease = &lease{until: until}
	}
	d.ctx, d.cancel = context.WithCancel(context.Background())
	s := &sender{Drain: d}
	d.wake = s.wake
	s.begin()
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
	s.Shortened = d.feed.format.short
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

// place is Cursor, and what was missed before it and is yet to be told.
func (d *Drain) place() (envelope.Cursor, gap) {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	return clone(d.feed.good), d.feed.owe
}

// owed is what place says is yet to be told.
func (d *Drain) owed() gap {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	return d.feed.owe
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
	d.wake()
	var cause error
	select {
	case <-d.done:
	case <-ctx.Done():
		cause = context.Cause(ctx)
		d.Close()
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
	d.wake()
	<-d.done
	return nil
}
