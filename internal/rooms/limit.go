package rooms

import (
	"bytes"
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

// turnAway says why, once the client has asked: an answer to nothing would be
// none, and what is not read would tear the connection before it is.
func (l *limited) turnAway(nc net.Conn) {
	defer l.leaving.Add(-1)
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(leaveTime))
	head := make([]byte, 0, 4<<10)
	for !bytes.Contains(head, []byte("\r\n\r\n")) && len(head) < cap(head) {
		n, err := nc.Read(head[len(head):cap(head)])
		if err != nil {
			return
		}
		head = head[:len(head)+n]
	}
	why := fmt.Sprintf("%d connections are open, which is the limit; try again later\n", l.max)
	fmt.Fprintf(nc, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain\r\nRetry-After: 5\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(why), why)
	if half, ok := nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
	io.Copy(io.Discard, io.LimitReader(nc, 64<<10))
}

// leaveTime is how long it may take to tell one of them.
const leaveTime = 2 * time.Second

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
