package share

import (
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// DefaultMaxBytes is the default of RegistryOptions.MaxBytes.
const DefaultMaxBytes = 64 << 20

// RegistryOptions of a Registry. The zero value and nil mean the defaults.
type RegistryOptions struct {
	// MaxBytes bounds what members may have kept: names and notes. What goes
	// beyond is refused, and the member is told. Default DefaultMaxBytes.
	MaxBytes int64
}

// Registry says who holds what, see the package's doc. It is an http.Handler and
// has no goroutines but that of the file. Whoever reaches it may take everything, so its listener has
// to see to it that only members do. All is in memory, unless there is a file for
// notes: a registry that is restarted is told again.
type Registry struct {
	opts    RegistryOptions
	boot    string
	started time.Time

	mu     sync.Mutex
	groups map[string]*groupState
	bytes  int64
	noted  uint64 // counts notes that changed

	// Of one with a file, see OpenRegistry; nil without.
	stop, stopped chan struct{}
	closing       sync.Once
	fileErr       error
}

type groupState struct {
	members map[string]*memberState
	pieces  map[string]*piece
	swept   time.Time
	changes uint64 // of who wants or holds what
}

func newGroup(now time.Time) *groupState {
	return &groupState{members: make(map[string]*memberState), pieces: make(map[string]*piece), swept: now}
}

type memberState struct {
	id, name     string
	session, seq uint64
	until        time.Time
	wants        map[string]*piece
	holds        map[string]*piece
	fresh        map[string]granted // grants that the member may not have heard of
	give         []string
	looked       uint64 // groupState.changes when give was made, plus one
}

type granted struct {
	grant
	seq uint64 // of the request with whose answer it was told first
}

type piece struct {
	wanted []*memberState // the one to hold it first
	holder *memberState
	note   string
	after  string // how the last holder ended
	freed  time.Time
}

// What entries take, about, in bytes, besides names and notes.
const (
	pieceCost = 160
	wantCost  = 100
)

// NewRegistry returns a Registry.
func NewRegistry(o *RegistryOptions) *Registry {
	r := &Registry{boot: rand.Text(), started: time.Now(), groups: make(map[string]*groupState)}
	if o != nil {
		r.opts = *o
	}
	if r.opts.MaxBytes <= 0 {
		r.opts.MaxBytes = DefaultMaxBytes
	}
	return r
}

// limitError is a request that asks for too much.
type limitError string

func (e limitError) Error() string { return "share: " + string(e) }

// take does what a request asks, up to the first thing for which there is no
// room.
func (r *Registry) take(q *request) (a answer, err error) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	a.Boot = r.boot
	g := r.groups[q.Group]
	if g != nil {
		r.expire(g, now)
	}
	m, g, err := r.session(g, q, now)
	if m == nil || err != nil {
		return a, err
	}
	a.Known = true
	m.until, m.seq, m.name = now.Add(graceTime), q.Seq, q.Name
	for key, f := range m.fresh {
		if f.seq <= q.Heard {
			delete(m.fresh, key)
		}
	}
	for _, list := range [][]string{q.Keep, q.Want} {
		for _, key := range list {
			if err := r.want(g, m, key); err != nil {
				return a, err
			}
		}
	}
	// Who held it before the registry was restarted is heard before anybody gets
	// anything.
	young := now.Before(r.started.Add(graceTime))
	if young {
		for _, key := range q.Keep {
			if p := g.pieces[key]; p.holder == nil {
				p.hold(g, m, key)
				m.fresh[key] = granted{grant{Piece: key, Kept: true}, q.Seq}
			}
		}
	}
	for key, note := range q.Notes {
		p := m.holds[key]
		if p == nil {
			continue
		}
		if more := int64(len(note) - len(p.note)); more <= 0 || r.bytes+more <= r.opts.MaxBytes {
			p.note = note
			r.bytes += more
			r.noted++
		} else {
			a.Refused = append(a.Refused, key)
		}
	}
	for _, key := range q.Release {
		m.release(g, key, Released, now)
	}
	for _, key := range q.Drop {
		r.drop(g, m, key, Released, now)
	}
	if q.Leave {
		r.remove(g, m, Released, now)
		return a, nil
	}
	if !young && m.looked != g.changes+1 {
		for key, p := range m.wants {
			if p.holder == nil && p.wanted[0] == m {
				p.hold(g, m, key)
				m.fresh[key] = granted{grant{Piece: key, Note: p.note, After: p.after}, q.Seq}
			}
		}
		m.give = m.give[:0]
		for key, p := range m.holds {
			if p.wanted[0] != m {
				m.give = append(m.give, key)
			}
		}
		m.looked = g.changes + 1
	}
	for _, f := range m.fresh {
		a.Granted = append(a.Granted, f.grant)
	}
	a.Wait, a.Members, a.Give = young, len(g.members), slices.Clone(m.give)
	return a, nil
}

// session is the one of q, begun if q begins it; nil if there is none.
func (r *Registry) session(g *groupState, q *request, now time.Time) (*memberState, *groupState, error) {
	var m *memberState
	if g != nil {
		m = g.members[q.Member]
	}
	switch {
	case m != nil && (q.Session < m.session || q.Session == m.session && q.Seq <= m.seq):
		return nil, g, errLate
	case m != nil && q.Session == m.session:
		return m, g, nil
	case !q.Join:
		return nil, g, nil
	case m != nil: // the one before is given up
		r.remove(g, m, Expired, now)
	}
	if g == nil {
		if len(r.groups) >= maxGroups {
			r.sweep(now)
		}
		if len(r.groups) >= maxGroups {
			return nil, nil, limitError(fmt.Sprintf("there are %d groups, which is the limit", maxGroups))
		}
		if err := r.room(int64(len(q.Group)) + pieceCost); err != nil {
			return nil, nil, err
		}
		g = newGroup(now)
		r.groups[q.Group] = g
	}
	if len(g.members) >= maxMembers {
		return nil, g, limitError(fmt.Sprintf("the group has %d members, which is the limit", maxMembers))
	}
	m = &memberState{id: q.Member, session: q.Session,
		wants: make(map[string]*piece), holds: make(map[string]*piece), fresh: make(map[string]granted)}
	g.members[q.Member] = m
	return m, g, nil
}

