package share

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Server is where a Registry is.
type Server struct {
	Name string       // for people
	URL  string       // of the Registry, with its path
	HTTP *http.Client // makes the requests; its Timeout is not needed
}

// Options of a Member. The zero value and nil mean the defaults.
type Options struct {
	// Name is shown to people. Default none.
	Name string

	// Logger is told which registries are not reached, and when they are again,
	// and what they refuse. Default nobody.
	Logger *slog.Logger
}

// Member is one process of a group.
type Member struct {
	group string
	id    string
	name  string
	log   *slog.Logger

	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	changed chan struct{}

	mu      sync.Mutex
	wants   map[string]struct{}
	peers   []*peer
	leaving bool
}

// Lease is a member's permission to work, at one registry, for as long as it is
// known there without a break.
type Lease struct {
	until atomic.Int64 // nanoseconds after base
	base  time.Time
}

// Until is when the lease ends unless it is renewed before, by the monotonic
// clock. One that could not be renewed in time may be later; one that was lost
// never is.
func (l *Lease) Until() time.Time { return l.base.Add(time.Duration(l.until.Load())) }

// Valid reports whether the lease is valid now.
func (l *Lease) Valid() bool { return time.Now().Before(l.Until()) }

// Hold is that a member holds a piece at a registry.
type Hold struct {
	Server int // of those given to Join
	Lease  *Lease
	Note   string // of the last holder, or this one's own if it is still the same lease
	After  string // how the last holder ended; empty if there was none
}

// Join makes a Member of the group, at all servers, and starts a goroutine for
// each. It does not wait for them.
func Join(group string, servers []Server, o *Options) *Member {
	m := &Member{group: group, id: rand.Text(), log: slog.New(slog.DiscardHandler),
		changed: make(chan struct{}, 1), wants: make(map[string]struct{})}
	if o != nil {
		m.name = o.Name
		if o.Logger != nil {
			m.log = o.Logger
		}
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	for _, s := range servers {
		p := &peer{Server: s, m: m, kick: make(chan struct{}, 1)}
		p.begin()
		m.peers = append(m.peers, p)
	}
	for _, p := range m.peers {
		m.wg.Go(p.run)
	}
	return m
}

// Want makes keys the pieces that this member can work with. Those that it holds
// and does not want any more are released.
func (m *Member) Want(keys []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := make(map[string]struct{}, len(keys))
	for _, key := range keys {
		now[key] = struct{}{}
		if _, ok := m.wants[key]; !ok {
			for _, p := range m.peers {
				p.want[key] = true
			}
		}
	}
	for key := range m.wants {
		if _, ok := now[key]; !ok {
			for _, p := range m.peers {
				p.want[key] = false // what is held is, until the registry has answered
			}
		}
	}
	m.wants = now
	m.kick()
}

// kick has all peers send at once. The caller holds m.mu.
func (m *Member) kick() {
	for _, p := range m.peers {
		signal(p.kick)
	}
}

// Changes gives a value after what Holds says may have changed.
func (m *Member) Changes() <-chan struct{} { return m.changed }

// Holds says at which registries the piece is this member's to work with: held,
// with a valid lease; and at which ones of these it is to be given to another, by
// Release.
func (m *Member) Holds(key string) (work []Hold, give []int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.wants[key]; !ok {
		return nil, nil
	}
	for i, p := range m.peers {
		h := p.held[key]
		switch {
		case h == nil || h.release || !p.lease.Valid():
		case p.give[key]:
			give = append(give, i)
		default:
			work = append(work, Hold{i, p.lease, h.note, h.after})
		}
	}
	return work, give
}

// Elsewhere reports whether a registry that answers has given the piece to another
// member, or to none yet.
func (m *Member) Elsewhere(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.err == nil && !p.join && p.held[key] == nil && p.lease.Valid() {
			return true
		}
	}
	return false
}

// Note has a note kept at one registry, with a request that is made at once, if
// the piece is held there. Notes are for about once in an Interval.
func (m *Member) Note(key string, server int, note string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.peers[server].note(key, note)
	signal(m.peers[server].kick)
}

// Release gives a piece back to a registry, with a last note if that is not empty.
// Who releases does not work with it any more: releasing it again does nothing.
func (m *Member) Release(key string, server int, note string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.peers[server]
	h := p.held[key]
	if h == nil || h.release {
		return
	}
	if note != "" {
		p.note(key, note)
	}
	h.release = true
	signal(p.kick)
}

// Shutdown gives all pieces back, with the last notes, and leaves the group. When
// ctx ends before the registries have answered, their leases have to end.
func (m *Member) Shutdown(ctx context.Context) error {
	m.mu.Lock()
	m.leaving = true
	m.kick()
	m.mu.Unlock()
	done := make(chan struct{})
	go func() {
		m.wg.Wait()
		close(done)
	}()
	var err error
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	m.Close()
	<-done
	return err
}

// Close ends the member without a word: its leases have to end by themselves.
func (m *Member) Close() error {
	m.cancel()
	m.wg.Wait()
	return nil
}

// Stats are the figures of a Member at one registry.
type Stats struct {
	Server  string        `json:"server"`
	Members int           `json:"members"` // that live there, this one included
	Held    int           `json:"held"`    // pieces
	Age     time.Duration `json:"age_ns"`  // since the lease was renewed
	Error   string        `json:"error,omitempty"`
}

// Stats gives the figures of the moment, for each registry.
func (m *Member) Stats() []Stats {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]Stats, len(m.peers))
	for i, p := range m.peers {
		list[i] = Stats{Server: p.Name, Members: p.members, Held: len(p.held), Age: time.Since(p.renewed)}
		if p.err != nil {
			list[i].Error = p.err.Error()
		}
	}
	return list
}

// Err is why registries are not reached, or nil.
func (m *Member) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for _, p := range m.peers {
		errs = append(errs, p.err)
	}
	return errors.Join(errs...)
}

// Settled reports whether there is nothing under way: every registry has
// answered all there was to ask, or is not reached.
func (m *Member) Settled() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.peers {
		if p.err == nil && (p.join || p.waits || len(p.want) > 0) {
			return false
		}
	}
	return true
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
