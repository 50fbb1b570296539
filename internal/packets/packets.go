// Package packets reads datagrams, many at a time where the system can do that,
// and asks the system how many it had no room for.
package packets

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"
)

const (
	// Burst is how many datagrams a Reader takes at most at once.
	Burst = 32
	// socketBuffer is what is asked of the system for datagrams that wait.
	socketBuffer = 4 << 20
)

// Reader reads the datagrams of one socket. It is for one goroutine.
type Reader struct {
	pc   net.PacketConn
	size int // of a slot

	memory []byte // Burst slots of size bytes, or one
	length [Burst]int
	cut    [Burst]bool
	from   [Burst]netip.AddrPort

	many    *many // nil where datagrams come one by one
	looked  time.Time
	dropped uint32
}

// NewReader makes a Reader of datagrams of up to size bytes; longer ones are cut
// and told. It asks the system for a buffer of 4 MiB. A Reader holds 32 times
// size where datagrams come many at a time, which take memory only as they are
// used.
func NewReader(pc net.PacketConn, size int) *Reader {
	if c, ok := pc.(interface{ SetReadBuffer(int) error }); ok {
		c.SetReadBuffer(socketBuffer) // as much of it as the system allows
	}
	r := &Reader{pc: pc, size: size}
	if r.many = newMany(r); r.many == nil {
		r.memory = make([]byte, size+1) // one byte more shows that a datagram was cut
	}
	return r
}

// Read waits for datagrams and returns how many there are: at least one, at most
// Burst. They are valid until the next Read.
func (r *Reader) Read() (int, error) {
	if r.many != nil {
		return r.many.read()
	}
	n, from, err := r.readOne()
	if err != nil {
		return 0, err
	}
	r.length[0], r.cut[0] = min(n, r.size), n > r.size
	r.from[0] = from
	return 1, nil
}

func (r *Reader) readOne() (int, netip.AddrPort, error) {
	if udp, ok := r.pc.(*net.UDPConn); ok {
		return udp.ReadFromUDPAddrPort(r.memory)
	}
	n, addr, err := r.pc.ReadFrom(r.memory)
	var from netip.AddrPort
	if udp, ok := addr.(*net.UDPAddr); ok {
		from = udp.AddrPort()
	}
	return n, from, err
}

// Datagram is the i-th datagram of the last Read, and whether it was cut.
func (r *Reader) Datagram(i int) (data []byte, cut bool) {
	return r.memory[i*r.size:][:r.length[i]], r.cut[i]
}

// From is who sent it; the zero AddrPort where the socket does not say.
func (r *Reader) From(i int) netip.AddrPort { return r.from[i] }

// Dropped is how many datagrams the system had no room for since the last time
// it was asked, which is once a second at most. Systems that cannot be asked
// (all but Linux) say zero.
func (r *Reader) Dropped() uint64 {
	if now := time.Now(); now.Sub(r.looked) >= time.Second {
		r.looked = now
		return r.drops()
	}
	return 0
}

func (r *Reader) drops() uint64 {
	total, ok := systemDrops(r.pc)
	if !ok {
		return 0
	}
	n := total - r.dropped // as a number of 32 bits, which wraps
	r.dropped = total
	return uint64(n)
}

// Sockets are the datagram sockets of one server. The zero value has none.
type Sockets struct {
	wg      sync.WaitGroup
	mu      sync.Mutex
	closing bool
	open    map[net.PacketConn]struct{}
}

// Taker is what a server does with datagrams: Take has those of one Read, Lost
// is told of datagrams that the system had no room for.
type Taker interface {
	Take(r *Reader, n int)
	Lost(n uint64)
}

// Serve reads datagrams of up to size bytes from pc until pc fails or Stop ends
// it, which returns net.ErrClosed. It closes pc.
func (s *Sockets) Serve(pc net.PacketConn, size int, taker Taker) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		pc.Close()
		return net.ErrClosed
	}
	if s.open == nil {
		s.open = make(map[net.PacketConn]struct{})
	}
	s.open[pc] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	defer func() {
		s.mu.Lock()
		delete(s.open, pc)
		s.mu.Unlock()
		pc.Close()
	}()

	r := NewReader(pc, size)
	defer func() {
		if n := r.drops(); n > 0 {
			taker.Lost(n)
		}
	}()
	for delay := time.Duration(0); ; {
		n, err := r.Read()
		switch {
		case err == nil:
			delay = 0
			taker.Take(r, n)
			if n := r.Dropped(); n > 0 {
				taker.Lost(n)
			}
		case s.stopped():
			return net.ErrClosed
		case passes(err):
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			time.Sleep(delay)
		default:
			return err
		}
	}
}

// passes reports whether err says nothing about the socket but that the system
// is short of something, or that somebody refused an answer.
func passes(err error) bool {
	for _, e := range []error{syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNREFUSED, syscall.ECONNRESET} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

func (s *Sockets) stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closing
}

// Stop makes every Serve return once it has read what has arrived until then,
// and later ones at once. It does not wait, see Wait.
func (s *Sockets) Stop(then time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for pc := range s.open {
		pc.SetReadDeadline(then)
	}
}

// Wait returns when every Serve has.
func (s *Sockets) Wait() { s.wg.Wait() }
