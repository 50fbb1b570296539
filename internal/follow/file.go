package follow

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	tailSize   = 64        // bytes before the offset that are read again each time
	readSize   = 256 << 10 // read at once
	bufferSize = tailSize + maxText + maxJoinBytes + readSize
)

// file is one file that is followed.
type file struct {
	group   *Group
	vars    map[string]string
	home    string // its name before it was rotated
	path    string // its name now
	id      fileID
	records *emitter.Records

	f      *os.File // nil while closed
	used   time.Time
	failed bool // could not be opened

	// Everything before offset is handed over. The head is what the file begins
	// with, the tail what is just before offset: they tell whether this is still
	// the same file.
	offset int64
	head   head
	tail   [tailSize]byte
	tailed int
	kept   uint64            // hash of the tail as it was saved, until it is read
	stream envelope.StreamID // that numbers the next record
	number uint64            // of the next record

	hot     bool  // there may be something to read
	told    bool  // something has changed in it
	linked  bool  // is a symbolic link: nothing tells when it grows
	wide    bool  // what comes next is long
	end     int64 // how far it was looked at
	grew    time.Time
	drained bool // was read to its end
	hole    bool // nothing but NULs so far: a file that was cut, and whose writer does not append
	changed bool // is not what its position was saved of

	rotated bool // is not under its own name any more
	gone    bool // has no name any more
	seen    bool // in the scan under way
	prev    *file
	copies  map[fileID]copied // files that begin as this one does
}

// copied is where a copy was seen.
type copied struct {
	path     string
	modified time.Time
}

// numbered reports whether the records are the same when they are read again.
func (fl *file) numbered() bool { return fl.group.Join == nil && !fl.group.Repeats }

func (fl *file) position() position {
	p := position{Path: fl.path, ID: fl.id, Head: fl.head, Offset: fl.offset, Tail: tailOf(fl), Stream: fl.stream, Number: fl.number, How: fl.group.how()}
	if fl.home != fl.path {
		p.Home = fl.home
	}
	if fl.tailed == 0 {
		p.Tail = fl.kept
	}
	return p
}

// read reads one piece of a file, and reports whether there may be more to do at
// once.
func (f *Follower) read(fl *file, now time.Time) (again bool) {
	if !f.ensureOpen(fl, now) {
		return false
	}
	if fl.prev != nil && !f.finished(fl, now) {
		return !fl.prev.drained
	}
	return f.readPiece(fl, now, more)
}

// finished reports whether the file before this one has been read to its end.
// This one is not begun before, so that lines stay in order. Once this one has
// something, the other one's last line is as long as it gets.
func (f *Follower) finished(fl *file, now time.Time) bool {
	p := fl.prev
	if info, err := fl.f.Stat(); err != nil || info.Size() == 0 {
		return false
	}
	if p.prev != nil && f.ensureOpen(p, now) && !f.finished(p, now) {
		p.drained = false
		return false
	}
	p.prev = nil
	if f.byID[p.id] == p && f.ensureOpen(p, now) && f.readPiece(p, now, complete) {
		return false
	}
	fl.prev = nil
	return true
}

// readPiece hands over what records there are in the next piece of the file. end
// is what is known of the text's end once all of it is read.
func (f *Follower) readPiece(fl *file, now time.Time, end ending) (again bool) {
	t, size := fl.tailed, readSize
	if fl.wide {
		size = len(f.buf) - t
	}
	n, err := fl.f.ReadAt(f.buf[:t+size], fl.offset-int64(t))
	if err != nil && !errors.Is(err, io.EOF) {
		f.fail(fl, "read", err)
		return false
	}
	// Lines may be of one length and end alike, so the tail alone proves nothing.
	if fl.changed || n < t || !bytes.Equal(f.buf[:t], fl.tail[:t]) || (n > t || fl.told) && !fl.head.matches(fl.f) {
		f.truncated(fl, now)
		return true
	}
	fl.told, fl.failed = false, false
	data := f.buf[t:n]
	atEnd := len(data) < size
	if at := fl.offset + int64(len(data)); at != fl.end {
		fl.end, fl.grew = at, now
	}
	taken, records := 0, 0
	if fl.hole {
		taken = skipNULs(data)
		fl.hole = taken == len(data)
	}
	take := func(end ending) {
		for {
			text, used, ok := next(fl.group.Join, data[taken:], end)
			if !ok {
				return
			}
			fl.records.Append(text)
			taken += used
			records++
		}
	}
	take(more)
	forced := 0
	if atEnd && taken < len(data) {
		if end == more {
			end = fl.ending(now)
		}
		before := records
		take(end)
		forced = records - before
	}
	if taken > 0 {
		fl.records.Flush()
		f.move(fl, data, t, taken)
	}
	if forced > 0 && fl.numbered() {
		// Read again, the line might be longer; numbers that follow would be
		// taken for others.
		fl.stream, fl.number = newStream(), 1
	}
	fl.used = now
	fl.wide = !atEnd && taken == 0
	fl.drained = atEnd
	return !atEnd
}

