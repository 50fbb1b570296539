// Package receiver is a receiver of drains for people who set one up, and for
// tests: it takes what a drain sends over TCP, TLS or HTTPS, says strictly what
// is wrong with it, and misbehaves when told to.
//
// RFC 5424 is checked by go-syslog, in its strict mode; the framing of RFC 6587
// and Heroku's headers by this package.
package receiver

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"
)

// Limits of what is taken, in bytes. A message above MaxMessage ends its
// connection, since nobody means it; a request above MaxBody is answered with 413.
const (
	MaxMessage = 2 << 20
	MaxBody    = 8 << 20
)

// Options of a Receiver. The zero value and nil mean syslog over TCP.
type Options struct {
	// TLS makes it a receiver for syslog-tls, or with HTTPS for https.
	TLS *tls.Config

	// HTTPS makes it a receiver for https, https-batch and https-logplex. It
	// needs TLS.
	HTTPS bool

	// Report is called for each message and for whatever is wrong outside of
	// one, by one goroutine at a time. The memory is lent until it returns, and
	// a connection's next message waits for it. Nil drops them.
	Report func(Message)

	// Fault is how it misbehaves from the start, see Receiver.Misbehave.
	Fault Fault
}

// Stats counts what a Receiver has seen.
type Stats struct {
	Connections uint64 // taken
	Requests    uint64 // of HTTPS, answered or not
	Messages    uint64 // complete ones, right or wrong
	Problems    uint64
	Bytes       uint64 // of the messages
}

// Receiver takes what drains send. It is made by New and ended by Close.
type Receiver struct {
	opt  Options
	addr string

	mu      sync.Mutex
	ln      net.Listener // nil while refusing
	fault   *fault
	conns   map[*conn]struct{}
	closed  bool
	taken   uint64
	running sync.WaitGroup

	web     *http.Server
	handoff chan net.Conn // to web
	done    chan struct{}

	report sync.Mutex // held while Report runs; guards stats
	stats  Stats
}

// New starts to take what comes to ln, which it closes in the end. It starts a
// goroutine, and one for each connection.
func New(ln net.Listener, o *Options) (*Receiver, error) {
	r := &Receiver{addr: ln.Addr().String(), conns: make(map[*conn]struct{}), done: make(chan struct{}), handoff: make(chan net.Conn)}
	if o != nil {
		r.opt = *o
	}
	if r.opt.HTTPS && r.opt.TLS == nil {
		ln.Close()
		return nil, errors.New("receiver: HTTPS needs a TLS configuration")
	}
	if r.opt.Report == nil {
		r.opt.Report = func(Message) {}
	}
	if r.opt.HTTPS {
		r.web = r.newWeb()
		r.running.Go(func() { r.web.Serve(&handedOver{r}) })
	}
	r.fault = newFault(r.opt.Fault)
	if r.opt.Fault.Refuse {
		return r, ln.Close()
	}
	r.listen(ln)
	return r, nil
}

// Addr is the host and port at which it listens.
func (r *Receiver) Addr() string { return r.addr }

// Scheme is that of a drain's URL for this receiver.
func (r *Receiver) Scheme() string {
	switch {
	case r.opt.HTTPS:
		return "https-batch"
	case r.opt.TLS != nil:
		return "syslog-tls"
	}
	return "syslog"
}

// URL is a drain's URL for this receiver.
func (r *Receiver) URL() string { return r.Scheme() + "://" + r.addr }

// Stats gives the counters.
func (r *Receiver) Stats() Stats {
	r.report.Lock()
	defer r.report.Unlock()
	s := r.stats
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Connections = r.taken
	return s
}

// listen accepts from ln. The caller holds r.mu, or nobody else has r yet.
func (r *Receiver) listen(ln net.Listener) {
	r.ln = ln
	r.running.Go(func() {
		for {
			c, err := ln.Accept()
			if err == nil {
				r.take(c)
				continue
			}
			if errors.Is(err, net.ErrClosed) {
				return
			}
			select { // out of files, most likely
			case <-time.After(10 * time.Millisecond):
			case <-r.done:
				return
			}
		}
	})
}

func (r *Receiver) take(raw net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		raw.Close()
		return
	}
	r.taken++
	c := &conn{Conn: raw, r: r, number: r.taken, fault: r.fault, gone: make(chan struct{})}
	if c.fault.Close {
		raw.Close()
		return
	}
	r.conns[c] = struct{}{}
	if r.opt.HTTPS {
		r.running.Go(func() { r.handOver(c) })
		return
	}
	r.running.Go(func() {
		defer c.Close()
		r.readStream(c)
	})
}

// handOver shakes hands and gives the connection to the HTTP server.
func (r *Receiver) handOver(c *conn) {
	secure := tls.Server(c, r.opt.TLS)
	if !r.shakeHands(c, secure) {
		c.Close()
		return
	}
	select {
	case r.handoff <- secure:
	case <-r.done:
		c.Close()
	}
}

// tell reports m, counting it.
func (r *Receiver) tell(m Message) {
	r.report.Lock()
	defer r.report.Unlock()
	if m.Text != nil {
		r.stats.Messages++
		r.stats.Bytes += uint64(len(m.Text))
	}
	r.stats.Problems += uint64(len(m.Problems))
	m.Time = time.Now()
	r.opt.Report(m)
}

// Close ends all connections and returns when every goroutine has ended.
func (r *Receiver) Close() error {
	r.mu.Lock()
	if !r.closed {
		r.closed = true
		close(r.done)
		if r.ln != nil {
			r.ln.Close()
		}
		r.fault.end()
	}
	conns := make([]*conn, 0, len(r.conns))
	for c := range r.conns {
		conns = append(conns, c)
	}
	r.mu.Unlock()
	for _, c := range conns {
		c.Close()
	}
	if r.web != nil {
		r.web.Close()
	}
	r.running.Wait()
	return nil
}

// Shutdown is Close for who has told its drains to end: it first waits, as long
// as ctx lets it, until they have closed their connections.
func (r *Receiver) Shutdown(ctx context.Context) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		r.mu.Lock()
		n := len(r.conns)
		r.mu.Unlock()
		if n == 0 {
			return r.Close()
		}
		select {
		case <-ctx.Done():
			r.Close()
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// handedOver is the listener of the HTTP server: it gets what take has taken.
type handedOver struct{ r *Receiver }

func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-h.r.handoff:
		return c, nil
	case <-h.r.done:
		return nil, net.ErrClosed
	}
}

func (h *handedOver) Close() error   { return nil }
func (h *handedOver) Addr() net.Addr { return textAddr(h.r.addr) }

type textAddr string

func (a textAddr) Network() string { return "tcp" }
func (a textAddr) String() string  { return string(a) }
