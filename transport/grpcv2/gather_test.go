package grpcv2

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/credentials"
)

// countConn counts writes, and fails them on demand.
type countConn struct {
	net.Conn
	writes atomic.Int64
	fail   atomic.Bool
}

func (c *countConn) Write(p []byte) (int, error) {
	c.writes.Add(1)
	if c.fail.Load() {
		return 0, errors.New("torn")
	}
	return c.Conn.Write(p)
}

// TestGatheredWrites: what is written at once goes out at once, whole, however
// long; a failure is the write's own; and Close ends one that is stuck.
func TestGatheredWrites(t *testing.T) {
	ca := newAuthority(t)
	server, client := net.Pipe()
	raw := &countConn{Conn: server}
	done := make(chan []byte, 1)
	stop := make(chan struct{})
	want := bytes.Repeat([]byte("0123456789abcdef"), 300<<10/16)
	go func() {
		tc := tls.Client(client, ca.client("metron", ca.sign("reader")))
		tc.Handshake()
		got := make([]byte, 64<<10+len(want)+1)
		io.ReadFull(tc, got)
		done <- got
		<-stop // and takes nothing any more
	}()
	config := ca.server("metron")
	config.SessionTicketsDisabled = true
	config.NextProtos = nil
	creds := gathered{credentials.NewTLS(config)}
	raw.Conn.SetDeadline(time.Now().Add(limit))
	// The client above offers no ALPN, which gRPC's credentials insist on.
	below := &gatherConn{Conn: raw}
	tc := tls.Server(below, config)
	if err := tc.Handshake(); err != nil {
		t.Fatal(err)
	}
	c := &tlsConn{Conn: tc, below: below}
	before := raw.writes.Load()
	if n, err := c.Write(want[:64<<10]); n != 64<<10 || err != nil {
		t.Fatal(n, err)
	}
	if n := raw.writes.Load() - before; n != 1 {
		t.Errorf("64 KiB took %d writes", n)
	}
	c.Write(want)
	c.Write(want[:1])
	if got := <-done; !bytes.Equal(got, append(append(bytes.Clone(want[:64<<10]), want...), want[0])) {
		t.Error("what was written is not what was read")
	}
	stuck := make(chan error, 1)
	go func() {
		_, err := c.Write(want)
		stuck <- err
	}()
	eventually(t, "a write is stuck", below.flushing.Load)
	c.Close()
	if err := <-stuck; err == nil {
		t.Error("what was cut off is written")
	}
	close(stop)
	raw.fail.Store(true)
	if n, err := c.Write([]byte("x")); n != 0 || err == nil {
		t.Error(n, err)
	}
	if creds.Clone().Info().SecurityProtocol != "tls" {
		t.Error("not TLS")
	}
}
