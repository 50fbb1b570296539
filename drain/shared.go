package drain

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/drain/share"
	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// leaveWait bounds how long it is waited that a receiver acknowledges what
	// was written, before a drain goes to another process.
	leaveWait = 4 * time.Second
	// gatherTime is how long it is waited for servers that have not said yet
	// whose a drain is.
	gatherTime = 2 * share.Interval
	// elsewhereTime is how long it is waited that a drain comes whole to one process,
	// while another that is there has it at some servers: neither knows what the
	// other has sent, and would tell what moved between the servers as missed. Two
	// that reach all servers have settled it long before, and so they have when one
	// was killed.
	elsewhereTime = share.LeaseTime + 2*time.Second
	// moves bounds how many drains begin or end at once because of others.
	moves = 64
	// noteRate bounds how many bytes a second the notes of one unit are.
	noteRate = 1 << 20
)

// Shared says how the processes of a group share drains, see package share. Each
// drain is sent by one of them, as far as one reaches the servers; all drains of
// one selection are by the same one.
type Shared struct {
	Group   string // the same name for all
	Member  string // this process, for people
	Servers []SharedServer

	// Merge gives what several of the Servers hold, by their index, as one Source
	// that knows where sources move between servers: what two of them have comes
	// once, and what none has any more is missed. Default one in which a source that
	// moves is told as missing where it went away.
	Merge func(servers []int) envelope.Source
}

// SharedServer is one server of a group.
type SharedServer struct {
	Source envelope.Source // what it holds
	share.Server
}

// sharing is what a Set shares.
type sharing struct {
	set     *Set
	merge   func(servers []int) envelope.Source // nil: there is none
	name    string
	member  *share.Member
	sources []envelope.Source
	wake    chan struct{}
	moving  chan struct{}

	// Guarded by Set.mu.
	units     map[string]*unit
	changed   bool // of the units
	takeovers uint64
	handovers uint64
}

// unit is the drains of one selection: a piece of work. Set.mu guards it.
type unit struct {
	key    string
	bounds []*bound
	busy   bool // its drains are ending
	seen   []int
	since  time.Time // it was seen to be held at these servers

	parts   []part // that its drains read from; nil: they do not run
	rings   map[envelope.StreamID]int
	strange map[int]bool         // of the parts: no place is known there
	leases  map[int]*share.Lease // by server, now and, while it does not run, before
	again   time.Time            // when places are noted next
}

func newSharing(s *Set, o *Shared) (*sharing, error) {
	if o.Group == "" || len(o.Servers) == 0 {
		return nil, errors.New("drain: a group has to have a name and servers")
	}
	h := &sharing{set: s, name: o.Group, merge: o.Merge, wake: make(chan struct{}, 1), moving: make(chan struct{}, moves), units: make(map[string]*unit)}
	var servers []share.Server
	for _, server := range o.Servers {
		h.sources = append(h.sources, server.Source)
		servers = append(servers, server.Server)
	}
	h.member = share.Join(o.Group, servers, &share.Options{Name: o.Member, Logger: s.log})
	return h, nil
}

// unitKey names the selection of a binding.
func unitKey(kind string, b Binding) string {
	text, _ := json.Marshal(positionOf(kind, b).selection())
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// add takes in a binding whose drain may be this process's. The caller holds
// Set.mu, for all that follows but run and end.
func (h *sharing) add(g *group, b *bound) {
	key := unitKey(g.kind, b.Binding)
	u := h.units[key]
	if u == nil {
		u = &unit{key: key}
		h.units[key], h.changed = u, true
	}
	b.group, b.unit = g, u
	u.bounds = append(u.bounds, b)
	if u.parts != nil && !u.busy {
		h.open(u, b)
	}
	signal(h.wake)
}

// drop takes a binding out. Its drain may run on until it is flushed.
func (h *sharing) drop(b *bound) {
	if u := b.unit; u != nil {
		u.bounds = slices.DeleteFunc(slices.Clone(u.bounds), func(o *bound) bool { return o == b })
		b.unit = nil
		signal(h.wake)
	}
}

// run looks after the units until the Set ends.
func (h *sharing) run(done <-chan struct{}) {
	tick := time.NewTicker(share.Interval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		case <-h.wake:
		case <-h.member.Changes():
		}
		h.set.mu.Lock()
		h.look(time.Now())
		h.set.mu.Unlock()
	}
}

// look compares what runs with what this process holds.
func (h *sharing) look(now time.Time) {
	settled := h.member.Settled()
	for key, u := range h.units {
		if u.busy {
			continue
		}
		holds, give := h.member.Holds(key)
		for _, server := range give {
			if !u.reads(server) { // it came, and is to go before anything was begun
				h.member.Release(key, server, "")
				delete(u.leases, server)
			}
		}
		switch {
		case u.parts != nil && u.runs(holds):
			h.note(u, now)
		case u.parts != nil:
			h.stop(u)
		case len(u.bounds) == 0:
			delete(h.units, key)
			h.changed = true
		case len(holds) == 0:
		case len(holds) == len(h.sources), settled && u.gathered(holds, h.member.Elsewhere(key), now):
			h.start(u, holds)
		}
	}
	if h.changed {
		h.changed = false
		h.member.Want(slices.Collect(maps.Keys(h.units)))
	}
}

