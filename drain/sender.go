package drain

import (
	"context"
	"errors"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// pace is the least time between a small write and the next: lines that
	// come one by one are gathered for so long.
	pace = 500 * time.Microsecond
	// maxEntries bounds what is remembered of runs on their way.
	maxEntries = 16 << 10
	maxSettled = 4 << 10
	// readTime is how long after its kernel a receiver that takes everything
	// may take to read it.
	readTime = 5 * time.Second
	// A connection that lived so long, or took so much, ends a row of failures.
	provenTime  = 10 * time.Second
	provenBytes = 64 << 10
	// warnInterval is the least time between two warnings of an outage.
	warnInterval = time.Minute
)

// sender is the half of a drain that writes. It owns the connection, takes
// chunks from the feed, and keeps a log of what it wrote, in order:
//
//	sent[:settled]  received by the peer's kernel; kept while a crash of the
//	               receiver's process could still lose it
//	sent[settled:]  written, not acknowledged
//
// When a connection breaks, the feed starts again before the oldest entry of
// the log.
type sender struct {
	*Drain
	sent    []entry
	settled int
	held    int // bytes of sent[:settled]

	post      *poster // of an https drain, which has no conn
	pace      time.Duration
	conn      *conn
	lastWrite time.Time
	lastSmall bool
	poll      time.Duration // until the kernel is asked again

	failures int
	retryAt  time.Time
	eager    bool // connect though there is nothing to send
	told     bool // that it connected
	warned   bool // of an outage that is not over
	warnedAt time.Time

	stopFeed  context.CancelFunc
	fed       chan error // the feed has ended
	feeding   bool
	flushing  bool
	refeedAt  time.Time // when a source that ended is asked again
	refeeds   int
	feedSince time.Time
	finished  bool
}

func (s *sender) run() {
	if s.feed.target.https() {
		s.post = newPoster(s.feed.target, s.opts)
		s.post.report = s.posted
		defer s.post.close()
	} else {
		s.eager = true
	}
	s.pace, s.feed.full = pace, chunkSize/2
	if s.feed.target.batched() {
		s.pace, s.feed.full = batchPace, bodySize/2
	}
	s.query.Follow = true
	s.startFeed(s.query)
	defer s.end()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for s.ctx.Err() == nil {
		s.settle()
		if s.conn != nil {
			select {
			case <-s.conn.dead:
				s.disconnect(s.conn.err, isGoodbye(s.conn.err))
				continue
			default:
			}
		}
		if !s.flushing {
			select {
			case <-s.flush:
				s.startFlush()
			default:
			}
		}
		size, any := s.feed.size()
		if s.flushing && !s.feeding && !any && s.settled == len(s.sent) && s.refeedAt.IsZero() {
			s.finished = true
			return
		}
		wait := s.step(size, any)
		if wait == 0 {
			continue
		}
		timer.Reset(wait)
		var dead chan struct{}
		if s.conn != nil {
			dead = s.conn.dead
		}
		flush := s.flush
		if s.flushing {
			flush = nil
		}
		fed := s.fed
		if !s.feeding {
			fed = nil
		}
		select {
		case <-s.ctx.Done():
		case <-timer.C:
		case <-s.feed.ready:
		case <-dead:
		case err := <-fed:
			s.feeding = false
			s.feedEnded(err)
		case <-flush:
			s.startFlush()
		}
	}
}

// startFlush lets the feed read what is held now, from where it stands to the
// end, and no further.
func (s *sender) startFlush() {
	s.flushing = true
	s.haltFeed()
	s.startFeed(s.again(s.feed.read))
}

