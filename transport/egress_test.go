package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
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

func TestEgressTLS(t *testing.T) {
	server, roots := certificate(t)
	stranger, _ := certificate(t)
	dir := t.TempDir()
	files := TLSFiles{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
	store(t, files, server)
	mutual, err := files.Server()
	if err != nil {
		t.Fatal(err)
	}
	good := &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{server}, ServerName: "localhost"}
	for _, test := range []struct {
		name   string
		server EgressOptions
		client *tls.Config
		reason string // why it is refused; empty: it is not
	}{
		{"mutual", EgressOptions{TLS: mutual}, good, ""},
		{"name", EgressOptions{TLS: mutual, Names: []string{"other", "localhost"}}, good, ""},
		{"wrong name", EgressOptions{TLS: mutual, Names: []string{"other"}}, good, "peer"},
		{"no certificate", EgressOptions{TLS: mutual}, &tls.Config{RootCAs: roots, ServerName: "localhost"}, "handshake"},
		{"stranger's certificate", EgressOptions{TLS: mutual}, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{stranger}}, "handshake"},
		{"TLS 1.2", EgressOptions{TLS: mutual}, &tls.Config{RootCAs: roots, ServerName: "localhost", Certificates: []tls.Certificate{server}, MaxVersion: tls.VersionTLS12}, "handshake"},
		{"no TLS", EgressOptions{TLS: mutual}, &tls.Config{}, "handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			src := newRings(10)
			src.add(1, 100)
			e := NewEgress(src, &test.server)
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			go e.Serve(ln)
			defer e.Close()
			nc, err := net.Dial("tcp", ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer nc.Close()
			nc.SetDeadline(time.Now().Add(30 * time.Second))
			if test.client.ServerName != "" {
				nc = tls.Client(nc, test.client)
			}
			nc.Write(helloFrame())
			in := frames{in: bufio.NewReader(nc), max: maxAnswer}
			f, err := in.next()
			if test.reason == "" {
				if err != nil || string(f.body) != greeting {
					t.Errorf("%+v, %v", f, err)
				}
				return
			}
			if err == nil {
				t.Errorf("greeted: %+v", f)
			}
			for deadline := time.Now().Add(30 * time.Second); e.Stats().Refused[test.reason] != 1; time.Sleep(time.Millisecond) {
				if time.Now().After(deadline) {
					t.Fatalf("refused %v, want %s", e.Stats().Refused, test.reason)
				}
			}
		})
	}

	// The Reader's side checks names and versions, too, and takes what is in the
	// files now.
	current, err := files.Client()
	if err != nil {
		t.Fatal(err)
	}
	src := newRings(10)
	src.add(1, 100)
	e := NewEgress(src, &EgressOptions{TLS: mutual})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go e.Serve(ln)
	defer e.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	for addr, want := range map[string]bool{"tls://localhost:" + port: true, "tls://127.0.0.1:" + port: true, "tls://127.0.0.2:" + port: false} {
		o := ReaderOptions{CurrentTLS: current, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
		}}
		if !want {
			o.TellAfter = time.Millisecond
		}
		r, err := NewReader(addr, &o)
		if err != nil {
			t.Fatal(err)
		}
		records := 0
		var failed error
		for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything}) {
			records += b.Count
			failed = err
		}
		if want != (failed == nil) || want != (records == 100) {
			t.Errorf("%s: %d records, %v", addr, records, failed)
		}
		if !want && (!errors.Is(failed, ErrAway) || !strings.Contains(failed.Error(), "certificate")) {
			t.Errorf("%s: %v", addr, failed)
		}
		r.Close()
	}
}

// From another machine nobody reads without a certificate.
func TestEgressFromElsewhere(t *testing.T) {
	for address, want := range map[string]bool{"127.0.0.1": true, "::1": true, "10.0.0.1": false, "2001:db8::1": false} {
		if got := isLocal(&net.TCPAddr{IP: net.ParseIP(address)}); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	for _, insecure := range []bool{false, true} {
		e := NewEgress(newRings(1), &EgressOptions{Insecure: insecure})
		a, b := faultnet.Pipe(faultnet.Faults{})
		go func() {
			a.Write(helloFrame())
			io.Copy(io.Discard, a)
		}()
		c := newEgressConn(e, elsewhere{b})
		if f := c.handshake(); (f == nil) != insecure || f != nil && f.reason != reasonPeer {
			t.Errorf("insecure %v: %v", insecure, f)
		}
		a.Close()
		e.Close()
	}
}

type elsewhere struct{ net.Conn }

func (elsewhere) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1} }

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

// Certificates that are replaced, the authority with them, cost no connection; the
// next one is made with the new ones.
func TestCertificatesAreReplacedWhileReadersRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		files := TLSFiles{Cert: filepath.Join(dir, "cert"), Key: filepath.Join(dir, "key"), CA: filepath.Join(dir, "ca")}
		first, _ := certificate(t)
		store(t, files, first)
		server, err := files.Server()
		if err != nil {
			t.Fatal(err)
		}
		client, err := files.Client()
		if err != nil {
			t.Fatal(err)
		}
		network, src := &faultnet.Network{}, newRings(10)
		e := startEgress(t, network, src, &EgressOptions{TLS: server, Names: []string{"localhost"}})
		r, err := NewReader("tls://localhost:1", &ReaderOptions{CurrentTLS: client, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return network.DialContext(ctx, "", "server:1")
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		got := make(chan int, 100)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for b, err := range r.Batches(ctx, everythingFollowed()) {
				if err != nil {
					return
				}
				got <- b.Count
			}
		}()
		src.add(1, 5)
		if n := <-got; n != 5 {
			t.Errorf("%d records", n)
		}
		second, _ := certificate(t)
		store(t, files, second)
		later := time.Now().Add(time.Hour)
		for _, f := range []string{files.Cert, files.Key, files.CA} {
			os.Chtimes(f, later, later)
		}
		time.Sleep(time.Minute)
		src.add(1, 6)
		if n := <-got; n != 6 || r.Stats().Reconnects != 0 {
			t.Errorf("%d records, %+v", n, r.Stats())
		}
		network.Reset("server:1")
		src.add(1, 7)
		if n := <-got; n != 7 || r.Stats().Reconnects != 1 {
			t.Errorf("%d records, %+v", n, r.Stats())
		}
		if s := e.Stats(); len(s.Refused) > 1 || s.Refused["handshake"] > 0 { // what was reset is one
			t.Errorf("%+v", s)
		}
		cancel()
		<-done
		r.Close()
		src.end() // wakes who waits there
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
		if records != 4*50_000 || most <= 4*firstWindow || most > 300<<10 || r.reserved.Load() != 0 {
			t.Errorf("%d records, windows of %d, %d at the end", records, most, r.reserved.Load())
		}
	})
}