// reads reports whether the unit's drains read from the server.
func (u *unit) reads(server int) bool {
	return slices.ContainsFunc(u.parts, func(p part) bool { return p.server == server })
}

// runs reports whether the unit runs under just these leases.
func (u *unit) runs(holds []share.Hold) bool {
	if len(holds) != len(u.parts) || len(u.bounds) == 0 {
		return false
	}
	for i, hold := range holds {
		if u.parts[i].server != hold.Server || u.leases[hold.Server] != hold.Lease {
			return false
		}
	}
	return true
}

// gathered reports whether the servers have been the same for a while, which is longer
// if another process may have the unit elsewhere.
func (u *unit) gathered(holds []share.Hold, elsewhere bool, now time.Time) bool {
	servers := make([]int, len(holds))
	for i, hold := range holds {
		servers[i] = hold.Server
	}
	if !slices.Equal(servers, u.seen) {
		u.seen, u.since = servers, now
	}
	wait := gatherTime
	if elsewhere {
		wait = elsewhereTime
	}
	return now.Sub(u.since) >= wait
}

// start opens the drains of a unit at the places that the last holders noted, or
// where they were here.
func (h *sharing) start(u *unit, holds []share.Hold) {
	notes := &positions{exact: make(map[position]position), alike: make(map[position]map[position]bool)}
	before := u.leases
	u.rings, u.strange, u.leases = make(map[envelope.StreamID]int), make(map[int]bool), make(map[int]*share.Lease)
	after := ""
	for _, hold := range holds {
		u.parts = append(u.parts, part{Source: h.sources[hold.Server], server: hold.Server})
		u.leases[hold.Server] = hold.Lease
		var list []position
		json.Unmarshal([]byte(hold.Note), &list)  // one that is broken is none
		same := before[hold.Server] == hold.Lease // nobody else had it meanwhile
		u.strange[hold.Server] = len(list) == 0 && !same
		for _, at := range list {
			c, _ := envelope.ParseCursor(at.Cursor)
			for ring := range c.Rings {
				if h.merge == nil { // or every server keeps all of it
					u.rings[ring] = hold.Server
				}
			}
			if !same {
				notes.join(at, c)
			}
		}
		if !same && after != share.Expired {
			after = hold.After
		}
	}
	switch after {
	case share.Expired:
		h.takeovers++
	case share.Released:
		h.handovers++
	}
	placed := make(map[*bound]bool)
	notesOf := make(map[*bound]*untold)
	for _, alike := range []bool{false, true} {
		for _, b := range u.bounds {
			if placed[b] {
				continue
			}
			at, ok := notes.claim(b.group.kind, b.Binding, alike)
			if !ok {
				continue
			}
			placed[b] = true
			b.opened = at.Opened
			b.fresh = b.fresh && alike // its URL has changed
			notesOf[b] = at.Untold
			c, since := at.resume(b.Binding)
			merge(&c, b.start)
			b.start, b.since = c, since
			if !c.IsZero() {
				b.since = time.Time{}
			}
		}
	}
	for _, b := range u.bounds {
		b.inherit(notesOf[b])
		h.open(u, b)
	}
	u.again = time.Time{}
}

// open opens the drain of b, whose unit runs.
func (h *sharing) open(u *unit, b *bound) {
	s := h.set
	if b.removed || s.closed || b.drain != nil {
		return
	}
	parts := slices.Clone(u.parts)
	if q, err := b.query(); err == nil && !q.History {
		ago, _ := time.ParseDuration(b.From) // 0 for "now"
		for i := range parts {
			if u.strange[parts[i].server] {
				parts[i].since = b.opened.Add(-ago)
			}
		}
	}
	var src envelope.Source
	if b.rings == nil {
		b.rings = make(map[envelope.StreamID]int)
	}
	maps.Copy(b.rings, u.rings)
	b.src, src = newSeveral(parts, b.rings)
	since := b.since
	if h.merge != nil {
		var servers []int
		for _, p := range parts {
			servers = append(servers, p.server)
			if since.IsZero() {
				since = p.since // of what the cursor does not know
			}
		}
		src = h.merge(servers)
	}
	leases := slices.Collect(maps.Values(u.leases))
	until := func() time.Time {
		end := leases[0].Until()
		for _, l := range leases[1:] {
			if e := l.Until(); e.Before(end) {
				end = e
			}
		}
		return end
	}
	b.noted = 0
	if b.name == "" {
		b.name = rand.Text()
	}
	if b.drain, b.err = b.Binding.openAgain(src, b.group.opts, b.start, since, until, b.owed); b.err != nil {
		b.drain = nil
		return
	}
	if b.fresh {
		b.fresh = false
		s.test(b.group, b)
	}
}