func skipNULs(b []byte) int {
	for i, c := range b {
		if c != 0 {
			return i
		}
	}
	return len(b)
}

// ending is what can be said of the end of what has been read.
func (fl *file) ending(now time.Time) ending {
	silent := now.Sub(fl.grew)
	switch {
	case (fl.rotated || fl.gone) && silent >= finishAfter:
		return complete
	case fl.group.Join != nil && silent >= fl.group.Join.Wait:
		return quiet
	}
	return more
}

// waiting reports whether time alone may make a record of what is there.
func (fl *file) waiting() bool {
	return fl.end > fl.offset && (fl.group.Join != nil || fl.rotated || fl.gone)
}

// move moves the offset past what was taken of data, which is in f.buf behind
// the tail.
func (f *Follower) move(fl *file, data []byte, t, taken int) {
	if fl.head.Len == fl.offset {
		fl.head.extend(data[:taken])
	}
	fl.offset += int64(taken)
	before := f.buf[:t+taken]
	fl.tailed = copy(fl.tail[:], before[max(0, len(before)-tailSize):])
	f.version++
	f.stats.Bytes += uint64(taken)
}

// ensureOpen opens a file that is closed, if it may.
func (f *Follower) ensureOpen(fl *file, now time.Time) bool {
	if fl.f != nil {
		return true
	}
	if fl.gone {
		return false
	}
	if fl.offset > 0 && !fl.changed && !fl.failed {
		// Closed because it said nothing. Has it?
		if info, err := os.Stat(fl.path); err == nil && info.Size() == fl.offset {
			return false
		}
	}
	if !f.room() {
		return false
	}
	file, err := open(fl.path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			f.fail(fl, "open", err)
		}
		f.look(fl)
		return false
	}
	info, err := file.Stat()
	id, ok := fl.id, true
	if err == nil {
		id, ok = idOf(fl.path, info)
	}
	if err != nil || !ok || !info.Mode().IsRegular() || id != fl.id {
		file.Close() // renamed just now; the next scan finds it
		f.look(fl)
		return false
	}
	fl.f, fl.used, fl.failed = file, now, false
	f.open++
	f.settle(fl, info.Size())
	return true
}

// settle sees whether a file that was just opened is the one that was read up to
// its offset.
func (f *Follower) settle(fl *file, size int64) {
	fl.tailed = 0
	if fl.offset == 0 {
		return
	}
	if size < fl.offset || !fl.head.matches(fl.f) {
		fl.changed = true
		return
	}
	n := int(min(fl.offset, tailSize))
	if m, _ := fl.f.ReadAt(fl.tail[:n], fl.offset-int64(n)); m != n {
		fl.changed = true
		return
	}
	fl.tailed = n
}

// room makes room for one more open file, by closing the one that has said
// nothing for longest. One that has no name could not be found again.
func (f *Follower) room() bool {
	if f.open < f.opts.MaxOpen {
		return true
	}
	var idle *file
	for _, fl := range f.files {
		if fl.f != nil && fl.drained && !fl.gone && (idle == nil || fl.used.Before(idle.used)) {
			idle = fl
		}
	}
	if idle == nil {
		return false
	}
	f.closeFile(idle)
	return true
}

func (f *Follower) closeFile(fl *file) {
	if fl.f != nil {
		fl.f.Close()
		fl.f = nil
		f.open--
	}
}

func (f *Follower) fail(fl *file, what string, err error) {
	if !fl.failed {
		f.opts.Logger.Warn("a file cannot be read", "path", fl.path, "doing", what, "error", err.Error())
	}
	fl.failed = true
	fl.drained = true // whatever comes after it need not wait
}

// look has the file's directory looked at anew.
func (f *Follower) look(fl *file) {
	if l := f.tree.dirs[dirOf(fl.path)]; l != nil {
		l.dirty = true
	}
}

// truncated begins a file anew, after what its copy still has.
func (f *Follower) truncated(fl *file, now time.Time) {
	f.stats.Truncated++
	f.version++
	if l := f.tree.dirs[dirOf(fl.path)]; l != nil {
		l.dirty = true
		f.scan(now, lookTold)
	}
	rest := f.adopt(fl, now)
	if rest == nil {
		f.stats.Unknown++
		f.opts.Logger.Warn("a file was truncated; what it had beyond what was read, if anything, is lost", "path", fl.path, "read", fl.offset)
	}
	fl.offset, fl.head, fl.tailed, fl.end, fl.grew = 0, head{}, 0, 0, now
	fl.stream, fl.number = newStream(), 1
	fl.changed, fl.hole, fl.wide, fl.drained, fl.copies = false, true, false, false, nil
	if rest != nil {
		fl.prev = rest
	}
}

