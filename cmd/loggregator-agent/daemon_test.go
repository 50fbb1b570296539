//go:build unix

package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// daemonProcess is a daemon under test.
type daemonProcess struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *syncBuffer
	conf string
}

// syncBuffer is what a process has printed so far.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// startDaemon starts a daemon with this config, and waits until it collects.
func startDaemon(t *testing.T, config string) *daemonProcess {
	t.Helper()
	d := &daemonProcess{t: t, conf: filepath.Join(t.TempDir(), "agent.yaml")}
	if err := os.WriteFile(d.conf, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return d.start()
}

func (d *daemonProcess) start() *daemonProcess {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	d.t.Cleanup(cancel)
	d.out = &syncBuffer{}
	d.cmd = exec.CommandContext(ctx, agent, "daemon", "-config", d.conf)
	d.cmd.Env = environment("")
	d.cmd.Stdout, d.cmd.Stderr = d.out, d.out
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	cmd := d.cmd
	d.t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	d.says("Ctrl-C stops it")
	return d
}

// says waits until the daemon has printed something.
func (d *daemonProcess) says(what string) {
	d.t.Helper()
	eventually(d.t, func() bool { return strings.Contains(d.out.String(), what) }, func() string { return d.out.String() })
}

// end ends the daemon by a signal and returns its exit status.
func (d *daemonProcess) end(sig os.Signal) int {
	d.t.Helper()
	d.cmd.Process.Signal(sig)
	return status(d.t, d.cmd.Wait())
}

// eventually waits for what another process does.
func eventually(t *testing.T, ok func() bool, state func() string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not happen: %s", state())
		}
	}
}

// tally is how often each numbered line has arrived at a server.
func (s *server) tally(source string) (times map[int]int, told uint64) {
	times = make(map[int]int)
	q := envelope.Query{Select: []envelope.Selector{{SourceID: source}}, History: true}
	for b, err := range s.router.Batches(context.Background(), q) {
		if err != nil {
			s.t.Fatal(err)
		}
		told += b.Missed
		for e := range b.All() {
			if n, _, ok := e.Missed(); ok {
				told += n
				continue
			}
			number, _, _ := strings.Cut(string(e.Payload()), " ")
			n, err := strconv.Atoi(number)
			if err != nil {
				n = -1
			}
			times[n]++
		}
	}
	return times, told
}

// appender writes numbered lines to a file, as a program does that logs there.
type appender struct {
	t    *testing.T
	path string
	next int
}

func (a *appender) write(n int) {
	a.t.Helper()
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		a.t.Fatal(err)
	}
	defer f.Close()
	var buf []byte
	for range n {
		buf = fmt.Appendf(buf, "%d %s\n", a.next, strings.Repeat("x", 180))
		a.next++
	}
	if _, err := f.Write(buf); err != nil {
		a.t.Fatal(err)
	}
}

// TestDaemonKilled: a daemon that is killed again and again while files are
// written and rotated loses nothing.
func TestDaemonKilled(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	d := startDaemon(t, fmt.Sprintf("servers: %s\nstate: %s/state\nfiles:\n  - paths: %[2]s/{app}.log\n", s.addr, dir))
	a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
	for round := range 8 {
		for range 20 {
			a.write(50)
			time.Sleep(time.Millisecond)
		}
		d.end(syscall.SIGKILL)
		a.write(50) // while it is away
		if round%2 == 1 {
			if err := os.Rename(a.path, fmt.Sprintf("%s.%d", a.path, round)); err != nil {
				t.Fatal(err)
			}
			a.write(50)
		}
		d.start()
	}
	a.write(1)
	eventually(t, func() bool { times, _ := s.tally("shop"); return len(times) >= a.next },
		func() string { times, _ := s.tally("shop"); return fmt.Sprint(len(times), " of ", a.next) })
	if code := d.end(syscall.SIGTERM); code != 0 || !strings.Contains(d.out.String(), "Stopped") {
		t.Errorf("status %d: %s", code, d.out)
	}
	times, told := s.tally("shop")
	twice := 0
	for i := range a.next {
		if times[i] > 1 {
			twice++
		}
	}
	if len(times) != a.next || told != 0 {
		t.Errorf("%d of %d lines, told of %d missing", len(times), a.next, told)
	}
	t.Logf("%d of %d lines came twice", twice, a.next)
	// After an orderly end nothing is read again.
	was := s.router.Stats()
	d.start()
	a.write(1)
	eventually(t, func() bool { times, _ := s.tally("shop"); return times[a.next-1] == 1 }, d.out.String)
	if now := s.router.Stats(); now.Accepted-was.Accepted != 1 || now.Repeated != was.Repeated {
		t.Errorf("read again: %d accepted, %d repeated", now.Accepted-was.Accepted, now.Repeated-was.Repeated)
	}
}

