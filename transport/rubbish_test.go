package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

// message is one whole message of n records that nobody numbered.
func message(n int) []byte {
	var records []byte
	for range n {
		records = envelope.AppendLog(records, fixed, 1, envelope.Out, []byte("hello"))
	}
	return append(binary.AppendUvarint(nil, uint64(len(records))), records...)
}

// hello is what a TLS client says first.
func hello() []byte {
	a, b := net.Pipe()
	go tls.Client(a, &tls.Config{ServerName: "server"}).HandshakeContext(context.Background())
	buf := make([]byte, 4096)
	n, _ := b.Read(buf)
	a.Close()
	b.Close()
	return buf[:n]
}

func random(n int) []byte {
	c := rand.NewChaCha8([32]byte{1})
	b := make([]byte, n)
	c.Read(b)
	return b
}

// TestRubbish sends what does not belong there, next to a good connection. Only
// the bad one is closed, its memory is bounded, and the reason is counted and
// named once.
func TestRubbish(t *testing.T) {
	large := binary.AppendUvarint(nil, 2<<30)
	tests := []struct {
		name   string
		send   []byte
		hangUp bool // close after sending; else the sender waits
		after  time.Duration
		reason string
		says   string
	}{
		{name: "random bytes", send: random(1 << 20), reason: "malformed", says: "not length-delimited"},
		{name: "TLS hello", send: hello(), reason: "tls", says: "looks like a TLS hello: this port is not TLS"},
		{name: "HTTP", send: []byte("GET / HTTP/1.1\r\nHost: server\r\n\r\n"), reason: "http", says: "looks like HTTP"},
		{name: "HTTP POST", send: []byte("POST /v1/logs HTTP/1.0\r\n\r\n"), reason: "http", says: "looks like HTTP"},
		{name: "gRPC", send: []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), reason: "http", says: "looks like HTTP/2 or gRPC"},
		{name: "endless line", send: bytes.Repeat([]byte("a"), 100<<20), reason: "text", says: "looks like lines of text"},
		{name: "syslog", send: bytes.Repeat([]byte("<14>1 2026-01-01T00:00:00Z h a - - - hello\n"), 10), reason: "text", says: "looks like syslog"},
		{name: "JSON", send: bytes.Repeat([]byte(`{"level":"info","message":"hello"}`+"\n"), 10), reason: "text", says: "looks like JSON"},
		{name: "one short line", send: []byte("hello world\n"), hangUp: true, reason: "text", says: "looks like lines of text"},
		{name: "batch without length", send: message(100)[2:], reason: "malformed", says: "looks like a batch without its length"},
		{name: "fixed length", send: append([]byte{0, 0, 1, 44}, make([]byte, 300)...), reason: "malformed"},
		{name: "2 GiB announced", send: append(large, random(1<<20)...), reason: "too_large", says: "announces a message above the limit"},
		{name: "endless length", send: bytes.Repeat([]byte{0xff}, 20), reason: "malformed"},
		{name: "truncated", send: message(100)[:700], hangUp: true, reason: "truncated", says: "ended in the middle"},
		{name: "stalled", send: append(message(3), message(100)[:700]...), after: 30 * time.Second, reason: "stalled", says: "not complete after 30s"},
		{name: "rubbish after a batch", send: append(message(3), "GET / HTTP/1.1\r\n\r\n                                                                             "...), reason: "http"},
		{name: "half a length", send: []byte{0x80}, after: 30 * time.Second, reason: "stalled"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				network, dst := &faultnet.Network{}, newSink(t)
				var log lines
				server := serve(t, network, dst, &ServerOptions{Logger: slog.New(&log)})
				good, _ := network.DialContext(t.Context(), "", "server:3456")
				good.Write(message(1))

				for range 3 {
					start := time.Now()
					bad, err := network.DialContext(t.Context(), "", "server:3456")
					if err != nil {
						t.Fatal(err)
					}
					go func() {
						bad.Write(test.send)
						if test.hangUp {
							bad.(*faultnet.Conn).CloseWrite()
						}
					}()
					io.Copy(io.Discard, bad)
					if d := time.Since(start); d != test.after {
						t.Errorf("closed after %v", d)
					}
					bad.Close()
				}
				synctest.Wait()
				s := server.Stats()
				if s.Refused[test.reason] != 3 || len(s.Refused) != 1 {
					t.Errorf("refused %v, want 3 %s", s.Refused, test.reason)
				}
				if server.buffered.Load() > readBuffer || s.Connections != 1 {
					t.Errorf("%d bytes buffered, %d connections", server.buffered.Load(), s.Connections)
				}
				if named := int(3 * test.after / time.Minute); len(log.all) != 1+named {
					t.Errorf("%d lines: %q", len(log.all), log.all)
				}
				if l := log.all[0]; !strings.Contains(l, test.says) || !strings.Contains(l, "remote=dialer-1") || !strings.Contains(l, "reason="+test.reason) {
					t.Errorf("line %q does not say %q", l, test.says)
				}

				good.Write(message(1))
				good.Close()
				synctest.Wait()
				before := dst.loose
				if before < 2 || server.Stats().Connections != 0 {
					t.Errorf("the good connection suffered: %d records", before)
				}

				time.Sleep(time.Minute)
				bad, _ := network.DialContext(t.Context(), "", "server:3456")
				go func() {
					bad.Write(test.send)
					if test.hangUp {
						bad.(*faultnet.Conn).CloseWrite()
					}
				}()
				io.Copy(io.Discard, bad)
				bad.Close()
				if test.after == 0 {
					if l := log.all[len(log.all)-1]; len(log.all) != 2 || !strings.Contains(l, "unnamed_before=2") {
						t.Errorf("a minute later: %q", log.all)
					}
				}
				server.Close()
			})
		})
	}
}