// step does what can be done now and gives how long to wait for more.
func (s *sender) step(size int, any bool) time.Duration {
	now := time.Now()
	wait := time.Hour
	if !s.refeedAt.IsZero() {
		if wait = s.refeedAt.Sub(now); wait <= 0 {
			s.refeedAt = time.Time{}
			s.startFeed(s.again(s.feed.read))
			return 0
		}
	}
	if any && size == 0 { // nothing to send, only numbers to keep
		s.write(s.feed.takeEmpty())
		return 0
	}
	if s.conn == nil && s.post == nil {
		if !any && !s.eager {
			return wait
		}
		if pause := s.retryAt.Sub(now); pause > 0 {
			return min(wait, pause)
		}
		s.connect(any)
		return 0
	}
	if s.conn != nil && s.failures > 0 {
		if pause := provenTime - now.Sub(s.conn.since); pause > 0 {
			wait = min(wait, pause)
		} else {
			s.recovered()
		}
	}
	if any && len(s.sent)-s.settled < maxEntries {
		pause := s.pace - now.Sub(s.lastWrite)
		if !s.lastSmall || size >= chunkReady || pause <= 0 {
			s.write(s.feed.take())
			return 0
		}
		return min(wait, pause)
	}
	if s.settled < len(s.sent) {
		s.poll = min(max(2*s.poll, time.Millisecond), time.Second)
		return min(wait, s.poll)
	}
	return wait
}

// connect dials once. If nothing waits to be sent, Shutdown does not wait for it.
func (s *sender) connect(needed bool) {
	s.setState(Connecting)
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	if !needed {
		go func() {
			select {
			case <-s.flush:
				cancel()
			case <-ctx.Done():
			}
		}()
	}
	c, err := dial(ctx, s.ctx, s.feed.target, s.opts)
	if err != nil {
		if ctx.Err() != nil { // of no interest any more
			s.eager = false
		} else {
			s.failed(err)
		}
		return
	}
	s.conn, s.eager = c, false
	s.feed.mu.Lock()
	s.stats.Connects++
	s.stats.State = Connected
	s.stats.LastError = ""
	s.feed.mu.Unlock()
	if s.failures == 0 && !s.told {
		s.told = true
		s.log.Info("connected")
	}
}

// failed notes a failure to connect or a broken connection and sets when to try
// again.
func (s *sender) failed(err error) {
	s.retryAt = time.Now().Add(s.opts.Backoff(s.failures))
	s.fail(err)
}

func (s *sender) fail(err error) {
	s.failures++
	s.feed.mu.Lock()
	s.stats.Failures++
	s.stats.State = Waiting
	s.stats.LastError = err.Error()
	s.feed.mu.Unlock()
	// Told is the start of an outage, whose end is a connect that lasts, but not
	// each of many.
	if s.failures == 1 && time.Since(s.warnedAt) > warnInterval {
		s.warnedAt, s.warned = time.Now(), true
		s.log.Warn("receiver does not take logs; trying again until it is back", "error", err)
	}
}

func (s *sender) setState(state State) {
	s.feed.mu.Lock()
	s.stats.State = state
	s.feed.mu.Unlock()
}

// write sends a chunk and puts its entries in the log. An error breaks the
// connection, and the log then says what to send again.
func (s *sender) write(c *chunk) {
	if c == nil {
		return
	}
	defer c.free()
	var err error
	switch {
	case len(c.buf) == 0:
	case s.post != nil:
		s.lastWrite, s.lastSmall = time.Now(), len(c.buf) < chunkReady
		var refused uint64
		refused, err = s.post.post(s.ctx, c.buf)
		for i := range c.entries {
			e := &c.entries[i]
			n := min(refused, e.records)
			e.records, e.refused = e.records-n, n
			refused -= n
		}
	default:
		_, err = s.conn.Write(c.buf)
		s.lastWrite, s.lastSmall = time.Now(), len(c.buf) < chunkReady
		s.poll = time.Millisecond
	}
	var end uint64
	if s.conn != nil {
		end = s.conn.raw.written.Load()
	}
	for _, e := range c.entries {
		e.end = end
		if err != nil {
			e.end = ^uint64(0)
		}
		s.sent = append(s.sent, e)
	}
	if err != nil && s.conn != nil {
		// A reset is reported once, to this write or to the watcher's read,
		// and to the other one as the end of the stream: not an orderly end.
		s.disconnect(err, false)
	}
}

