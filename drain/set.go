package drain

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	flushTime = 10 * time.Second // for a drain whose binding was removed
	leaveTime = time.Second      // if its receiver takes nothing anyhow
)

// DefaultPerApp is the default of SetOptions.PerApp.
const DefaultPerApp = 5

// SetOptions are those of a Set. The zero value and nil mean the defaults.
type SetOptions struct {
	// Drains are the options of the drains that the operator's File names, and
	// the Logger that of the Set.
	Drains *Options

	// Tenants are the options of the drains that CAPI and BindingCache name.
	// Default those of Drains, and Deny InternalNetworks if neither Deny nor
	// DialContext says otherwise.
	Tenants *Options

	// PerApp bounds how many drains CAPI and BindingCache may name for one
	// application; more are refused. Default DefaultPerApp, negative no bound.
	PerApp int

	// Positions is a file in which the places of the drains are kept, so that
	// another process goes on where this one ended, however it ended: nothing is
	// lost that the source still holds, and what had not been acknowledged for
	// sure is sent again, as after a break. It is written at most once a second
	// while something moves. Only one process may use it: OpenSet fails with
	// ErrInUse while another does, on systems that have flock; the lock is a file
	// beside it, with .lock at the end. Default none.
	Positions string

	// Shared, if not nil, has several processes share the drains. What they read
	// from is in it, OpenSet is given no other source. Where drains stand is kept
	// at the servers, and not in Positions. Default nil: all drains are this
	// process's.
	Shared *Shared

	// NoTest leaves out the test of new bindings, see Status.Test. Bindings that
	// are there from the start are tested only if Positions tells that they are
	// new.
	NoTest bool
}

func (o *SetOptions) withDefaults() *SetOptions {
	var c SetOptions
	if o != nil {
		c = *o
	}
	tenants := c.Tenants
	if tenants == nil {
		tenants = c.Drains
	}
	safe := Options{}
	if tenants != nil {
		safe = *tenants
	}
	if safe.Deny == nil && safe.DialContext == nil {
		safe.Deny = InternalNetworks()
	}
	c.Drains, c.Tenants = c.Drains.withDefaults(), safe.withDefaults()
	if c.PerApp == 0 {
		c.PerApp = DefaultPerApp
	}
	return &c
}

// Set is the drains of one process: those that its Providers name, which it
// follows.
type Set struct {
	src  envelope.Source
	opts *SetOptions
	log  *slog.Logger

	ctx       context.Context // ends with Close
	cancel    context.CancelFunc
	stop      context.CancelFunc // ends the following of providers, and tests
	stopping  context.Context    // ends with stop
	following sync.WaitGroup     // the followers, and who keeps positions
	wg        sync.WaitGroup     // drains on their way out, or in after their predecessor; tests

	mu           sync.Mutex
	closed       bool
	groups       []*group
	layout       uint64 // counts changes of what drains there are
	positionsErr error
	tests        queue

	sharing     *sharing   // nil: none
	positions   *positions // nil: none
	saving      sync.Mutex // held while they are written; guards the next
	savedAt     time.Time
	savedLayout uint64 // guarded by mu
}

// group is a provider and what it named. Set.mu guards what follows the caution,
// which is the follower's.
type group struct {
	*Provider
	opts    *Options
	known   map[Binding]bool
	caution caution

	drains  []*bound // in the order of the answer
	loaded  bool     // there was an answer
	err     error    // of the last fetch
	good    time.Time
	kept    int             // see caution
	refused map[listed]bool // entries that were told
}

// bound is a binding and its drain. Set.mu guards the fields but ready.
type bound struct {
	listed
	drain   *Drain
	removed bool
	before  *bound          // whom this one takes over from, until it does
	start   envelope.Cursor // where it takes up; empty: where the binding says
	since   time.Time       // then, if it is set, with nothing older
	owed    gap             // missed before that, and not told yet
	opened  time.Time       // the first time, by the positions file
	fresh   bool            // it is to be tested
	verdict *Verdict
	ready   chan struct{} // closed when the drain is open or will not be: a predecessor is flushed first

	text     string // the cursor, in the positions file; guarded by Set.saving
	untold   gap    // the same
	progress progress

	// Of one that is shared: drain is nil while another process has it, and start
	// is then where it was here last.
	group     *group
	unit      *unit // nil when it was removed
	src       *several
	rings     map[envelope.StreamID]int // the server of each that it knows; guarded by src while there is one
	noted     uint64                    // progress of the last note
	notedOwed gap
	past      Stats // of the drains it had before

	name   string   // of this life of it, see untold
	heirOf []string // lives whose untold gaps it has taken over
}

// OpenFile opens the drains that a File names. It fails if the file cannot be
// read or is no such list.
func OpenFile(path string, src envelope.Source, o *Options) (*Set, error) {
	return OpenSet(src, &SetOptions{Drains: o}, File(path))
}

