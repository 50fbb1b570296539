package drain

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// setUserTimeout bounds how long sent data may stay without acknowledgement
// before the connection is given up; the system's own limit is about a quarter
// of an hour.
func setUserTimeout(c net.Conn, d time.Duration) {
	control(c, func(fd int) {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
	})
}

// unacked asks the kernel how many bytes of c the peer has not acknowledged. It
// still knows when the connection has been reset.
func unacked(c net.Conn) (n uint64, ok bool) {
	control(c, func(fd int) {
		v, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
		n, ok = uint64(max(v, 0)), err == nil
	})
	return n, ok
}

func control(c net.Conn, f func(fd int)) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return
	}
	if raw, err := s.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { f(int(fd)) })
	}
}