// TestDaemonNewServer: a server that knows nothing of what was sent to the one
// before it is not told that it has missed that.
func TestDaemonNewServer(t *testing.T) {
	dir := t.TempDir()
	a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
	first, second := newServer(t), newServer(t)
	config := "servers: %s\nstate: %s/state\nfiles:\n  - paths: %[2]s/{app}.log\n"
	d := startDaemon(t, fmt.Sprintf(config, first.addr, dir))
	a.write(100)
	eventually(t, func() bool { times, _ := first.tally("shop"); return len(times) == 100 }, d.out.String)
	d.end(syscall.SIGTERM)
	a.write(1)
	d = startDaemon(t, fmt.Sprintf(config, second.addr, dir))
	eventually(t, func() bool { times, _ := second.tally("shop"); return times[100] == 1 }, d.out.String)
	d.end(syscall.SIGTERM)
	if times, told := second.tally("shop"); len(times) != 1 || told != 0 {
		t.Errorf("%d lines, told of %d missing", len(times), told)
	}
}

// TestDaemonWaits: files wait while no server is there, and there is much more in
// them than memory takes.
func TestDaemonWaits(t *testing.T) {
	addr := freeport.Addr()
	dir := t.TempDir()
	a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
	a.write(60_000) // 11 MB
	d := startDaemon(t, fmt.Sprintf("servers: tcp://%s\nstate: %s/state\nmemory: 2MiB\nfiles:\n  - paths: %[2]s/{app}.log\n", addr, dir))
	time.Sleep(300 * time.Millisecond) // it would take this long to lose them
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, ln, nil)
	eventually(t, func() bool { return s.router.Stats().Accepted >= uint64(a.next) }, func() string { return fmt.Sprintf("%+v", s.router.Stats()) })
	if st := s.router.Stats(); st.Accepted != uint64(a.next) || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
	d.end(syscall.SIGTERM)
}

// TestDaemonLimit: what is beyond the limit is told in the application's own
// stream: printed is seen and missed.
func TestDaemonLimit(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	d := startDaemon(t, fmt.Sprintf("servers: %s\nstate: %s/state\nfiles:\n  - {paths: '%[2]s/{app}.log', limit: {rate: 20KiB, burst: 40KiB}}\n", s.addr, dir))
	a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
	a.write(5_000)
	b := &appender{t: t, path: filepath.Join(dir, "other.log")}
	b.write(10)
	eventually(t, func() bool { times, told := s.tally("shop"); return len(times)+int(told) >= a.next }, d.out.String)
	d.end(syscall.SIGTERM)
	times, told := s.tally("shop")
	if len(times)+int(told) != a.next || len(times) < 100 || told < 1000 {
		t.Errorf("%d seen, %d told, %d printed", len(times), told, a.next)
	}
	if times, told := s.tally("other"); len(times) != 10 || told != 0 {
		t.Errorf("of another source %d seen, %d told", len(times), told)
	}
}

// TestDaemonReload: a changed file is taken up, a wrong one changes nothing.
func TestDaemonReload(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	config := func(more string) []byte {
		return fmt.Appendf(nil, "servers: %s\nstate: %s/state\nfiles:\n  - paths: %[2]s/{app}.log\n%s", s.addr, dir, more)
	}
	d := startDaemon(t, string(config("")))
	a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
	a.write(10)
	arrived := func(source string, n int) {
		t.Helper()
		eventually(t, func() bool { times, _ := s.tally(source); return len(times) >= n }, d.out.String)
	}
	arrived("shop", 10)
	for _, step := range []struct{ config, says string }{
		{string(config("  - paths: 1\n")), "nothing is changed"},
		{string(config("")), "nothing that is collected has changed"},
		{string(config(fmt.Sprintf("  - {paths: '%s/{app}.txt', tags: {new: x}}\nmemory: 2MiB\npoll_only: true\n", dir))), "started anew, as they have changed: files."},
	} {
		if err := os.WriteFile(d.conf, []byte(step.config), 0o600); err != nil {
			t.Fatal(err)
		}
		d.cmd.Process.Signal(syscall.SIGHUP)
		d.says(step.says)
	}
	if !strings.Contains(d.out.String(), "memory changed, which takes a restart") {
		t.Errorf("says %s", d.out)
	}
	b := &appender{t: t, path: filepath.Join(dir, "new.txt")}
	b.write(10)
	a.write(10)
	arrived("new", 10)
	arrived("shop", 20)
	for _, source := range []string{"shop", "new"} {
		times, told := s.tally(source)
		for n, k := range times {
			if k != 1 || told != 0 {
				t.Errorf("%s: line %d came %d times, told of %d", source, n, k, told)
			}
		}
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("status %d: %s", code, d.out)
	}
}