// stop ends the drains of a unit, notes where they are, and releases it where it
// is another's.
func (h *sharing) stop(u *unit) {
	s := h.set
	u.busy = true
	bounds := slices.Clone(u.bounds)
	s.wg.Go(func() {
		h.moving <- struct{}{}
		ctx, cancel := context.WithTimeout(s.ctx, leaveWait)
		var ending sync.WaitGroup
		for _, b := range bounds {
			s.mu.Lock()
			d := b.drain
			s.mu.Unlock()
			if d != nil {
				ending.Go(func() { d.leave(ctx) })
			}
		}
		ending.Wait()
		cancel()
		<-h.moving
		s.mu.Lock()
		defer s.mu.Unlock()
		holds := make(map[int]bool)
		if !s.closed {
			list, _ := h.member.Holds(u.key)
			for _, hold := range list {
				holds[hold.Server] = hold.Lease == u.leases[hold.Server]
			}
		}
		for server, lease := range u.leases {
			if !lease.Valid() {
				continue
			}
			note := u.places(server, time.Now())
			if holds[server] && note != "" {
				h.member.Note(u.key, server, note)
			} else if !holds[server] {
				h.member.Release(u.key, server, note)
				delete(u.leases, server)
			}
		}
		for _, b := range bounds {
			b.rest()
		}
		u.parts, u.seen, u.busy = nil, nil, false
		signal(h.wake)
	})
}

// rest leaves a bound without a drain.
func (b *bound) rest() {
	if b.drain == nil {
		return
	}
	b.start, b.owed = b.drain.taken()
	b.since = time.Time{}
	b.past = b.drain.Stats().plus(&b.past)
	b.drain, b.src = nil, nil
}

// note has the servers keep where the drains of a unit are, if they moved.
func (h *sharing) note(u *unit, now time.Time) {
	if now.Before(u.again) {
		return
	}
	moved := false
	for _, b := range u.bounds {
		if b.drain == nil {
			continue
		}
		st := b.drain.Stats()
		n, owed := st.Delivered+st.Missed+st.Filtered+st.Refused+st.Resets+st.Resent+st.Connects+1, b.drain.owed()
		if n != b.noted || owed != b.notedOwed {
			b.noted, b.notedOwed, moved = n, owed, true
		}
	}
	if !moved {
		return
	}
	size := 0
	for _, p := range u.parts {
		note := u.places(p.server, now)
		size += len(note)
		h.member.Note(u.key, p.server, note)
	}
	u.again = now.Add(time.Duration(size) * time.Second / noteRate)
}

// places is where the drains of a unit are at a server, as text.
func (u *unit) places(server int, now time.Time) string {
	list := make([]position, 0, len(u.bounds))
	for _, b := range u.bounds {
		if b.drain == nil {
			continue
		}
		at := positionOf(b.group.kind, b.Binding)
		at.Opened, at.Seen = b.opened, now
		c, owed := b.drain.taken()
		at.Cursor, at.Untold = cursorText(b.src.at(c, server)), owed.note(b.name, b.heirOf)
		list = append(list, at)
	}
	if len(list) == 0 {
		return "" // what was noted before stays
	}
	text, err := json.Marshal(list)
	if err != nil {
		return ""
	}
	return string(text)
}

// end gives all units back and leaves the group, until ctx ends. The Set is
// closed.
func (h *sharing) end(ctx context.Context) error {
	s := h.set
	s.mu.Lock()
	for _, u := range h.units {
		if u.parts != nil && !u.busy {
			h.stop(u)
		}
	}
	s.mu.Unlock()
	s.wg.Wait()
	ctx, cancel := context.WithTimeout(ctx, leaveWait)
	defer cancel()
	if err := h.member.Shutdown(ctx); err != nil {
		return fmt.Errorf("drain: not all servers know that this process has left its drains: %w", err)
	}
	return nil
}

// SharingStats are the figures of what a Set shares.
type SharingStats struct {
	Group     string `json:"group"`
	Drains    int    `json:"drains"`    // of all
	Owned     int    `json:"owned"`     // by this process, at one server at least
	Takeovers uint64 `json:"takeovers"` // selections whose last holder did not give them back
	Handovers uint64 `json:"handovers"` // selections that were given back by their last holder

	// LeaseAge is how long ago the lease was renewed at the server that was heard
	// longest ago.
	LeaseAge time.Duration `json:"lease_age_ns"`
	Servers  []share.Stats `json:"servers"`
}

// Sharing gives the figures of the moment, or nil if nothing is shared.
func (s *Set) Sharing() *SharingStats {
	h := s.sharing
	if h == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &SharingStats{Group: h.name, Takeovers: h.takeovers, Handovers: h.handovers, Servers: h.member.Stats()}
	for _, u := range h.units {
		for _, b := range u.bounds {
			st.Drains++
			if b.drain != nil {
				st.Owned++
			}
		}
	}
	for _, server := range st.Servers {
		st.LeaseAge = max(st.LeaseAge, server.Age)
	}
	return st
}
