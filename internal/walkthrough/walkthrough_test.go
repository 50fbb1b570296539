// Package walkthrough runs the commands as a user would, as processes, against a
// real syslog receiver: everything that goes in must come out everywhere, once,
// in order, or be counted.
package walkthrough

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/internal/freeport"
)

// bin builds the commands once.
var bin = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "loggregator-walkthrough-")
	if err != nil {
		return "", err
	}
	out, err := exec.Command("go", "build", "-o", dir+string(filepath.Separator), "../../cmd/...", "../../examples/cf").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("go build: %v\n%s", err, out)
	}
	return dir, nil
})

// world is where the commands meet: one all-in-one server, or what stands in its
// place, with its ports; and where everything is written.
type world struct {
	t      testing.TB
	dir    string
	bin    string
	ingest string
	second string // where every other program sends, and dumps come from, if there are two
	dumps  string
	env    []string // of those who read
	v1     string   // datagrams of the old API
	people string
	ops    string
	drains string
	flags  []string // of the server, more of them
	server *process
}

func newWorld(t testing.TB) *world {
	dir, err := bin()
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, dir: t.TempDir(), bin: dir, ingest: freeport.Addr(), v1: freeport.Addr(), people: freeport.Addr(), ops: freeport.Addr()}
}

// process is a program that was started, and what it has said.
type process struct {
	t      testing.TB
	cmd    *exec.Cmd
	out    *os.File // standard output
	errors *os.File // standard error
	done   chan struct{}
}

func (w *world) start(name string, env []string, command string, args ...string) *process {
	w.t.Helper()
	if !filepath.IsAbs(command) {
		command = filepath.Join(w.bin, command)
	}
	p := &process{t: w.t, cmd: exec.Command(command, args...), done: make(chan struct{})}
	for file, to := range map[string]**os.File{".out": &p.out, ".err": &p.errors} {
		f, err := os.Create(filepath.Join(w.dir, name+file))
		if err != nil {
			w.t.Fatal(err)
		}
		*to = f
	}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.errors
	p.cmd.Env = append(os.Environ(), env...)
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() { p.cmd.Wait(); close(p.done) }()
	w.t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.done
		p.out.Close()
		p.errors.Close()
		if w.t.Failed() {
			w.t.Logf("%s said on standard error:\n%.4000s", name, p.said(p.errors))
		}
	})
	return p
}

func (p *process) said(f *os.File) string {
	b, _ := os.ReadFile(f.Name())
	return string(b)
}

func (p *process) signal(s os.Signal) { p.cmd.Process.Signal(s) }

// wait waits for the end and returns the exit status.
func (p *process) wait(limit time.Duration) int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(limit):
		p.t.Fatalf("%s is still running after %v", p.cmd.Path, limit)
	}
	return p.cmd.ProcessState.ExitCode()
}

// until polls, because processes can only be asked.
func until(t testing.TB, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(limit)
	for tick := time.Tick(10 * time.Millisecond); !ok(); {
		select {
		case <-tick:
		case <-deadline:
			t.Fatalf("after %v still no %s", limit, what)
		}
	}
}

func (w *world) serve() {
	w.t.Helper()
	args := []string{"-ingest", w.ingest, "-ingest-udp", w.ingest, "-v1-udp", w.v1, "-grpc=", "-egress=", "-http", w.people, "-ops", w.ops}
	if w.drains != "" {
		args = append(args, "-drains", w.drains)
	}
	args = append(args, w.flags...)
	w.server = w.start("server", nil, "loggregator", args...)
	until(w.t, 10*time.Second, "server", func() bool { return w.get("/readyz") != "" })
}

func (w *world) get(path string) string {
	resp, err := http.Get("http://" + w.ops + path)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	b, _ := io.ReadAll(resp.Body)
	return string(b)
}

// metric reads one figure.
func (w *world) metric(name string) int {
	for line := range strings.Lines(w.get("/metrics")) {
		if v, ok := strings.CutPrefix(line, "loggregator_"+name+" "); ok {
			f, _ := strconv.ParseFloat(strings.TrimSpace(v), 64)
			return int(f)
		}
	}
	return -1
}

