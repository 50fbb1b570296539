package drain

import (
	"errors"
	"io"
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
	for s.settled < len(s.sent) && s.sent[s.settled].end <= received {
		e := &s.sent[s.settled]
		e.settled = now
		s.settled++
		s.held += e.bytes
		s.stats.Delivered += e.records
		s.stats.Filtered += e.filtered
		s.stats.Refused += e.refused
		s.stats.Missed += e.missed
		s.stats.Resets += e.resets
		s.feed.pending -= e.records + e.filtered + e.refused
		if e.ring != 0 {
			s.feed.counted[e.ring] = max(s.feed.counted[e.ring], e.position)
		}
	}
	s.oldest = 0
	if s.settled < len(s.sent) {
		s.oldest = s.sent[s.settled].oldest
	}
	waiting := s.settled < len(s.sent)
	n := 0
	for n < s.settled && (s.post != nil || s.held > s.opts.Replay || s.held == 0 || s.settled-n > maxSettled ||
		!waiting && now.Sub(s.sent[n].settled) > readTime) {
		s.held -= s.sent[n].bytes
		n++
	}
	s.forget(n)
}

// forget takes the first n entries off the log: they are good.
func (s *sender) forget(n int) {
	for i := range s.sent[:n] {
		s.sent[i].advance(&s.feed.good)
	}
	s.settled -= n
	s.sent = s.sent[n:] // append moves what is left when the memory ends
	if len(s.sent) == 0 {
		s.sent = nil
	}
}

// disconnect ends the connection and goes back to the first record that cannot
// be known to have been received. An orderly end is one where the peer said
// goodbye, having read what it acknowledged: a process that is killed with
// unread data resets the connection instead.
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
	if proven {
		s.failures = 0
	}
	// What is settled may be forgotten if the peer closed in good order, and,
	// if nothing was waiting for it, once it had the time to read.
	s.feed.mu.Lock()
	n := 0
	waiting := s.settled < len(s.sent)
	for n < s.settled && (orderly || !waiting && time.Since(s.sent[n].settled) > readTime) {
		s.held -= s.sent[n].bytes
		n++
	}
	s.forget(n)
	s.feed.mu.Unlock()

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

// isGoodbye reports whether a read ended because the peer closed, in TLS with or
// without notice.
func isGoodbye(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
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
	s.oldest = 0
	s.feed.mu.Unlock()
	if c != nil {
		c.free()
	}
	s.sent, s.settled, s.held = nil, 0, 0
	s.startFeed(s.again(cursor))
}
