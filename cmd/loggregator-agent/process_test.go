//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// The tests run the agent as a process, and as its program this test binary in
// one of the roles below.
const roleVar = "LOGGREGATOR_AGENT_TEST_ROLE"

var agent string // path of the built command

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		roles[role](os.Args[1:])
		os.Exit(0)
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "agent")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	agent = filepath.Join(dir, name)
	if out, err := exec.Command("go", "build", "-o", agent, ".").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "go build: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// roles are programs for the agent to run.
var roles = map[string]func(args []string){
	// both copies what it was given to standard output, and standard error.
	"both": func(args []string) {
		io.WriteString(os.Stdout, args[0])
		io.WriteString(os.Stderr, args[1])
	},
	"cat":  func([]string) { io.Copy(os.Stdout, os.Stdin) },
	"exit": func(args []string) { var n int; fmt.Sscan(args[0], &n); os.Exit(n) },
	// signals prints each signal it gets, and ends at the first that is to end it.
	"signals": func([]string) {
		c := make(chan os.Signal, 64)
		signal.Notify(c, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
		fmt.Println("ready")
		for sig := range c {
			fmt.Println(sig)
			if sig == syscall.SIGTERM {
				return
			}
		}
	},
	// stops says on descriptor 3 that it was told to stop, and waits to go on.
	"stops": func([]string) {
		stop, cont := make(chan os.Signal, 1), make(chan os.Signal, 1)
		signal.Notify(stop, syscall.SIGTSTP)
		signal.Notify(cont, syscall.SIGCONT)
		fmt.Println("ready")
		<-stop
		os.NewFile(3, "3").Write([]byte{1})
		<-cont
		fmt.Println("continued")
	},
	"hang": func([]string) { fmt.Println("ready"); select {} },
	// flood prints until somebody stops it.
	"flood": func([]string) {
		line := bytes.Repeat([]byte("flood flood flood flood\n"), 1000)
		for {
			if _, err := os.Stdout.Write(line); err != nil {
				os.Exit(3)
			}
		}
	},
	// lines prints as many lines as it is told, and their numbers in them.
	"lines": func(args []string) {
		var n int
		fmt.Sscan(args[0], &n)
		w := bufio.NewWriterSize(os.Stdout, 64<<10)
		for i := range n {
			fmt.Fprintf(w, "line %d\n", i)
		}
		w.Flush()
	},
	// leave starts a process that keeps standard output open, and ends.
	"leave": func([]string) {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), roleVar+"=hang")
		c.Stdout, c.Stderr = os.Stdout, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.Start(); err != nil {
			os.Exit(9)
		}
		fmt.Println("child", c.Process.Pid)
	},
}

// environment is this process's, without what would say who we are.
func environment(role string, more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(s string) bool {
		return strings.HasPrefix(s, "LOGGREGATOR_") || strings.HasPrefix(s, "VCAP_") || strings.HasPrefix(s, "CF_")
	})
	return append(append(env, roleVar+"="+role), more...)
}

// server is a server that the agent sends to.
type server struct {
	t      *testing.T
	router *loggregator.Router
	addr   string
}

func newServer(t *testing.T) *server {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return serve(t, ln, nil)
}

func serve(t *testing.T, ln net.Listener, o *transport.ServerOptions) *server {
	s := &server{t: t, router: loggregator.New(nil), addr: "tcp://" + ln.Addr().String()}
	srv := transport.NewServer(s.router, o)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(ln) }()
	t.Cleanup(func() { srv.Close(); <-done; s.router.Close() })
	return s
}

// absent is an address where nobody listens.
func absent(t *testing.T) string {
	return "unix://" + filepath.Join(t.TempDir(), "nobody")
}

// lines are those that have arrived, of one stream.
func (s *server) lines(t envelope.LogType) (lines []string) {
	for _, e := range s.envelopes() {
		if r, _ := e.Route(); r.LogType == t {
			lines = append(lines, string(r.Payload))
		}
	}
	return lines
}