// guid is the platform's id of what has a name.
func guid(name string) string {
	sum := sha256.Sum256([]byte(name))
	return fmt.Sprintf("%x-%x-4000-8000-%x", sum[:4], sum[4:6], sum[6:12])
}

// agent runs one of the programs of this test under loggregator-agent.
func (w *world) agent(app, space, program string, flags ...string) *process {
	vcap := fmt.Sprintf(`{"application_id":%q,"application_name":%q,"space_id":%q,"space_name":%q,"organization_id":%q,"organization_name":"acme"}`,
		guid(app), app, guid(space), space, guid("acme"))
	to := w.ingest
	if w.second != "" {
		w.ingest, w.second = w.second, w.ingest
	}
	return w.start(app, []string{"VCAP_APPLICATION=" + vcap, "CF_INSTANCE_INDEX=0", programEnv + "=" + program},
		"loggregator-agent", slices.Concat([]string{"run", "-server", "tcp://" + to}, flags, []string{"--", os.Args[0]})...)
}

// follow starts cf-logs and waits until the server serves it.
func (w *world) follow(name string, args ...string) *process {
	w.t.Helper()
	p := w.start(name, w.env, "cf-logs", append([]string{"--target", "http://" + w.people, "--json"}, args...)...)
	until(w.t, 10*time.Second, "reader", func() bool { return w.metric("http_readers") == 1 })
	return p
}

// line is a line as cf-logs --json prints it.
type line struct {
	Timestamp time.Time
	SourceID  string `json:"source_id"`
	Instance  string `json:"instance_id"`
	Type      string
	Stream    string
	Text      string
	Missed    int
	Tags      map[string]string
}

func parseJSON(t *testing.T, text string) []line {
	t.Helper()
	var lines []line
	for l := range strings.Lines(text) {
		var v line
		if err := json.Unmarshal([]byte(l), &v); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		lines = append(lines, v)
	}
	return lines
}

// stream is the texts of one stream of one source, in order, and their times.
func stream(lines []line, source, name string) (texts []string, times []time.Time) {
	for _, l := range lines {
		if l.SourceID == source && l.Stream == name && l.Missed == 0 {
			texts, times = append(texts, l.Text), append(times, l.Timestamp)
		}
	}
	return texts, times
}

// TestEveryLineEverywhere is the main job, end to end, in one process.
func TestEveryLineEverywhere(t *testing.T) {
	w := newWorld(t)
	everyLineEverywhere(t, w, w.serve)
	w.server.signal(os.Interrupt)
	if code := w.server.wait(15 * time.Second); code != 0 {
		t.Errorf("the server ended with status %d", code)
	}
	checkNoSecretsOrPanics(t, "the server", w.server.said(w.server.errors))
}

