package rooms

import (
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// limited is a listener with a bound on the connections that are open.
type limited struct {
	net.Listener
	max     int64
	explain bool // the client hears why; not where it expects TLS first

	open    atomic.Int64
	refused atomic.Uint64
	leaving atomic.Int64
}

func limitConns(ln net.Listener, max int, explain bool) *limited {
	return &limited{Listener: ln, max: int64(max), explain: explain}
}

// Accept turns away those who are too many.
func (l *limited) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.max {
			return &counted{Conn: nc, l: l}, nil
		}
		l.open.Add(-1)
		l.refused.Add(1)
		if l.explain && l.leaving.Load() < maxLeaving {
			l.leaving.Add(1)
			go l.turnAway(nc)
			continue
		}
		nc.Close()
	}
}

// maxLeaving bounds those who are being told.
const maxLeaving = 64

// turnAway says why. What the client sent is read, as what it is told would be
// lost with a reset otherwise.
func (l *limited) turnAway(nc net.Conn) {
	defer l.leaving.Add(-1)
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(time.Second))
	why := fmt.Sprintf("%d connections are open, which is the limit; try again later\n", l.max)
	fmt.Fprintf(nc, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(why), why)
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	io.Copy(io.Discard, io.LimitReader(nc, 64<<10))
}

// counted is a connection that is counted until it is closed.
type counted struct {
	net.Conn
	l    *limited
	once sync.Once
}

func (c *counted) Close() error {
	c.once.Do(func() { c.l.open.Add(-1) })
	return c.Conn.Close()
}
