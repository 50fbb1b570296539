package follow

import (
	"cmp"
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"time"
)

// Options are what New can be told. The zero value is useful.
type Options struct {
	// Positions is the file in which positions are kept; empty: nowhere, and a
	// restart begins anew.
	Positions string
	// From goes on where that Follower is, whose Run has returned, instead of where
	// the file says.
	From *Follower
	// Mark is called after records were handed over, and returns a function that
	// says whether all of them have been acknowledged. Nil means that they are as
	// soon as the Writer has them.
	Mark func() func() bool
	// Hold says whether the Writer has as much as it can keep. Nil: never.
	Hold func() bool

	// Poll is how often files are looked at where nothing tells that they grow.
	// Default 250 ms.
	Poll time.Duration
	// NoNotify looks at files by polling alone, also on Linux.
	NoNotify bool
	// Save is how often positions are saved, if they have moved. Default 1 s.
	Save time.Duration
	// MaxOpen bounds the open files. Default 1,000.
	MaxOpen int

	// Logger hears of files that cannot be read, and of truncations. Nil discards.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.Poll = cmp.Or(max(c.Poll, 0), 250*time.Millisecond)
	c.Save = cmp.Or(max(c.Save, 0), time.Second)
	c.MaxOpen = cmp.Or(max(c.MaxOpen, 0), 1000)
	if c.Hold == nil {
		c.Hold = func() bool { return false }
	}
	if c.Mark == nil {
		c.Mark = func() func() bool { return func() bool { return true } }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Stats are what a Follower has counted since it was made.
type Stats struct {
	Files      int    // known
	Open       int    // open now
	Unreadable int    // known, and cannot be opened
	Records    uint64 // handed over
	Refused    uint64 // that the Writer returned an error for
	Bytes      uint64 // read as part of records
	Rotations  uint64 // files that got another name
	Truncated  uint64 // files that were cut, and read from their beginning
	Unknown    uint64 // truncated or vanished files of which nobody knows whether they had more
	Saves      uint64 // of positions
	SaveError  string // why the last save failed; empty if it did not
}

// How long a file that has no name any more, or another one, is watched for more.
const (
	finishAfter   = time.Second      // then a line without an end is one
	lingerGone    = 10 * time.Second // deleted
	lingerRotated = time.Minute      // renamed
	forgetAfter   = 7 * 24 * time.Hour
	coarse        = 2 * time.Second // how far the clocks of file systems may be behind
	maxForgotten  = 10_000          // positions of files that are not there
)

// Follower follows files, in one goroutine.
type Follower struct {
	groups []*Group
	opts   Options
	buf    []byte
	since  time.Time // rotated files older than that are not ours, where we have not been

	mu       sync.Mutex // of all that follows
	tree     tree
	notifier *notifier // nil: polling
	open     int       // files that are open
	files    []*file   // in the order in which they were found
	byID     map[fileID]*file
	byPath   map[string]*file
	homes    map[string]map[string]*file // directory, name: the file that was last read under this name
	ignored  map[ignoredKey]bool         // rotated files that are not ours; true if seen in the last scan
	forgot   map[fileID]position         // of files that have not been found
	byOld    map[string]fileID           // the same by path
	looked   time.Time                   // when the last scan began
	rested   time.Time                   // when the next one may
	crowded  bool                        // it was said that there are too many directories
	version  uint64                      // counts changes of positions
	saved    uint64                      // the version that is in the file
	due      time.Time
	asked    time.Time // whether what is pending is safe
	pending  *snapshot
	running  bool           // Run does, and waits for saves
	saving   bool           // a save is under way
	saves    sync.WaitGroup // of it
	stats    Stats
}

type ignoredKey struct {
	id       fileID
	modified int64
}

// snapshot is positions that are saved when what came before is acknowledged.
type snapshot struct {
	version uint64
	data    positionsFile
	safe    func() bool
}

// New makes a Follower and reads its positions. It starts nothing.
func New(groups []*Group, o *Options) (*Follower, error) {
	f := &Follower{
		opts:    o.withDefaults(),
		buf:     make([]byte, bufferSize),
		since:   time.Now(),
		byID:    make(map[fileID]*file),
		byPath:  make(map[string]*file),
		homes:   make(map[string]map[string]*file),
		ignored: make(map[ignoredKey]bool),
		forgot:  make(map[fileID]position),
		byOld:   make(map[string]fileID),
	}
	f.tree.dirs = make(map[string]*listing)
	defer func() { f.opts.From = nil }()
	for _, g := range groups {
		c := *g
		var err error
		if c.Join, err = c.Join.withDefaults(); err != nil {
			return nil, err
		}
		f.groups = append(f.groups, &c)
	}
	if f.opts.Positions != "" || f.opts.From != nil {
		p, err := f.opts.positions()
		if err != nil {
			return nil, err
		}
		if !p.Saved.IsZero() {
			f.since = p.Saved
		}
		for _, pos := range p.Files {
			f.forgot[pos.ID] = pos
			f.byOld[pos.Path] = pos.ID
		}
	}
	return f, nil
}

func (o *Options) positions() (positionsFile, error) {
	if from := o.From; from != nil {
		from.mu.Lock()
		defer from.mu.Unlock()
		return from.snapshot(time.Now()).data, nil
	}
	return loadPositions(o.Positions)
}

// Run follows until ctx ends. It may be called once.
func (f *Follower) Run(ctx context.Context) {
	defer func() {
		f.saves.Wait()
		f.mu.Lock()
		defer f.mu.Unlock()
		f.running = false
	}()
	f.mu.Lock()
	f.running = true
	f.mu.Unlock()
	if !f.opts.NoNotify {
		n, err := newNotifier()
		if err != nil {
			f.opts.Logger.Info("files are looked at by polling", "reason", err.Error())
		}
		f.mu.Lock()
		f.notifier = n
		if n != nil {
			f.tree.watch = n.watch
		}
		f.mu.Unlock()
	}
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.notifier != nil {
			f.notifier.close()
		}
		for _, fl := range f.files {
			f.closeFile(fl)
		}
	}()
	var wake <-chan struct{}
	interval := f.opts.Poll
	if f.notifier != nil {
		wake, interval = f.notifier.wake, fullPoll*f.opts.Poll
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	var full, tick time.Time // when everything, and what is not watched, is looked at next
	for ctx.Err() == nil {
		now := time.Now()
		look := lookTold
		if !now.Before(tick) {
			look, tick = lookUnwatched, now.Add(f.opts.Poll)
		}
		if !now.Before(full) {
			look, full = lookAll, now.Add(interval)
		}
		wait := f.opts.Poll
		switch f.pass(now, look) {
		case passMore:
			continue
		case passHeld:
			wait = heldPause
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		case <-wake:
			// A file that is written line by line is read some lines at a time.
			timer.Reset(gather)
			select {
			case <-ctx.Done():
			case <-timer.C:
			}
		}
	}
}

const (
	fullPoll  = 20                    // where changes are told, everything is looked at this much less often
	gather    = 10 * time.Millisecond // between being told of a change and looking
	heldPause = 20 * time.Millisecond // while the Writer can take no more
	rest      = 5                     // a scan may take one part in so many of the time
	askEvery  = 50 * time.Millisecond // whether positions are safe
	maxPass   = 200 * time.Millisecond
)

// What a pass looks at.
const (
	lookTold      = iota // what is known to have changed
	lookUnwatched        // and that of which nothing is told
	lookAll
)

// What a pass ended with.
const (
	passDone = iota // everything has been read
	passMore        // there is more to read
	passHeld        // the Writer can take no more
)

// pass looks at files once, and reads what there is.
func (f *Follower) pass(now time.Time, look int) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.notifier != nil && f.hear() {
		look = lookAll
	}
	if !now.Before(f.rested) {
		start := time.Now()
		f.scan(now, look)
		f.rested = now.Add(rest * time.Since(start))
	}
	if look != lookTold {
		for _, fl := range f.files {
			if look == lookAll || fl.linked || !f.tree.watches(dirOf(fl.path)) {
				fl.hot = true
			}
		}
	}
	outcome := f.readAll(now)
	f.retire(now)
	f.checkpoint(now)
	return outcome
}

// hear takes note of what was told, and reports whether something was left out.
func (f *Follower) hear() (all bool) {
	changes, all := f.notifier.take()
	for c := range changes {
		if l := f.tree.dirs[c.dir]; l != nil && (c.names || c.unwatched) {
			l.dirty = true
			l.watched = l.watched && !c.unwatched
		}
		if c.name == "" {
			continue
		}
		if fl := f.byPath[filepath.Join(c.dir, c.name)]; fl != nil {
			fl.hot, fl.told = true, true
		}
	}
	if all {
		for _, l := range f.tree.dirs {
			l.dirty = true
		}
	}
	return all
}

// readAll reads a piece of each file in turn, until all are read.
func (f *Follower) readAll(now time.Time) int {
	for start := time.Now(); ; {
		again := false
		for i := 0; i < len(f.files); i++ { // files are added as copies are found
			fl := f.files[i]
			if !fl.hot {
				continue
			}
			if f.opts.Hold() {
				return passHeld
			}
			fl.hot = f.read(fl, now)
			again = again || fl.hot
		}
		if !again {
			return passDone
		}
		if time.Since(start) > maxPass {
			return passMore
		}
		now = time.Now()
	}
}

// checkpoint saves positions that have become safe, and takes note of new ones.
func (f *Follower) checkpoint(now time.Time) {
	if f.saving {
		return
	}
	if f.pending != nil {
		if now.Sub(f.asked) < askEvery {
			return
		}
		if f.asked = now; !f.pending.safe() {
			return
		}
		f.write(f.pending)
		f.pending = nil
	}
	if f.version != f.saved && !now.Before(f.due) {
		f.due = now.Add(f.opts.Save)
		f.pending = f.snapshot(now)
	}
}

func (f *Follower) snapshot(now time.Time) *snapshot {
	s := &snapshot{version: f.version, safe: f.opts.Mark()}
	s.data.Version, s.data.Saved = positionsVersion, f.since
	if !f.looked.IsZero() {
		s.data.Saved = f.looked.Add(-coarse)
	}
	for _, fl := range f.files {
		s.data.Files = append(s.data.Files, fl.position())
	}
	lost := 0
	for id, p := range f.forgot {
		if f.byID[id] != nil {
			continue // the number is another file's now
		}
		if !p.Lost.IsZero() {
			lost++
		}
		if lost > maxForgotten || !p.Lost.IsZero() && now.Sub(p.Lost) > forgetAfter {
			delete(f.forgot, id)
			delete(f.byOld, p.Path)
			continue
		}
		s.data.Files = append(s.data.Files, p)
	}
	return s
}

// write saves positions. The disk may take seconds for it, for which reading does not
// wait.
func (f *Follower) write(s *snapshot) {
	f.saved = s.version
	switch {
	case f.opts.Positions == "":
	case !f.running:
		f.wrote(s.data.save(f.opts.Positions))
	default:
		f.saving = true
		f.saves.Go(func() {
			err := s.data.save(f.opts.Positions)
			f.mu.Lock()
			defer f.mu.Unlock()
			f.saving = false
			f.wrote(err)
		})
	}
}

func (f *Follower) wrote(err error) {
	if err == nil {
		f.stats.SaveError = ""
		f.stats.Saves++
		return
	}
	if f.stats.SaveError == "" {
		f.opts.Logger.Error("positions cannot be saved; after a restart lines would be read again", "error", err.Error())
	}
	f.stats.SaveError = err.Error()
	f.saved-- // try again
}

// Save saves the positions as they are. It is for the end, when Run has returned
// and everything has been acknowledged.
func (f *Follower) Save() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.opts.Positions == "" {
		return nil
	}
	f.pending = nil
	return f.snapshot(time.Now()).data.save(f.opts.Positions)
}

// Stats may be called at any time.
func (f *Follower) Stats() Stats {
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.stats
	s.Files, s.Open = len(f.files), f.open
	for _, fl := range f.files {
		if fl.failed {
			s.Unreadable++
		}
	}
	return s
}
