package follow

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// found is a file that a pattern describes.
type found struct {
	group *Group
	path  string
	entry entry
	vars  map[string]string
}

// walk finds the files that the groups describe, each once.
func walk(t *tree, groups []*Group, visit func(found)) {
	seen := make(map[fileID]bool)
	for _, g := range groups {
		for _, p := range g.Paths {
			p.walk(t.list, func(dir string, e *entry, vars map[string]string) {
				path := filepath.Join(dir, e.name)
				if seen[e.id] || g.excluded(path) {
					return
				}
				seen[e.id] = true
				visit(found{g, path, *e, vars})
			})
		}
	}
}

// Match is a file that Find has found.
type Match struct {
	Path string
	Vars map[string]string
}

// Find returns the files that a group describes now.
func Find(g *Group) []Match {
	t := &tree{dirs: make(map[string]*listing)}
	var matches []Match
	walk(t, []*Group{g}, func(m found) { matches = append(matches, Match{m.path, m.vars}) })
	slices.SortFunc(matches, func(a, b Match) int { return strings.Compare(a.Path, b.Path) })
	return matches
}

// MatchPath reports whether the group describes a path, whatever is there, and
// what its pattern remembers of it.
func (g *Group) MatchPath(path string) (vars map[string]string, ok bool) {
	path = filepath.Clean(path) // a name between two slashes in a row would be empty
	if g.excluded(path) {
		return nil, false
	}
	list := func(dir string) []entry {
		rest, ok := strings.CutPrefix(path, strings.TrimSuffix(dir, string(filepath.Separator))+string(filepath.Separator))
		if !ok || rest == "" {
			return nil
		}
		name, _, below := strings.Cut(rest, string(filepath.Separator))
		return []entry{{name: name, dir: below}}
	}
	for _, p := range g.Paths {
		p.walk(list, func(_ string, _ *entry, v map[string]string) {
			if !ok {
				vars, ok = v, true
			}
		})
		if ok {
			return vars, true
		}
	}
	return nil, false
}

// scan looks at the names in the directories, if they may have changed.
func (f *Follower) scan(now time.Time, look int) {
	if !f.tree.changed(look) {
		f.looked = now
		return
	}
	first := f.looked.IsZero()
	known := make(map[string]bool, len(f.tree.dirs)) // directories seen before
	for dir := range f.tree.dirs {
		known[dir] = true
	}
	for _, fl := range f.files {
		fl.seen = false
	}
	f.tree.begin()
	matched := make(map[fileID]bool)
	var fresh []found
	walk(&f.tree, f.groups, func(m found) {
		matched[m.entry.id] = true
		if !f.again(m.path, m.entry.id) {
			fresh = append(fresh, m)
		}
	})
	f.tree.end()
	if f.tree.tooMany && !f.crowded {
		f.crowded = true
		f.opts.Logger.Warn("patterns lead through too many directories; files in further ones are not found", "directories", maxDirs)
	}
	// What was written last comes last.
	slices.SortStableFunc(fresh, func(a, b found) int { return a.entry.modified.Compare(b.entry.modified) })
	for _, m := range fresh {
		live := f.liveOf(m.path)
		if p, ok := f.recall(m.path, m.entry.id); ok {
			if live = nil; p.home() != m.path {
				live = f.restoreHome(p, live)
			}
		}
		if live != nil {
			f.sibling(live, m.path, &m.entry, now)
		} else {
			f.add(m, first, now)
		}
	}
	for dir, l := range f.tree.dirs {
		f.scanSiblings(dir, l, matched, known[dir], now)
	}
	for key, seen := range f.ignored {
		f.ignored[key] = false
		if !seen {
			delete(f.ignored, key)
		}
	}
	for _, fl := range f.files {
		if fl.gone = !fl.seen; fl.gone {
			fl.hot = true
		}
	}
	if first {
		f.reportForgotten(now)
	}
	f.looked = now
}

// again takes note of a name of a file that is known.
func (f *Follower) again(path string, id fileID) bool {
	fl := f.byID[id]
	if fl == nil {
		return false
	}
	if fl.path != path && fl.f == nil && !f.isStill(fl, path) {
		f.forget(fl) // the number was given to another file
		f.files = slices.DeleteFunc(f.files, func(o *file) bool { return o == fl })
		return false
	}
	fl.seen = true
	if fl.path != path {
		if f.byPath[fl.path] == fl {
			delete(f.byPath, fl.path)
		}
		if !fl.rotated {
			f.stats.Rotations++
		}
		fl.path, fl.rotated, fl.hot = path, path != fl.home, true
		f.version++
	}
	f.byPath[path] = fl
	return true
}