// adopt finds among the copies of a file that was truncated the one that has all
// that was read of it, and most more, and follows that from there. Others of
// them were made earlier, and have nothing else.
func (f *Follower) adopt(fl *file, now time.Time) (rest *file) {
	var copies []*file
	for id, at := range fl.copies {
		c := f.openCopy(fl, id, at.path, now)
		for tries := 0; c == nil && tries < 3; tries++ {
			path := pathOf(id, dirOf(at.path)) // it may have been renamed a moment ago
			if path == "" {
				break
			}
			c = f.openCopy(fl, id, path, now)
		}
		if c == nil {
			continue // the next scan sees what it is
		}
		copies = append(copies, c)
		if c.end >= fl.offset && (rest == nil || c.end > rest.end) {
			rest = c
		}
	}
	for _, c := range copies {
		if c == rest {
			c.offset = fl.offset
			c.prev, fl.prev = fl.prev, nil
		}
		f.settle(c, c.end)
		f.follow(c)
	}
	return rest
}

// pathOf is where in a directory a file is; empty if it is not there.
func pathOf(id fileID, dir string) string {
	names, _ := os.ReadDir(dir)
	for _, name := range names {
		path := filepath.Join(dir, name.Name())
		if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
			if is, ok := idOf(path, info); ok && is == id {
				return path
			}
		}
	}
	return ""
}

// openCopy opens a copy of a file as one that is read to its end; nil if it is
// no copy, or of something else.
func (f *Follower) openCopy(fl *file, id fileID, path string, now time.Time) *file {
	if f.byID[id] != nil || !f.room() {
		return nil
	}
	c, err := f.newFile(fl.group, path, fl.home, id, fl.vars)
	if err != nil {
		return nil
	}
	if c.f, err = open(path); err != nil {
		return nil
	}
	f.open++
	info, err := c.f.Stat()
	if err == nil {
		if is, ok := idOf(path, info); !ok || is != id {
			err = fs.ErrNotExist
		}
	}
	if err == nil && info.Size() >= fl.offset && fl.tailed > 0 {
		var tail [tailSize]byte
		n, _ := c.f.ReadAt(tail[:fl.tailed], fl.offset-int64(fl.tailed))
		if !bytes.Equal(tail[:n], fl.tail[:fl.tailed]) {
			err = fs.ErrInvalid
		}
	}
	if err != nil || !fl.head.matches(c.f) {
		f.closeFile(c)
		return nil
	}
	c.rotated, c.used, c.grew, c.head = true, now, now, fl.head
	c.offset, c.end, c.stream, c.number, c.hole = info.Size(), info.Size(), fl.stream, fl.number, false
	return c
}

// follow adds a file to those that are followed.
func (f *Follower) follow(fl *file) {
	f.files = append(f.files, fl)
	f.byID[fl.id] = fl
	f.byPath[fl.path] = fl
	f.version++
}

// retire closes files that will not have more, and forgets those that are gone.
func (f *Follower) retire(now time.Time) {
	kept := f.files[:0]
	for _, fl := range f.files {
		if f.retired(fl, now) {
			if fl.offset > 0 { // it may be back, as when a file system is mounted
				p := fl.position()
				p.Lost = now
				f.forgot[p.ID], f.byOld[p.Path] = p, p.ID
			}
			f.forget(fl)
			continue
		}
		fl.hot = fl.hot || fl.waiting() || fl.prev != nil
		kept = append(kept, fl)
	}
	clear(f.files[len(kept):])
	f.files = kept
}

func (f *Follower) retired(fl *file, now time.Time) bool {
	if fl.f == nil {
		if fl.gone && !fl.drained {
			f.stats.Unknown++
			f.opts.Logger.Warn("a file is gone; what it had beyond what was read, if anything, is lost", "path", fl.path, "read", fl.offset)
		}
		return fl.gone
	}
	silent := now.Sub(fl.grew)
	switch {
	case !fl.drained || fl.hot:
	case fl.gone && silent >= lingerGone:
		return true
	case fl.rotated && !fl.gone && silent >= lingerRotated && fl.end == fl.offset:
		f.closeFile(fl) // looked at now and then
	}
	return false
}

func (f *Follower) forget(fl *file) {
	f.closeFile(fl)
	if f.byID[fl.id] == fl {
		delete(f.byID, fl.id)
	}
	if f.byPath[fl.path] == fl {
		delete(f.byPath, fl.path)
	}
	if names := f.homes[dirOf(fl.home)]; names[nameOf(fl.home)] == fl {
		delete(names, nameOf(fl.home))
		if len(names) == 0 {
			delete(f.homes, dirOf(fl.home))
		}
	}
	for id, c := range fl.copies { // they have nothing that was not read
		f.ignored[ignoredKey{id, c.modified.UnixNano()}] = true
	}
	f.version++
}