// A slow sender of a long message is no rubbish, and its buffer goes back.
func TestLongMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, newSink(t)
		server := serve(t, network, dst, nil)
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		msg := message(230_000)
		if len(msg) < 5<<20 || len(msg) > 10<<20 {
			t.Fatalf("message of %d bytes", len(msg))
		}
		c.Write(msg[:10])
		synctest.Wait()
		if n := server.buffered.Load(); n != 0 {
			t.Errorf("%d bytes for a length alone", n)
		}
		time.Sleep(29 * time.Second)
		c.Write(msg[10 : len(msg)-10])
		c.Write(msg[len(msg)-10:])
		synctest.Wait()
		if dst.loose != 230_000 || server.buffered.Load() > readBuffer {
			t.Errorf("%d records, %d bytes buffered", dst.loose, server.buffered.Load())
		}
		for range 10 * patience {
			c.Write(message(1))
			synctest.Wait()
		}
		if n := server.buffered.Load(); n != 0 {
			t.Errorf("%d bytes buffered by a connection that hardly sends", n)
		}
		time.Sleep(time.Hour)
		c.Close()
		server.Close()
		if s := server.Stats(); len(s.Refused) != 0 {
			t.Errorf("refused %v", s.Refused)
		}
	})
}

// Messages of any size are acknowledged at once, also where they end just where
// the buffer does.
func TestAckAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		server := serve(t, network, discard{}, nil)
		for size := baseBuffer - 20; size < baseBuffer+20; size++ {
			b := envelope.Batch{Stream: 1, First: 1, Count: 1, Next: 2}
			head := b.AppendHeader(nil)
			for n := size; len(b.Records)+len(head)+2 != size; n-- { // two bytes of length
				b.Records = envelope.AppendLog(nil, fixed, 1, envelope.Out, make([]byte, n))
			}
			c, _ := network.DialContext(t.Context(), "", "server:3456")
			c.Write(append(append(binary.AppendUvarint(nil, uint64(size-2)), head...), b.Records...))
			synctest.Wait()
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, err := c.Read(make([]byte, 100)); err != nil {
				t.Errorf("message of %d bytes: %v", size, err)
			}
			c.Close()
		}
		server.Close()
	})
}

func TestMemoryLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, newSink(t)
		server := serve(t, network, dst, &ServerOptions{MaxBuffered: 3 << 20})
		msg := message(50_000)
		var conns []net.Conn
		for range 10 {
			c, _ := network.DialContext(t.Context(), "", "server:3456")
			go c.Write(msg[:len(msg)-1])
			conns = append(conns, c)
			synctest.Wait()
			if n := server.buffered.Load(); n > 3<<20 {
				t.Fatalf("%d bytes buffered", n)
			}
		}
		s := server.Stats()
		if s.Refused["memory"] != uint64(10-s.Connections) || s.Connections == 0 || s.Connections == 10 {
			t.Errorf("stats %+v", s)
		}
		for _, c := range conns {
			c.Close()
		}
		server.Close()
		if n := server.buffered.Load(); n != 0 {
			t.Errorf("%d bytes never given back", n)
		}
	})
}