// everyLineEverywhere has three programs print, and looks for it in a tail, a
// dump and three drains. serve is called when w.drains is there.
func everyLineEverywhere(t *testing.T, w *world, serve func()) {
	const printed, requests = 100_000, 500
	syslog := startRsyslog(t, w.dir, 3)
	w.drains = filepath.Join(w.dir, "drains.json")
	bindings := fmt.Sprintf(`{"drains":[{"app":"web","url":"syslog://%s"},{"space":"prod","url":"syslog://%s"},{"url":"syslog://%s"}]}`,
		syslog.addrs[0], syslog.addrs[1], syslog.addrs[2])
	if err := os.WriteFile(w.drains, []byte(bindings), 0o600); err != nil {
		t.Fatal(err)
	}
	serve()
	tail := w.follow("tail", "--space=prod")

	began := time.Now()
	webAddr := freeport.Addr()
	webServer := w.agent("web", "prod", "web "+webAddr)
	printer := w.agent("printer", "prod", "printer "+strconv.Itoa(printed))
	odd := w.agent("odd", "staging", "odd")
	var wantWeb []string
	for i := range requests {
		until(t, 10*time.Second, "web server", func() bool {
			resp, err := http.Get(fmt.Sprintf("http://%s/%d", webAddr, i))
			if err == nil {
				resp.Body.Close()
			}
			return err == nil
		})
		wantWeb = append(wantWeb, fmt.Sprintf("GET /%d", i))
	}
	webServer.signal(syscall.SIGTERM)
	if code := webServer.wait(20 * time.Second); code != 7 {
		t.Errorf("the web server ended with 7, the agent with %d", code)
	}
	if code := printer.wait(60 * time.Second); code != 0 {
		t.Errorf("the printer ended with 0, the agent with %d", code)
	}
	odd.wait(20 * time.Second)
	ended := time.Now()

	wantPrinter := make([]string, printed)
	for i := range wantPrinter {
		wantPrinter[i] = numbered(i)
	}
	if got := printer.said(printer.out); got != strings.Join(wantPrinter, "\n")+"\n" {
		t.Error("the printer's own output was not passed through as it is")
	}
	if got := odd.said(odd.out); got != strings.Join(oddOut, "\n") {
		t.Error("odd's own output was not passed through as it is")
	}

	// The tail of the space.
	wantTail := printed + requests + 1
	until(t, 30*time.Second, "last line in the tail", func() bool { return countLines(tail.out.Name()) >= wantTail })
	tail.signal(os.Interrupt)
	tail.wait(5 * time.Second)
	tailed := parseJSON(t, tail.said(tail.out))
	if len(tailed) != wantTail {
		t.Errorf("the tail has %d lines, want %d", len(tailed), wantTail)
	}
	checkStreams(t, "tail", tailed, map[string]map[string][]string{
		guid("web"):     {"OUT": {"bye"}, "ERR": wantWeb},
		guid("printer"): {"OUT": wantPrinter},
		guid("odd"):     {},
	}, began, ended)

	// The dump of the organization, and that it is in the order of time.
	dumps := w.people
	if w.dumps != "" {
		dumps = w.dumps
	}
	dump := w.start("dump", w.env, "cf-logs", "--target", "http://"+dumps, "--json", "--org=acme", "--recent")
	if code := dump.wait(30 * time.Second); code != 0 {
		t.Errorf("the dump ended with status %d", code)
	}
	everywhere := map[string]map[string][]string{
		guid("web"):     {"OUT": {"bye"}, "ERR": wantWeb},
		guid("printer"): {"OUT": wantPrinter},
		guid("odd"):     {"OUT": oddOut, "ERR": oddErr},
	}
	dumped := parseJSON(t, dump.said(dump.out))
	if want := wantTail + len(oddOut) + len(oddErr); len(dumped) != want {
		t.Errorf("the dump has %d lines, want %d", len(dumped), want)
	}
	checkStreams(t, "dump", dumped, everywhere, began, ended)
	checkMerged(t, dumped)

	// What a person sees.
	text := w.start("text", w.env, "cf-logs", "--target", "http://"+w.people, "--app=odd", "--recent", "--stderr")
	text.wait(10 * time.Second)
	var heads []string
	for l := range strings.Lines(text.said(text.out)) {
		_, rest, _ := strings.Cut(strings.TrimSuffix(l, "\n"), " ")
		heads = append(heads, rest)
	}
	if diff := cmp.Diff([]string{"[APP/PROC/WEB/0] ERR ", "[APP/PROC/WEB/0] ERR to stderr", "[APP/PROC/WEB/0] ERR again, ½"}, heads); diff != "" {
		t.Errorf("text (-want +got):\n%s", diff)
	}

	// The drains: one application, one space, everything.
	times := make(map[string]time.Time) // by source and text: each line's own
	for _, l := range dumped {
		times[l.SourceID+l.Stream+l.Text] = l.Timestamp
	}
	for i, sources := range [][]string{{guid("web")}, {guid("web"), guid("printer")}, {guid("web"), guid("printer"), guid("odd")}} {
		want := make(map[string]map[string][]string)
		count := 0
		for _, source := range sources {
			want[source] = everywhere[source]
			count += len(want[source]["OUT"]) + len(want[source]["ERR"])
		}
		file := syslog.files[i]
		until(t, 60*time.Second, fmt.Sprintf("last line in rsyslog's file %d", i+1), func() bool { return countLines(file) >= count })
		got := parseRsyslog(t, file)
		if len(got) != count {
			t.Errorf("rsyslog's file %d has %d lines, want %d", i+1, len(got), count)
		}
		checkStreams(t, fmt.Sprintf("drain %d", i+1), got, want, began.Truncate(time.Microsecond), ended)
		for _, l := range got {
			if want := times[l.SourceID+l.Stream+l.Text].Truncate(time.Microsecond); !l.Timestamp.Equal(want) && l.Text != "" {
				t.Errorf("drain %d: %.40q has time %v, want %v", i+1, l.Text, l.Timestamp, want)
				break
			}
		}
	}
}