// isStill reports whether the file at path begins as fl did, which is closed.
func (f *Follower) isStill(fl *file, path string) bool {
	file, err := open(path)
	if err != nil {
		return false
	}
	defer file.Close()
	return fl.head.matches(file)
}

// recall is what positions say of a file. One of another name, or that was not
// there for a while, has it only if it begins as that one did: numbers are used
// again.
func (f *Follower) recall(path string, id fileID) (position, bool) {
	p, ok := f.forgot[id]
	if !ok || p.Path == path && p.Lost.IsZero() {
		return p, ok
	}
	file, err := open(path)
	if err != nil {
		return p, false
	}
	defer file.Close()
	return p, p.Head.matches(file)
}

// liveOf is the file of whose name this one is, rotated; nil for none.
func (f *Follower) liveOf(path string) (live *file) {
	name := nameOf(path)
	names := f.homes[dirOf(path)]
	if own := names[name]; own != nil && own.path == own.home {
		return nil
	}
	for home, fl := range names {
		if isRotated(name, home) && (live == nil || len(live.home) < len(fl.home)) {
			live = fl
		}
	}
	return live
}

// add follows a file that a pattern describes and that was not known.
func (f *Follower) add(m found, first bool, now time.Time) {
	fl, err := f.newFile(m.group, m.path, m.path, m.entry.id, m.vars)
	if err != nil {
		key := ignoredKey{m.entry.id, 0}
		if _, said := f.ignored[key]; !said {
			f.opts.Logger.Warn("a file is left out", "path", m.path, "error", err.Error())
		}
		f.ignored[key] = true
		return
	}
	fl.linked, fl.seen = m.entry.link, true
	names := f.homes[dirOf(m.path)]
	if names == nil {
		names = make(map[string]*file)
		f.homes[dirOf(m.path)] = names
	}
	before := names[nameOf(m.path)]
	names[nameOf(m.path)] = fl
	f.follow(fl)
	fl.grew = now
	f.ensureOpen(fl, now)
	switch {
	case f.restore(fl):
	case first && m.group.FromEnd && fl.f != nil:
		f.toEnd(fl)
	}
	if before != nil && f.byID[before.id] == before {
		fl.prev = before
	}
}

// toEnd leaves out what a file has.
func (f *Follower) toEnd(fl *file) {
	info, err := fl.f.Stat()
	if err != nil {
		return
	}
	n, _ := io.ReadFull(io.NewSectionReader(fl.f, 0, info.Size()), f.buf[:headSize])
	fl.head.extend(f.buf[:n])
	fl.offset, fl.hole = info.Size(), info.Size() == 0
	f.settle(fl, fl.offset)
}

// restore goes on where the positions say that a file was read to.
func (f *Follower) restore(fl *file) bool {
	p, ok := f.recall(fl.path, fl.id)
	if !ok {
		// The same file may have another number, on another file system.
		if p, ok = f.forgot[f.byOld[fl.path]]; !ok || p.Head.Len == 0 || p.Path != fl.path {
			return false
		}
	}
	if fl.f != nil {
		is := *fl
		is.head, is.offset = p.Head, p.Offset
		if info, err := fl.f.Stat(); err == nil {
			f.settle(&is, info.Size())
		}
		is.changed = is.changed || tailOf(&is) != p.Tail
		if is.changed && p.ID != fl.id {
			return false
		}
		*fl = is
	}
	fl.head, fl.offset, fl.kept, fl.hole = p.Head, p.Offset, p.Tail, p.Offset == 0
	if p.How == fl.group.how() && p.Stream != 0 {
		fl.stream, fl.number = p.Stream, p.Number
	}
	delete(f.forgot, p.ID)
	delete(f.byOld, p.Path)
	return true
}

// scanSiblings looks at the files of a directory that no pattern describes, for
// those that were rotated.
func (f *Follower) scanSiblings(dir string, l *listing, matched map[fileID]bool, known bool, now time.Time) {
	var fresh []*entry
	for i := range l.entries {
		e := &l.entries[i]
		if e.dir || matched[e.id] || isCompressed(e.name) {
			continue
		}
		key := ignoredKey{e.id, e.modified.UnixNano()}
		if _, ok := f.ignored[key]; ok {
			f.ignored[key] = true
			continue
		}
		if !f.again(filepath.Join(dir, e.name), e.id) {
			fresh = append(fresh, e)
		}
	}
	slices.SortFunc(fresh, func(a, b *entry) int { return a.modified.Compare(b.modified) })
	for _, e := range fresh {
		path := filepath.Join(dir, e.name)
		live := f.liveOf(path)
		p, remembered := f.recall(path, e.id)
		if live == nil { // it may be that nobody has made a new one yet
			for _, name := range originals(e.name) {
				if live = f.standIn(filepath.Join(dir, name)); live != nil {
					break
				}
			}
		}
		switch {
		case remembered:
			f.sibling(f.restoreHome(p, live), path, e, now)
		case live != nil && (known || e.modified.After(f.since)):
			f.sibling(live, path, e, now)
		default:
			f.ignored[ignoredKey{e.id, e.modified.UnixNano()}] = true
		}
	}
}

