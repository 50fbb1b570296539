//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/processtest"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

func TestMain(m *testing.M) { processtest.Main(m) }

func startServer(t *testing.T, o *processtest.Options, flags ...string) *processtest.Process {
	t.Helper()
	return processtest.Start(t, o, "loggregator-server", append([]string{
		"-ingest", "127.0.0.1:0", "-ingest-udp=", "-v1-udp=", "-grpc=", "-egress", "127.0.0.1:0", "-ops", "127.0.0.1:0", "-budget", "32MiB",
	}, flags...)...)
}

func startSink(t *testing.T, flags ...string) *processtest.Process {
	t.Helper()
	return processtest.Start(t, nil, "loggregator-sink", append([]string{"-grpc=", "-http", "127.0.0.1:0", "-ops", "127.0.0.1:0"}, flags...)...)
}

func ready(t *testing.T, p *processtest.Process) {
	t.Helper()
	processtest.Until(t, "ready", func() bool { _, status := p.Get("/readyz"); return status == http.StatusOK })
}

// tail is somebody who follows one source at a sink from its beginning.
type tail struct {
	mu   sync.Mutex
	seen processtest.Tally
}

func newTail(t *testing.T, sink *processtest.Process, source string) *tail {
	t.Helper()
	client, err := httpclient.New("http://"+sink.Address("http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	t.Cleanup(func() { cancel(); running.Wait() })
	r := &tail{}
	running.Go(func() {
		for b, err := range client.Batches(ctx, envelope.Query{Select: []envelope.Selector{{SourceID: source}}, History: true, Follow: true}) {
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			r.mu.Lock()
			r.seen.Add(b)
			r.mu.Unlock()
		}
	})
	return r
}

func (r *tail) tally() processtest.Tally {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.seen
}

// wants waits until the reader has n lines, or was told of them.
func (r *tail) wants(t *testing.T, n int) {
	t.Helper()
	processtest.Until(t, "all that was sent", func() bool { c := r.tally(); return c.Seen+c.Missed >= n })
	if c := r.tally(); c.Seen+c.Missed != n || c.Wrong != "" {
		t.Errorf("%d lines sent, %d read, %d told as missing; %s", n, c.Seen, c.Missed, c.Wrong)
	}
}

// TestChain: agents, two servers, a sink, people. The servers are started anew
// under load, one after the other, with sockets that the test holds as systemd
// does: agents lose nothing, and people have every line or are told.
func TestChain(t *testing.T) {
	open := func() (*os.File, string) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		f, err := ln.(*net.TCPListener).File()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f, ln.Addr().String()
	}
	var servers [2]*processtest.Process
	var lives [2]func() *processtest.Process
	var ingest, egress []string
	for i := range servers {
		in, inAddr := open()
		out, outAddr := open()
		ingest, egress = append(ingest, "tcp://"+inAddr), append(egress, "tcp://"+outAddr)
		lives[i] = func() *processtest.Process {
			return startServer(t, &processtest.Options{Files: []*os.File{in, out}, Names: "ingest:egress"})
		}
		servers[i] = lives[i]()
	}
	sink := startSink(t, "-read", strings.Join(egress, ","))
	ready(t, sink)
	var senders [4]*processtest.Sender
	var tails [4]*tail
	for i := range senders {
		source := "app-" + string(rune('a'+i))
		senders[i] = processtest.NewSender(t, strings.Join(ingest, ","), source, nil)
		senders[i].Send(1)
		senders[i].Flush()
		tails[i] = newTail(t, sink, source)
		tails[i].wants(t, 1)
	}
	over := make(chan struct{})
	var sending sync.WaitGroup
	for _, s := range senders {
		sending.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					s.Send(10)
					time.Sleep(time.Millisecond) // a program that logs, not a flood
				}
			}
		})
	}
	progress := func() {
		t.Helper()
		for i, s := range senders {
			acked, seen := s.Link.Stats().Acked, tails[i].tally().Seen
			processtest.Until(t, "progress", func() bool { return s.Link.Stats().Acked > acked+300 && tails[i].tally().Seen > seen+300 })
		}
	}
	for i := range servers {
		progress()
		servers[i].Signal(syscall.SIGTERM)
		if code := servers[i].Wait(); code != 0 {
			t.Fatalf("status %d", code)
		}
		progress() // by the other one
		servers[i] = lives[i]()
	}
	progress()
	close(over)
	sending.Wait()
	for i, s := range senders {
		s.Flush()
		if st := s.Link.Stats(); st.Missed != 0 || st.Acked != uint64(s.Sent()) {
			t.Errorf("agent %d: %+v of %d", i, st, s.Sent())
		}
		tails[i].wants(t, s.Sent())
		t.Logf("%d lines, %+v", s.Sent(), tails[i].tally())
	}
	sink.Signal(syscall.SIGTERM)
	if code := sink.Wait(); code != 0 {
		t.Errorf("status %d", code)
	}
}

