package listeners

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// script is a listener that gives what is sent on it.
type script struct {
	accepts chan any // net.Conn or error
	closed  chan struct{}
	once    sync.Once
}

func newScript() *script { return &script{accepts: make(chan any), closed: make(chan struct{})} }

func (s *script) Accept() (net.Conn, error) {
	select {
	case a := <-s.accepts:
		if err, ok := a.(error); ok {
			return nil, err
		}
		return a.(net.Conn), nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *script) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *script) Addr() net.Addr { return &net.UnixAddr{Name: "listener", Net: "script"} }

type rig struct {
	*Set[net.Conn]
	ln     *script
	served chan error
	full   []string
}

// start serves connections that echo until they are closed.
func start(max int) *rig {
	r := &rig{ln: newScript(), served: make(chan error, 1)}
	var mu sync.Mutex
	r.Set = New(max, func(c net.Conn) net.Conn { return c },
		func(c net.Conn) {
			defer c.Close()
			io.Copy(c, c)
		},
		func(addr net.Addr, says string) {
			mu.Lock()
			defer mu.Unlock()
			r.full = append(r.full, fmt.Sprint(addr, ": ", says))
		})
	go func() { r.served <- r.Serve(r.ln) }()
	return r
}

func (r *rig) dial() net.Conn {
	client, server := net.Pipe()
	r.ln.accepts <- server
	return client
}

func echoes(c net.Conn) bool {
	go c.Write([]byte("x"))
	_, err := c.Read(make([]byte, 1))
	return err == nil
}

func TestConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(2)
		a, b := r.dial(), r.dial()
		if !echoes(a) || !echoes(b) || r.Len() != 2 {
			t.Errorf("%d are open", r.Len())
		}
		if c := r.dial(); echoes(c) {
			t.Error("the third of two is served")
		}
		a.Close()
		synctest.Wait()
		if c := r.dial(); !echoes(c) || r.Len() != 2 || r.Accepted() != 3 {
			t.Errorf("%d are open, %d were", r.Len(), r.Accepted())
		}
		if len(r.full) != 1 || r.full[0] != "pipe: too many connections" {
			t.Errorf("%q", r.full)
		}
		r.Stop(func(c net.Conn) { c.Close() })
		r.Wait()
		if err := <-r.served; err != ErrStopped || r.Len() != 0 || echoes(b) {
			t.Errorf("%v, %d are open", err, r.Len())
		}
	})
}

// Stop may come twice: first with patience.
func TestStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(10)
		c := r.dial()
		synctest.Wait()
		asked := 0
		r.Stop(func(net.Conn) { asked++ })
		if err := <-r.served; err != ErrStopped || asked != 1 || !r.Stopped() || !echoes(c) {
			t.Errorf("%v, %d asked", err, asked)
		}
		if err := r.Serve(newScript()); err != ErrStopped {
			t.Errorf("Serve after Stop: %v", err)
		}
		r.Stop(func(c net.Conn) { c.Close() })
		r.Wait()
		if r.Len() != 0 {
			t.Errorf("%d are open", r.Len())
		}
	})
}

// A system that is short of descriptors is asked again, a little later each time.
func TestScarcity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(10)
		begin := time.Now()
		for range 3 {
			r.ln.accepts <- &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", syscall.EMFILE)}
		}
		if c := r.dial(); !echoes(c) || time.Since(begin) != 35*time.Millisecond {
			t.Errorf("after %v", time.Since(begin))
		}
		if len(r.full) != 3 || !strings.HasPrefix(r.full[0], "listener: cannot accept: ") {
			t.Errorf("%q", r.full)
		}
		for range 20 {
			r.ln.accepts <- syscall.EMFILE
		}
		go r.Stop(func(c net.Conn) { c.Close() }) // in the middle of a pause
		if err := <-r.served; err != ErrStopped {
			t.Error(err)
		}
		r.Wait()
	})
}

func TestListenerFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := start(10)
		broken := errors.New("broken")
		r.ln.accepts <- broken
		if err := <-r.served; err != broken {
			t.Error(err)
		}
		select {
		case <-r.ln.closed:
		default:
			t.Error("the listener is open")
		}
	})
}