// restoreHome is the file of whose name a remembered one was, or one that stands
// for it.
func (f *Follower) restoreHome(p position, live *file) *file {
	home := p.home()
	if live != nil && live.home == home {
		return live
	}
	return f.standIn(home)
}

// standIn stands for the file of a name that a pattern describes; nil if none
// does.
func (f *Follower) standIn(home string) *file {
	for _, g := range f.groups {
		if vars, ok := g.MatchPath(home); ok {
			return &file{group: g, home: home, vars: vars}
		}
	}
	return nil
}

// sibling follows a file that was rotated before it was seen, or takes note that
// it is a copy of one that is followed.
func (f *Follower) sibling(live *file, path string, e *entry, now time.Time) {
	ignored := ignoredKey{e.id, e.modified.UnixNano()}
	if live == nil {
		f.ignored[ignored] = true
		return
	}
	fl, err := f.newFile(live.group, path, live.home, e.id, live.vars)
	if err != nil || !f.ensureOpen(fl, now) {
		f.lookAgain(path)
		return
	}
	fl.seen, fl.linked, fl.grew, fl.drained = true, e.link, now, false
	if !f.restore(fl) {
		info, err := fl.f.Stat()
		if err == nil && info.Size() == 0 {
			f.closeFile(fl)
			if now.Sub(e.modified) < time.Minute { // it may be a copy that is being made
				f.lookAgain(path)
			} else {
				f.ignored[ignored] = true
			}
			return
		}
		if of, sure := f.copyOf(fl, live.home); of != nil {
			f.closeFile(fl)
			if !sure {
				f.lookAgain(path)
				return
			}
			if of.copies == nil {
				of.copies = make(map[fileID]copied)
			}
			of.copies[e.id] = copied{path, e.modified}
			return
		}
	}
	f.stats.Rotations++
	f.follow(fl)
	if live.path == live.home && live.offset == 0 && f.byID[live.id] == live {
		fl.prev, live.prev = live.prev, fl // lines of it come before
	}
}

func (f *Follower) lookAgain(path string) {
	if l := f.tree.dirs[dirOf(path)]; l != nil {
		l.dirty = true
	}
}

// copyOf is the file of which c is a copy, complete or not; nil for none. That
// is not sure before what is in the file now has been read.
func (f *Follower) copyOf(c *file, home string) (of *file, sure bool) {
	for _, fl := range f.files {
		if fl.home != home || fl.f == nil || fl == c {
			continue
		}
		read := fl.offset > 0 && fl.head.matches(fl.f) // it has not been truncated since
		switch {
		case f.beginsWith(fl.f, c.f):
			return fl, read
		case !read && fl.offset > 0 && fl.head.matches(c.f):
			return fl, true
		}
	}
	return nil, false
}

// beginsWith reports whether the first 64 KiB of c, or all of it, are also what
// the other begins with.
func (f *Follower) beginsWith(other, c io.ReaderAt) bool {
	const size = 64 << 10
	a, b := f.buf[:size], f.buf[size:2*size]
	n, _ := c.ReadAt(a, 0)
	m, _ := other.ReadAt(b[:n], 0)
	return n > 0 && n == m && bytes.Equal(a[:n], b[:m])
}

// reportForgotten says which files positions are known of and that are not there.
func (f *Follower) reportForgotten(now time.Time) {
	for id, p := range f.forgot {
		if !p.Lost.IsZero() {
			continue
		}
		p.Lost = now
		f.forgot[id] = p
		f.stats.Unknown++
		f.opts.Logger.Warn("a file is not there any more; what it had beyond what was read, if anything, is lost", "path", p.Path, "read", p.Offset)
	}
}

// FindDirs returns the directories that a pattern describes now.
func (p *Pattern) FindDirs() []Match {
	var matches []Match
	list := func(dir string) []entry {
		names, _ := os.ReadDir(dir)
		entries := make([]entry, 0, len(names))
		for _, name := range names {
			is := name.IsDir()
			if name.Type()&fs.ModeSymlink != 0 {
				info, err := os.Stat(filepath.Join(dir, name.Name()))
				is = err == nil && info.IsDir()
			}
			entries = append(entries, entry{name: name.Name(), dir: is})
		}
		return entries
	}
	p.walkDirs(list, func(dir string, e *entry, vars map[string]string) {
		matches = append(matches, Match{filepath.Join(dir, e.name), vars})
	})
	return matches
}
