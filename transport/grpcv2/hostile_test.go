package grpcv2

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

// rawPeer speaks HTTP/2 frame by frame, as no client of gRPC would let it.
type rawPeer struct {
	t  *testing.T
	nc net.Conn
	*http2.Framer
}

func newPeer(t *testing.T, addr string) *rawPeer {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(limit))
	io.WriteString(nc, http2.ClientPreface)
	p := &rawPeer{t, nc, http2.NewFramer(nc, nc)}
	p.WriteSettings()
	return p
}

// open begins a stream of a method.
func (p *rawPeer) open(id uint32, path string) {
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, f := range [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", path}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"},
	} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	p.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true})
}

// goAway reads until the server sends the peer away, and returns what it says.
func (p *rawPeer) goAway() (http2.ErrCode, string) {
	p.t.Helper()
	for {
		f, err := p.ReadFrame()
		if err != nil {
			p.t.Fatalf("the connection ended without a word: %v", err)
		}
		if g, ok := f.(*http2.GoAwayFrame); ok {
			return g.ErrCode, string(g.DebugData())
		}
	}
}

// alive checks that the server serves others, whatever has been done to it.
func (b *bench) alive() {
	b.t.Helper()
	s := sender(b.t, dial(b.t, b.addr, nil), "BatchSender")
	before := b.router.Stats().Accepted
	s.SendMsg(&pb.EnvelopeBatch{Batch: []*pb.Envelope{line("alive", "1")}})
	if err := finish(s); err != nil || b.router.Stats().Accepted <= before {
		b.t.Errorf("others are not served: %v", err)
	}
}

// TestPingsTooOften: who pings more often than every MinPing is sent away; who
// keeps to it, also without a stream, is not.
func TestPingsTooOften(t *testing.T) {
	b := newBench(t, nil, nil, nil)
	p := newPeer(t, b.addr)
	go func() {
		for range 10 {
			if p.WritePing(false, [8]byte{1}) != nil {
				return
			}
		}
	}()
	if code, says := p.goAway(); code != http2.ErrCodeEnhanceYourCalm || says != "too_many_pings" {
		t.Errorf("%v %q", code, says)
	}
	b.alive()

	b = newBench(t, &Options{MinPing: time.Nanosecond}, nil, nil)
	p = newPeer(t, b.addr)
	const pings = 10
	for acks := 0; acks < pings; {
		if acks == 0 {
			for range pings {
				if err := p.WritePing(false, [8]byte{1}); err != nil {
					t.Fatal(err)
				}
			}
		}
		f, err := p.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.GoAwayFrame:
			t.Fatalf("sent away: %v %s", f.ErrCode, f.DebugData())
		case *http2.PingFrame:
			acks++
		}
	}
}

// TestSilentPeer: one that does not answer pings is given up.
func TestSilentPeer(t *testing.T) {
	b := newBench(t, &Options{PingAfter: time.Second, PingTimeout: 50 * time.Millisecond}, nil, nil)
	p := newPeer(t, b.addr)
	p.open(1, egressPath+"BatchedReceiver")
	req := ask{sel: logs()}.bytes()
	p.WriteData(1, true, append([]byte{0, 0, 0, 0, byte(len(req))}, req...))
	eventually(t, "it reads", func() bool { return b.Stats().Readers == 1 })
	eventually(t, "it is given up", func() bool { return b.Stats().Readers == 0 && b.Stats().Connections == 0 })
	b.balance()
}

