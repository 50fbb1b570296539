package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

// startEgress serves src at "server:1" of a network.
func startEgress(t testing.TB, n *faultnet.Network, src envelope.Source, o *EgressOptions) *Egress {
	t.Helper()
	ln, err := n.Listen("server:1")
	if err != nil {
		t.Fatal(err)
	}
	e := NewEgress(src, o)
	go e.Serve(ln)
	t.Cleanup(func() { e.Close() })
	return e
}

// opening is a frame that opens a query.
func opening(mode byte, id, credit uint64, q envelope.Query) []byte {
	body := binary.AppendUvarint([]byte{mode}, credit)
	return appendFrame(nil, kindOpen, id, envelope.AppendQuery(body, &q)...)
}

func everythingFollowed() envelope.Query {
	return envelope.Query{Select: envelope.Everything, History: true, Follow: true}
}

func TestEgressRefusesRubbish(t *testing.T) {
	greeted := func(frames ...[]byte) []byte { return slices.Concat(append([][]byte{helloFrame()}, frames...)...) }
	var tooLarge []byte
	tooLarge = binary.AppendUvarint(tooLarge, maxRequest+1)
	for _, test := range []struct {
		name   string
		send   []byte
		hangUp bool
		after  time.Duration
		reason string
		says   string
	}{
		{name: "HTTP", send: []byte("GET / HTTP/1.1\r\nHost: server\r\n\r\n"), reason: "http", says: "looks like HTTP"},
		{name: "TLS hello", send: hello(), reason: "tls", says: "looks like a TLS hello"},
		{name: "a sender's batch", send: message(100), reason: "malformed", says: "does not speak the read link"},
		{name: "text", send: []byte(strings.Repeat("hello world\n", 100)), reason: "text", says: "lines of text"},
		{name: "another version", send: appendFrame(nil, kindHello, 0, []byte("loggregator read link\x02")...), reason: "malformed", says: "another version"},
		{name: "no greeting", send: opening(modeRead, 1, 1, everythingFollowed()), reason: "malformed", says: "does not speak"},
		{name: "too large", send: greeted(tooLarge), reason: "malformed", says: "not a frame"},
		{name: "empty frame", send: greeted([]byte{0}), reason: "malformed", says: "not a frame"},
		{name: "endless length", send: greeted(slices.Repeat([]byte{0xff}, 20)), reason: "reset", says: "overflow"},
		{name: "unknown kind", send: greeted(appendFrame(nil, 9, 1)), reason: "malformed", says: "not a frame"},
		{name: "credit that is no number", send: greeted(appendFrame(nil, kindCredit, 1, 0xff)), reason: "malformed", says: "not a frame"},
		{name: "empty open", send: greeted(appendFrame(nil, kindOpen, 1)), reason: "malformed", says: "not a frame"},
		{name: "the same query twice", send: greeted(opening(modeRead, 1, 1, everythingFollowed()), opening(modeRead, 1, 1, everythingFollowed())), reason: "malformed", says: "not a frame"},
		{name: "cut off", send: greeted(opening(modeRead, 1, 1, everythingFollowed())[:7]), hangUp: true, reason: "truncated", says: "middle of a frame"},
		{name: "says nothing more", send: greeted(opening(modeRead, 1, 1, everythingFollowed())), after: 30 * time.Second, reason: "stalled", says: "says nothing for 30s"},
		{name: "says nothing", send: nil, after: 30 * time.Second, reason: "stalled", says: "says nothing for 30s"},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var log lines
				network, src := &faultnet.Network{}, newRings(10)
				src.add(1, 1000)
				e := startEgress(t, network, src, &EgressOptions{Logger: slog.New(&log)})
				began := time.Now()
				nc, err := network.DialContext(t.Context(), "", "server:1")
				if err != nil {
					t.Fatal(err)
				}
				go func() {
					nc.Write(test.send)
					if test.hangUp {
						nc.(*faultnet.Conn).CloseWrite()
					}
				}()
				io.Copy(io.Discard, nc)
				if d := time.Since(began); d != test.after {
					t.Errorf("closed after %v", d)
				}
				nc.Close()
				synctest.Wait()
				s := e.Stats()
				if s.Refused[test.reason] != 1 || len(s.Refused) != 1 || s.Connections != 0 || s.Queries != 0 || e.buffered.Load() != 0 {
					t.Errorf("%+v, %d buffered", s, e.buffered.Load())
				}
				if len(log.all) != 1 || !strings.Contains(log.all[0], test.says) {
					t.Errorf("log %q", log.all)
				}
			})
		})
	}
}

// peer speaks the read link by hand.
type peer struct {
	t  testing.TB
	nc net.Conn
	in frames
}