func (s *server) envelopes() (all []envelope.Envelope) {
	for b, err := range s.router.Batches(context.Background(), envelope.Query{Select: envelope.Everything, History: true}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if b.Missed > 0 {
			s.t.Errorf("missed %d", b.Missed)
		}
		for e := range b.All() {
			all = append(all, slices.Clone(e))
		}
	}
	return all
}

// result is what became of an agent.
type result struct {
	status      int
	out, err    string
	took        time.Duration
	undelivered string // the line that says so
}

// runAgent runs the agent with the test binary as its program.
func runAgent(t *testing.T, stdin io.Reader, role string, flags []string, args ...string) result {
	t.Helper()
	cmd := agentCommand(t, role, flags, args...)
	cmd.Stdin = stdin
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	err := cmd.Run()
	r := result{status: status(t, err), out: out.String(), took: time.Since(start)}
	var program []string
	for line := range strings.Lines(errs.String()) {
		if strings.Contains(line, "not delivered") {
			r.undelivered = line
		} else {
			program = append(program, line)
		}
	}
	r.err = strings.Join(program, "")
	return r
}

// agentCommand is "loggregator-agent run FLAGS -- this-binary ARGS", or "-" in
// place of the program if role is empty.
func agentCommand(t *testing.T, role string, flags []string, args ...string) *exec.Cmd {
	all := append([]string{"run"}, flags...)
	if role == "" {
		all = append(all, "-")
	} else {
		all = append(append(all, "--", os.Args[0]), args...)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, agent, all...)
	cmd.Env = environment(role)
	t.Cleanup(func() { // of a test that failed half-way
		if cmd.Process != nil && cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return cmd
}

func status(t *testing.T, err error) int {
	t.Helper()
	if err == nil {
		return 0
	}
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok {
		t.Fatal(err)
	}
	return exit.ExitCode()
}

func TestStreams(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("0123456789", 5000)
	for name, text := range map[string]struct {
		out, err   string
		outs, errs []string
	}{
		"both streams":     {"a\nb\n", "x\ny\n", []string{"a", "b"}, []string{"x", "y"}},
		"nothing":          {"", "", nil, nil},
		"no final newline": {"a\nb", "x", []string{"a", "b"}, []string{"x"}},
		"empty lines":      {"\n\na\n\n", "\n", []string{"", "", "a", ""}, []string{""}},
		"crlf":             {"a\r\nb\r", "", []string{"a", "b\r"}, nil},
		"multi-byte":       {"日本語\n€ 5\n", "größer\n", []string{"日本語", "€ 5"}, []string{"größer"}},
		"50,000 bytes":     {long + "\nend\n", "", []string{long, "end"}, nil},
		"not text":         {"\xff\xfe\x01\n", "", []string{"\xff\xfe\x01"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			r := runAgent(t, nil, "both", []string{"--app", "shop", "--server", s.addr}, text.out, text.err)
			if r.status != 0 || r.out != text.out || r.err != text.err || r.undelivered != "" {
				t.Errorf("status %d, out %.99q, err %.99q, %s", r.status, r.out, r.err, r.undelivered)
			}
			if got := s.lines(envelope.Out); !slices.Equal(got, text.outs) {
				t.Errorf("OUT %.200q, want %.200q", got, text.outs)
			}
			if got := s.lines(envelope.Err); !slices.Equal(got, text.errs) {
				t.Errorf("ERR %.200q, want %.200q", got, text.errs)
			}
		})
	}
}

func TestTLS(t *testing.T) {
	t.Parallel()
	web := httptest.NewTLSServer(nil) // has a certificate for 127.0.0.1
	defer web.Close()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: web.Certificate().Raw}), 0o644)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, ln, &transport.ServerOptions{TLS: &tls.Config{Certificates: web.TLS.Certificates}})
	flags := []string{"--app", "shop", "--server", "tls://" + ln.Addr().String()}
	if r := runAgent(t, nil, "both", append(flags, "--tls-ca", ca), "a\n", "b\n"); r.status != 0 || r.undelivered != "" || len(s.envelopes()) != 2 {
		t.Errorf("status %d, %s, %d records", r.status, r.undelivered, len(s.envelopes()))
	}
	if r := runAgent(t, nil, "both", flags, "a\n", "b\n"); !strings.Contains(r.undelivered, "2 of 2") || len(s.envelopes()) != 2 {
		t.Errorf("a server that nobody vouches for was trusted: %s, %d records", r.undelivered, len(s.envelopes()))
	}
}

