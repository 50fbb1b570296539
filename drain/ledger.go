package drain

import (
	"errors"
	"time"
)

// settle moves what the peer's kernel has acknowledged to the settled part of
// the log and counts it, then forgets what no failure can lose any more.
func (s *sender) settle() {
	if s.settled == len(s.sent) {
		return
	}
	var received uint64
	if s.conn != nil {
		received = s.conn.received()
	}
	now := time.Now()
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	at, next := s.settled, s.settled // settled runs are put together: at is behind where next is
	for next < len(s.sent) && s.sent[next].end <= received {
		e := &s.sent[next]
		next++
		e.settled = now
		s.held += e.bytes
		if e.bytes > 0 {
			s.stats.LastSent = now
		}
		if e.lost != nil {
			s.account(e.lost)
		}
		s.stats.Delivered += e.records
		s.stats.Filtered += e.filtered
		s.stats.Refused += e.refused
		s.stats.Missed += e.missed
		s.stats.Resets += e.resets
		s.feed.pending -= e.records + e.filtered + e.refused
		if l := s.feed.lease; l != nil {
			l.begin(s.feed.good)
			e.advance(&l.taken)
			s.feed.owes(e)
			e.lost = nil
		}
		if e.ring != 0 {
			s.feed.counted[e.ring] = max(s.feed.counted[e.ring], e.position)
		}
		if at == 0 || !s.sent[at-1].join(e) {
			s.sent[at] = *e
			at++
		}
	}
	if at < next {
		s.sent = append(s.sent[:at], s.sent[next:]...)
	}
	s.settled = at
	s.oldest = 0
	if s.settled < len(s.sent) {
		s.oldest = s.sent[s.settled].oldest
	}
	waiting := s.settled < len(s.sent)
	n, keep := 0, s.replay()
	for n < s.settled && (s.post != nil || s.held-s.sent[n].bytes >= keep || s.held == 0 || s.settled-n > maxSettled ||
		!waiting && now.Sub(s.sent[n].settled) > readTime) {
		s.held -= s.sent[n].bytes
		n++
	}
	s.forget(n)
}

// replay is how many bytes that were acknowledged are sent again if the
// connection breaks.
func (s *sender) replay() int {
	if s.opts.Replay != 0 || s.conn == nil {
		return max(s.opts.Replay, 0)
	}
	if n, ok := s.conn.unread(); ok {
		return int(min(n, maxReplay))
	}
	return DefaultReplay
}

// join puts a run that follows into e if both are small: of settled runs it
// matters only where they began.
func (e *entry) join(next *entry) bool {
	if e.ring != next.ring || e.stream != next.stream || e.position != next.start || next.told != nil || next.lost != nil || e.bytes+next.bytes > joinSize {
		return false
	}
	e.position, e.next, e.settled = next.position, next.next, next.settled
	e.bytes += next.bytes
	e.records += next.records
	e.again += next.again
	return true
}

// forget takes the first n entries off the log: they are good.
func (s *sender) forget(n int) {
	for i := range s.sent[:n] {
		e := &s.sent[i]
		e.advance(&s.feed.good)
		if s.feed.lease == nil {
			s.feed.owes(e)
		}
	}
	s.settled -= n
	s.sent = s.sent[n:] // append moves what is left when the memory ends
	if len(s.sent) == 0 {
		s.sent = nil
	}
}

// disconnect ends the connection and goes back to the first record that cannot
// be known to have been read. An orderly end is one where the peer said goodbye:
// its process had read all that it acknowledged, or the kernel would have reset
// the connection; but what it had read at last it may not have worked off, if it
// was killed.
func (s *sender) disconnect(err error, orderly bool) {
	s.settle()
	c := s.conn
	if orderly {
		err = errPeerClosed
	}
	received := c.received()
	c.close()
	s.conn = nil
	proven := time.Since(c.since) >= provenTime || received >= provenBytes
	if proven && s.failures > 0 {
		s.recovered()
	}
	s.trust(orderly)
	if len(s.sent) > 0 {
		s.failed(err)
		s.rewind()
		return
	}
	if !orderly || !proven {
		s.failed(err)
	}
	s.setState(Idle)
}

// trust forgets what is settled, as far as the receiver had the time to work it
// off: a moment if it closed in good order, longer if not and nothing was waiting
// for it.
func (s *sender) trust(orderly bool) {
	s.feed.mu.Lock()
	defer s.feed.mu.Unlock()
	n := 0
	waiting := s.settled < len(s.sent)
	for n < s.settled {
		age := time.Since(s.sent[n].settled)
		if !(orderly && age > workTime) && (waiting || age <= readTime) {
			break
		}
		s.held -= s.sent[n].bytes
		n++
	}
	s.forget(n)
}

var errPeerClosed = errors.New("the receiver closed the connection")

// rewind starts the feed again before the oldest entry of the log.
func (s *sender) rewind() {
	s.haltFeed()
	var unsent []entry
	c := s.feed.take()
	if c != nil {
		unsent = c.entries
	}
	s.feed.mu.Lock()
	s.feed.untell(s.sent[:s.settled], append(s.sent[s.settled:len(s.sent):len(s.sent)], unsent...))
	cursor := rewind(s.feed.good, s.sent, unsent)
	for i, e := range s.sent {
		s.stats.Resent += e.records + e.again
		if i >= s.settled {
			s.feed.owed += e.records
		}
	}
	for _, e := range unsent {
		s.feed.owed += e.records
	}
	s.feed.pending = 0
	s.feed.lease.reset()
	s.oldest = 0
	s.feed.mu.Unlock()
	if c != nil {
		c.free()
	}
	s.sent, s.settled, s.held = nil, 0, 0
	if s.leaving.Load() && s.flushing {
		return // what is to be sent again is another's
	}
	s.startFeed(s.again(cursor))
}
