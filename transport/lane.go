package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"
)

// lane is the way to one server of a Link: one connection after the other.
type lane struct {
	l      *Link
	target target
	seed   uint64  // of its place in every share
	log    changes // of the goroutine that connects

	// Guarded by the link's lock.
	connected bool
	session   *session // nil without a connection
	lastError string
	live      bool        // the connection has shown that it acknowledges, or is the only one
	hope      *time.Timer // runs while a server that is not live keeps its sources, because it may be back at once
	torn      uint64      // records that the last connection left unacknowledged, until the Source is read again
}

// run makes one connection after the other.
func (n *lane) run(ctx context.Context) {
	for failures := 0; ; failures++ {
		progress, err := n.connect(ctx)
		if progress {
			failures = 0
		}
		switch {
		case errors.Is(context.Cause(ctx), errFinished) || err == nil:
			n.l.opts.Logger.Info("the source has ended, and all it gave is acknowledged", "server", n.target.String())
			n.l.cancel(errFinished)
			return
		case ctx.Err() != nil:
			return
		}
		n.lost(err, progress)
		if n.l.pause(ctx, n.l.opts.Backoff(failures)) {
			failures = -1
		}
		if ctx.Err() != nil {
			return
		}
	}
}

// pause waits for d, or until Flush is called, which it reports.
func (l *Link) pause(ctx context.Context, d time.Duration) (hurried bool) {
	l.mu.Lock()
	nudge := l.nudge
	l.mu.Unlock()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-nudge:
		return true
	case <-ctx.Done():
	}
	return false
}

// minNudge is how often Flush may cut pauses short, whoever calls it how often.
const minNudge = 100 * time.Millisecond

// hurry makes lanes that pause try again at once.
func (l *Link) hurry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.nudged.IsZero() || now.Sub(l.nudged) >= minNudge {
		l.nudged = now
		close(l.nudge)
		l.nudge = make(chan struct{})
	}
}

// connect dials, and sends until the connection ends. A nil error means that
// there will be nothing more to send. It reports whether anything got across.
func (n *lane) connect(ctx context.Context) (progress bool, err error) {
	l := n.l
	l.mu.Lock()
	if !l.several() || !l.met {
		l.stats.Server = n.target.String()
	}
	l.mu.Unlock()
	nc, err := n.dial(ctx)
	if err != nil {
		return false, fmt.Errorf("dial: %w", err)
	}
	began := time.Now()
	s := newSession(n, nc)
	n.made(s)
	err = s.run(ctx)
	l.mu.Lock()
	defer l.mu.Unlock()
	n.connected, n.session = false, nil
	if k := s.pending(); k > 0 {
		n.torn, l.torn = k, true
	}
	return s.progress || s.probe == 0 && time.Since(began) > maxBackoff, err
}

func (n *lane) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, n.l.opts.DialTimeout)
	defer cancel()
	nc, err := n.l.opts.DialContext(ctx, n.target.network, n.target.address)
	if err != nil || n.target.host == "" {
		return nc, err
	}
	config := n.l.opts.TLS
	if n.l.opts.CurrentTLS != nil {
		config = n.l.opts.CurrentTLS()
	}
	if config.ServerName == "" {
		config = config.Clone()
		config.ServerName = n.target.host
	}
	tc := tls.Client(nc, config)
	if err := tc.HandshakeContext(ctx); err != nil {
		nc.Close()
		return nil, fmt.Errorf("tls: %w", err)
	}
	return tc, nil
}

func (n *lane) made(s *session) {
	n.l.mu.Lock()
	n.connected, n.session = true, s
	n.l.met, n.l.stats.Server = true, n.target.String()
	if n.log.seen {
		n.l.stats.Reconnects++
	}
	n.l.mu.Unlock()
	n.log.up(n.target)
}

// left is how many records broken connections left unacknowledged. The lock is
// held.
func (l *Link) left() (records uint64) {
	for _, n := range l.lanes {
		records += n.torn
	}
	return records
}

func (n *lane) lost(err error, progress bool) {
	n.l.mu.Lock()
	n.lastError = err.Error()
	n.l.stats.LastError = n.lastError
	if n.l.several() {
		n.fell(progress && !hangs(err))
	}
	n.l.mu.Unlock()
	n.log.down(n.target, err)
}
