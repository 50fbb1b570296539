package follow

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// entry is a name in a directory.
type entry struct {
	name     string
	id       fileID
	dir      bool
	link     bool // symbolic
	modified time.Time
}

// listing is a directory as it was seen last.
type listing struct {
	modified time.Time // the directory's
	at       time.Time // when it was read
	entries  []entry
	links    bool // has symbolic links, whose targets change without it
	dirty    bool // something is known to have happened in it
	used     bool // in the walk under way
	watched  bool
}

// settled is for how long after a change a directory is looked at again, because
// the clocks of file systems are coarse.
const settled = time.Second

// tree is the directories that patterns lead through.
type tree struct {
	dirs    map[string]*listing
	watch   func(dir string) bool // nil: nothing tells of changes
	tooMany bool                  // more than maxDirs
}

// maxDirs bounds the directories that are looked at; what is in further ones is
// not found.
const maxDirs = 50_000

// changed reports whether any directory may have changed.
func (t *tree) changed(look int) bool {
	for path, l := range t.dirs {
		if l.dirty || (look == lookAll || look == lookUnwatched && (!l.watched || l.links)) && l.stale(path) {
			return true
		}
	}
	return len(t.dirs) == 0
}

// watches reports whether changes in the directory are told.
func (t *tree) watches(dir string) bool {
	l := t.dirs[dir]
	return l != nil && l.watched
}

func (l *listing) stale(path string) bool {
	if !trustDirTime || l.links {
		return true
	}
	info, err := os.Stat(path)
	if err != nil {
		return !l.modified.IsZero()
	}
	return !info.ModTime().Equal(l.modified) || l.at.Sub(l.modified) < settled
}

// begin begins a walk, end forgets the directories it did not come through.
func (t *tree) begin() {
	for _, l := range t.dirs {
		l.used = false
	}
}

func (t *tree) end() {
	for path, l := range t.dirs {
		if !l.used {
			delete(t.dirs, path)
		}
	}
}

// list gives the entries of a directory, for a walk.
func (t *tree) list(dir string) []entry {
	l := t.dirs[dir]
	if l == nil && len(t.dirs) >= maxDirs {
		t.tooMany = true
		return nil
	}
	if l == nil {
		l = &listing{dirty: true}
		t.dirs[dir] = l
	}
	if l.used {
		return l.entries
	}
	l.used = true
	if !l.watched && t.watch != nil {
		l.watched = t.watch(dir) // before it is read, so that nothing happens unseen
	}
	if l.dirty || l.stale(dir) {
		l.read(dir)
	}
	return l.entries
}

func (l *listing) read(dir string) {
	l.dirty, l.links, l.modified, l.entries = false, false, time.Time{}, l.entries[:0]
	l.at = time.Now()
	info, err := os.Stat(dir)
	if err != nil {
		l.watched = false
		return
	}
	l.modified = info.ModTime()
	names, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, name := range names {
		path := filepath.Join(dir, name.Name())
		var info fs.FileInfo
		if name.Type()&fs.ModeSymlink != 0 {
			l.links = true
			info, err = os.Stat(path)
		} else {
			info, err = name.Info()
		}
		if err != nil {
			continue // gone already
		}
		e := entry{name: name.Name(), dir: info.IsDir(), link: name.Type()&fs.ModeSymlink != 0, modified: info.ModTime()}
		if !e.dir {
			if !info.Mode().IsRegular() {
				continue
			}
			id, ok := idOf(path, info)
			if !ok {
				continue
			}
			e.id = id
		}
		l.entries = append(l.entries, e)
	}
}

// compressed are the ends of names of files that are never read.
var compressed = []string{".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".Z"}

func isCompressed(name string) bool {
	for _, end := range compressed {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return false
}

// isRotated reports whether name is one that a file called live gets when it is
// rotated: with a number or date, or "old", behind its name or before its
// extension.
func isRotated(name, live string) bool {
	if rest, ok := strings.CutPrefix(name, live); ok {
		return isRotation(rest)
	}
	ext := filepath.Ext(live)
	base := strings.TrimSuffix(live, ext)
	if rest, ok := strings.CutPrefix(name, base); ok && ext != "" && base != "" {
		if rest, ok = strings.CutSuffix(rest, ext); ok {
			return isRotation(rest)
		}
	}
	return false
}

func isRotation(suffix string) bool {
	if len(suffix) < 2 || !strings.ContainsRune(".-_", rune(suffix[0])) {
		return false
	}
	c := suffix[1]
	return c >= '0' && c <= '9' || suffix[1:] == "old"
}

// originals are the names that a file may have had before it was rotated.
func originals(name string) (names []string) {
	ext := filepath.Ext(name)
	for i := len(name) - 2; i > 0; i-- {
		if isRotation(name[i:]) {
			names = append(names, name[:i])
		}
		if i < len(name)-len(ext) && ext != "" && isRotation(name[i:len(name)-len(ext)]) {
			names = append(names, name[:i]+ext)
		}
	}
	return names
}
