package receiver

import (
	"net"
	"sync"
	"time"
)

// Fault is how a receiver misbehaves. The zero value is good behaviour.
type Fault struct {
	Refuse bool  // nobody listens: connections are refused
	Close  bool  // connections are closed as soon as they are taken
	Stall  bool  // connections are taken and never read
	Crawl  int   // bytes read of each connection in a second; 0: all
	Reset  int64 // bytes after which each connection is reset; 0: never

	Status     int           // of HTTPS: what every request is answered with; 0: 200
	RetryAfter time.Duration // of HTTPS: sent with Status, in whole seconds
	Delay      time.Duration // of HTTPS: before each answer
}

// fault is a Fault while it lasts.
type fault struct {
	Fault
	over chan struct{} // closed when another one begins
	once sync.Once
}

func newFault(f Fault) *fault { return &fault{Fault: f, over: make(chan struct{})} }

func (f *fault) end() { f.once.Do(func() { close(f.over) }) }

// Misbehave lets the receiver behave as f says from now on, connections that
// stand included. With Refuse these are reset; without it, after it, the address
// is listened at again, which can fail if somebody else has taken it.
func (r *Receiver) Misbehave(f Fault) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return net.ErrClosed
	}
	before := r.fault
	r.fault = newFault(f)
	for c := range r.conns {
		c.setFault(r.fault)
		if f.Refuse || f.Close {
			c.reset()
		}
	}
	before.end()
	switch {
	case f.Refuse && r.ln != nil:
		r.ln.Close()
		r.ln = nil
	case !f.Refuse && r.ln == nil:
		ln, err := net.Listen("tcp", r.addr)
		if err != nil {
			return err
		}
		r.listen(ln)
	}
	return nil
}

// conn is a connection that its fault befalls. It is under TLS.
type conn struct {
	net.Conn
	r      *Receiver
	number uint64

	mu    sync.Mutex
	fault *fault
	read  int64

	close sync.Once
	gone  chan struct{}
}

func (c *conn) setFault(f *fault) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fault = f
}

func (c *conn) current() (*fault, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fault, c.read
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		f, read := c.current()
		if f.Stall {
			select {
			case <-f.over:
				continue
			case <-c.gone:
				return 0, net.ErrClosed
			}
		}
		if f.Crawl > 0 { // ten sips a second
			p = p[:min(len(p), max(f.Crawl/10, 1))]
			pause := time.Duration(len(p)) * time.Second / time.Duration(f.Crawl)
			select {
			case <-time.After(pause):
			case <-f.over:
				continue
			case <-c.gone:
				return 0, net.ErrClosed
			}
		}
		if f.Reset > 0 {
			if read >= f.Reset {
				c.reset()
				return 0, net.ErrClosed
			}
			p = p[:min(int64(len(p)), f.Reset-read)]
		}
		n, err := c.Conn.Read(p)
		c.mu.Lock()
		c.read += int64(n)
		c.mu.Unlock()
		return n, err
	}
}

// reset is what the kernel does for a process that is killed with data unread.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		tcp.SetLinger(0)
	}
	c.shut()
}

func (c *conn) shut() error {
	err := net.ErrClosed
	c.close.Do(func() {
		close(c.gone)
		err = c.Conn.Close()
	})
	return err
}

func (c *conn) Close() error {
	err := c.shut()
	c.r.mu.Lock()
	delete(c.r.conns, c)
	c.r.mu.Unlock()
	return err
}
