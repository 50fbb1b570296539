package drain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	pollInterval = time.Second
	flushTime    = 10 * time.Second // for a drain whose binding was removed
	maxFile      = 64 << 20
)

// Set is the drains of one process: those that a file of bindings names. It
// follows the file, see OpenFile.
type Set struct {
	path string
	src  envelope.Source
	opts *Options
	log  *slog.Logger

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	stop   context.CancelFunc // ends the following of the file
	polled chan struct{}      // closed when it has ended
	wg     sync.WaitGroup     // drains on their way out, or in after their predecessor

	mu     sync.Mutex
	closed bool
	drains []*bound // in the order of the file
	err    error    // of the file as a whole

	text    []byte // of the last good file; from here on owned by the poller
	size    int64
	modTime time.Time
	broken  string // what is wrong with the file was said
}

// bound is a binding and its drain. Set.mu guards the fields but ready.
type bound struct {
	listed
	drain   *Drain
	removed bool
	start   envelope.Cursor
	ready   chan struct{} // closed when the drain is open or will not be: a predecessor is flushed first
}

// Status is the state of one binding.
type Status struct {
	SourceID string `json:"source_id,omitempty"`
	App      string `json:"app,omitempty"`
	Space    string `json:"space,omitempty"`
	Org      string `json:"org,omitempty"`
	URL      string `json:"url"` // scheme, host and port
	Stats
}

// OpenFile opens the drains that the file names:
//
//	{"drains": [
//	  {"source_id": "0d1e2f30-…", "url": "syslog-tls://logs.example.com:6514"},
//	  {"app": "shop", "space": "prod", "url": "syslog://10.0.0.7:514"},
//	  {"url": "syslog://archive:514?drain-data=all", "from": "now"}
//	]}
//
// See Binding for what an entry may hold. An entry that is wrong is logged by
// its index and the reason, and shows in Status; the others live. It fails if
// the file cannot be read or is no such list.
//
// The file is looked at every second while the set is open. Bindings that did
// not change keep their drain and its connection. One that is gone is flushed
// for at most ten seconds and closed. One that selects the same as one that is
// gone continues at its cursor, after it was flushed; any other new one starts
// with the oldest record held, unless it says otherwise. While the file is
// missing or broken the last good bindings stay, which is logged once: replace
// the file by renaming a new one onto it.
func OpenFile(path string, src envelope.Source, o *Options) (*Set, error) {
	s := &Set{path: path, src: src, opts: o.withDefaults(), polled: make(chan struct{})}
	s.log = s.opts.Logger
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.load(); err != nil {
		s.cancel()
		return nil, err
	}
	ctx, stop := context.WithCancel(s.ctx)
	s.stop = stop
	go s.follow(ctx)
	return s, nil
}

func (s *Set) follow(ctx context.Context) {
	defer close(s.polled)
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		err := s.load()
		s.mu.Lock()
		s.err = err
		s.mu.Unlock()
		switch {
		case err == nil && s.broken != "":
			s.log.Info("binding file is good again", "file", s.path)
			s.broken = ""
		case err != nil && s.broken != err.Error():
			s.log.Warn("binding file not usable; keeping the last good bindings", "error", err)
			s.broken = err.Error()
		}
	}
}

// load reads the file if it may have changed, and applies it. A file changed
// within the last seconds is read again, for the clock of file systems is
// coarse.
func (s *Set) load() error {
	info, err := os.Stat(s.path)
	if err != nil {
		return fmt.Errorf("drain: binding file: %w", err)
	}
	if s.broken == "" && info.Size() == s.size && info.ModTime().Equal(s.modTime) && time.Since(s.modTime) > 3*time.Second {
		return nil
	}
	if info.Size() > maxFile {
		return fmt.Errorf("drain: binding file: larger than %d bytes", maxFile)
	}
	text, err := os.ReadFile(s.path)
	if err != nil {
		return fmt.Errorf("drain: binding file: %w", err)
	}
	if s.text != nil && bytes.Equal(text, s.text) {
		s.size, s.modTime = info.Size(), info.ModTime()
		return nil
	}
	list, err := parseBindings(text, s.opts)
	if err != nil {
		return err
	}
	s.text, s.size, s.modTime = text, info.Size(), info.ModTime()
	s.apply(list)
	return nil
}

// apply makes the drains those of list.
func (s *Set) apply(list []listed) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	old := make(map[Binding]*bound)
	for _, b := range s.drains {
		if b.err == nil {
			old[b.Binding] = b
		}
	}
	s.drains = s.drains[:0:0]
	var added []*bound
	for i, entry := range list {
		b := &bound{listed: entry, ready: make(chan struct{})}
		if entry.err != nil {
			s.log.Warn("binding not usable", "file", s.path, "index", i, "reason", entry.err)
		} else if kept := old[entry.Binding]; kept != nil {
			b = kept
			delete(old, entry.Binding)
		} else {
			added = append(added, b)
		}
		s.drains = append(s.drains, b)
	}
	// A new binding takes over from a removed one of the same selection.
	gone := make(map[Binding]*bound, len(old))
	for _, b := range old {
		gone[b.selection()] = b
	}
	for _, b := range added {
		before := gone[b.selection()]
		if before == nil {
			s.open(b)
			continue
		}
		delete(gone, b.selection())
		delete(old, before.Binding)
		s.wg.Go(func() {
			start := s.retire(before)
			s.mu.Lock()
			defer s.mu.Unlock()
			b.start = start
			s.open(b)
		})
	}
	for _, b := range old {
		s.wg.Go(func() { s.retire(b) })
	}
}

// open opens the drain of b, unless b was removed meanwhile. The caller holds
// s.mu.
func (s *Set) open(b *bound) {
	if !b.removed && !s.closed {
		b.drain, b.err = b.Binding.open(s.src, s.opts, b.start)
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
	if b.drain == nil {
		return b.start
	}
	ctx, cancel := context.WithTimeout(s.ctx, flushTime)
	defer cancel()
	if err := b.drain.Shutdown(ctx); err != nil {
		s.log.Warn("removed drain was not flushed", "drain", b.drain.String(), "error", err)
	}
	return b.drain.Cursor()
}

// Status gives the state of each binding, in the order of the file. Those that
// are not usable have the state Invalid and the reason as LastError.
func (s *Set) Status() []Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]Status, len(s.drains))
	for i, b := range s.drains {
		st := &list[i]
		st.SourceID, st.App, st.Space, st.Org = b.SourceID, b.App, b.Space, b.Org
		if t, err := parseURL(b.URL); err == nil {
			st.URL = t.String()
		}
		switch {
		case b.err != nil:
			st.State, st.LastError = Invalid, b.err.Error()
		case b.drain == nil:
			st.State = Connecting
		default:
			st.Stats = b.drain.Stats()
		}
	}
	return list
}

// Err is why the binding file cannot be followed at the moment, or nil.
func (s *Set) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Shutdown shuts all drains down at once, see Drain.Shutdown.
func (s *Set) Shutdown(ctx context.Context) error {
	drains := s.end()
	defer s.cancel()
	defer context.AfterFunc(ctx, s.cancel)()
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
	return errors.Join(errs...)
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
	return nil
}

// end stops following the file and gives the open drains.
func (s *Set) end() (drains []*Drain) {
	s.stop()
	<-s.polled
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, b := range s.drains {
		if b.drain != nil {
			drains = append(drains, b.drain)
		}
	}
	return drains
}