// checkStreams compares the lines of each source and stream, in order, and that
// their times lie within the run and don't go backward.
func checkStreams(t *testing.T, where string, got []line, want map[string]map[string][]string, began, ended time.Time) {
	t.Helper()
	for source, streams := range want {
		for _, name := range []string{"OUT", "ERR"} {
			texts, times := stream(got, source, name)
			if diff := cmp.Diff(streams[name], texts); diff != "" {
				t.Errorf("%s: %s %s (-want +got):\n%.2000s", where, source, name, diff)
			}
			for i, at := range times {
				if at.Before(began) || at.After(ended) || i > 0 && at.Before(times[i-1]) {
					t.Errorf("%s: %s %s: line %d has time %v, began %v, ended %v", where, source, name, i, at, began, ended)
					break
				}
			}
		}
	}
}

// checkMerged checks that lines are in the order of time, as far as the order of
// each source allows: a line may be older than the one before only if its own
// source gave them in that order.
func checkMerged(t *testing.T, lines []line) {
	t.Helper()
	newest := make(map[string]time.Time)
	for i := 1; i < len(lines); i++ {
		a, b := lines[i-1], lines[i]
		if b.Timestamp.Before(a.Timestamp) && a.SourceID != b.SourceID && !b.Timestamp.Before(newest[b.SourceID]) {
			t.Errorf("dump: %s at %v comes after %s at %v", b.SourceID, b.Timestamp, a.SourceID, a.Timestamp)
			return
		}
		if b.Timestamp.After(newest[b.SourceID]) {
			newest[b.SourceID] = b.Timestamp
		}
	}
}

func countLines(file string) int {
	b, _ := os.ReadFile(file)
	return bytes.Count(b, []byte("\n"))
}

func checkNoSecretsOrPanics(t *testing.T, who, said string, secrets ...string) {
	t.Helper()
	for _, bad := range append(secrets, "panic", "goroutine ") {
		if strings.Contains(said, bad) {
			t.Errorf("%s said:\n%s", who, said)
		}
	}
}

