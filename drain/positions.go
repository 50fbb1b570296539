package drain

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/wholefile"
)

const (
	saveInterval = time.Second
	// saveShare is how many times longer than a save takes is the pause after it.
	saveShare = 20
	// keepTime is how long the position of a drain is kept that nobody names any
	// more: a provider may be away when the process starts.
	keepTime     = 24 * time.Hour
	maxPositions = 512 << 20 // bytes of the file
)

// position is where one drain stands: one entry of the file. It names the drain
// by what it selects and by a hash of its URL, in which there may be secrets.
type position struct {
	Provider string    `json:"provider"`
	SourceID string    `json:"source_id,omitempty"`
	App      string    `json:"app,omitempty"`
	Space    string    `json:"space,omitempty"`
	Org      string    `json:"org,omitempty"`
	URL      string    `json:"url"`
	Opened   time.Time `json:"opened"` // the drain, for the first time
	Seen     time.Time `json:"seen"`   // its binding, the last time
	Cursor   string    `json:"cursor,omitempty"`
	Untold   *untold   `json:"untold,omitempty"`
}

func positionOf(provider string, b Binding) position {
	sum := sha256.Sum256([]byte(b.URL))
	return position{Provider: provider, SourceID: b.SourceID, App: b.App, Space: b.Space, Org: b.Org, URL: hex.EncodeToString(sum[:16])}
}

// key is the drain, selection whatever has the same one.
func (p position) key() position {
	return position{Provider: p.Provider, SourceID: p.SourceID, App: p.App, Space: p.Space, Org: p.Org, URL: p.URL}
}

func (p position) selection() position {
	p = p.key()
	p.URL = ""
	return p
}

// ErrInUse means that another process keeps its places in the positions file.
var ErrInUse = errors.New("drain: positions file: another process uses it, which is still running")

// positions is a file in which the places of drains outlive the process.
type positions struct {
	path   string
	locked *os.File // nil: not
	done   bool     // it was another's for the taking

	mu sync.Mutex
	// What the file said and nobody has claimed yet, by key and by selection.
	exact map[position]position
	alike map[position]map[position]bool
}

// openPositions reads the file. One that is not there is empty. One that is
// broken is an error, for to go on without it would be to send everything again.
func openPositions(path string) (*positions, error) {
	p := &positions{path: path, exact: make(map[position]position), alike: make(map[position]map[position]bool)}
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err == nil && info.Size() > maxPositions {
		err = fmt.Errorf("larger than %d bytes", maxPositions)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(path)
	}
	var file struct {
		Drains *[]position `json:"drains"`
	}
	if err == nil {
		err = json.Unmarshal(text, &file)
	}
	if err == nil && file.Drains == nil {
		err = errors.New(`there is no list "drains"`)
	}
	if err != nil {
		return nil, fmt.Errorf("drain: positions file: %w; remove it to send what is held from where bindings say", err)
	}
	now := time.Now()
	for _, at := range *file.Drains {
		if now.Sub(at.Seen) < keepTime {
			p.put(at)
		}
	}
	return p, nil
}

// lock keeps other processes from the file. Where that is not possible, for
// another reason than that one of them has it, things go on without: whether the
// file can be written is seen when it is.
func (p *positions) lock() (err error) {
	if p.locked, err = lockFile(p.path + ".lock"); errors.Is(err, ErrInUse) {
		return fmt.Errorf("%w: %s", err, p.path)
	}
	return nil
}

// unlock lets others have the file, which is not written any more.
func (p *positions) unlock() {
	p.done = true
	if p.locked != nil {
		p.locked.Close()
		p.locked = nil
	}
}

func (p *positions) put(at position) {
	p.exact[at.key()] = at
	same := p.alike[at.selection()]
	if same == nil {
		same = make(map[position]bool)
		p.alike[at.selection()] = same
	}
	same[at.key()] = true
}

// join is put, of one of several parts of the same place.
func (p *positions) join(at position, c envelope.Cursor) {
	if before, ok := p.exact[at.key()]; ok {
		other, _ := envelope.ParseCursor(before.Cursor)
		merge(&c, other)
		at.Cursor = cursorText(c)
		at.Untold = at.Untold.with(before.Untold)
		if before.Opened.Before(at.Opened) {
			at.Opened = before.Opened
		}
	}
	p.put(at)
}

// claim gives the stored place of a binding that has come. With alike, that of a
// drain of the same selection will do.
func (p *positions) claim(provider string, b Binding, alike bool) (position, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	want := positionOf(provider, b)
	at, ok := p.exact[want]
	if !ok && alike {
		for k := range p.alike[want.selection()] {
			at, ok = p.exact[k], true
			break
		}
	}
	if ok {
		delete(p.exact, at.key())
		delete(p.alike[at.selection()], at.key())
		if len(p.alike[at.selection()]) == 0 {
			delete(p.alike, at.selection())
		}
	}
	return at, ok
}

