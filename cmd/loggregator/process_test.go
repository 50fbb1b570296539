//go:build unix

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/processtest"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

func TestMain(m *testing.M) { processtest.Main(m) }

// anywhere are addresses that nobody else has.
var anywhere = []string{"-ingest", "127.0.0.1:0", "-ingest-udp=", "-v1-udp=", "-grpc=", "-egress=", "-http", "127.0.0.1:0", "-ops", "127.0.0.1:0", "-budget", "16MiB"}

func start(t *testing.T, o *processtest.Options, flags ...string) *processtest.Process {
	t.Helper()
	return processtest.Start(t, o, "loggregator", append(anywhere[:len(anywhere):len(anywhere)], flags...)...)
}

// TestReload: SIGHUP says what has changed, and changes what can be.
func TestReload(t *testing.T) {
	ca := processtest.NewCA(t)
	cert, key := ca.Issue("server")
	dir := t.TempDir()
	config, drains := filepath.Join(dir, "c.yaml"), filepath.Join(dir, "drains.json")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(config, "log-level: info\nmax-clients: 10\n")
	write(drains, `{"drains":[]}`)
	drainCA := filepath.Join(dir, "drain-ca.pem")
	authority, err := os.ReadFile(ca.File())
	if err != nil {
		t.Fatal(err)
	}
	write(drainCA, string(authority))
	p := start(t, nil, "-config", config, "-drains", drains, "-drain-ca", drainCA, "-ingest-cert", cert, "-ingest-key", key, "-ingest-clients", ca.File())
	reload := func(says ...string) {
		t.Helper()
		before := len(p.Said())
		p.Signal(syscall.SIGHUP)
		for _, what := range says {
			processtest.Until(t, "said after SIGHUP: "+what, func() bool { return strings.Contains(p.Said()[before:], what) })
		}
	}
	reload("Reload: nothing has changed.")
	write(config, "log-level: debug\nmax-clients: 20\ngrace: 3s\n")
	ca.Issue("server")
	reload(`Reload: log-level is "debug" in place of "info"`, `Reload: max-clients is "20" in place of "10", which takes a restart`,
		`Reload: grace is "3s" in place of "10s"`, "Reload: -ingest: the certificate is a new one, valid until ")
	write(config, "log-level: loud\nmax-clients: 10\ngrace: 3s\n")
	reload(`Reload: log-level stays "debug"`)
	write(config, "nonsense: 1\n")
	write(key, "nonsense")
	reload("Reload: flags stay as they are: -config: line 1: nonsense", "Reload: certificates of -ingest stay as they are: ")
	write(config, "log-level: debug\nmax-clients: 10\ngrace: 3s\n")
	ca.Issue("server")
	reload("Reload: -ingest: the certificate is a new one")
	write(drainCA, "# another one\n"+string(authority))
	reload("Reload: the file of -drain-ca is another one; it is read again of itself")
	write(drains, `{"drains":[{"url":"syslog://127.0.0.1:9"}]}`)
	reload("Reload: the file of -drains is another one; it is read again of itself")
	before := len(p.Said())
	processtest.Until(t, "drains that changed", func() bool {
		p.Signal(syscall.SIGHUP) // the file is followed; how soon, package drain says
		time.Sleep(50 * time.Millisecond)
		return strings.Contains(p.Said()[before:], "Reload: drains: 1 are named in place of 0")
	})
	p.Signal(syscall.SIGTERM)
	p.Says("readers and drains have 3s to finish")
	if code := p.Wait(); code != 0 {
		t.Errorf("status %d", code)
	}
}

// stuck is a server with a drain whose receiver takes nothing, and lines for it.
func stuck(t *testing.T, grace string) *processtest.Process {
	t.Helper()
	receiver, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { receiver.Close() })
	drains := filepath.Join(t.TempDir(), "drains.json")
	if err := os.WriteFile(drains, fmt.Appendf(nil, `{"drains":[{"url":"syslog://%s"}]}`, receiver.Addr()), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, nil, "-drains", drains, "-grace", grace)
	s := processtest.NewSender(t, "tcp://"+p.Address("tcp"), "shop", nil)
	for range 80_000 { // more than sockets hold
		s.Emit.Log(envelope.Out, "line of a hundred bytes, so that what the sockets' buffers hold is not enough for all of it, ever ....")
	}
	s.Flush()
	return p
}

// TestDeadline: a stop that cannot finish says what it has cut off.
func TestDeadline(t *testing.T) {
	p := stuck(t, "1s")
	p.Signal(syscall.SIGTERM)
	if code := p.Wait(); code != 1 {
		t.Errorf("status %d", code)
	}
	p.Says("Left when the 1s were over: ")
	p.Says("records that 1 drains had not delivered")
	p.Says("Stopped. Took in 80000 records, refused 0")
}