// TestDaemonNobodyThere: a stop without a server says what was not delivered.
func TestDaemonNobodyThere(t *testing.T) {
	dir := t.TempDir()
	a := &appender{t: t, path: filepath.Join(dir, "shop.log")}
	a.write(10)
	d := startDaemon(t, fmt.Sprintf("servers: %s\nstate: %s/state\ngrace: 300ms\nops: 127.0.0.1:0\nfiles:\n  - paths: %[2]s/{app}.log\n", absent(t), dir))
	time.Sleep(100 * time.Millisecond)
	if code := d.end(syscall.SIGTERM); code != 1 || !strings.Contains(d.out.String(), "10 records were not delivered") {
		t.Errorf("status %d: %s", code, d.out)
	}
	if out, err := exec.Command(agent, "check", d.conf).CombinedOutput(); err != nil || !strings.Contains(string(out), "source id shop") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestDaemonMemoryDir: with a directory for its memory, a daemon that is killed
// has lost nothing of what nobody can ask for again.
func TestDaemonMemoryDir(t *testing.T) {
	addr := freeport.Addr()
	dir, err := os.MkdirTemp("", "d")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	d := startDaemon(t, fmt.Sprintf("servers: tcp://%s\nmemory_dir: %s/memory\nops: %s\nsyslog:\n  - {listen: 'unix://%[2]s/s', app: shop}\n", addr, dir, freeport.Addr()))
	const lines = 1000
	send := func(from int) {
		conn, err := net.Dial("unix", dir+"/s")
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		for i := range lines {
			fmt.Fprintf(conn, "<14>1 2026-01-02T03:04:05Z host prog - - - %d x\n", from+i)
		}
	}
	shows := func(want string) {
		t.Helper()
		var body string
		d.says("/debug/pprof")
		eventually(t, func() bool {
			resp, err := http.Get("http://" + strings.Fields(d.ops())[0] + "/metrics")
			if err != nil {
				return false
			}
			defer resp.Body.Close()
			data, _ := io.ReadAll(resp.Body)
			body = string(data)
			return strings.Contains(body, want)
		}, func() string { return body })
	}
	taken := func(n int) {
		t.Helper()
		shows(fmt.Sprintf("\nloggregator_agent_records_total{name=\"syslog 1\",section=\"syslog\"} %d\n", n))
	}
	send(0)
	taken(lines)
	d.end(syscall.SIGKILL)
	d.start()
	send(lines)
	taken(lines)
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, ln, nil)
	eventually(t, func() bool { times, _ := s.tally("shop"); return len(times) >= 2*lines }, d.out.String)
	shows("\nloggregator_agent_records_held 0\n") // what is acknowledged is given up
	d.end(syscall.SIGKILL)
	d.start()
	send(2 * lines)
	eventually(t, func() bool { times, _ := s.tally("shop"); return len(times) >= 3*lines }, d.out.String)
	d.end(syscall.SIGTERM)
	times, told := s.tally("shop")
	for i := range 3 * lines {
		if times[i] != 1 {
			t.Fatalf("line %d came %d times", i, times[i])
		}
	}
	if told != 0 {
		t.Errorf("told of %d missing", told)
	}
}

// ops is the operators' address, by what the daemon has announced.
func (d *daemonProcess) ops() string {
	_, after, _ := strings.Cut(d.out.String(), "operate    http://")
	return after
}

// TestDaemonTwice: a second daemon does not share the positions of the first.
func TestDaemonTwice(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	d := startDaemon(t, fmt.Sprintf("servers: %s\nstate: %s/state\nfiles:\n  - paths: %[2]s/{app}.log\n", s.addr, dir))
	out, err := exec.Command(agent, "daemon", d.conf).CombinedOutput()
	if status(t, err) != 1 || !strings.Contains(string(out), "another agent") {
		t.Errorf("%v: %s", err, out)
	}
	d.end(syscall.SIGTERM)
}