func TestQuiet(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	r := runAgent(t, nil, "both", []string{"--app", "shop", "--quiet", "--server", s.addr}, "a\n", "b\n")
	if r.out+r.err != "" || len(s.envelopes()) != 2 {
		t.Errorf("out %q, err %q, %d records", r.out, r.err, len(s.envelopes()))
	}
}

func TestStandardInput(t *testing.T) {
	t.Parallel()
	for name, flags := range map[string][]string{"passed through": nil, "quiet": {"--quiet"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newServer(t)
			r := runAgent(t, strings.NewReader("a\n\nb"), "", append(flags, "--app", "shop", "--server", s.addr))
			want := "a\n\nb"
			if flags != nil {
				want = ""
			}
			if r.status != 0 || r.out != want || r.err != "" {
				t.Errorf("%+v", r)
			}
			if got := s.lines(envelope.Out); !slices.Equal(got, []string{"a", "", "b"}) {
				t.Errorf("%q", got)
			}
		})
	}
}

// TestFile: a file is read as fast as the server takes it, so that nothing of it
// is lost although it is many times what the memory holds.
func TestFile(t *testing.T) {
	t.Parallel()
	const n = 400_000
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, bytes.Repeat([]byte("a line of a file that was there before\n"), n), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := newServer(t)
	r := runAgent(t, f, "", []string{"--app", "shop", "--quiet", "--budget", "4000000", "--server", s.addr})
	if got := s.router.Stats().Accepted; r.status != 0 || r.undelivered != "" || got != n {
		t.Errorf("status %d, %d lines arrived, %s%s", r.status, got, r.err, r.undelivered)
	}
}

// TestInputReachesProgram: standard input is the program's own.
func TestInputReachesProgram(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	in := strings.Repeat("a line of input\n", 20_000) // more than a pipe holds
	r := runAgent(t, strings.NewReader(in), "cat", []string{"--app", "shop", "--server", s.addr})
	if r.status != 0 || r.out != in || r.undelivered != "" || len(s.envelopes()) != 20_000 {
		t.Errorf("status %d, %d bytes, %d lines, %s%s", r.status, len(r.out), len(s.envelopes()), r.err, r.undelivered)
	}
}

// TestOrderAndTimes: each stream in order, and sorting by time keeps it.
func TestOrderAndTimes(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	const n = 100_000
	r := runAgent(t, nil, "lines", []string{"--app", "shop", "--quiet", "--server", s.addr}, fmt.Sprint(n))
	all := s.envelopes()
	if r.status != 0 || len(all) != n || r.undelivered != "" {
		t.Fatalf("status %d, %d lines, %s%s", r.status, len(all), r.err, r.undelivered)
	}
	var last int64
	for i, e := range all {
		route, _ := e.Route()
		if string(route.Payload) != fmt.Sprintf("line %d", i) || route.Timestamp <= last {
			t.Fatalf("%d: %s at %d after %d", i, route.Payload, route.Timestamp, last)
		}
		last = route.Timestamp
	}
}

func TestExitStatus(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, want := range []int{0, 1, 42, 255} {
		if r := runAgent(t, nil, "exit", []string{"--app", "x", "--server", s.addr}, fmt.Sprint(want)); r.status != want || r.err != "" {
			t.Errorf("status %d, want %d: %s", r.status, want, r.err)
		}
	}
}