// TestSignalsWhileStopping: SIGUSR1 and the operators' port answer until the end.
func TestSignalsWhileStopping(t *testing.T) {
	p := stuck(t, "10m")
	p.Signal(syscall.SIGUSR1)
	p.Says("goroutine 1 [")
	if body, status := p.Get("/readyz"); status != http.StatusOK {
		t.Errorf("ready: %d %s", status, body)
	}
	p.Signal(syscall.SIGTERM)
	p.Says("Stopping: ")
	if body, status := p.Get("/readyz"); status != http.StatusServiceUnavailable || !strings.Contains(body, "stopping") {
		t.Errorf("while it stops: %d %s", status, body)
	}
	if _, status := p.Get("/healthz"); status != http.StatusOK {
		t.Errorf("while it stops, healthy: %d", status)
	}
	p.Signal(syscall.SIGHUP)
	p.Signal(syscall.SIGUSR1)
	p.SaysAgain("goroutine 1 [", 2)
}

// TestRestartUnderLoad plays systemd, which holds the listening sockets: while the
// server is started anew, again and again, nobody is refused a connection, what
// was acknowledged is read or told as missing, and agents lose nothing.
func TestRestartUnderLoad(t *testing.T) {
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
	ingestFile, ingest := open()
	httpFile, people := open()
	life := func() *processtest.Process {
		return start(t, &processtest.Options{Files: []*os.File{ingestFile, httpFile}, Names: "ingest:http"})
	}
	p := life()
	if got := p.Address("tcp"); got != ingest {
		t.Fatalf("it listens at %s, and was passed %s", got, ingest)
	}

	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var dials, refused atomic.Int64
	running.Go(func() { // newcomers
		for ctx.Err() == nil {
			conn, err := net.Dial("tcp", ingest)
			dials.Add(1)
			if err != nil {
				refused.Add(1)
				continue
			}
			conn.Close()
			time.Sleep(5 * time.Millisecond)
		}
	})
	client, err := httpclient.New("http://"+people, nil)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var read processtest.Tally
	s := processtest.NewSender(t, "tcp://"+ingest, "shop", nil)
	s.Send(1)
	s.Flush()
	running.Go(func() {
		for b, err := range client.Batches(ctx, envelope.Query{Select: []envelope.Selector{{SourceID: "shop"}}, History: true, Follow: true}) {
			if err != nil {
				if ctx.Err() == nil {
					t.Error(err)
				}
				return
			}
			mu.Lock()
			read.Add(b)
			mu.Unlock()
		}
	})
	stopSending := make(chan struct{})
	var sending sync.WaitGroup
	sending.Go(func() {
		for {
			select {
			case <-stopSending:
				return
			default:
				s.Send(20)
				time.Sleep(time.Millisecond)
			}
		}
	})
	for range 3 {
		acked := s.Link.Stats().Acked
		processtest.Until(t, "progress", func() bool { return s.Link.Stats().Acked > acked+1000 })
		p.Signal(syscall.SIGTERM)
		if code := p.Wait(); code != 0 {
			t.Fatalf("status %d", code)
		}
		before := dials.Load()
		processtest.Until(t, "dials while nobody serves", func() bool { return dials.Load() > before+5 })
		p = life()
	}
	close(stopSending)
	sending.Wait()
	s.Flush()
	processtest.Until(t, "all that was sent", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return read.Seen+read.Missed >= s.Sent()
	})
	mu.Lock()
	defer mu.Unlock()
	if read.Seen+read.Missed != s.Sent() || read.Wrong != "" {
		t.Errorf("%d lines sent, %d read, %d told as missing; %s", s.Sent(), read.Seen, read.Missed, read.Wrong)
	}
	if n := refused.Load(); n > 0 || dials.Load() < 20 {
		t.Errorf("of %d connections %d were refused", dials.Load(), n)
	}
	if st := s.Link.Stats(); st.Missed != 0 || st.Acked != uint64(s.Sent()) {
		t.Errorf("the agent: %+v of %d", st, s.Sent())
	}
	t.Logf("%d lines, %d told as missing; %d connections, none refused", s.Sent(), read.Missed, dials.Load())
}

// TestPassedSockets: what is passed and cannot be used is an error at the start.
func TestPassedSockets(t *testing.T) {
	ln, err := net.Listen("tcp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := ln.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for names, want := range map[string]string{
		"ingest":   "can be reached from other machines",
		"nonsense": `a socket named "nonsense" was passed, which is no listener here`,
	} {
		p := processtest.Launch(t, &processtest.Options{Files: []*os.File{f}, Names: names}, "loggregator", anywhere...)
		if code := p.Wait(); code == 0 || !strings.Contains(p.Said(), want) {
			t.Errorf("%s: status %d, said %s", names, code, p.Said())
		}
	}
}