// TestDaemonDoors: each way in brings lines to the server, with the identity that
// the file gives them.
func TestDaemonDoors(t *testing.T) {
	s := newServer(t)
	dir, err := os.MkdirTemp("", "d") // paths of sockets are short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.MkdirAll(filepath.Join(dir, "c/shop/3"), 0o755); err != nil {
		t.Fatal(err)
	}
	stderr, err := net.Listen("unix", filepath.Join(dir, "c/shop/3/stderr.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	tokens := filepath.Join(dir, "tokens")
	if err := os.WriteFile(tokens, []byte("t.1 heroku-app\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	logplex := freeport.Addr()
	d := startDaemon(t, fmt.Sprintf(`
servers: %s
tags: {zone: z1}
sockets:
  - {directories: '%s/c/{app}/{instance}', org: acme}
native:
  - listen: unix://%[2]s/native.sock
syslog:
  - {listen: 'unixgram://%[2]s/log.sock', space: machines}
  - {listen: 'unix://%[2]s/stream.sock', app: all, instance: '{program}'}
logplex:
  - {listen: 'http://%[3]s', tokens_file: %[4]s}
`, s.addr, dir, logplex, tokens))

	conn, err := stderr.Accept()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "from a socket\n")
	conn.Close()
	for path, network := range map[string]string{"log.sock": "unixgram", "stream.sock": "unix"} {
		conn, err := net.Dial(network, filepath.Join(dir, path))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "<11>1 2026-01-02T03:04:05Z host prog 77 - - by %s\n", network)
		conn.Close()
	}
	for token, want := range map[string]int{"t.1": http.StatusNoContent, "t.2": http.StatusUnauthorized} {
		frame := "<190>1 2026-01-02T03:04:05+00:00 host app web.2 - by logplex"
		req, err := http.NewRequest("POST", "http://"+logplex, strings.NewReader(fmt.Sprintf("%d %s", len(frame), frame)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/logplex-1")
		req.Header.Set("Logplex-Drain-Token", token)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", token, resp.StatusCode, want)
		}
	}
	if out, err := exec.Command(agent, "run", "-server", "unix://"+dir+"/native.sock", "--app", "direct", "--", "echo", "natively").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	want := []string{
		`source id shop, instance 3, app_name=shop, organization_name=acme, zone=z1: ERR from a socket`,
		`source id prog, instance host, app_name=prog, space_name=machines, zone=z1: ERR by unixgram`,
		`source id all, instance prog, app_name=all, zone=z1: ERR by unix`,
		`source id heroku-app, instance 2, app_name=heroku-app, zone=z1: OUT by logplex`,
		`source id direct, instance 0, app_name=direct: OUT natively`,
	}
	eventually(t, func() bool { return len(s.envelopes()) >= len(want) }, func() string { return fmt.Sprint(s.lines(envelope.Out), s.lines(envelope.Err), d.out) })
	got := make(map[string]bool)
	for _, e := range s.envelopes() {
		r, err := e.Route()
		if err != nil {
			t.Fatal(err)
		}
		id := envelope.Identity{SourceID: string(r.SourceID), InstanceID: string(r.InstanceID), Tags: make(map[string]string)}
		for _, key := range []string{envelope.TagAppName, envelope.TagOrgName, envelope.TagSpaceName, "zone"} {
			if v, ok := e.Tag(key); ok && len(v) > 0 {
				id.Tags[key] = string(v)
			}
		}
		got[fmt.Sprintf("%s: %s %s", describe(id), r.LogType, r.Payload)] = true
	}
	for _, line := range want {
		if !got[line] {
			t.Errorf("%s is not among %v", line, got)
		}
	}
	if code := d.end(syscall.SIGTERM); code != 0 {
		t.Errorf("status %d: %s", code, d.out)
	}
	d.start() // where the sockets of the one before would be in the way
	d.end(syscall.SIGKILL)
	d.start()
	d.end(syscall.SIGTERM)
}

// TestDaemonTLS: a native listener with TLS lets only those in who show a
// certificate that it trusts.
func TestDaemonTLS(t *testing.T) {
	s := newServer(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{
		cert: {Type: "CERTIFICATE", Bytes: der},
		key:  {Type: "PRIVATE KEY", Bytes: pkcs8},
	} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := freeport.Addr()
	d := startDaemon(t, fmt.Sprintf("servers: %s\nnative:\n  - {listen: 'tls://%s', tls: {cert: %s, key: %s, ca: %[3]s}}\n", s.addr, addr, cert, key))
	send := func(text string, flags ...string) error {
		args := append([]string{"run", "-server", "tls://" + addr, "--app", "x", "-tls-ca", cert}, flags...)
		return exec.Command(agent, append(args, "--", "echo", text)...).Run()
	}
	send("stranger", "-flush-timeout", "300ms")
	if err := send("known", "-tls-cert", cert, "-tls-key", key); err != nil {
		t.Error(err)
	}
	eventually(t, func() bool { return len(s.lines(envelope.Out)) > 0 }, d.out.String)
	if lines := s.lines(envelope.Out); len(lines) != 1 || lines[0] != "known" {
		t.Errorf("%q", lines)
	}
	d.end(syscall.SIGTERM)
}
