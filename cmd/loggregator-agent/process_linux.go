package main

import (
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// dieWithParent has the program killed if the agent is killed. Whoever restarts
// a killed agent starts the program again, and two of it would run otherwise.
// Linux does this when the thread that started the program ends.
func dieWithParent(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }

// growPipe lets the program write more before it has to wait for the agent: 64
// KiB by default, which is a switch of processes each. It may be refused, and
// nothing is lost then but time.
func growPipe(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	c.Control(func(fd uintptr) { unix.FcntlInt(fd, unix.F_SETPIPE_SZ, readSize) })
}

// unread reports whether a pipe holds something to read.
func unread(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	c, err := f.SyscallConn()
	if err != nil {
		return false
	}
	n := 0
	c.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.TIOCINQ) })
	return err == nil && n > 0
}

// takeMemory is memory for n bytes, for a while. It is given in huge pages where
// there are some: 32 MiB take 2 ms to write to for the first time, and 12
// otherwise.
func takeMemory(n int) []byte {
	mem, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_NORESERVE)
	if err != nil {
		return make([]byte, n)
	}
	unix.Madvise(mem, unix.MADV_HUGEPAGE)
	return mem
}

func giveMemory(mem []byte) { unix.Munmap(mem) } // refuses what is not its own
