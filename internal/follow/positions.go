package follow

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/wholefile"
)

// headSize is how much of a file's beginning tells it from others.
const headSize = 1024

// head is what a file begins with.
type head struct {
	Len  int64  `json:"len"`
	Hash uint64 `json:"hash,string"`
}

// extend takes what follows into the head, until it has headSize bytes. The hash
// is FNV-1a.
func (h *head) extend(b []byte) {
	if h.Len == 0 {
		h.Hash = 14695981039346656037
	}
	for _, c := range b[:min(len(b), int(headSize-h.Len))] {
		h.Hash = (h.Hash ^ uint64(c)) * 1099511628211
		h.Len++
	}
}

// matches reports whether f begins so. Everything begins with nothing.
func (h head) matches(f io.ReaderAt) bool {
	if h.Len == 0 {
		return true
	}
	var buf [headSize]byte
	n, _ := f.ReadAt(buf[:h.Len], 0)
	var is head
	is.extend(buf[:n])
	return is == h
}

// position is what is kept of one file.
type position struct {
	Path   string            `json:"path"`           // where it was seen last
	Home   string            `json:"home,omitempty"` // its name before it was rotated, if that is another one
	ID     fileID            `json:"id"`
	Head   head              `json:"head"`
	Offset int64             `json:"offset"`        // everything before it is acknowledged
	Tail   uint64            `json:"tail,string"`   // hash of what is just before it
	Stream envelope.StreamID `json:"stream,string"` // of the next record
	Number uint64            `json:"number"`
	How    string            `json:"how"`           // how its lines were split
	Lost   time.Time         `json:"lost,omitzero"` // when it was first not found
}

// home is the file's name before it was rotated.
func (p *position) home() string { return cmp.Or(p.Home, p.Path) }

// tailOf is the hash of what is just before a file's offset.
func tailOf(fl *file) uint64 {
	var h head
	h.extend(fl.tail[:fl.tailed])
	return h.Hash
}

// positionsFile is what is written.
type positionsFile struct {
	Version int        `json:"version"`
	Saved   time.Time  `json:"saved"`
	Files   []position `json:"files"`
}

const positionsVersion = 1

// loadPositions reads the file. One that is not there is empty.
func loadPositions(path string) (positionsFile, error) {
	var p positionsFile
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, fmt.Errorf("positions: %w", err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("positions: %s is damaged (%v); move it away to read all files from where new ones are read", path, err)
	}
	if p.Version != positionsVersion {
		return p, fmt.Errorf("positions: %s is of version %d, this program reads %d; move it away to read all files from where new ones are read", path, p.Version, positionsVersion)
	}
	for i := range p.Files {
		f := &p.Files[i]
		if f.Offset < 0 || f.Head.Len < 0 || f.Head.Len > headSize || f.Path == "" {
			return p, fmt.Errorf("positions: %s is damaged (file %q); move it away to read all files from where new ones are read", path, f.Path)
		}
	}
	return p, nil
}

// save writes the file at once or not at all.
func (p positionsFile) save(path string) error {
	data, err := json.MarshalIndent(p, "", " ")
	if err != nil {
		return err
	}
	err = wholefile.Write(path, func(w io.Writer) error {
		_, err := w.Write(append(data, '\n'))
		return err
	})
	if err != nil {
		return fmt.Errorf("positions: %w", err)
	}
	return nil
}