func TestCannotRun(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	text, noFormat := filepath.Join(dir, "text"), filepath.Join(dir, "noformat")
	os.WriteFile(text, []byte("hello"), 0o644)
	os.WriteFile(noFormat, []byte("\x00\x01\x02"), 0o755)
	for name, c := range map[string]struct {
		args   []string
		status int
		says   string
	}{
		"not in PATH":    {[]string{"run", "--app", "x", "--", "no-such-command"}, 127, "no-such-command: no such command in PATH"},
		"no such file":   {[]string{"run", "--app", "x", "--", dir + "/nope"}, 127, "no such file"},
		"not executable": {[]string{"run", "--app", "x", "--", text}, 126, "not allowed to run it"},
		"a directory":    {[]string{"run", "--app", "x", "--", dir}, 126, "not allowed to run it"},
		"no program":     {[]string{"run", "--app", "x", "--", noFormat}, 126, "cannot be started: "},
		"nobody's":       {[]string{"run", "--", "true"}, 125, "--app NAME"},
		"nothing":        {[]string{"run", "--app", "x"}, 125, `"--"`},
		"bad flag":       {[]string{"run", "--ap", "x", "--", "true"}, 125, "-ap"},
		"bad server":     {[]string{"run", "--app", "x", "--server", "ftp://u:secret@h", "--", "true"}, 125, "address must be"},
		"no CA":          {[]string{"run", "--app", "x", "--tls-ca", dir + "/nope", "--", "true"}, 125, "no such file"},
		"cert, no key":   {[]string{"run", "--app", "x", "--tls-cert", text, "--", "true"}, 125, "certificate and its key"},
		"bad tag":        {[]string{"run", "--app", "x", "--tag", "novalue", "--", "true"}, 125, "KEY=VALUE"},
		"bad budget":     {[]string{"run", "--app", "x", "--budget", "-1", "--", "true"}, 125, "budget"},
		"too much":       {[]string{"run", "--app", "x", "-", "true"}, 125, `"true" is too much`},
		"no command":     {[]string{"./shop"}, 125, "run --app NAME -- ./shop"},
		"help":           {nil, 0, "loggregator-agent run --app shop --"},
		"help run":       {[]string{"run", "-help"}, 0, "-flush-timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(agent, c.args...)
			cmd.Env = environment("")
			out, err := cmd.CombinedOutput()
			if got := status(t, err); got != c.status || !strings.Contains(string(out), c.says) {
				t.Errorf("status %d, want %d; said %q, want %q", got, c.status, out, c.says)
			}
			if c.status != 0 && strings.Count(string(out), "\n") != 1 {
				t.Errorf("not one line: %q", out)
			}
			if strings.Contains(string(out), "secret") {
				t.Errorf("told a secret: %q", out)
			}
		})
	}
}

// started starts an agent and waits for its program's first line.
func started(t *testing.T, role string, prepare func(*exec.Cmd), flags ...string) (cmd *exec.Cmd, out *bufio.Reader) {
	t.Helper()
	cmd = agentCommand(t, role, append([]string{"--app", "shop"}, flags...))
	if prepare != nil {
		prepare(cmd)
	}
	cmd.Stderr = os.Stderr
	pipe, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	// A group without a terminal of its own, as under a supervisor.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out = bufio.NewReader(pipe)
	if line, err := out.ReadString('\n'); line != "ready\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return cmd, out
}

func TestSignals(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cmd, out := started(t, "signals", nil, "--server", s.addr)
	// To the whole group, as timeout(1) and shells do; the program must get each
	// once.
	for _, sig := range []syscall.Signal{syscall.SIGINT, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH, syscall.SIGTERM} {
		syscall.Kill(-cmd.Process.Pid, sig)
		if line, err := out.ReadString('\n'); line != sig.String()+"\n" {
			t.Fatalf("got %q, want %q, %v", line, sig, err)
		}
	}
	rest, _ := io.ReadAll(out)
	if err := cmd.Wait(); err != nil || len(rest) > 0 {
		t.Errorf("%v, %q", err, rest)
	}
	if n := len(s.lines(envelope.Out)); n != 8 {
		t.Errorf("%d lines arrived", n)
	}
}

