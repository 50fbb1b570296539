package share

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator/internal/wholefile"
)

// saveInterval is the least time between two writes of the file.
const saveInterval = time.Second

// maxFile bounds the file of notes, in bytes.
const maxFile = 512 << 20

// filed is a note in the file.
type filed struct {
	Group string    `json:"group"`
	Piece string    `json:"piece"`
	Note  string    `json:"note"`
	Freed time.Time `json:"freed"` // by its last holder; of one that is held, when it was written
}

// OpenRegistry is NewRegistry with a file in which notes outlive the process, as the
// server's rings may do. Who holds what is not in it: that is told again. It is
// written at most once a second, by a goroutine that Close ends, and read at once. One
// that is not there is empty; one that is broken is an error.
func OpenRegistry(path string, o *RegistryOptions) (*Registry, error) {
	r := NewRegistry(o)
	if err := r.read(path); err != nil {
		return nil, fmt.Errorf("share: file of notes: %w; remove it to go on without", err)
	}
	r.stop, r.stopped = make(chan struct{}), make(chan struct{})
	go r.keep(path)
	return r, nil
}

// Close writes the file a last time, if there is one.
func (r *Registry) Close() error {
	if r.stop == nil {
		return nil
	}
	r.closing.Do(func() { close(r.stop) })
	<-r.stopped
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fileErr
}

// Err is why the file could not be written the last time, or nil.
func (r *Registry) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.fileErr
}

func (r *Registry) read(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.Size() > maxFile {
		err = fmt.Errorf("larger than %d bytes", maxFile)
	}
	if err != nil {
		return err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var list []filed
	if err := json.Unmarshal(text, &list); err != nil {
		return err
	}
	now := time.Now()
	for _, f := range list {
		if f.Group == "" || f.Piece == "" || len(f.Group) > MaxName || len(f.Piece) > MaxName || len(f.Note) > maxNote || now.Sub(f.Freed) >= keepTime {
			continue
		}
		g := r.groups[f.Group]
		cost := int64(len(f.Piece)+len(f.Note)) + pieceCost
		if g == nil {
			cost += int64(len(f.Group)) + pieceCost
		}
		if len(r.groups) >= maxGroups && g == nil || g != nil && len(g.pieces) >= maxPieces || r.room(cost) != nil {
			continue
		}
		if g == nil {
			g = newGroup(now)
			r.groups[f.Group] = g
		}
		if g.pieces[f.Piece] != nil {
			r.bytes -= cost
			continue
		}
		g.pieces[f.Piece] = &piece{note: f.Note, freed: f.Freed}
	}
	return nil
}

// keep writes the file when notes have changed.
func (r *Registry) keep(path string) {
	defer close(r.stopped)
	tick := time.NewTicker(saveInterval)
	defer tick.Stop()
	saved := uint64(0)
	for ended := false; !ended; {
		select {
		case <-tick.C:
		case <-r.stop:
			ended = true
		}
		r.mu.Lock()
		noted := r.noted
		r.mu.Unlock()
		if noted == saved {
			continue
		}
		err := r.write(path)
		if err == nil {
			saved = noted
		}
		r.mu.Lock()
		r.fileErr = err
		r.mu.Unlock()
	}
}

// write puts a new file in the old one's place.
func (r *Registry) write(path string) (err error) {
	now := time.Now()
	list := []filed{}
	r.mu.Lock()
	for name, g := range r.groups {
		for key, p := range g.pieces {
			if p.note == "" {
				continue
			}
			f := filed{name, key, p.note, p.freed}
			if len(p.wanted) > 0 {
				f.Freed = now
			}
			list = append(list, f)
		}
	}
	r.mu.Unlock()
	text, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("share: file of notes: %w", err)
	}
	err = wholefile.Write(path, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
	if err != nil {
		return fmt.Errorf("share: file of notes: %w", err)
	}
	return nil
}
