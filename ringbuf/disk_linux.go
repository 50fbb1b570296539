package ringbuf

import (
	"os"
	"strings"
	"syscall"
)

// allocate makes f size bytes long and sets disk space aside for them.
func allocate(f *os.File, size int) error {
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, int64(size)); err != syscall.EOPNOTSUPP {
		return err
	}
	return fill(f, size)
}

// bootID names this life of the machine.
func bootID() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(id))
}
