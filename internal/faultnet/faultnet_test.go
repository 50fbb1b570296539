package faultnet

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

var data = bytes.Repeat([]byte("0123456789"), 100)

// send writes data and hangs up, in a goroutine that ends with the connection.
func send(c *Conn) {
	go func() {
		c.Write(data)
		c.CloseWrite()
	}()
}

func TestGoodConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(Faults{ToServer: Way{Buffer: 7, Chunk: 5, Rand: rand.New(rand.NewPCG(1, 1))}})
		send(a)
		reads := 0
		got := readAll(t, b, &reads)
		if !bytes.Equal(got, data) || reads < len(data)/5 {
			t.Errorf("%d bytes in %d reads", len(got), reads)
		}
		send(b)
		if got, err := io.ReadAll(a); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
		b.Close()
		if _, err := a.Write(data); !errors.Is(err, net.ErrClosed) { // half closed before
			t.Errorf("write: %v", err)
		}
		a.Close()
		if _, err := a.Read(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
}

func readAll(t *testing.T, c net.Conn, reads *int) (all []byte) {
	t.Helper()
	buf := make([]byte, 4096)
	for {
		n, err := c.Read(buf)
		all = append(all, buf[:n]...)
		*reads++
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestFaults(t *testing.T) {
	tests := []struct {
		name string
		way  Way
		n    int           // bytes that arrive
		err  error         // after which Read returns this
		took time.Duration // and this has passed
	}{
		{"none", Way{}, len(data), io.EOF, 0},
		{"reset", Way{ResetAt: 333}, 333, syscall.ECONNRESET, 0},
		{"hole", Way{HoleAt: 333}, 333, os.ErrDeadlineExceeded, time.Minute},
		{"stall", Way{StallAt: 333, StallFor: 30 * time.Second}, len(data), io.EOF, 30 * time.Second},
		{"long stall", Way{StallAt: 333, StallFor: time.Hour}, 333, os.ErrDeadlineExceeded, time.Minute},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := Pipe(Faults{ToServer: test.way})
				send(a)
				start := time.Now()
				b.SetReadDeadline(start.Add(time.Minute))
				buf, n := make([]byte, 100), 0
				for {
					m, err := b.Read(buf)
					if !bytes.Equal(buf[:m], data[n:n+m]) {
						t.Fatal("other bytes")
					}
					n += m
					if err == nil {
						continue
					}
					if n != test.n || !errors.Is(err, test.err) || time.Since(start) != test.took {
						t.Errorf("%d bytes, then %v after %v", n, err, time.Since(start))
					}
					break
				}
				if test.err == syscall.ECONNRESET {
					if _, err := a.Read(buf); !errors.Is(err, test.err) {
						t.Errorf("the other end: %v", err)
					}
				}
				a.Close()
				b.Close()
			})
		})
	}
}

func TestMuteAndReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := Pipe(Faults{ToServer: Way{Buffer: 100}})
		a.Mute()
		a.SetWriteDeadline(time.Now().Add(time.Second))
		if n, err := a.Write(data); n != 100 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes written, %v", n, err)
		}
		b.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := b.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes read, %v", n, err)
		}
		b.Reset()
		if _, err := a.Write(data); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
	})
}

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Network{Plan: func(i int) Faults { return Faults{ToServer: Way{ResetAt: int64(i)}} }}
		if _, err := n.DialContext(t.Context(), "tcp", "a:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("nobody there: %v", err)
		}
		ln, err := n.Listen("a:1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := n.Listen("a:1"); !errors.Is(err, syscall.EADDRINUSE) {
			t.Errorf("twice: %v", err)
		}
		c, err := n.DialContext(t.Context(), "tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		s, err := ln.Accept()
		if err != nil || s.LocalAddr().String() != "a:1" || s.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("accepted %v, %v", s, err)
		}
		waiting, err := n.DialContext(t.Context(), "tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		ln.Close()
		if _, err := waiting.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("never accepted: %v", err)
		}
		if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		if _, err := n.Listen("a:1"); err != nil || n.Dialed() != 2 {
			t.Errorf("again: %v, %d dialed", err, n.Dialed())
		}
	})
}

// A black hole takes what is written and answers nothing; who dials it waits.
func TestSwallowHealReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &Network{}
		ln, err := n.Listen("a:1")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		client, err := n.DialContext(t.Context(), "tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		server, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		n.Swallow("a:1")
		client.Write([]byte("x"))
		server.SetReadDeadline(time.Now().Add(time.Hour))
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
		client.Close()
		server.Close()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		begun := time.Now()
		if _, err := n.DialContext(ctx, "tcp", "a:1"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begun) != time.Minute {
			t.Errorf("dial: %v after %v", err, time.Since(begun))
		}
		time.AfterFunc(time.Minute, func() { n.Heal("a:1") })
		client, err = n.DialContext(t.Context(), "tcp", "a:1")
		if err != nil {
			t.Fatal(err)
		}
		n.Reset("a:1")
		if _, err := client.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write: %v", err)
		}
	})
}
