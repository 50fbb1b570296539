package follow

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// notifier tells what changes in directories, by inotify(7).
type notifier struct {
	wake chan struct{} // holds one if there is something to take

	file *os.File
	done chan struct{} // closed when the goroutine is gone

	mu      sync.Mutex
	dirs    map[int32]string
	changes map[change]bool
	lost    bool // some were left out
	closed  bool
}

// change is something that happened in a directory.
type change struct {
	dir, name string
	names     bool // names came or went
	unwatched bool // the directory is not watched any more
}

// maxChanges bounds what waits to be taken.
const maxChanges = 10_000

const (
	namesChanged = unix.IN_CREATE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_ATTRIB
	dirGone      = unix.IN_IGNORED | unix.IN_DELETE_SELF | unix.IN_MOVE_SELF | unix.IN_UNMOUNT
)

// newNotifier starts a goroutine that close ends.
func newNotifier() (*notifier, error) {
	fd, err := unix.InotifyInit1(unix.IN_NONBLOCK | unix.IN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("inotify: %w", err)
	}
	n := &notifier{
		wake:    make(chan struct{}, 1),
		file:    os.NewFile(uintptr(fd), "inotify"), // non-blocking, so that Close ends a Read
		done:    make(chan struct{}),
		dirs:    make(map[int32]string),
		changes: make(map[change]bool),
	}
	go n.run()
	return n, nil
}

// watch reports whether changes in the directory will be told. They are not if
// the user may watch no more (fs.inotify.max_user_watches).
func (n *notifier) watch(dir string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	conn, err := n.file.SyscallConn()
	if err != nil {
		return false
	}
	wd := -1
	conn.Control(func(fd uintptr) {
		wd, err = unix.InotifyAddWatch(int(fd), dir, unix.IN_MODIFY|namesChanged|unix.IN_DELETE_SELF|unix.IN_MOVE_SELF|unix.IN_ONLYDIR)
	})
	if err != nil || wd < 0 {
		return false
	}
	n.dirs[int32(wd)] = dir
	return true
}

// take returns what has changed since it was called last, and whether there is
// more that was left out.
func (n *notifier) take() (changes map[change]bool, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	changes, lost = n.changes, n.lost
	n.changes, n.lost = make(map[change]bool), false
	return changes, lost
}

func (n *notifier) run() {
	defer close(n.done)
	buf := make([]byte, 64<<10)
	for {
		size, err := n.file.Read(buf)
		if err != nil || size <= 0 {
			return
		}
		n.note(buf[:size])
		select {
		case n.wake <- struct{}{}:
		default:
		}
	}
}

// note reads events as inotify(7) lays them out.
func (n *notifier) note(events []byte) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		mask := binary.NativeEndian.Uint32(events[4:])
		size := int(binary.NativeEndian.Uint32(events[12:]))
		events = events[unix.SizeofInotifyEvent:]
		if size > len(events) {
			return
		}
		name, _, _ := bytes.Cut(events[:size], []byte{0})
		events = events[size:]
		dir, ok := n.dirs[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0 || len(n.changes) >= maxChanges:
			n.lost = true
			continue
		case !ok:
			continue
		}
		c := change{dir: dir, name: string(name), names: mask&(namesChanged|dirGone) != 0, unwatched: mask&dirGone != 0}
		n.changes[c] = true
		if mask&unix.IN_MOVE_SELF != 0 { // what happens in it would be told of a path that is another's now
			if conn, err := n.file.SyscallConn(); err == nil {
				conn.Control(func(fd uintptr) { unix.InotifyRmWatch(int(fd), uint32(wd)) })
			}
		}
		if mask&dirGone != 0 {
			delete(n.dirs, wd)
		}
	}
}

func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	n.file.Close()
	<-n.done
}
