// Package processtest runs commands as processes in tests: each is waited for until
// it says that it runs, and whatever else is waited for has half a minute, however
// busy the machine.
package processtest

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Limit is how long anything may take.
const Limit = 30 * time.Second

// Main runs the tests of a package, and removes what was built.
func Main(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

var built struct {
	mu  sync.Mutex
	dir string
}

// Build builds a command, once, and returns the path of the binary.
func Build(t testing.TB, command string) string {
	t.Helper()
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.dir == "" {
		dir, err := os.MkdirTemp("", "loggregator-processtest-")
		if err != nil {
			t.Fatal(err)
		}
		built.dir = dir
	}
	path := filepath.Join(built.dir, command)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if out, err := exec.Command("go", "build", "-o", path, "github.com/cloudfoundry/loggregator/cmd/"+command).CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return path
}

// Options of a Process. Nil and the zero value mean nothing.
type Options struct {
	Env   []string // beside PATH and HOME
	Names string   // of Files, with colons between
	Files []*os.File
}

// Process is a command that runs.
type Process struct {
	t    testing.TB
	cmd  *exec.Cmd
	said said
	done chan struct{}
}

// said is what a process has printed, on both its outputs.
type said struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// Start starts a command and waits until it runs. It is killed when the test
// ends. Files are passed as systemd passes sockets (sd_listen_fds(3)).
func Start(t testing.TB, o *Options, command string, args ...string) *Process {
	t.Helper()
	p := Launch(t, o, command, args...)
	p.Says("Ctrl-C stops it")
	return p
}

// Launch is Start without waiting.
func Launch(t testing.TB, o *Options, command string, args ...string) *Process {
	t.Helper()
	if o == nil {
		o = &Options{}
	}
	p := &Process{t: t, cmd: exec.Command(Build(t, command), args...), done: make(chan struct{})}
	p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, o.Env...)
	if len(o.Files) > 0 { // LISTEN_PID is the process's own: only it knows
		p.cmd = exec.Command("/bin/sh", append([]string{"-c", `LISTEN_PID=$$ exec "$0" "$@"`, Build(t, command)}, args...)...)
		p.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "LISTEN_FDS=" + strconv.Itoa(len(o.Files)), "LISTEN_FDNAMES=" + o.Names}, o.Env...)
		p.cmd.ExtraFiles = o.Files
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%s said:\n%.8000s", command, p.Said())
		}
	})
	return p
}

// Said is what the process has printed.
func (p *Process) Said() string { return p.said.String() }

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Says waits until the process has printed what.
func (p *Process) Says(what string) {
	p.t.Helper()
	Until(p.t, fmt.Sprintf("%q", what), func() bool {
		select {
		case <-p.done:
			if !strings.Contains(p.Said(), what) {
				p.t.Fatalf("it ended, without %q", what)
			}
		default:
		}
		return strings.Contains(p.Said(), what)
	})
}

// SaysAgain waits until what is printed times times.
func (p *Process) SaysAgain(what string, times int) {
	p.t.Helper()
	Until(p.t, fmt.Sprintf("%q for the %d. time", what, times), func() bool { return strings.Count(p.Said(), what) >= times })
}

// Address is the first address with this scheme that the process has announced,
// without the scheme.
func (p *Process) Address(scheme string) string {
	p.t.Helper()
	m := regexp.MustCompile(`\b` + scheme + `://([0-9.]+:[0-9]+)`).FindStringSubmatch(p.Said())
	if m == nil {
		p.t.Fatalf("it has announced no %s address", scheme)
	}
	return m[1]
}

// Operators is the address of the operators' port.
func (p *Process) Operators() string {
	p.t.Helper()
	m := regexp.MustCompile(`operate +http://([0-9.]+:[0-9]+)`).FindStringSubmatch(p.Said())
	if m == nil {
		p.t.Fatal("it has announced no operators' port")
	}
	return m[1]
}

// Get is the answer of the operators' port to GET, and its status; 0 if there is
// none.
func (p *Process) Get(path string) (body string, status int) {
	resp, err := http.Get("http://" + p.Operators() + path)
	if err != nil {
		return err.Error(), 0
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b), resp.StatusCode
}

// Metric is the figure of that name, and labels if it has some, as /metrics shows
// it; -1 if it does not.
func (p *Process) Metric(name string) float64 {
	body, _ := p.Get("/metrics")
	for line := range strings.Lines(body) {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return f
		}
	}
	return -1
}

// Signal sends a signal.
func (p *Process) Signal(s os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// Wait waits for the end and returns the exit status.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(Limit):
		p.t.Fatalf("it is still running after %v", Limit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// Until waits until ok.
func Until(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(Limit); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("after %v: still not %s", Limit, what)
		}
	}
}
