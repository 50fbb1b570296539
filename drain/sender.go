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
	// maxEntries bounds what is remembered of runs on their way, maxSettled of
	// those that may have to be sent again; runs smaller than joinSize bytes are
	// then put together.
	maxEntries = 16 << 10
	maxSettled = 16 << 10
	joinSize   = 16 << 10
	// maxReplay bounds what is sent again, in bytes.
	maxReplay = 64 << 20
	// readTime is how long after its kernel a receiver that takes everything
	// may take to read it.
	readTime = time.Minute
	// workTime is how long after it has read something it may take to work it
	// off.
	workTime = 500 * time.Millisecond
	// restTime is after how long without a record a drain gives up its memory.
	restTime = 10 * time.Second
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

	spare       *conn      // takes over soon
	looking     chan *conn // the spare to come
	movingSince time.Time
	lookAt      time.Time // when the name is looked up
	moveAt      time.Time // not before is the connection replaced

	failures  int
	downSince time.Time // of the failures
	retryAt   time.Time
	eager     bool // connect though there is nothing to send
	told      bool // that it connected
	warned    bool // of an outage that is not over
	warnedAt  time.Time
	rate      rate
	teller    teller

	stopFeed  context.CancelFunc
	fed       chan error // the feed has ended
	feeding   bool
	flushing  bool
	refeedAt  time.Time // when a source that ended is asked again
	refeeds   int
	feedSince time.Time
	finished  bool
	resting   bool // nothing was sent for a while

	sleeping sleeping
	cleanUp  func()    // after a sleep
	roseAt   time.Time // when it was woken last
}

// begin sets up what run needs.
func (s *sender) begin() {
	s.teller = teller{to: s.opts.Tell, url: s.feed.target.String(), apps: selectsApps(s.query.Select)}
	if selectsAll(s.query.Select) {
		s.teller.to = nil
	}
	if s.feed.target.https() {
		s.post = newPoster(s.feed.target, s.opts, s.token, s.posting)
		s.post.leased, s.post.leaving, s.post.flush = s.leased, &s.leaving, s.flush
		s.post.report = s.posted
	} else {
		s.eager = true
	}
	s.pace, s.feed.full = pace, chunkSize/2
	if s.feed.target.batched() {
		s.pace, s.feed.full = batchPace, bodySize/2
	}
	s.query.Follow = true
	s.roseAt = s.opened
	go s.run()
}

// run works until the drain ends or falls asleep.
func (s *sender) run() {
	if s.cleanUp != nil {
		s.rise()
	} else {
		s.startFeed(s.query)
	}
	if s.loop() {
		s.end()
		if s.post != nil {
			s.post.close()
		}
		close(s.done)
	}
}

// loop is false if the drain fell asleep.
func (s *sender) loop() (ended bool) {
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
			if s.leaving.Load() && (s.conn == nil || !s.leased()) {
				return s.finish()
			}
			if _, told := s.feed.tellLate(true); told {
				continue
			}
			return s.finish()
		}
		wait := s.step(size, any)
		if wait == 0 {
			continue
		}
		later, told := s.feed.tellLate(false)
		if told {
			continue
		}
		if later > 0 {
			wait = min(wait, later)
		}
		if later := s.teller.losses(s, false); later > 0 {
			wait = min(wait, later)
		}
		if s.resting && s.sleep(wait) {
			return false
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
		case c := <-s.looking:
			s.looked(c)
		case <-dead:
		case err := <-fed:
			s.feeding = false
			s.feedEnded(err)
		case <-flush:
			s.startFlush()
		}
	}
	return true
}

func (s *sender) finish() (ended bool) {
	s.finished = true
	return true
}