// TestHostileFrames: each is an end to itself alone.
func TestHostileFrames(t *testing.T) {
	for name, attack := range map[string]func(p *rawPeer){
		"rubbish": func(p *rawPeer) { io.WriteString(p.nc, strings.Repeat("rubbish", 10_000)) },
		"announces 4 GiB": func(p *rawPeer) {
			p.open(1, ingressPath+"BatchSender")
			p.WriteData(1, false, []byte{0, 0xff, 0xff, 0xff, 0xff, 1})
		},
		"an unknown compression": func(p *rawPeer) {
			p.open(1, ingressPath+"BatchSender")
			p.WriteData(1, false, []byte{1, 0, 0, 0, 1, 1})
		},
		"a reserved flag": func(p *rawPeer) {
			p.open(1, ingressPath+"BatchSender")
			p.WriteData(1, false, []byte{9, 0, 0, 0, 1, 1})
		},
		"an unknown method": func(p *rawPeer) { p.open(1, ingressPath+"Nonsense") },
		"no slash":          func(p *rawPeer) { p.open(1, "loggregator.v2.Ingress") },
		"data for no stream": func(p *rawPeer) {
			p.AllowIllegalWrites = true
			p.WriteData(0, false, []byte("x"))
		},
		"a request in two": func(p *rawPeer) {
			p.open(1, egressPath+"BatchedReceiver")
			p.WriteData(1, false, []byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
		},
		"settings without end": func(p *rawPeer) {
			for range 1000 {
				if p.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1}) != nil {
					return
				}
			}
		},
		"streams without end": func(p *rawPeer) {
			for i := range uint32(3000) {
				p.open(1+2*i, ingressPath+"BatchSender")
			}
		},
		"headers without end": func(p *rawPeer) {
			p.AllowIllegalWrites = true
			p.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: bytes.Repeat([]byte{0, 1, 'a', 1, 'b'}, 3000)})
			for range 20 {
				if p.WriteContinuation(1, false, bytes.Repeat([]byte{0, 1, 'a', 1, 'b'}, 3000)) != nil {
					return
				}
			}
		},
		"opens and resets": func(p *rawPeer) {
			for i := range uint32(2000) {
				p.open(1+2*i, ingressPath+"BatchSender")
				if p.WriteRSTStream(1+2*i, http2.ErrCodeCancel) != nil {
					return
				}
			}
		},
		"leaves in mid-message": func(p *rawPeer) {
			p.open(1, ingressPath+"BatchSender")
			p.WriteData(1, false, []byte{0, 0, 0, 1, 0, 1, 2, 3})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, nil, nil, nil)
			p := newPeer(t, b.addr)
			read := make(chan struct{}) // what the server says is taken, so that it is not stuck
			go func() {
				defer close(read)
				io.Copy(io.Discard, p.nc)
			}()
			attack(p)
			b.alive()
			p.nc.Close()
			<-read
			eventually(t, "it is forgotten", func() bool { s := b.Stats(); return s.Senders == 0 && s.Readers == 0 })
			if r := b.router.Stats(); r.Accepted != 1 {
				t.Errorf("%+v", r)
			}
		})
	}
}

// TestEndlessSender: one that never stops holds up neither the others nor the end.
func TestEndlessSender(t *testing.T) {
	b := newBench(t, &Options{DrainTime: 20 * time.Millisecond}, nil, nil)
	s := sender(t, dial(t, b.addr, nil), "BatchSender")
	ended := make(chan error, 1)
	go func() {
		batch := &pb.EnvelopeBatch{Batch: []*pb.Envelope{line("endless", strings.Repeat("x", 1000))}}
		for {
			if err := s.SendMsg(batch); err != nil {
				ended <- err
				return
			}
		}
	}()
	eventually(t, "it sends", func() bool { return b.router.Stats().Accepted > 100 })
	b.alive()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	if err := b.Shutdown(ctx); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if err := <-ended; err != io.EOF {
		t.Errorf("%v", err)
	}
	var answer []byte
	if err := s.RecvMsg(&answer); status.Code(err) != codes.Unavailable {
		t.Errorf("%v", err)
	}
	if s, r := b.Stats(), b.router.Stats(); r.Accepted != s.Records {
		t.Errorf("%d received, %d taken", s.Records, r.Accepted)
	}
}

func TestTooManyConnections(t *testing.T) {
	b := newBench(t, &Options{MaxConns: 1}, nil, nil)
	stays := newPeer(t, b.addr)
	eventually(t, "a connection", func() bool { return b.Stats().Connections == 1 })
	nc, err := net.Dial("tcp", b.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(limit))
	if _, err := io.ReadAll(nc); err != nil && !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("%v", err)
	}
	eventually(t, "it is counted", func() bool { return b.Stats().Refused["full"] == 1 })
	stays.nc.Close()
	eventually(t, "its place is free", func() bool { return b.Stats().Connections == 0 })
	b.alive()
}