// TestRotation: certificates of both ends are replaced under load, and no
// connection breaks. Those who come with another name are turned away.
func TestRotation(t *testing.T) {
	ca := processtest.NewCA(t)
	cert, key := ca.Issue("server")
	agentCert, agentKey := ca.Issue("agent")
	strangerCert, strangerKey := ca.Issue("stranger")
	p := start(t, nil, "-ingest-cert", cert, "-ingest-key", key, "-ingest-clients", ca.File(), "-ingest-client-names", "other, agent")
	current := func(cert, key string) func() *tls.Config {
		c, err := transport.TLSFiles{CA: ca.File(), Cert: cert, Key: key}.Client()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	s := processtest.NewSender(t, "tls://"+p.Address("tls"), "shop", &transport.LinkOptions{CurrentTLS: current(agentCert, agentKey)})
	serial := func() string { // of the certificate that a newcomer sees
		conn, err := tls.Dial("tcp", p.Address("tls"), current(agentCert, agentKey)())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
			t.Errorf("TLS %x", v)
		}
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	for range 3 {
		was := serial()
		s.Send(500)
		ca.Issue("server")
		ca.Issue("agent")
		s.Send(500)
		processtest.Until(t, "a new certificate", func() bool { return serial() != was })
		s.Send(500)
		s.Flush()
	}
	if st := s.Link.Stats(); st.Reconnects != 0 || st.Missed != 0 || st.Acked != 4500 {
		t.Errorf("%+v", st)
	}
	if n := p.Metric(`loggregator_records_in_total{outcome="accepted"}`); n != 4500 {
		t.Errorf("%v records", n)
	}

	stranger := processtest.NewSender(t, "tls://"+p.Address("tls"), "x", &transport.LinkOptions{CurrentTLS: current(strangerCert, strangerKey)})
	stranger.Send(1)
	processtest.Until(t, "a stranger turned away", func() bool { return p.Metric(`loggregator_ingest_refused_total{reason="handshake"}`) >= 1 })
	old := current(agentCert, agentKey)()
	old.MaxVersion = tls.VersionTLS12
	if conn, err := tls.Dial("tcp", p.Address("tls"), old); err == nil {
		conn.Close()
		t.Error("TLS 1.2 is taken")
	}
}

// TestNotify plays systemd: it is told when the server is ready, that it lives,
// that it reloads and that it stops.
func TestNotify(t *testing.T) {
	dir, err := os.MkdirTemp("", "notify") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	sock, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer sock.Close()
	p := start(t, &processtest.Options{Env: []string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=300000"}})
	heard := func(what string) {
		t.Helper()
		buf := make([]byte, 4096)
		for {
			sock.SetReadDeadline(time.Now().Add(processtest.Limit))
			n, err := sock.Read(buf)
			if err != nil {
				t.Fatalf("not told %s: %v", what, err)
			}
			if strings.Contains(string(buf[:n]), what) {
				return
			}
		}
	}
	heard("READY=1")
	heard("WATCHDOG=1")
	heard("WATCHDOG=1")
	p.Signal(syscall.SIGHUP)
	heard("RELOADING=1\nMONOTONIC_USEC=")
	heard("READY=1")
	p.Signal(syscall.SIGTERM)
	heard("STOPPING=1")
	if code := p.Wait(); code != 0 {
		t.Errorf("status %d", code)
	}
}

// TestEveryAPI: what is sent can be read by all of them.
func TestEveryAPI(t *testing.T) {
	p := start(t, nil)
	s := processtest.NewSender(t, "tcp://"+p.Address("tcp"), "shop", nil)
	s.Send(10)
	s.Flush()
	processtest.EveryAPI(t, p.Address("http"), "shop", "line 9")
	for figure, want := range map[string]float64{
		`loggregator_records_in_total{outcome="accepted"}`:                              10,
		`loggregator_records_held`:                                                      10,
		`loggregator_top_source_records_total{app="",org="",source_id="shop",space=""}`: 10,
	} {
		if n := p.Metric(figure); n != want {
			t.Errorf("%s is %v, not %v", figure, n, want)
		}
	}
	if age := p.Metric("loggregator_oldest_record_age_seconds"); age <= 0 || age > processtest.Limit.Seconds() {
		t.Errorf("the oldest record is %v s old", age)
	}
}

// TestMaxClients: one connection too many is told why.
func TestMaxClients(t *testing.T) {
	p := start(t, nil, "-max-clients", "2")
	var conns []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", p.Address("http"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn)
	}
	processtest.Until(t, "two connections", func() bool { return p.Metric("loggregator_http_connections") == 2 })
	var resp *http.Response
	var body []byte
	processtest.Until(t, "an answer", func() bool { // a request that a busy machine is late with is cut off
		var err error
		if resp, err = http.Get("http://" + p.Address("http") + "/v1/recent"); err != nil {
			return false
		}
		defer resp.Body.Close()
		body, err = io.ReadAll(resp.Body)
		return err == nil
	})
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "2 connections are open, which is the limit") {
		t.Errorf("%s %s", resp.Status, body)
	}
	if n := p.Metric("loggregator_http_connections_refused_total"); n < 1 {
		t.Errorf("%v refused", n)
	}
	conns[0].Close()
	processtest.Until(t, "room", func() bool {
		resp, err := http.Get("http://" + p.Address("http") + "/")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
}