// startFlush lets the feed read what is held now, from where it stands to the
// end, and no further.
func (s *sender) startFlush() {
	s.flushing = true
	if s.conn != nil && s.spare != nil {
		s.spare.close()
		s.spare = nil
	}
	s.haltFeed()
	if s.leaving.Load() {
		s.discard(s.feed.take())
		return
	}
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
	if s.conn == nil && s.spare != nil {
		s.moved()
		return 0
	}
	if s.conn == nil && s.post == nil {
		if !any && !s.eager {
			return s.idle(now, wait)
		}
		if pause := s.retryAt.Sub(now); pause > 0 {
			return min(wait, pause)
		}
		if s.looking == nil {
			s.connect(any)
			return 0
		}
		return wait // for the one that is on its way
	}
	if s.conn != nil {
		more := s.care(now, any)
		if more == 0 {
			return 0
		}
		wait = min(wait, more)
	}
	pause := s.catchPause(now, any)
	if pause > 0 {
		wait = min(wait, pause)
	}
	if any && len(s.sent)-s.settled < maxEntries && s.spare == nil {
		if s.lastSmall && size < chunkReady {
			pause = max(pause, s.pace-now.Sub(s.lastWrite))
		}
		if pause <= 0 && !s.leased() {
			pause = leasePoll
		}
		if pause <= 0 {
			s.write(s.feed.take())
			return 0
		}
		wait = min(wait, pause)
	}
	if s.settled < len(s.sent) {
		s.poll = min(max(2*s.poll, time.Millisecond), time.Second)
		return min(wait, s.poll)
	}
	if !any {
		return s.idle(now, wait)
	}
	return wait
}

// write sends a chunk and puts its entries in the log. An error breaks the
// connection, and the log then says what to send again.
func (s *sender) write(c *chunk) {
	if c == nil {
		return
	}
	n := len(c.buf)
	if n > 0 && !s.leased() { // it ended just now
		s.feed.untake(c)
		return
	}
	s.resting = false
	var err error
	switch {
	case n == 0:
	case s.post != nil:
		s.lastWrite, s.lastSmall = time.Now(), len(c.buf) < chunkReady
		var refused uint64
		if refused, err = s.post.post(s.ctx, c.buf); err == errLeaving {
			s.discard(c)
			return
		}
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
	if n > 0 {
		s.rate.sent(s.lastWrite, n)
		s.feed.mu.Lock()
		s.stats.Bytes += uint64(n)
		s.feed.mu.Unlock()
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
	c.free()
	if err != nil && s.conn != nil {
		// A reset is reported once, to this write or to the watcher's read,
		// and to the other one as the end of the stream: not an orderly end.
		s.disconnect(err, false)
	}
}

// posting notes a connection made for requests, from whichever goroutine.
func (s *sender) posting(expires time.Time) {
	s.feed.mu.Lock()
	s.stats.Connects++
	s.stats.Expires = expires
	s.feed.mu.Unlock()
}

// posted notes how a request went.
func (s *sender) posted(err error, state State) {
	if err != nil {
		s.fail(err, state)
		return
	}
	s.feed.mu.Lock()
	s.stats.LastError, s.stats.Cause = "", CauseNone
	s.feed.mu.Unlock()
	s.setState(Connected)
	s.feed.mu.Lock()
	expires := s.stats.Expires
	s.feed.mu.Unlock()
	s.teller.expiring(s, expires)
	s.catchUp()
	s.recovered()
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
	err = errors.Join(errSourceEnded, err)
	s.feed.mu.Lock()
	s.stats.LastError, s.stats.Cause = err.Error(), CauseSource
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

var errSourceEnded = errors.New("the source's sequence ended")

// end closes everything and, if the drain did not finish, counts what is left.
func (s *sender) end() {
	if !s.finished {
		s.cancel()
	}
	defer s.cancel()
	s.haltFeed()
	s.settle()
	if s.finished && s.conn != nil {
		s.retire()
	}
	s.teller.losses(s, true)
	s.drop()
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
	if s.leaving.Load() {
		left = 0 // for another
	}
	s.feed.mu.Lock()
	if s.finished {
		s.forget(s.settled)
	}
	s.left = left
	if s.finished {
		s.feed.pending = left
	}
	s.feed.mu.Unlock()
	s.setState(Closed)
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
			if r, err := e.Route(); err == nil && s.feed.target.filter.wants(e, &r) {
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