// TestStopAndContinue: a stopped agent has told its program to stop, and both go
// on.
func TestStopAndContinue(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd, out := started(t, "stops", func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{w} }, "--server", newServer(t).addr)
	w.Close()
	cmd.Process.Signal(syscall.SIGTSTP)
	var ws syscall.WaitStatus
	if _, err := syscall.Wait4(cmd.Process.Pid, &ws, syscall.WUNTRACED, nil); err != nil || !ws.Stopped() {
		t.Errorf("%v, %v", ws, err)
	}
	// A signal to continue makes one to stop that is still on its way void.
	if _, err := io.ReadFull(r, make([]byte, 1)); err != nil {
		t.Fatalf("the program was not told to stop: %v", err)
	}
	cmd.Process.Signal(syscall.SIGCONT)
	if line, err := out.ReadString('\n'); line != "continued\n" {
		t.Errorf("%q, %v", line, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func TestProgramKilled(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP} {
		cmd, out := started(t, "hang", nil, "--server", s.addr)
		cmd.Process.Signal(sig)
		io.Copy(io.Discard, out)
		if got := status(t, cmd.Wait()); got != 128+int(sig) {
			t.Errorf("%v: status %d", sig, got)
		}
	}
}

// TestAgentKilled: no program goes on without its agent, or it would run twice
// once a supervisor has started both again.
func TestAgentKilled(t *testing.T) {
	t.Parallel()
	cmd, out := started(t, "signals", nil, "--server", newServer(t).addr)
	cmd.Process.Kill()
	if rest, err := io.ReadAll(out); err != nil || len(rest) > 0 { // ends when the program is gone
		t.Errorf("%q, %v", rest, err)
	}
	cmd.Wait()
}

// TestSignalInputMode: the last words of the program before the pipe are taken.
func TestSignalInputMode(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cmd := agentCommand(t, "", []string{"--app", "shop", "--server", s.addr})
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	io.WriteString(in, "one\n")
	lines.ReadString('\n')
	cmd.Process.Signal(syscall.SIGTERM)
	io.WriteString(in, "last")
	io.Copy(io.Discard, lines)
	if got := status(t, cmd.Wait()); got != 128+int(syscall.SIGTERM) {
		t.Errorf("status %d", got)
	}
	if got := s.lines(envelope.Out); !slices.Equal(got, []string{"one", "last"}) {
		t.Errorf("%q", got)
	}
}

// TestReaderGone: "agent run -- flood | head" ends, as "flood | head" does.
func TestReaderGone(t *testing.T) {
	t.Parallel()
	for _, role := range []string{"flood", ""} {
		cmd := agentCommand(t, role, []string{"--app", "shop", "--server", absent(t), "--budget", "4000000"})
		if role == "" {
			flood := exec.Command(os.Args[0])
			flood.Env = environment("flood")
			in, err := flood.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := flood.Start(); err != nil {
				t.Fatal(err)
			}
			defer flood.Wait()
			defer in.Close()
			cmd.Stdin = in
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.ReadFull(out, make([]byte, 1000))
		out.Close()
		if got := status(t, cmd.Wait()); got != 128+int(syscall.SIGPIPE) {
			t.Errorf("status %d", got)
		}
	}
}

func TestServerNeverThere(t *testing.T) {
	t.Parallel()
	r := runAgent(t, nil, "lines", []string{"--app", "shop", "--server", absent(t), "--flush-timeout", "1m"}, "1000")
	if r.status != 0 || strings.Count(r.out, "\n") != 1000 || r.err != "" {
		t.Errorf("status %d, %d bytes, %s", r.status, len(r.out), r.err)
	}
	if !strings.Contains(r.undelivered, "1000 of 1000 lines were not delivered to unix://") {
		t.Errorf("said %q", r.undelivered)
	}
	if r.took > 10*time.Second {
		t.Errorf("took %v", r.took)
	}
}

// TestServerNeverThereFlood: with far more lines than there is memory, the
// program gets to its end, and the loss is counted.
func TestServerNeverThereFlood(t *testing.T) {
	t.Parallel()
	const n = 500_000
	r := runAgent(t, nil, "lines", []string{"--app", "shop", "--server", absent(t), "--budget", "4000000", "--quiet"}, fmt.Sprint(n))
	if r.status != 0 || !strings.Contains(r.undelivered, fmt.Sprintf("%d of %d lines", n, n)) {
		t.Errorf("status %d, %s%s", r.status, r.err, r.undelivered)
	}
}

// TestServerComesLate: what was printed before the server was there arrives.
func TestServerComesLate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "sock")
	cmd, out := started(t, "signals", nil, "--server", "unix://"+path)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, ln, nil)
	cmd.Process.Signal(syscall.SIGTERM)
	io.Copy(io.Discard, out)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if got := s.lines(envelope.Out); !slices.Equal(got, []string{"ready", "terminated"}) {
		t.Errorf("%q", got)
	}
}