func greet(t testing.TB, n *faultnet.Network) *peer {
	t.Helper()
	nc, err := n.DialContext(t.Context(), "", "server:1")
	if err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, nc: nc, in: frames{in: bufio.NewReader(nc), max: maxAnswer}}
	p.send(helloFrame())
	if f := p.next(); f.kind != kindHello || string(f.body) != greeting {
		t.Fatalf("%+v", f)
	}
	return p
}

func (p *peer) send(b ...[]byte) {
	p.t.Helper()
	if _, err := p.nc.Write(slices.Concat(b...)); err != nil {
		p.t.Fatal(err)
	}
}

func (p *peer) next() frame {
	p.t.Helper()
	f, err := p.in.next()
	if err != nil {
		p.t.Fatal(err)
	}
	return f
}

// A query is sent as much as it has credit for, and one that has none holds up no
// other.
func TestEgressCredit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, src := &faultnet.Network{}, newRings(10)
		src.add(1, 1000)
		startEgress(t, network, src, &EgressOptions{SilenceTimeout: time.Hour})
		p := greet(t, network)
		defer p.nc.Close()
		got := make(map[uint64]int)
		collect := func() {
			for {
				p.nc.SetReadDeadline(time.Now().Add(time.Second))
				f, err := p.in.next()
				if err != nil {
					if !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
						t.Fatal(err)
					}
					return
				}
				if f.kind == kindBatch {
					got[f.id] += len(f.body)
				}
			}
		}
		p.send(opening(modeRead, 1, 2000, everythingFollowed()), opening(modeRead, 2, 0, everythingFollowed()), opening(modeRead, 3, 1<<62, everythingFollowed()))
		collect()
		if got[1] < 2000 || got[1] > 3000 || got[2] > 1000 || got[3] < 30_000 {
			t.Errorf("%v", got)
		}
		time.Sleep(time.Minute)
		one := got[1]
		p.send(appendFrame(nil, kindCredit, 1, binary.AppendUvarint(nil, 5000)...), appendFrame(nil, kindCredit, 77, 1), appendFrame(nil, kindCredit, 3, binary.AppendUvarint(nil, 1<<63)...))
		collect()
		if more := got[1] - one; more < 4000 || more > 6000 {
			t.Errorf("%d for 5000", more)
		}
	})
}

// What a reader opens beyond its bounds is refused, and costs the others nothing.
func TestEgressBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, src := &faultnet.Network{}, newRings(10)
		e := startEgress(t, network, src, &EgressOptions{MaxQueries: 3, MaxBuffered: 5000})
		p := greet(t, network)
		defer p.nc.Close()
		end := func() (code byte) {
			for {
				if f := p.next(); f.kind == kindEnd {
					return f.body[0]
				}
			}
		}
		for id := range uint64(3) {
			p.send(opening(modeRead, 1+id, 1000, everythingFollowed()))
		}
		p.send(opening(modeRead, 4, 1000, everythingFollowed()))
		if code := end(); code != endBusy {
			t.Errorf("too many: code %d", code)
		}
		p.send(appendFrame(nil, kindCancel, 3))
		synctest.Wait()
		p.send(opening(modeRead, 5, 1000, envelope.Query{Select: slices.Repeat(envelope.Everything, 4000)}))
		if code := end(); code != endBusy {
			t.Errorf("too long: code %d", code)
		}
		p.send(appendFrame(nil, kindOpen, 6, modeRead, 1, 99<<3&0x7f))
		if code := end(); code != endRefused {
			t.Errorf("not understood: code %d", code)
		}
		p.send(opening(modeKnown, 7, 1, everythingFollowed())) // which this source cannot tell
		if code := end(); code != endRefused {
			t.Errorf("cannot tell: code %d", code)
		}
		synctest.Wait()
		if s := e.Stats(); s.Queries != 2 {
			t.Errorf("%+v", s)
		}
	})
}

// A frame that is announced takes memory as it arrives, not before.
func TestFramesTakeMemoryAsTheyArrive(t *testing.T) {
	in := frames{in: bufio.NewReaderSize(io.MultiReader(strings.NewReader(string(binary.AppendUvarint(nil, maxRequest))), strings.NewReader(strings.Repeat("x", 10_000))), 4096), max: maxRequest}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := in.next(); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%v", err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 100_000 {
		t.Errorf("%d bytes for 10,000", n)
	}
}

