package transport_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// holes is a connection that loses some of what is written, and counts the
// records in it.
type holes struct {
	net.Conn
	secret []byte
	lose   func(n int) bool
	n      int
	lost   uint64
	max    int
}

func (h *holes) Write(p []byte) (int, error) {
	h.max = max(h.max, len(p))
	if h.n++; h.lose(h.n) {
		msg := append([]byte(nil), p...)
		if len(h.secret) > 0 {
			msg = msg[32:]
		}
		b, err := envelope.ParseBatch(msg)
		if err != nil {
			return 0, err
		}
		h.lost += uint64(b.Count)
		return len(p), nil
	}
	time.Sleep(20 * time.Microsecond) // the socket's buffer may be small
	return h.Conn.Write(p)
}

// Over UDP everything goes out once; what does not arrive is told, to the
// record, in its source's stream. A server that is new is told of no loss.
func TestDatagramLink(t *testing.T) {
	for name, secret := range map[string][]byte{"unsigned": nil, "signed": []byte("s3cret")} {
		t.Run(name, func(t *testing.T) {
			listen := func(address string) (*loggregator.Router, *transport.Server, string) {
				router := loggregator.New(nil)
				t.Cleanup(func() { router.Close() })
				server := transport.NewServer(router, &transport.ServerOptions{Secrets: [][]byte{[]byte("old"), secret}[:2*min(len(secret), 1)]})
				pc, err := net.ListenPacket("udp", address)
				if err != nil {
					t.Fatal(err)
				}
				go server.ServePacket(pc)
				return router, server, pc.LocalAddr().String()
			}
			router, server, address := listen("127.0.0.1:0")
			maker := loggregator.New(nil)
			defer maker.Close()
			var wire *holes
			l, err := transport.NewLink("udp://"+address, maker, &transport.LinkOptions{
				Secret: secret,
				DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
					c, err := (&net.Dialer{}).DialContext(ctx, network, address)
					wire = &holes{Conn: c, secret: secret, lose: func(n int) bool { return n == 1 || n%5 == 3 }}
					return wire, err
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			arrived := func(r *loggregator.Router, n uint64) {
				t.Helper()
				for i := 0; r.Stats().Accepted+r.Stats().Lost < n; i++ {
					if i > 5000 {
						t.Fatalf("%d records: %+v, link %+v, server %+v", n, r.Stats(), l.Stats(), server.Stats())
					}
					time.Sleep(time.Millisecond)
				}
			}
			emit(t, maker, "m", "a", 0, 1000)
			emit(t, maker, "m", "b", 0, 1000)
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			for wire.lose(wire.n+1) || wire.lose(wire.n+2) { // so that the last of both arrive
				wire.n++
			}
			emit(t, maker, "m", "a", 1000, 1)
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			emit(t, maker, "m", "b", 1000, 1)
			if err := l.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			arrived(router, 2002)
			seen, told := collect(t, router)
			if s := router.Stats(); wire.lost == 0 || told != wire.lost || uint64(len(seen))+told != 2002 || s.LostFor[envelope.ReasonDatagram] != told {
				t.Errorf("%d arrived, %d told, %d lost; %+v", len(seen), told, wire.lost, s)
			}
			if s := l.Stats(); s.Acked != 2002 || wire.max > 1432 || wire.max < 1000 {
				t.Errorf("%+v; datagrams of up to %d bytes", s, wire.max)
			}
			server.Close()

			// Another server has never heard of what went before.
			router, server, _ = listen(address)
			for i := 1001; ; i++ { // a send may fail once, because of the time between
				emit(t, maker, "m", "a", i, 1)
				if err := l.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if s := router.Stats(); s.Accepted > 0 {
					if s.Lost > 0 {
						t.Errorf("a new server is told of %d lost", s.Lost)
					}
					break
				}
				if i > 5000 {
					t.Fatalf("nothing arrives: %+v", l.Stats())
				}
				time.Sleep(time.Millisecond)
			}
			l.Close()
			server.Close()
		})
	}
}

// A record that no datagram can carry is lost alone, and told.
func TestDatagramTooLong(t *testing.T) {
	router := loggregator.New(nil)
	defer router.Close()
	server := transport.NewServer(router, nil)
	defer server.Close()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go server.ServePacket(pc)
	maker := loggregator.New(nil)
	defer maker.Close()
	f := envelope.Identity{SourceID: "app"}.Encode()
	var records []byte
	for _, size := range []int{10, 100_000, 20_000, 10} {
		records = envelope.AppendLog(records, f, 1, envelope.Out, make([]byte, size))
	}
	b, err := envelope.Of(records)
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.WriteBatch(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	l, err := transport.NewLink("udp://"+pc.LocalAddr().String(), maker, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for i := 0; router.Stats().Accepted < 3; i++ {
		if i > 5000 {
			t.Fatalf("%+v, %+v", router.Stats(), l.Stats())
		}
		time.Sleep(time.Millisecond)
	}
	if s := router.Stats(); s.Accepted != 3 || s.LostFor[envelope.ReasonDatagram] != 1 {
		t.Errorf("%+v", s)
	}
}
