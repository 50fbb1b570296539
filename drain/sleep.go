package drain

import (
	"maps"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// A drain that has nothing to send for long sleeps, if its source can wake it: it
// leaves the source's sequence, ends its goroutines, and keeps what it needs to go
// on. A connection that is still open keeps its watcher.

// sleeping is where a sender is between running and asleep.
type sleeping struct {
	mu    sync.Mutex
	state int
	woken bool
}

const (
	awake = iota
	falling
	asleep
)

// wake makes a sender that sleeps run. It may be called at any time, from
// anywhere, and does not block.
func (s *sender) wake() {
	s.sleeping.mu.Lock()
	defer s.sleeping.mu.Unlock()
	s.sleeping.woken = true
	if s.sleeping.state == asleep {
		s.sleeping.state = awake
		go s.run()
	}
}

// idle gives up memory when nothing was to be sent for a while.
func (s *sender) idle(now time.Time, wait time.Duration) time.Duration {
	if n := len(s.sent); n > 0 && n == s.settled { // of the last connection
		if pause := s.sent[n-1].settled.Add(readTime).Sub(now); pause > 0 {
			wait = min(wait, pause)
		} else {
			s.trust(false)
		}
	}
	if s.resting {
		return wait
	}
	if pause := later(s.lastWrite, s.roseAt).Add(restTime).Sub(now); pause > 0 {
		return min(wait, pause)
	}
	s.resting = true
	s.feed.mu.Lock()
	s.feed.format.release()
	s.feed.mu.Unlock()
	return wait
}

// sleep ends the feed and has the sender woken after wait at the latest. It is
// false if this is not the time for it.
func (s *sender) sleep(wait time.Duration) bool {
	waker, ok := s.src.(envelope.Waker)
	switch {
	case !ok, s.flushing, !s.feeding, s.query.Shard != "", len(s.sent) > 0, s.spare != nil, s.looking != nil, len(s.teller.losers) > 0:
		return false
	}
	s.haltFeed()
	s.feed.mu.Lock()
	idle := s.feed.cur == nil && !s.feed.untold.any() && !s.feed.good.IsZero()
	for ring, position := range s.feed.counted {
		// What is counted and not good is about to be sent again, see rewind.
		idle = idle && s.feed.good.Rings[ring] >= position
	}
	if idle {
		// All that was read is good, so this is all there is to know.
		s.feed.read, s.feed.counted = envelope.Cursor{}, nil
		s.feed.lease.reset()
		maps.DeleteFunc(s.feed.seen, func(_ envelope.StreamID, age uint32) bool { return age == s.feed.age })
		if len(s.feed.seen) == 0 {
			s.feed.seen = nil
		}
		s.stopFeed, s.fed, s.sent, s.feed.ready, s.feed.space = nil, nil, nil, nil, nil
	}
	s.feed.mu.Unlock()
	if !idle {
		s.startFeed(s.again(s.feed.read))
		return false
	}
	s.sleeping.mu.Lock()
	s.sleeping.state, s.sleeping.woken = falling, false
	s.sleeping.mu.Unlock()

	q := s.again(s.feed.good)
	stop := waker.Wake(q, s.wake)
	var timer *time.Timer // none if there is nothing to do but wait for records
	if wait < time.Hour {
		timer = time.AfterFunc(wait, s.wake)
	}
	if s.conn != nil {
		s.conn.onDeath(s.wake)
	}
	s.cleanUp = func() {
		stop()
		if timer != nil {
			timer.Stop()
		}
	}

	select {
	case <-s.flush:
		s.wake()
	case <-s.ctx.Done():
		s.wake()
	default:
	}
	s.sleeping.mu.Lock()
	fell := !s.sleeping.woken
	s.sleeping.state = awake
	if fell {
		s.sleeping.state = asleep // from here on it may run again already
	}
	s.sleeping.mu.Unlock()
	if !fell {
		s.rise()
	}
	return fell
}

// rise goes on where sleep left off. Of the rings and streams only those are still
// in seen that were not seen in this age.
func (s *sender) rise() {
	s.cleanUp()
	s.cleanUp = nil
	if s.conn != nil {
		s.conn.onDeath(nil)
	}
	s.feed.mu.Lock()
	s.feed.counted = make(map[envelope.StreamID]uint64)
	if s.feed.seen == nil {
		s.feed.seen = make(map[envelope.StreamID]uint32)
	}
	for _, positions := range []map[envelope.StreamID]uint64{s.feed.good.Rings, s.feed.good.Streams} {
		for id := range positions {
			if _, ok := s.feed.seen[id]; !ok {
				s.feed.seen[id] = s.feed.age
			}
		}
	}
	s.feed.ready, s.feed.space = make(chan struct{}, 1), make(chan struct{}, 1)
	s.feed.mu.Unlock()
	s.roseAt, s.resting = time.Now(), false
	s.startFeed(s.again(s.feed.good))
}