// Whatever a reader sends, the server goes on, and keeps nothing of it.
func FuzzEgress(f *testing.F) {
	f.Add(opening(modeRead, 1, 100, everythingFollowed()))
	f.Add(slices.Concat(opening(modeRead, 1, 1, everythingFollowed()), appendFrame(nil, kindCredit, 1, 100), appendFrame(nil, kindCancel, 1), opening(modeWake, 2, 1, everythingFollowed()), appendFrame(nil, kindPing, 0)))
	f.Add(slices.Concat(opening(modeKnown, 1, 1, everythingFollowed()), opening(modeSources, 2, 1, everythingFollowed())))
	f.Fuzz(func(t *testing.T, b []byte) {
		src := newRings(3)
		src.add(1, 20)
		src.end()
		network := &faultnet.Network{}
		ln, err := network.Listen("server:1")
		if err != nil {
			t.Fatal(err)
		}
		e := NewEgress(src, &EgressOptions{RestAfter: time.Millisecond})
		go e.Serve(ln)
		nc, err := network.DialContext(t.Context(), "", "server:1")
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			nc.Write(helloFrame())
			nc.Write(b)
			nc.(*faultnet.Conn).CloseWrite()
		}()
		io.Copy(io.Discard, nc)
		nc.Close()
		e.Close()
		if s := e.Stats(); s.Queries != 0 || s.Connections != 0 || s.Asleep != 0 || e.buffered.Load() != 0 {
			t.Fatalf("%+v, %d buffered", s, e.buffered.Load())
		}
	})
}

// Whatever a server sends, the reader's sequences go on or end, and what they hold
// stays within their windows.
func FuzzReader(f *testing.F) {
	batch := func(id uint64, b envelope.Batch) []byte {
		return appendFrame(nil, kindBatch, id, append(b.AppendHeader(nil), b.Records...)...)
	}
	src := newRings(5)
	src.add(1, 5)
	var one envelope.Batch
	for b := range src.Batches(f.Context(), envelope.Query{Select: envelope.Everything}) {
		one = b
	}
	f.Add(slices.Concat(batch(1, one), batch(2, one), appendFrame(nil, kindCaught, 2), appendFrame(nil, kindEnd, 1, 0)))
	f.Add(slices.Concat(appendFrame(nil, kindKnown, 3, 1), appendFrame(nil, kindSources, 4, 2, 10, 0), appendFrame(nil, kindEnd, 4, 0), appendFrame(nil, kindWoke, 5)))
	f.Add(slices.Repeat(batch(1, one), 100))
	f.Fuzz(func(t *testing.T, b []byte) {
		o := ReaderOptions{Window: 1000, TellAfter: time.Millisecond, AskTimeout: 10 * time.Millisecond, Backoff: func(int) time.Duration { return time.Hour }}
		o.DialContext = func(context.Context, string, string) (net.Conn, error) {
			client, server := faultnet.Pipe(faultnet.Faults{})
			go func() {
				server.Write(helloFrame())
				server.Write(b)
				server.CloseWrite()
				io.Copy(io.Discard, server)
				server.Close()
			}()
			return client, nil
		}
		r, err := NewReader("tcp://server:1", &o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range r.Batches(ctx, everythingFollowed()) {
			}
		}()
		for b, err := range r.Batches(ctx, envelope.Query{Select: envelope.Everything, Last: 3}) {
			if err == nil && b.Count < 0 {
				t.Error("count")
			}
		}
		r.Wake(everythingFollowed(), func() {})()
		r.Known(envelope.Everything)
		for range r.Sources(envelope.Everything) {
		}
		cancel()
		<-done
		r.Close()
	})
}

func TestReaderAddresses(t *testing.T) {
	for _, addr := range []string{"", "udp://127.0.0.1:1", "http://127.0.0.1:1", "tcp://127.0.0.1", "tcp://a:1,,tcp://b:1", "tcp://user:secret@a:1"} {
		if _, err := NewReader(addr, nil); !errors.Is(err, ErrAddress) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", addr, err)
		}
	}
	path := filepath.Join(t.TempDir(), "egress")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Skip("no unix sockets: ", err)
	}
	src := newRings(10)
	src.add(1, 30)
	src.end()
	e := NewEgress(src, nil)
	go e.Serve(ln)
	defer e.Close()
	r, err := NewReader("unix://"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
		if err != nil {
			t.Error(err)
		}
		n += b.Count
	}
	if n != 30 {
		t.Errorf("%d records", n)
	}
}

// Windows grow for those who keep up, as far as all of them together may, and are
// given back.
func TestReaderWindows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network, src := &faultnet.Network{}, newRings(100)
		src.add(1, 50_000)
		src.end()
		startEgress(t, network, src, nil)
		r, err := NewReader("tcp://server:1", &ReaderOptions{DialContext: network.DialContext, MaxBuffered: 300 << 10})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var most int64
		records := 0
		var sequences sync.WaitGroup
		var mu sync.Mutex
		for range 4 {
			sequences.Go(func() {
				for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
					if err != nil {
						t.Error(err)
					}
					mu.Lock()
					records += b.Count
					most = max(most, r.reserved.Load())
					mu.Unlock()
				}
			})
		}
		sequences.Wait()
		if records != 4*50_000 || most <= 4*firstWindow || most > 300<<10+4*firstWindow || r.reserved.Load() != 0 {
			t.Errorf("%d records, windows of %d, %d at the end", records, most, r.reserved.Load())
		}
	})
}
