// Package listeners is the part of a server that accepts connections: it keeps the
// listeners and what is open, turns away what is too many, waits where the system
// is short of descriptors, and stops.
package listeners

import (
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// ErrStopped is the error of Serve after Stop.
var ErrStopped = errors.New("listeners: stopped")

// Set is the listeners of a server and the connections that they brought, each as
// a C of the server's making.
type Set[C comparable] struct {
	max   int
	open  func(net.Conn) C
	serve func(C)
	full  func(addr net.Addr, says string)
	away  func(net.Conn)

	accepted atomic.Uint64
	running  sync.WaitGroup // connections, and loops of Serve
	stopped  chan struct{}

	mu        sync.Mutex
	stopping  bool
	listeners map[net.Listener]struct{}
	conns     map[C]struct{}
	leaving   int // those who are being told that they are too many
}

// New makes a Set of at most max connections at a time. open makes a C of one that
// is not turned away; it neither blocks nor uses the Set. serve has a goroutine for each: it closes the
// connection and returns when it has ended. full is told, with the address of the
// client, or of the listener that cannot accept, of each connection that is turned
// away.
func New[C comparable](max int, open func(net.Conn) C, serve func(C), full func(addr net.Addr, says string)) *Set[C] {
	return &Set[C]{
		max: max, open: open, serve: serve, full: full, stopped: make(chan struct{}),
		listeners: make(map[net.Listener]struct{}), conns: make(map[C]struct{}),
	}
}

// maxLeaving bounds the connections that are being told that they are too many.
const maxLeaving = 64

// TurnAway has tell tell those that are too many why, each in a goroutine of its own,
// before they are closed. It may be called before the first Serve.
func (s *Set[C]) TurnAway(tell func(net.Conn)) { s.away = tell }

// Serve accepts connections until ln fails, or Stop, which makes it return
// ErrStopped. It closes ln. It may be called for several listeners.
func (s *Set[C]) Serve(ln net.Listener) error {
	defer ln.Close()
	s.mu.Lock()
	if s.stopping {
		s.mu.Unlock()
		return ErrStopped
	}
	s.listeners[ln] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	defer s.running.Done()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.listeners, ln)
	}()
	for delay := time.Duration(0); ; {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			s.start(nc)
		case s.Stopped():
			return ErrStopped
		case scarce(err):
			// Out of file descriptors: it passes as others close theirs.
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			s.full(ln.Addr(), "cannot accept: "+err.Error())
			if !s.pause(delay) {
				return ErrStopped
			}
		default:
			return err
		}
	}
}

func scarce(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}

// pause waits for d and reports whether to go on then.
func (s *Set[C]) pause(d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.stopped:
		return false
	}
}

// start gives a connection its goroutine, or turns it away.
func (s *Set[C]) start(nc net.Conn) {
	s.mu.Lock()
	full := len(s.conns) >= s.max
	if s.stopping || full {
		tell := full && !s.stopping && s.away != nil && s.leaving < maxLeaving
		if tell {
			s.leaving++
			s.running.Add(1)
		}
		s.mu.Unlock()
		if full {
			s.full(nc.RemoteAddr(), "too many connections")
		}
		if tell {
			go s.leave(nc)
		} else {
			nc.Close()
		}
		return
	}
	c := s.open(nc)
	s.conns[c] = struct{}{}
	s.running.Add(1)
	s.mu.Unlock()
	s.accepted.Add(1)
	go func() {
		defer s.running.Done()
		s.serve(c)
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, c)
	}()
}

func (s *Set[C]) leave(nc net.Conn) {
	defer s.running.Done()
	s.away(nc)
	nc.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaving--
}

// Enter has Wait wait for something else than a connection, until Leave, unless Stop
// was called.
func (s *Set[C]) Enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping {
		return false
	}
	s.running.Add(1)
	return true
}

// Leave ends what Enter began.
func (s *Set[C]) Leave() { s.running.Done() }

// Stop closes the listeners, accepts no more, and calls end with each connection
// that is open; end must not block. It may be called again, with another end.
func (s *Set[C]) Stop(end func(C)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.stopping {
		s.stopping = true
		close(s.stopped)
	}
	for ln := range s.listeners {
		ln.Close()
	}
	for c := range s.conns {
		end(c)
	}
}

// Stopped reports whether Stop was called.
func (s *Set[C]) Stopped() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stopping
}

// Wait returns when all connections have ended and all Serve have returned, after
// Stop.
func (s *Set[C]) Wait() { s.running.Wait() }

// Len is how many connections are open.
func (s *Set[C]) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// Accepted is how many connections there have been.
func (s *Set[C]) Accepted() uint64 { return s.accepted.Load() }
