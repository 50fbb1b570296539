package main

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// aside is a pipe into which the pages of a program's pipe are moved: what is in
// them is neither copied nor is there memory to be made ready for it, which is
// most of what keeping text costs. A program that prints 19 MB in 45 ms is then
// held up no longer than by cat.
type aside struct {
	r, w int
	left int // bytes that are in it; guarded by gather.mu
}

const (
	asideSize = 1 << 20
	// maxAside bounds the pipes of one gather: what a user may have in pipes is 64
	// MiB in all, and programs find theirs small when that is spent.
	maxAside = 20
)

func newAside() (*aside, error) {
	var fd [2]int
	if err := unix.Pipe2(fd[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, err
	}
	a := &aside{r: fd[0], w: fd[1]}
	if _, err := unix.FcntlInt(uintptr(a.w), unix.F_SETPIPE_SZ, asideSize); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

// move moves what there is in the pipe fd. It returns EAGAIN if there is no room.
func (a *aside) move(fd int) (int, error) {
	n, err := unix.Splice(fd, nil, a.w, nil, asideSize, unix.SPLICE_F_MOVE|unix.SPLICE_F_NONBLOCK)
	return int(max(n, 0)), err
}

// read takes back what was moved, in its order.
func (a *aside) read(buf []byte) (int, error) {
	for {
		n, err := unix.Read(a.r, buf)
		switch {
		case err == unix.EINTR:
		case err == nil && n == 0:
			return 0, io.ErrUnexpectedEOF
		default:
			return n, err
		}
	}
}

func (a *aside) close() {
	unix.Close(a.r)
	unix.Close(a.w)
}

// Take waits for text in a program's pipe and puts it aside, while it comes in
// floods. It returns how much, and whether that was all there was; or errCopy,
// and then has taken nothing.
func (l *gatherLog) Take(in io.Reader) (n int, all bool, err error) {
	f, ok := in.(*os.File)
	if !ok || !l.g.mayTake() {
		return 0, false, errCopy
	}
	c, err := f.SyscallConn()
	if err != nil {
		return 0, false, errCopy
	}
	waitErr := c.Read(func(fd uintptr) bool {
		n, all, err = l.take(int(fd))
		return err != syscall.EAGAIN
	})
	if waitErr != nil && err == syscall.EAGAIN {
		return 0, false, errCopy // Read has the reason
	}
	return n, all, err
}

// take is Take without waiting: EAGAIN means that there is nothing.
func (l *gatherLog) take(fd int) (n int, all bool, err error) {
	there, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	if err != nil {
		return 0, false, errCopy
	}
	if there == 0 {
		// The end looks the same. It is for Read to tell, which costs a system call
		// where the program would have to be waited for anyway.
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if ready, _ := unix.Poll(fds, 0); ready > 0 {
			return 0, false, errCopy
		}
		return 0, false, syscall.EAGAIN
	}
	if there < much {
		return 0, false, errCopy
	}
	g := l.g
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.giving || g.held+max(there, asideSize) > g.limit {
		return 0, false, errCopy
	}
	for {
		a := g.asides.get()
		if a == nil {
			return 0, false, errCopy
		}
		n, err := a.move(fd)
		if err == syscall.EAGAIN {
			g.asides.open = nil // it is used again when all of it was given
			continue
		}
		if err != nil || n == 0 {
			return 0, false, errCopy
		}
		g.putAside(l, a, n)
		return n, n >= there, nil
	}
}
