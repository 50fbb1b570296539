package drain

import (
	"context"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"
)

const (
	// A connection that lived so long, or took so much, ends a row of failures.
	provenTime  = 10 * time.Second
	provenBytes = 64 << 10
	// lookPeriod is how often, about, a name is looked up while a connection to
	// one of its addresses is in use.
	lookPeriod = time.Minute
	// moveTimeout bounds how long a connection that is to be replaced is waited
	// for; then it stays in use for another lookPeriod.
	moveTimeout = 20 * time.Second
)

// connect dials once. If nothing waits to be sent, Shutdown does not wait for it.
func (s *sender) connect(needed bool) {
	s.setState(Connecting)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if !needed || !s.flushing {
		go func() {
			select {
			case <-s.flush:
				if !needed || s.leaving.Load() {
					cancel()
				}
			case <-ctx.Done():
			}
		}()
	}
	c, err := dial(ctx, s.ctx, s.feed.target, s.opts, s.feed.lease.end())
	if err != nil {
		if ctx.Err() != nil { // of no interest any more
			s.eager = false
		} else {
			s.failed(err)
		}
		return
	}
	s.eager = false
	s.use(c)
	if s.failures == 0 && !s.told {
		s.told = true
		s.log.Info("connected")
	}
}

// use makes c the connection.
func (s *sender) use(c *conn) {
	s.conn = c
	s.lookAt = time.Now().Add(lookPeriod*4/5 + rand.N(lookPeriod*2/5))
	s.teller.expiring(s, c.expires)
	s.catchUp()
	s.feed.mu.Lock()
	s.stats.Connects++
	s.stats.LastError, s.stats.Cause = "", CauseNone
	s.stats.Expires = c.expires
	s.feed.mu.Unlock()
	s.setState(Connected)
}

// care does what a connection needs besides being written to, and gives how long
// until there is more; 0 if something was done.
func (s *sender) care(now time.Time, any bool) time.Duration {
	c := s.conn
	wait := time.Hour
	until := func(at time.Time) bool {
		wait = min(wait, max(at.Sub(now), time.Millisecond))
		return !now.Before(at)
	}
	if s.failures > 0 && until(c.since.Add(provenTime)) {
		s.recovered()
	}
	quiet := !any && s.settled == len(s.sent)
	if s.flushing {
		return wait
	}
	if s.spare != nil { // it takes over when the old one has nothing on its way
		if s.settled == len(s.sent) {
			s.moved()
			return 0
		}
		if until(s.movingSince.Add(moveTimeout)) {
			s.spare.close()
			s.spare = nil
			s.moveAt = now.Add(lookPeriod)
		}
		return wait
	}
	if quiet && s.opts.MaxIdle > 0 && until(later(c.since, s.lastWrite).Add(s.opts.MaxIdle)) {
		s.retire()
		s.setState(Idle)
		return 0
	}
	if quiet && s.settled > 0 && until(s.sent[s.settled-1].settled.Add(readTime)) {
		s.trust(false)
	}
	if s.looking == nil {
		if !c.until.IsZero() && until(later(c.until, s.moveAt)) {
			s.look(true)
		} else if ip := s.nameAddr(); ip.IsValid() && until(s.lookAt) {
			s.look(false)
		}
	}
	return wait
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// nameAddr is the address of the connection, if the URL has a name that can be
// looked up.
func (s *sender) nameAddr() (ip netip.Addr) {
	if s.opts.own == nil {
		return ip
	}
	if _, err := netip.ParseAddr(s.feed.target.host); err == nil {
		return ip
	}
	if a, ok := s.conn.raw.RemoteAddr().(*net.TCPAddr); ok {
		ip = a.AddrPort().Addr()
	}
	return ip
}

// look opens another connection, unless now is false and the name still means
// the address, while this one stays in use. The result comes over s.looking: nil
// if all stays as it is.
func (s *sender) look(now bool) {
	found := make(chan *conn, 1)
	s.looking = found
	ip := s.nameAddr()
	go func() {
		var c *conn
		if now || s.opts.own.moved(s.ctx, s.feed.target.host, ip) {
			c, _ = dial(s.ctx, s.ctx, s.feed.target, s.opts, s.feed.lease.end()) // an error is for when there is no other connection
		}
		found <- c
	}()
}

// looked takes the result of look.
func (s *sender) looked(c *conn) {
	now := time.Now()
	s.looking = nil
	s.lookAt, s.moveAt = now.Add(lookPeriod), now.Add(lookPeriod)
	if c == nil {
		return
	}
	if s.flushing && s.conn != nil {
		c.close()
		return
	}
	s.spare, s.movingSince = c, now
	if s.conn == nil { // the old one broke meanwhile
		s.moved()
	}
}

// moved goes over to the spare connection: what was written to the old one is
// acknowledged, so nothing is sent twice, and nothing overtakes.
func (s *sender) moved() {
	c := s.spare
	s.spare = nil
	if s.conn != nil {
		s.retire()
		s.feed.mu.Lock()
		s.stats.Moves++
		s.feed.mu.Unlock()
	}
	s.use(c)
}

// retire closes a connection on which nothing is on its way.
func (s *sender) retire() {
	c := s.conn
	s.conn = nil
	if c.finish(s.ctx) { // it has read to the end, and is alive
		s.feed.mu.Lock()
		s.forget(s.settled)
		s.held = 0
		s.feed.mu.Unlock()
	}
}

// drop ends what connections there are.
func (s *sender) drop() {
	if s.looking != nil {
		s.looked(<-s.looking)
	}
	for _, c := range []*conn{s.spare, s.conn} {
		if c != nil {
			c.close()
		}
	}
	s.spare, s.conn = nil, nil
}

// failed notes a failure to connect or a broken connection and sets when to try
// again.
func (s *sender) failed(err error) {
	s.retryAt = time.Now().Add(s.opts.Backoff(s.failures))
	s.fail(err, Waiting)
}

func (s *sender) fail(err error, state State) {
	if s.failures == 0 || s.downSince.IsZero() {
		s.downSince = time.Now()
	}
	s.failures++
	s.feed.mu.Lock()
	s.stats.Failures++
	s.stats.LastError, s.stats.Cause = err.Error(), causeOf(err)
	cause := s.stats.Cause
	s.feed.away = true
	s.feed.mu.Unlock()
	s.setState(state)
	// Told is the start of an outage, whose end is a connect that lasts, but not
	// each of many.
	if s.failures == 1 && time.Since(s.warnedAt) > warnInterval {
		s.warnedAt, s.warned = time.Now(), true
		s.log.Warn("receiver does not take logs; trying again until it is back", "error", err)
	}
	switch cause {
	case CauseClosed:
	case CauseAnswer:
		s.teller.state(s, "Failed to send to "+s.feed.target.String()+": "+err.Error())
	default:
		s.teller.state(s, "Failed to connect to "+s.feed.target.String()+": "+err.Error())
	}
}

func (s *sender) recovered() {
	s.failures, s.downSince = 0, time.Time{}
	s.feed.mu.Lock()
	if s.feed.away {
		s.feed.away, s.feed.backAt = false, time.Now()
	}
	s.feed.mu.Unlock()
	s.teller.state(s, "")
	if s.warned {
		s.warned = false
		s.log.Info("receiver takes logs again")
	}
}

func (s *sender) setState(state State) {
	s.feed.mu.Lock()
	if s.stats.State != state {
		s.stats.State, s.stats.Since = state, time.Now()
	}
	s.feed.mu.Unlock()
}
