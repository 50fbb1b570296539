package grpcv2

import (
	"net"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc/credentials"
)

// gathered are credentials whose connections hand what is written at once to the
// system at once. crypto/tls does so for every record of 16 KiB, and a system call
// for each took a tenth more of the time of a server with ten readers.
type gathered struct {
	credentials.TransportCredentials
}

func (g gathered) Clone() credentials.TransportCredentials {
	return gathered{g.TransportCredentials.Clone()}
}

func (g gathered) ServerHandshake(raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	below := &gatherConn{Conn: raw}
	nc, info, err := g.TransportCredentials.ServerHandshake(below)
	if err != nil {
		return nil, nil, err
	}
	return &tlsConn{Conn: nc, below: below}, info, nil
}

// maxGathered bounds what is put together, in bytes; gRPC writes 64 KiB at once.
const maxGathered = 80 << 10

var gatherings = sync.Pool{New: func() any { b := make([]byte, 0, maxGathered); return &b }}

// gatherConn is below TLS.
type gatherConn struct {
	net.Conn
	mu       sync.Mutex
	into     *[]byte // nil: what is written goes out
	flushing atomic.Bool
}

func (c *gatherConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.into == nil {
		return c.Conn.Write(p)
	}
	if len(*c.into)+len(p) > maxGathered {
		if err := c.flush(); err != nil {
			return 0, err
		}
		if len(p) > maxGathered {
			return c.Conn.Write(p)
		}
	}
	*c.into = append(*c.into, p...)
	return len(p), nil
}

// flush writes what was put together. The lock is held.
func (c *gatherConn) flush() error {
	if len(*c.into) == 0 {
		return nil
	}
	c.flushing.Store(true)
	_, err := c.Conn.Write(*c.into)
	c.flushing.Store(false)
	*c.into = (*c.into)[:0]
	return err
}

// tlsConn is above TLS.
type tlsConn struct {
	net.Conn
	below *gatherConn
	mu    sync.Mutex // of writes
}

func (c *tlsConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	memory := gatherings.Get().(*[]byte)
	c.below.mu.Lock()
	c.below.into = memory
	c.below.mu.Unlock()
	n, err := c.Conn.Write(p)
	c.below.mu.Lock()
	if flushErr := c.below.flush(); err == nil && flushErr != nil {
		n, err = 0, flushErr
	}
	c.below.into = nil
	c.below.mu.Unlock()
	gatherings.Put(memory)
	return n, err
}

// Close does not wait for a peer that takes nothing to take TLS's last word.
func (c *tlsConn) Close() error {
	if c.below.flushing.Load() {
		return c.below.Conn.Close()
	}
	return c.Conn.Close()
}