// TestServerAwayForFiveSeconds stops the server in the middle of a run and
// starts it again: the program never waits, and what the reader has seen plus
// what it was told to have missed is what was printed.
func TestServerAwayForFiveSeconds(t *testing.T) {
	const printed, rate = 90_000, 10_000
	for name, test := range map[string]struct {
		signal os.Signal
		flags  []string
		loses  bool
	}{
		"stopped":               {signal: syscall.SIGTERM},
		"killed":                {signal: syscall.SIGKILL},
		"killed, little memory": {signal: syscall.SIGKILL, flags: []string{"-budget", "1048576"}, loses: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.serve()
			tail := w.follow("tail", "--space=prod")
			program := w.agent("paced", "prod", fmt.Sprintf("paced %d %d", printed, rate), test.flags...)
			until(t, 20*time.Second, "20,000 lines", func() bool { return countLines(tail.out.Name()) >= 20_000 })
			w.server.signal(test.signal)
			w.server.wait(15 * time.Second)
			away := time.Now()
			until(t, 10*time.Second, "five seconds", func() bool { return time.Since(away) >= 5*time.Second })
			w.serve()
			if code := program.wait(60 * time.Second); code != 0 {
				t.Errorf("the agent ended with status %d", code)
			}
			var slowest time.Duration
			for l := range strings.Lines(program.said(program.errors)) {
				if v, ok := strings.CutPrefix(strings.TrimSpace(l), "slowest write "); ok {
					slowest, _ = time.ParseDuration(v)
				}
			}
			if slowest == 0 || slowest > time.Second {
				t.Errorf("the program's slowest write took %v", slowest)
			}
			seen, missed, next := 0, 0, 0
			account := func() {
				seen, missed, next = 0, 0, 0
				for _, l := range parseJSON(t, wholeLines(tail.said(tail.out))) {
					if l.Missed > 0 || l.Type == "missed" {
						missed += l.Missed
						continue
					}
					if l.Stream != "OUT" {
						continue
					}
					i := -1
					fmt.Sscanf(l.Text, "line %d", &i)
					if i < next {
						t.Fatalf("line %d came after line %d", i, next-1)
					}
					next = i + 1
					seen++
				}
			}
			until(t, 30*time.Second, "last line", func() bool { account(); return next == printed })
			tail.signal(os.Interrupt)
			tail.wait(5 * time.Second)
			account()
			if seen+missed != printed {
				t.Errorf("seen %d + missed %d = %d, printed %d", seen, missed, seen+missed, printed)
			}
			if (missed > 0) != test.loses {
				t.Errorf("missed %d", missed)
			}
			t.Logf("seen %d, missed %d, slowest write %v", seen, missed, slowest)
		})
	}
}

// wholeLines leaves out a line that is being written.
func wholeLines(s string) string { return s[:strings.LastIndexByte(s, '\n')+1] }

// TestRubbishHarmsNobody sends rubbish to every port while a program is
// followed.
func TestRubbishHarmsNobody(t *testing.T) {
	w := newWorld(t)
	w.serve()
	tail := w.follow("tail", "--space=prod")
	program := w.agent("paced", "prod", "paced 20000 10000")
	rubbish := map[string][]byte{
		"random":      bytes.Repeat([]byte{0xde, 0xad, 0xbe, 0xef, 0x99, 0x07}, 5000),
		"TLS hello":   append([]byte{0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03}, make([]byte, 505)...),
		"endless":     bytes.Repeat([]byte("a line without end "), 200_000),
		"2 GiB":       {0x80, 0x80, 0x80, 0x80, 0x08, 0x0a, 0x01},
		"HTTP":        []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
		"half a word": {0x05, 0x0a},
	}
	for range 50 {
		for _, b := range rubbish {
			for _, addr := range []string{w.ingest, w.people, w.ops} {
				conn, err := net.Dial("tcp", addr)
				if err != nil {
					t.Fatal(err)
				}
				conn.SetDeadline(time.Now().Add(5 * time.Second))
				conn.Write(b)
				conn.Close()
			}
		}
	}
	for _, addr := range []string{w.ingest, w.v1} {
		conn, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		for range 100 {
			conn.Write(rubbish["random"][:1000])
		}
		conn.Close()
	}
	half, err := net.Dial("tcp", w.ingest) // stays open and says no more
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	half.Write([]byte{0x80})

	program.wait(30 * time.Second)
	until(t, 20*time.Second, "last line in the tail", func() bool { return countLines(tail.out.Name()) >= 20_001 })
	texts, _ := stream(parseJSON(t, tail.said(tail.out)), guid("paced"), "OUT")
	for i, text := range texts {
		if text != numbered(i) {
			t.Fatalf("line %d is %.40q", i, text)
		}
	}
	if !strings.Contains(w.get("/metrics"), `loggregator_ingest_refused_total{reason="http"} 50`) {
		t.Error("50 connections that spoke HTTP on the ingest port are not counted as such")
	}
	if !strings.Contains(w.get("/metrics"), `loggregator_v1_refused_total{reason="malformed"}`) {
		t.Error("datagrams of rubbish on the old API's port are not counted")
	}
	said := w.server.said(w.server.errors)
	if n := strings.Count(said, "\n"); n == 0 || n > 40 {
		t.Errorf("the server wrote %d lines about it:\n%.4000s", n, said)
	}
	checkNoSecretsOrPanics(t, "the server", w.server.said(w.server.errors))
	w.server.signal(os.Interrupt)
	w.server.wait(15 * time.Second)
}