// TestServerStuck: a server that accepts and takes nothing costs the program's
// user the flush timeout, and no more.
func TestServerStuck(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	r := runAgent(t, nil, "lines", []string{"--app", "shop", "--server", "tcp://" + ln.Addr().String(), "--flush-timeout", "1500ms"}, "100000")
	if r.status != 0 || strings.Count(r.out, "\n") != 100_000 || !strings.Contains(r.undelivered, "100000 of 100000 lines") {
		t.Errorf("status %d, %d bytes, %s%s", r.status, len(r.out), r.err, r.undelivered)
	}
	if r.took > 20*time.Second {
		t.Errorf("took %v", r.took)
	}
}

// TestOverflow: with a server that is away while more is printed than there is
// memory for, each line arrives or is told as missing, there and here.
func TestOverflow(t *testing.T) {
	t.Parallel()
	const n = 200_000
	path := filepath.Join(t.TempDir(), "sock")
	cmd := agentCommand(t, "lines", []string{"--app", "shop", "--server", "unix://" + path, "--budget", "4000000", "--flush-timeout", "30s"}, fmt.Sprint(n))
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(out)
	for range n - 1 {
		if _, err := lines.ReadSlice('\n'); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	s := serve(t, ln, nil)
	io.Copy(io.Discard, lines)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	arrived, missing := 0, uint64(0)
	for _, e := range s.envelopes() {
		if told, _, ok := e.Missed(); ok {
			missing += told
			continue
		}
		arrived++
	}
	if missing == 0 || uint64(arrived)+missing != n {
		t.Errorf("%d arrived, %d told as missing, of %d", arrived, missing, n)
	}
	if want := fmt.Sprintf("%d of %d lines were not delivered to unix://%s: there was no memory", missing, n, path); !strings.Contains(errs.String(), want) {
		t.Errorf("said %q, want %q", errs.String(), want)
	}
}

// TestGrandchild: a process left behind that keeps the pipe open does not keep
// the agent.
func TestGrandchild(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	cmd := agentCommand(t, "leave", []string{"--app", "shop", "--server", s.addr})
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	lines := bufio.NewReader(out)
	for range 2 { // the program's and that of the one it leaves, in any order
		line, _ := lines.ReadString('\n')
		fmt.Sscanf(line, "child %d", &pid)
	}
	start := time.Now()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("took %v", took)
	}
	if pid == 0 {
		t.Fatal("no child")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Errorf("the process left behind is gone: %v", err)
	}
	if n := len(s.envelopes()); n != 2 {
		t.Errorf("%d lines", n)
	}
}

// TestStoppedOutput: while the user's own standard output takes nothing, the
// program waits as it would without the agent; but a signal ends both.
func TestStoppedOutput(t *testing.T) {
	t.Parallel()
	cmd := agentCommand(t, "flood", []string{"--app", "shop", "--server", absent(t), "--budget", "4000000"})
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	io.ReadFull(out, make([]byte, 100))
	cmd.Process.Signal(syscall.SIGTERM)
	done := make(chan struct{})
	go func() { cmd.Process.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Error("still there")
		cmd.Process.Kill()
		<-done
	}
}