// room takes n bytes of the budget.
func (r *Registry) room(n int64) error {
	if r.bytes+n > r.opts.MaxBytes {
		return limitError(fmt.Sprintf("what members have kept would be more than %d bytes", r.opts.MaxBytes))
	}
	r.bytes += n
	return nil
}

// want notes that m wants a piece.
func (r *Registry) want(g *groupState, m *memberState, key string) error {
	if m.wants[key] != nil {
		return nil
	}
	p := g.pieces[key]
	if p == nil {
		if len(g.pieces) >= maxPieces {
			return limitError(fmt.Sprintf("the group has %d pieces, which is the limit", maxPieces))
		}
		if err := r.room(int64(len(key)) + pieceCost); err != nil {
			return err
		}
		p = &piece{freed: time.Now()}
		g.pieces[key] = p
	}
	if err := r.room(wantCost); err != nil {
		return err
	}
	m.wants[key] = p
	p.wanted = append(p.wanted, m)
	p.order(key)
	g.changes++
	return nil
}

// order puts the member first whom the piece belongs to.
func (p *piece) order(key string) {
	best, most := 0, uint64(0)
	for i, m := range p.wanted {
		if h := weight(m.id, key); h > most || h == most && m.id > p.wanted[best].id {
			best, most = i, h
		}
	}
	if len(p.wanted) > 0 {
		p.wanted[0], p.wanted[best] = p.wanted[best], p.wanted[0]
	}
}

// weight is a hash of both.
func weight(member, key string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a
	for _, s := range [2]string{member, key} {
		for i := range len(s) {
			h = (h ^ uint64(s[i])) * 1099511628211
		}
		h *= 31
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd // and MurmurHash3's end, for names that differ in their last byte
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// drop notes that m does not want a piece any more, and so does not hold it.
func (r *Registry) drop(g *groupState, m *memberState, key, after string, now time.Time) {
	p := m.wants[key]
	if p == nil {
		return
	}
	m.release(g, key, after, now)
	delete(m.wants, key)
	r.bytes -= wantCost
	p.wanted = slices.DeleteFunc(p.wanted, func(o *memberState) bool { return o == m })
	p.order(key)
	g.changes++
}

func (p *piece) hold(g *groupState, m *memberState, key string) {
	p.holder, m.holds[key] = m, p
	g.changes++
}

func (m *memberState) release(g *groupState, key, after string, now time.Time) {
	if p := m.holds[key]; p != nil {
		p.holder, p.after, p.freed = nil, after, now
		delete(m.holds, key)
		delete(m.fresh, key)
		g.changes++
	}
}

// remove ends a member.
func (r *Registry) remove(g *groupState, m *memberState, after string, now time.Time) {
	for key := range m.wants {
		r.drop(g, m, key, after, now)
	}
	delete(g.members, m.id)
}

// expire ends the members that were not heard of, and forgets old notes.
func (r *Registry) expire(g *groupState, now time.Time) {
	for _, m := range g.members {
		if !now.Before(m.until) {
			r.remove(g, m, Expired, m.until)
		}
	}
	if now.Sub(g.swept) < time.Minute {
		return
	}
	g.swept = now
	for key, p := range g.pieces {
		if len(p.wanted) == 0 && now.Sub(p.freed) >= keepTime {
			delete(g.pieces, key)
			r.bytes -= int64(len(key)+len(p.note)) + pieceCost
		}
	}
}

// sweep forgets groups of which nothing is left.
func (r *Registry) sweep(now time.Time) {
	for name, g := range r.groups {
		if r.expire(g, now); len(g.members) == 0 && len(g.pieces) == 0 {
			delete(r.groups, name)
			r.bytes -= int64(len(name)) + pieceCost
		}
	}
}

// RegistryStats are the figures of a Registry.
type RegistryStats struct {
	Groups []GroupStats `json:"groups"`
	Bytes  int64        `json:"bytes"` // of names and notes
}

// GroupStats are those of one group.
type GroupStats struct {
	Name    string        `json:"name"`
	Members []MemberStats `json:"members"` // that live, by name
	Pieces  int           `json:"pieces"`
	Held    int           `json:"held"` // of the pieces
}

// MemberStats are those of one member.
type MemberStats struct {
	Name string `json:"name"`
	Held int    `json:"held"`
}

// Stats gives the figures of the moment.
func (r *Registry) Stats() RegistryStats {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sweep(now)
	s := RegistryStats{Groups: []GroupStats{}, Bytes: r.bytes}
	for name, g := range r.groups {
		gs := GroupStats{Name: name, Members: []MemberStats{}, Pieces: len(g.pieces)}
		for _, m := range g.members {
			gs.Members = append(gs.Members, MemberStats{m.name, len(m.holds)})
			gs.Held += len(m.holds)
		}
		slices.SortFunc(gs.Members, func(a, b MemberStats) int { return strings.Compare(a.Name, b.Name) })
		s.Groups = append(s.Groups, gs)
	}
	slices.SortFunc(s.Groups, func(a, b GroupStats) int { return strings.Compare(a.Name, b.Name) })
	return s
}