// posted notes how a request went.
func (s *sender) posted(err error) {
	if err != nil {
		s.fail(err)
		return
	}
	s.feed.mu.Lock()
	s.stats.State = Connected
	s.stats.LastError = ""
	s.feed.mu.Unlock()
	s.recovered()
}

func (s *sender) recovered() {
	s.failures = 0
	if s.warned {
		s.warned = false
		s.log.Info("receiver takes logs again")
	}
}

// startFeed lets the feed read q.
func (s *sender) startFeed(q envelope.Query) {
	ctx, cancel := context.WithCancel(s.ctx)
	s.feed.read = clone(q.Cursor)
	fed := make(chan error, 1)
	s.stopFeed, s.fed, s.feeding, s.feedSince = cancel, fed, true, time.Now()
	go func() { fed <- s.feed.run(ctx, s.src, q) }()
}

// haltFeed stops the feed and waits for it.
func (s *sender) haltFeed() {
	s.stopFeed()
	if s.feeding {
		<-s.fed
		s.feeding = false
	}
	s.refeedAt = time.Time{}
}

// feedEnded decides what the end of the source's sequence means: while
// following, that the source has gone or was replaced, so it is asked again
// from where the feed stands; during Shutdown, that there is no more to come.
func (s *sender) feedEnded(err error) {
	s.stopFeed()
	if s.ctx.Err() != nil || s.flushing && err == nil {
		return
	}
	if err == nil {
		err = errors.New("the source's sequence ended")
	}
	s.feed.mu.Lock()
	s.stats.LastError = err.Error()
	s.feed.mu.Unlock()
	if s.refeeds == 0 {
		s.log.Warn("source ended", "error", err)
	}
	if s.flushing {
		return
	}
	if time.Since(s.feedSince) >= provenTime {
		s.refeeds = 0
	}
	s.refeedAt = time.Now().Add(backoff(s.refeeds))
	s.refeeds++
}

// end closes everything and, if the drain did not finish, counts what is left.
func (s *sender) end() {
	s.cancel()
	s.haltFeed()
	s.settle()
	if s.conn != nil {
		s.conn.close()
	}
	left := s.feed.owed // the feed has ended; not 0 if the source ended before it could be read again
	if !s.finished {
		left = 0
		count := func(entries []entry) {
			for _, e := range entries {
				left += e.records + e.again
			}
		}
		count(s.sent[s.settled:])
		if c := s.feed.take(); c != nil {
			count(c.entries)
			c.free()
		}
		select {
		case <-s.flush: // somebody waits for the number
			left += s.unread()
		default:
		}
	}
	s.feed.mu.Lock()
	if s.finished {
		s.forget(s.settled)
	}
	s.left = left
	if s.finished {
		s.feed.pending = left
	}
	s.stats.State = Closed
	s.feed.mu.Unlock()
	s.log.Info("closed", "undelivered", left)
}

// unread counts what the source still holds for the drain.
func (s *sender) unread() (n uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	q := s.again(s.feed.read)
	q.Follow = false
	for b, err := range s.src.Batches(ctx, q) {
		if err != nil {
			break
		}
		n += b.Missed
		for e := range b.All() {
			if r, err := e.Route(); err == nil && s.feed.target.wants(e, &r) {
				n++
			}
		}
	}
	return n
}

// again is the query to go on with at c.
func (s *sender) again(c envelope.Cursor) envelope.Query {
	q := s.query
	q.Cursor = clone(c)
	q.Follow = !s.flushing
	if c.IsZero() && q.Last == 0 && q.Since.IsZero() && !q.History {
		q.Since = s.opened // "now" was when the drain was opened
	}
	return q
}
