package packets

import (
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// many reads with recvmmsg(2): one call into the system for up to Burst
// datagrams, and no allocation for their addresses.
type many struct {
	r       *Reader
	raw     syscall.RawConn
	headers [Burst]header
	vectors [Burst]unix.Iovec
	names   [Burst]unix.RawSockaddrAny

	call func(fd uintptr) bool // receive, bound once
	n    int
	err  syscall.Errno
}

// header is struct mmsghdr.
type header struct {
	unix.Msghdr
	n uint32
}

func newMany(r *Reader) *many {
	sc, ok := r.pc.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	m := &many{r: r, raw: raw}
	m.call = m.receive
	r.memory = make([]byte, Burst*r.size)
	for i := range m.headers {
		m.vectors[i].Base = &r.memory[i*r.size]
		m.vectors[i].SetLen(r.size)
		h := &m.headers[i]
		h.Iov = &m.vectors[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&m.names[i]))
	}
	return m
}

func (m *many) read() (int, error) {
	if err := m.raw.Read(m.call); err != nil {
		return 0, err
	}
	if m.err != 0 {
		return 0, os.NewSyscallError("recvmmsg", m.err)
	}
	for i := range m.n {
		h := &m.headers[i]
		m.r.length[i] = int(h.n)
		m.r.cut[i] = h.Flags&unix.MSG_TRUNC != 0
		m.r.from[i] = address(&m.names[i])
	}
	return m.n, nil
}

func (m *many) receive(fd uintptr) bool {
	for i := range m.headers {
		m.headers[i].Namelen = unix.SizeofSockaddrAny
	}
	for {
		n, _, err := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&m.headers[0])), Burst, unix.MSG_DONTWAIT, 0, 0)
		switch err {
		case unix.EINTR:
			continue
		case unix.EAGAIN:
			return false
		}
		m.n, m.err = int(n), err
		return true
	}
}

func address(a *unix.RawSockaddrAny) netip.AddrPort {
	switch a.Addr.Family {
	case unix.AF_INET:
		in := (*unix.RawSockaddrInet4)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom4(in.Addr), port(in.Port))
	case unix.AF_INET6:
		in := (*unix.RawSockaddrInet6)(unsafe.Pointer(a))
		return netip.AddrPortFrom(netip.AddrFrom16(in.Addr).Unmap(), port(in.Port))
	}
	return netip.AddrPort{}
}

// port reads a number that stands in memory in the network's order.
func port(p uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], p)
	return binary.BigEndian.Uint16(b[:])
}

// memoryInfo is what SO_MEMINFO tells, enum sk_meminfo: the last is how many
// datagrams the socket had no room for.
type memoryInfo [9]uint32

func systemDrops(pc net.PacketConn) (uint32, bool) {
	sc, ok := pc.(syscall.Conn)
	if !ok {
		return 0, false
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return 0, false
	}
	var info memoryInfo
	size := uint32(unsafe.Sizeof(info))
	var errno syscall.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil || errno != 0 || size < uint32(unsafe.Sizeof(info)) {
		return 0, false
	}
	return info[8], true
}
