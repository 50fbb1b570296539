package transport

import (
	"errors"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// share is which lane each source belongs to: that of the lanes alive to which
// rendezvous hashing gives the highest number. So a lane that is lost gives away
// its own sources only, and gets the same ones back. A share does not change; it
// is replaced.
//
// No two lanes ever have records of one ring in flight. When the lanes alive
// change, all stop sending at once and begin to read anew. A source of which
// another lane has records that are not acknowledged is left out until they are,
// or until that lane's connection ends.
type share struct {
	alive []*lane
}

// home is the lane that a source belongs to, nil if none is alive.
func (s *share) home(sourceID string) *lane {
	var best *lane
	var most uint64
	h := hashOf(sourceID)
	for _, n := range s.alive {
		if sum := mix(h ^ n.seed); best == nil || sum > most {
			best, most = n, sum
		}
	}
	return best
}

// hashOf is FNV-1a, the same in every process, so that links agree.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return h
}

// mix makes of each bit of x a change of half the bits (the finalizer of
// SplitMix64).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

const (
	// startHope is how long sources wait at the start for the server they belong
	// to.
	startHope = 2 * time.Second
	// lostHope is how long they wait for one that was lost to be back, unless the
	// first attempt fails before that.
	lostHope = time.Second
)

// hangs reports whether a connection ended because of silence, which has been
// waited for long enough.
func hangs(err error) bool { return errors.Is(err, ErrNoAck) || errors.Is(err, os.ErrDeadlineExceeded) }

// hopeForAll lets all lanes have their sources from the start.
func (l *Link) hopeForAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.lanes {
		n.expect(startHope)
	}
	l.reshare()
}

// expect keeps a lane's sources for it for a while. The lock is held.
func (n *lane) expect(d time.Duration) {
	var t *time.Timer
	t = time.AfterFunc(d, func() {
		n.l.mu.Lock()
		defer n.l.mu.Unlock()
		if n.hope == t {
			n.despair()
			n.l.reshare()
		}
	})
	n.hope = t
}

func (n *lane) despair() {
	if n.hope != nil {
		n.hope.Stop()
		n.hope = nil
	}
}

// despairOfAll stops the timers, at the end.
func (l *Link) despairOfAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.lanes {
		n.despair()
	}
}

// rise is called when the server has shown that it acknowledges. The lock is
// held.
func (n *lane) rise() {
	n.live = true
	n.despair()
	n.l.reshare()
	n.l.turn.Broadcast()
}

// fell is called when an attempt or a connection has failed. The lock is held.
func (n *lane) fell(hope bool) {
	wasLive := n.live
	n.live = false
	if wasLive && hope {
		n.expect(lostHope)
	} else {
		n.despair()
	}
	n.l.reshare()
}

// reshare makes a new share if other lanes are alive than were, and has it read
// by. The lock is held.
func (l *Link) reshare() {
	next := &share{}
	for _, n := range l.lanes {
		if n.live || n.hope != nil {
			next.alive = append(next.alive, n)
		}
	}
	if l.share != nil && equal(l.share.alive, next.alive) {
		l.release()
		return
	}
	if l.share != nil {
		l.stats.Moves++
	}
	l.share = next
	for _, n := range l.lanes {
		if n.session != nil {
			n.session.stopReading()
		}
	}
	l.turn.Broadcast()
}

func equal(a, b []*lane) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// release makes lanes that left sources to another one look again whether they
// have them now. The lock is held.
func (l *Link) release() {
	for _, n := range l.lanes {
		if s := n.session; s != nil && s.waits.Load() {
			s.stopReading()
		}
	}
}

// mine is what the sequence that s begins shall read. It notes whether something
// is left to other lanes for now, and with them when they shall say that it is
// not theirs any more. The lock is held.
func (l *Link) mine(s *session) func(string, envelope.StreamID) bool {
	if !l.several() {
		return nil
	}
	share := l.share
	busy := make(map[envelope.StreamID]bool)
	for _, n := range l.lanes {
		o := n.session
		if o == nil || o == s {
			continue
		}
		for _, e := range o.flight[o.head:] {
			if e.records > 0 || e.missed > 0 {
				busy[e.ring] = true
			}
		}
		if len(o.flight) > o.head {
			o.passing = o.entered
		}
	}
	s.waits.Store(false)
	return func(sourceID string, ring envelope.StreamID) bool {
		if share.home(sourceID) != s.lane {
			return false
		}
		if busy[ring] {
			s.waits.Store(true)
			return false
		}
		return true
	}
}

// finished reports whether every lane alive has read its share to the end, and
// all is acknowledged. The lock is held.
func (l *Link) finished() bool {
	if !l.several() {
		return true
	}
	some := false
	for _, n := range l.share.alive {
		if n.session == nil || n.session.finished != l.share {
			return false
		}
		some = true
	}
	return some
}