// resume is where a drain goes on, or if that is not known, since when: where
// nothing was ever received, the binding's own beginning.
func (at position) resume(b Binding) (c envelope.Cursor, since time.Time) {
	if at.Cursor == "" {
		if q, err := b.query(); err == nil && !q.History {
			ago, _ := time.ParseDuration(b.From) // 0 for "now"
			since = at.Opened.Add(-ago)
		}
		return c, since
	}
	if c, err := envelope.ParseCursor(at.Cursor); err == nil && !c.IsZero() {
		return c, time.Time{}
	}
	return c, at.Seen
}

// save writes the file anew and puts it in the old one's place.
func (p *positions) save(list []position) error {
	p.mu.Lock()
	now := time.Now()
	for _, at := range p.exact {
		if now.Sub(at.Seen) < keepTime {
			list = append(list, at)
		}
	}
	p.mu.Unlock()
	err := wholefile.Write(p.path, func(w io.Writer) error {
		io.WriteString(w, `{"drains": [`)
		for i, at := range list {
			text, err := json.Marshal(at)
			if err != nil {
				return err
			}
			if i > 0 {
				io.WriteString(w, ",")
			}
			io.WriteString(w, "\n")
			w.Write(text)
		}
		_, err := io.WriteString(w, "\n]}\n")
		return err
	})
	if err != nil {
		return fmt.Errorf("drain: positions file: %w", err)
	}
	return nil
}

// progress tells cheaply whether a drain may stand elsewhere than a moment ago:
// by what it has done, and for some time after, when it forgets what it might
// have had to send again.
type progress struct {
	counted uint64
	until   time.Time
}

func (p *progress) moved(s *Stats, now time.Time) bool {
	if n := s.Delivered + s.Missed + s.Filtered + s.Refused + s.Resets + s.Connects + 1; n != p.counted {
		p.counted, p.until = n, now.Add(readTime+10*time.Second)
	}
	return now.Before(p.until)
}

// keepPositions writes the file when something has moved, until ctx ends.
func (s *Set) keepPositions(done <-chan struct{}) {
	pause := time.NewTimer(saveInterval)
	defer pause.Stop()
	for {
		select {
		case <-done:
			return
		case <-pause.C:
		}
		began := time.Now()
		s.savePositions()
		pause.Reset(max(saveInterval, saveShare*time.Since(began)))
	}
}

// savePositions writes the file unless it says what it would say.
func (s *Set) savePositions() {
	s.saving.Lock()
	defer s.saving.Unlock()
	if s.positions.done {
		return
	}
	now := time.Now()
	type row struct {
		b  *bound
		d  *Drain
		at position
	}
	var rows []row
	s.mu.Lock()
	for _, g := range s.groups {
		for _, b := range g.drains {
			if b.err != nil {
				continue
			}
			r := row{b, b.drain, positionOf(g.kind, b.Binding)}
			if r.d == nil && b.before != nil {
				r.d = b.before.drain // where that ends, this one begins
			}
			r.at.Opened, r.at.Cursor, r.at.Untold = b.opened, cursorText(b.start), b.owed.note("", nil)
			rows = append(rows, r)
		}
	}
	changed := s.layout != s.savedLayout
	s.savedLayout = s.layout
	s.mu.Unlock()
	list := make([]position, len(rows))
	for i, r := range rows {
		at := r.at
		if r.d != nil {
			if st := r.d.Stats(); r.b.progress.moved(&st, now) || r.b.text == "" || r.d.owed() != r.b.untold {
				c, owed := r.d.place()
				if text := cursorText(c); text != r.b.text || owed != r.b.untold {
					r.b.text, r.b.untold, changed = text, owed, true
				}
			}
			if r.b.text != "" {
				at.Cursor, at.Untold = r.b.text, r.b.untold.note("", nil)
			}
		}
		at.Seen = now
		list[i] = at
	}
	if !changed && now.Sub(s.savedAt) < time.Hour {
		return
	}
	err := s.positions.save(list)
	s.mu.Lock()
	before := s.positionsErr
	s.positionsErr = err
	s.mu.Unlock()
	switch {
	case err == nil:
		s.savedAt = now
		if before != nil {
			s.log.Info("positions file is written again")
		}
	default:
		s.mu.Lock()
		s.savedLayout = 0 // which it never is: once more
		s.mu.Unlock()
		if before == nil {
			s.log.Warn("where drains stand is not kept; trying again every second", "error", err)
		}
	}
}

func cursorText(c envelope.Cursor) string {
	if c.IsZero() {
		return ""
	}
	return c.String()
}
