package drain

import (
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sendQueue is the kernel's queue of what was written to a connection and not
// acknowledged by the peer.
type sendQueue struct {
	raw syscall.RawConn
	ask func(fd uintptr) // made once, as the queue is asked after each write
	n   int
	err error
}

// newSendQueue bounds, besides, how long sent data may stay without
// acknowledgement before the connection is given up; the system's own limit is
// about a quarter of an hour. It gives nil if c is not a socket.
func newSendQueue(c net.Conn, limit time.Duration) *sendQueue {
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
	q := &sendQueue{raw: raw}
	q.ask = func(fd uintptr) { q.n, q.err = unix.IoctlGetInt(int(fd), unix.SIOCOUTQ) }
	return q
}

// bytes is the length of the queue. The kernel still knows it when the
// connection has been reset.
func (q *sendQueue) bytes() (n uint64, ok bool) {
	if q == nil {
		return 0, false
	}
	if err := q.raw.Control(q.ask); err != nil || q.err != nil {
		return 0, false
	}
	return uint64(max(q.n, 0)), true
}