// TestGoroutineDump asks each daemon for its goroutines.
func TestGoroutineDump(t *testing.T) {
	w := newWorld(t)
	w.serve()
	w.server.signal(syscall.SIGUSR1)
	until(t, 5*time.Second, "goroutines on standard output", func() bool {
		return strings.Contains(w.server.said(w.server.out), "goroutine ")
	})
	if w.get("/healthz") == "" {
		t.Error("the server is gone")
	}
}

// rsyslog is a real receiver with several TCP inputs, each with its own file.
type rsyslog struct {
	addrs, files []string
}

// peersEnv, set to "required", makes a test fail that would skip because a peer
// is not installed.
const peersEnv = "LOGGREGATOR_PEERS"

func startRsyslog(t *testing.T, dir string, inputs int) *rsyslog {
	t.Helper()
	program, err := exec.LookPath("rsyslogd")
	if err != nil {
		if _, statErr := os.Stat("/usr/sbin/rsyslogd"); statErr == nil {
			program, err = "/usr/sbin/rsyslogd", nil
		}
	}
	if err != nil {
		if os.Getenv(peersEnv) == "required" {
			t.Fatal("rsyslogd is required here: ", err)
		}
		t.Skip("rsyslogd is not installed (Debian: apt-get install rsyslog): ", err)
	}
	r := &rsyslog{}
	var conf strings.Builder
	// With more than one worker rsyslog itself writes lines in another order than
	// it received them.
	fmt.Fprintf(&conf, `global(workDirectory=%q maxMessageSize="128k" parser.escapeControlCharactersOnReceive="off")
main_queue(queue.workerThreads="1")
module(load="imtcp")
template(name="parsed" type="string" string="%%timereported:::date-rfc3339%%|%%syslogseverity%%|%%app-name%%|%%procid%%|%%msg:::drop-last-lf%%\n")
`, dir)
	for i := range inputs {
		addr := freeport.Addr()
		_, port, _ := net.SplitHostPort(addr)
		file := filepath.Join(dir, fmt.Sprintf("syslog%d", i+1))
		r.addrs, r.files = append(r.addrs, addr), append(r.files, file)
		fmt.Fprintf(&conf, `ruleset(name="r%d") { action(type="omfile" file=%q template="parsed") }
input(type="imtcp" address="127.0.0.1" port="%s" ruleset="r%d")
`, i, file, port, i)
	}
	path := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(path, []byte(conf.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-n", "-f", path, "-i", filepath.Join(dir, "rsyslog.pid"))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-done
		if t.Failed() {
			t.Logf("rsyslogd said:\n%s", said.String())
		}
	})
	for _, addr := range r.addrs {
		until(t, 10*time.Second, "rsyslogd", func() bool {
			conn, err := net.Dial("tcp", addr)
			if err == nil {
				conn.Close()
			}
			return err == nil
		})
	}
	return r
}

// parseRsyslog reads what the template above writes.
func parseRsyslog(t *testing.T, file string) []line {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	var lines []line
	for in.Scan() {
		part := strings.SplitN(in.Text(), "|", 5)
		if len(part) != 5 {
			t.Fatalf("rsyslog wrote %.100q", in.Text())
		}
		at, err := time.Parse(time.RFC3339Nano, part[0])
		if err != nil {
			t.Fatal(err)
		}
		l := line{Timestamp: at, SourceID: part[2], Text: part[4], Stream: map[string]string{"6": "OUT", "3": "ERR"}[part[1]]}
		if strings.Contains(part[4], "Loggregator tests this drain") {
			continue
		}
		if part[3] != "[APP/PROC/WEB/0]" || l.Stream == "" {
			t.Fatalf("rsyslog wrote %.100q", in.Text())
		}
		lines = append(lines, l)
	}
	if err := in.Err(); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return lines
}

// listen takes connections and never reads from them.
func listen(t testing.TB, addr string) net.Listener {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}