// OpenSet opens the drains that the providers name, and follows them. It fails if
// a File cannot be read as a whole, or the positions file; servers are asked from
// then on.
//
// Bindings that did not change keep their drain and its connection. One that is
// gone is flushed for at most ten seconds and closed, one second if its receiver
// is away. One that selects the same as one that is gone continues at its cursor,
// after it was flushed. Any other new one starts where the positions file says,
// or else its binding. An entry that is wrong is logged with the reason, shows in
// Status, and if it names an application that is told; the others live.
func OpenSet(src envelope.Source, o *SetOptions, providers ...*Provider) (*Set, error) {
	s := &Set{src: src, opts: o.withDefaults(), layout: 1}
	s.log = s.opts.Drains.Logger
	if s.opts.Positions != "" {
		var err error
		if s.positions, err = openPositions(s.opts.Positions); err != nil {
			return nil, err
		}
		if err := s.positions.lock(); err != nil {
			return nil, err
		}
	}
	if s.opts.Shared != nil {
		if s.opts.Positions != "" {
			return nil, errors.New("drain: where shared drains stand is kept at the servers, not in a file")
		}
		var err error
		if s.sharing, err = newSharing(s, s.opts.Shared); err != nil {
			return nil, err
		}
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.stopping, s.stop = context.WithCancel(s.ctx)
	for _, p := range providers {
		g := &group{Provider: p, opts: s.opts.Drains, refused: make(map[listed]bool)}
		if p.tenants {
			g.opts = s.opts.Tenants
		}
		s.groups = append(s.groups, g)
		if p.careful {
			continue
		}
		if err := s.load(g); err != nil {
			s.Close()
			return nil, err
		}
	}
	for _, g := range s.groups {
		s.following.Go(func() { s.follow(g) })
	}
	if s.sharing != nil {
		s.following.Go(func() { s.sharing.run(s.stopping.Done()) })
	}
	if s.positions != nil {
		s.following.Go(func() { s.keepPositions(s.stopping.Done()) })
	}
	return s, nil
}

// follow asks a provider again and again.
func (s *Set) follow(g *group) {
	broken := ""
	report := func(err error) {
		switch {
		case err == nil && broken != "":
			s.log.Info("bindings can be read again", "provider", g.name)
			broken = ""
		case err != nil && broken != err.Error():
			s.log.Warn("bindings not usable; keeping the last good ones", "provider", g.name, "error", err)
			broken = err.Error()
		}
	}
	if g.careful { // the others were asked already
		report(s.load(g))
	}
	pause := time.NewTimer(g.pause())
	defer pause.Stop()
	for {
		select {
		case <-s.stopping.Done():
			return
		case <-pause.C:
		}
		err := s.load(g)
		if s.stopping.Err() != nil {
			return
		}
		report(err)
		pause.Reset(g.pause())
	}
}

// load asks a provider once, and makes the drains those that it names.
func (s *Set) load(g *group) error {
	list := bindingList{opts: g.opts, known: g.known, again: g.caution.kept > 0} // answers that leave bindings out are counted
	changed, err := g.fetch(s.stopping, &list)
	if s.stopping.Err() != nil {
		return nil
	}
	if err == nil && changed {
		g.known = make(map[Binding]bool, len(list.entries))
		for _, e := range list.entries {
			if e.err == nil {
				g.known[e.Binding] = true
			}
		}
		s.apply(g, list.entries)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.err = err; err == nil {
		g.good = time.Now()
	}
	return err
}

// apply makes the drains of a provider those of its answer.
func (s *Set) apply(g *group, list []listed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	old := make(map[Binding]*bound, len(g.drains))
	for _, b := range g.drains {
		if b.err == nil {
			old[b.Binding] = b
		}
	}
	if g.careful {
		list = g.caution.merge(time.Now(), old, list)
		g.kept = g.caution.kept
	}
	if g.tenants && s.opts.PerApp > 0 {
		limitApps(list, old, s.opts.PerApp)
	}
	refused := make(map[listed]bool)
	drains := make([]*bound, 0, len(list))
	var added []*bound
	for i, entry := range list {
		b := &bound{listed: entry, ready: make(chan struct{}), opened: time.Now()}
		if entry.err != nil {
			entry.err = reasonError(entry.err.Error()) // equal if the words are
			if refused[entry] = true; !g.refused[entry] {
				s.log.Warn("binding not usable", "provider", g.name, "index", i, "reason", entry.err)
				s.tell(g, entry.Binding, "cannot be used: "+entry.err.Error())
			}
		} else if kept := old[entry.Binding]; kept != nil {
			b = kept
			delete(old, entry.Binding)
		} else {
			added = append(added, b)
		}
		drains = append(drains, b)
	}
	if len(added) > 0 || len(old) > 0 {
		s.layout++
	}
	known := g.loaded // whoever comes now was not there before
	g.drains, g.refused, g.loaded = drains, refused, true
	s.startAdded(g, added, old, known)
}

type reasonError string

func (e reasonError) Error() string { return string(e) }

// limitApps refuses what is more than limit drains of one application. Those that
// are there already have precedence.
func limitApps(list []listed, old map[Binding]*bound, limit int) {
	count := make(map[string]int)
	for _, e := range list {
		if e.err == nil && e.SourceID != "" && old[e.Binding] != nil {
			count[e.SourceID]++
		}
	}
	for i := range list {
		e := &list[i]
		if e.err != nil || e.SourceID == "" || old[e.Binding] != nil {
			continue
		}
		if count[e.SourceID] >= limit {
			e.err = fmt.Errorf("drain: the application has %d drains already, which is the limit", limit)
			continue
		}
		count[e.SourceID]++
	}
}

// startAdded opens the drains of new bindings and retires those of old ones. A
// new binding takes over from an old one of the same selection. The caller holds
// s.mu.
func (s *Set) startAdded(g *group, added []*bound, old map[Binding]*bound, known bool) {
	gone := make(map[Binding]*bound, len(old))
	for _, b := range old {
		gone[b.selection()] = b
	}
	var rest []*bound
	for _, b := range added {
		b.fresh = !s.opts.NoTest && (known || s.positions != nil || s.sharing != nil)
		before := gone[b.selection()]
		if before == nil {
			rest = append(rest, b)
			continue
		}
		delete(gone, b.selection())
		delete(old, before.Binding)
		b.before = before
		s.wg.Go(func() {
			start := s.retire(before)
			s.mu.Lock()
			defer s.mu.Unlock()
			b.start, b.before = start, nil
			s.open(g, b)
		})
	}
	for _, b := range old {
		s.wg.Go(func() { s.retire(b) })
	}
	if s.positions != nil {
		for _, alike := range []bool{false, true} {
			rest = s.claim(g, rest, alike)
		}
	}
	for _, b := range rest {
		s.open(g, b)
	}
}

// claim opens the drains whose places are in the positions file, and gives the
// others.
func (s *Set) claim(g *group, added []*bound, alike bool) (rest []*bound) {
	for _, b := range added {
		at, ok := s.positions.claim(g.kind, b.Binding, alike)
		if !ok {
			rest = append(rest, b)
			continue
		}
		b.start, b.since = at.resume(b.Binding)
		b.owed = at.Untold.gap()
		b.opened = at.Opened
		b.fresh = b.fresh && alike // its URL has changed
		s.open(g, b)
	}
	return rest
}

// open opens the drain of b, unless b was removed meanwhile. The caller holds
// s.mu.
func (s *Set) open(g *group, b *bound) {
	switch {
	case b.removed || s.closed:
	case s.sharing != nil:
		s.sharing.add(g, b)
	default:
		b.drain, b.err = b.Binding.openAgain(s.src, g.opts, b.start, b.since, nil, b.owed)
		if b.fresh && b.err == nil {
			s.test(g, b)
		}
	}
	close(b.ready)
}

// retire flushes and closes the drain of a removed binding, and gives the cursor
// for whoever takes over.
func (s *Set) retire(b *bound) envelope.Cursor {
	s.mu.Lock()
	b.removed = true
	s.mu.Unlock()
	<-b.ready
	s.mu.Lock()
	d, start := b.drain, b.start
	s.mu.Unlock()
	if s.sharing != nil {
		defer func() { // until then it has its lease, and its place is noted
			s.mu.Lock()
			defer s.mu.Unlock()
			s.sharing.drop(b)
		}()
	}
	if d == nil {
		return start
	}
	patience := flushTime
	switch d.Stats().State {
	case Waiting, Held, Disabled:
		patience = leaveTime
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	if err := d.Shutdown(ctx); err != nil {
		s.log.Warn("removed drain was not flushed", "drain", d.String(), "error", err)
	}
	return d.Cursor()
}

// Shutdown shuts all drains down at once, see Drain.Shutdown, and writes the
// positions file a last time. Shared drains are not flushed, but left to the
// others, or for later, where they are.
func (s *Set) Shutdown(ctx context.Context) error {
	drains := s.end()
	defer s.cancel()
	defer context.AfterFunc(ctx, s.cancel)()
	if s.sharing != nil {
		return s.sharing.end(ctx)
	}
	errs := make([]error, len(drains))
	var wg sync.WaitGroup
	for i, d := range drains {
		wg.Go(func() {
			if err := d.Shutdown(ctx); err != nil {
				errs[i] = fmt.Errorf("%s: %w", d, err)
			}
		})
	}
	wg.Wait()
	s.wg.Wait()
	return errors.Join(append(errs, s.lastPositions())...)
}

// Close stops all drains now.
func (s *Set) Close() error {
	drains := s.end()
	s.cancel()
	for _, d := range drains {
		d.cancel()
	}
	for _, d := range drains {
		d.Close()
	}
	s.wg.Wait()
	if s.sharing != nil {
		s.sharing.member.Close()
	}
	s.lastPositions()
	return nil
}

func (s *Set) lastPositions() error {
	if s.positions == nil {
		return nil
	}
	s.savePositions()
	s.saving.Lock()
	s.positions.unlock()
	s.saving.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.positionsErr
}

// end stops following the providers and gives the open drains.
func (s *Set) end() (drains []*Drain) {
	s.stop()
	s.following.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, g := range s.groups {
		for _, b := range g.drains {
			if b.drain != nil {
				drains = append(drains, b.drain)
			}
		}
	}
	return drains
}
