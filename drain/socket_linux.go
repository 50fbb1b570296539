package drain

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// socket is what the kernel knows of a connection, beyond what a net.Conn says.
// It still knows it when the connection has been reset.
type socket struct {
	raw syscall.RawConn
	ask func(fd uintptr) // made once, as the queue is asked after each write
	n   int
	err error
}

// newSocket bounds, besides, how long sent data may stay without acknowledgement
// before the connection is given up; the system's own limit is about a quarter of
// an hour. It gives nil if c is not a socket.
func newSocket(c net.Conn, limit time.Duration) *socket {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return nil
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(limit.Milliseconds()))
	})
	q := &socket{raw: raw}
	q.ask = func(fd uintptr) { q.n, q.err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }
	return q
}

// queued is how many bytes of what was written the peer has not acknowledged.
func (s *socket) queued() (n uint64, ok bool) {
	if s == nil {
		return 0, false
	}
	if err := s.raw.Control(s.ask); err != nil || s.err != nil {
		return 0, false
	}
	return uint64(max(s.n, 0)), true
}

// window is how many bytes more the peer would take, as it said at last.
func (s *socket) window() (n uint64, ok bool) {
	if s == nil {
		return 0, false
	}
	var info *unix.TCPInfo
	var err error
	if e := s.raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); e != nil || err != nil {
		return 0, false
	}
	return uint64(info.Snd_wnd), info.Snd_wnd > 0 || info.Snd_mss > 0
}