// TestProtected: server and sink know each other by certificates, which are
// replaced under load without a connection that breaks. Others are turned away.
func TestProtected(t *testing.T) {
	ca := processtest.NewCA(t)
	cert, key := ca.Issue("server")
	sinkCert, sinkKey := ca.Issue("sink")
	strangerCert, strangerKey := ca.Issue("stranger")
	server := startServer(t, nil, "-egress-cert", cert, "-egress-key", key, "-egress-clients", ca.File(), "-egress-client-names", "sink")
	at := "tls://" + server.Address("tls")
	sink := startSink(t, "-read", at, "-read-ca", ca.File(), "-read-cert", sinkCert, "-read-key", sinkKey)
	ready(t, sink)
	s := processtest.NewSender(t, "tcp://"+server.Address("tcp"), "shop", nil)
	s.Send(100)
	s.Flush()
	processtest.EveryAPI(t, sink.Address("http"), "shop", "line 99")
	reader := newTail(t, sink, "shop")
	reader.wants(t, 100)
	serial := func() string { // of the certificate that a newcomer sees
		current, err := transport.TLSFiles{CA: ca.File(), Cert: sinkCert, Key: sinkKey}.Client()
		if err != nil {
			t.Fatal(err)
		}
		conn, err := tls.Dial("tcp", server.Address("tls"), current())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for range 2 {
		was := serial()
		s.Send(500)
		ca.Issue("server")
		ca.Issue("sink")
		processtest.Until(t, "a new certificate", func() bool { return serial() != was })
		s.Send(500)
		s.Flush()
		reader.wants(t, s.Sent())
	}
	if n := sink.Metric("loggregator_read_reconnects_total"); n != 0 {
		t.Errorf("%v connections broke", n)
	}
	if c := reader.tally(); c.Missed != 0 {
		t.Errorf("%d lines missed", c.Missed)
	}

	for name, flags := range map[string][]string{
		"a stranger":             {"-read-ca", ca.File(), "-read-cert", strangerCert, "-read-key", strangerKey},
		"nobody":                 {"-read-ca", ca.File()},
		"one who trusts no such": {"-read-cert", sinkCert, "-read-key", sinkKey},
	} {
		t.Run(name, func(t *testing.T) {
			other := startSink(t, append([]string{"-read", at}, flags...)...)
			other.Says("cannot connect")
			if body, status := other.Get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "is not connected") {
				t.Errorf("ready: %d %s", status, body)
			}
			if n := other.Metric(`loggregator_read_server_connected{server="` + at + `"}`); n != 0 {
				t.Errorf("connected: %v", n)
			}
		})
	}
}

// TestConfiguration: what is wrong is said at once.
func TestConfiguration(t *testing.T) {
	for wrong, args := range map[string][]string{
		"-read: a server to read from is wanted": {"-read="},
		"-read: ":                                {"-read", "nonsense"},
		"-http: :80 can be reached":              {"-http", ":80"},
		"there is no flag of this name":          {"-config", writeFile(t, "nonsense: 1\n")},
	} {
		err := run(t.Context(), append([]string{"config", "check"}, args...), &strings.Builder{}, &strings.Builder{})
		if err == nil || !strings.Contains(err.Error(), wrong) {
			t.Errorf("%v: %v", args, err)
		}
	}
	// Keys of other daemons are passed over, so that one file serves all.
	if err := run(t.Context(), []string{"config", "check", "-config", writeFile(t, "budget: 1GiB\ndrains: d.json\ningest: 127.0.0.1:1\nread: [tcp://a:1, tls://b:2]\n")}, &strings.Builder{}, &strings.Builder{}); err != nil {
		t.Error(err)
	}
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(text); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}