func TestTooManyConnections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, newSink(t)
		server := serve(t, network, dst, &ServerOptions{MaxConns: 2})
		var conns []net.Conn
		for range 5 {
			c, _ := network.DialContext(t.Context(), "", "server:3456")
			conns = append(conns, c)
			synctest.Wait()
		}
		if s := server.Stats(); s.Connections != 2 || s.Accepted != 2 || s.Refused["full"] != 3 {
			t.Errorf("stats %+v", s)
		}
		conns[0].Close()
		synctest.Wait()
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		c.Write(message(7))
		synctest.Wait()
		if dst.loose != 7 {
			t.Errorf("%d records", dst.loose)
		}
		server.Close()
		for _, c := range append(conns, c) {
			c.Close()
		}
	})
}

// A sender that does not read its acknowledgements is cut off, and what it sent
// before is not lost.
func TestAcksUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{Plan: func(int) faultnet.Faults {
			return faultnet.Faults{ToClient: faultnet.Way{Buffer: 10}}
		}}
		src, dst := newRings(1), newSink(t)
		server := serve(t, network, dst, nil)
		src.add(1, 1)
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		for b := range src.Batches(t.Context(), envelope.Query{}) {
			wire := append(b.AppendHeader(nil), b.Records...)
			c.Write(append(binary.AppendUvarint(nil, uint64(len(wire))), wire...))
		}
		time.Sleep(11 * time.Second)
		if s := server.Stats(); s.Connections != 0 || s.Refused["acks"] != 1 {
			t.Errorf("stats %+v", s)
		}
		c.Close()
		server.Close()
		dst.check(map[envelope.StreamID]uint64{1: 1})
	})
}

// Shutdown takes what was sent, though it was not read yet, and acknowledges it.
func TestServerShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{Plan: func(int) faultnet.Faults {
			return faultnet.Faults{ToServer: faultnet.Way{Chunk: 1000}}
		}}
		src, dst := newRings(10), newSink(t)
		slow := envelope.WriterFunc(func(ctx context.Context, b envelope.Batch) error {
			time.Sleep(time.Millisecond)
			return dst.WriteBatch(ctx, b)
		})
		server := serve(t, network, slow, nil)
		link := dial(t, network, src, LinkOptions{})
		src.add(1, 100_000)
		time.Sleep(time.Second)
		start := time.Now()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Errorf("Shutdown: %v", err)
		}
		if d := time.Since(start); d < 200*time.Millisecond || d > time.Second {
			t.Errorf("took %v", d)
		}
		synctest.Wait()
		link.Close()
		if s := link.Stats(); s.Acked != dst.taken[1] || s.Acked == 0 || s.Acked == 100_000 {
			t.Errorf("acknowledged %d, taken %d", s.Acked, dst.taken[1])
		}
		if err := server.Serve(unused()); !errors.Is(err, ErrClosed) {
			t.Errorf("Serve afterwards: %v", err)
		}
		server.Close()
		server.Shutdown(t.Context())
	})
}

// short is a listener on a machine that runs out of file descriptors for a while.
type short struct {
	net.Listener
	failures int
	err      error
}

func (s *short) Accept() (net.Conn, error) {
	if s.failures > 0 {
		s.failures--
		return nil, &net.OpError{Op: "accept", Err: os.NewSyscallError("accept4", s.err)}
	}
	return s.Listener.Accept()
}

func TestAcceptFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, dst := &faultnet.Network{}, newSink(t)
		ln, err := network.Listen("server:3456")
		if err != nil {
			t.Fatal(err)
		}
		var log lines
		s := NewServer(dst, &ServerOptions{Logger: slog.New(&log)})
		go s.Serve(&short{ln, 20, syscall.EMFILE})
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		c.Write(message(1))
		time.Sleep(time.Minute)
		synctest.Wait()
		if dst.loose != 1 || s.Stats().Refused["full"] != 20 || len(log.all) != 1 {
			t.Errorf("%d records, %+v, log %q", dst.loose, s.Stats(), log.all)
		}
		c.Close()
		s.Close()

		ln, err = network.Listen("server:3456")
		if err != nil {
			t.Fatal(err)
		}
		s = NewServer(dst, nil)
		if err := s.Serve(&short{ln, 1, syscall.EINVAL}); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Serve: %v", err)
		}
		if _, err := network.DialContext(t.Context(), "", "server:3456"); err == nil {
			t.Error("the listener is not closed")
		}
	})
}

func unused() net.Listener {
	ln, _ := (&faultnet.Network{}).Listen("x")
	return ln
}

// A Writer that hangs does not hang Shutdown beyond its context.
func TestServerShutdownStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		stuck := envelope.WriterFunc(func(ctx context.Context, _ envelope.Batch) error {
			<-ctx.Done()
			return ctx.Err()
		})
		server := serve(t, network, stuck, nil)
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		c.Write(message(1))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if err := server.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("Shutdown: %v after %v", err, time.Since(start))
		}
		c.Close()
	})
}
