package cf

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// limit is how long anything may take, however busy the machine.
const limit = 30 * time.Second

const (
	annShop   = "0c000000-0000-4000-8000-000000000001"
	annSearch = "0c000000-0000-4000-8000-000000000002"
	bobShop   = "0c000000-0000-4000-8000-000000000003"
)

// programs are the commands that the tests run.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "loggregator-cf-"); err == nil {
		err = build(".", "-ldflags", "-X code.cloudfoundry.org/cli/version.binaryVersion=7.1.0", "-o", filepath.Join(programs, "cf"), "code.cloudfoundry.org/cli")
	}
	if err == nil {
		err = build("../../..", "-o", filepath.Join(programs, "platform"), "./examples/cf")
	}
	if err == nil {
		err = build("../../..", "-o", programs, "./cmd/loggregator", "./cmd/loggregator-agent")
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.RemoveAll(programs)
	os.Exit(code)
}

func build(dir string, args ...string) error {
	cmd := exec.Command("go", append([]string{"build"}, args...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w\n%s", cmd.Args, err, out)
	}
	return nil
}

// start runs a daemon until the test ends, and returns the word after each of the
// words by which it says where it listens.
func start(t *testing.T, names []string, program string, args ...string) (at []string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs, program), args...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	said := ""
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said += lines.Text() + "\n"
		words := strings.Fields(lines.Text())
		for len(words) > 1 && len(at) < len(names) {
			if words[0] == names[len(at)] {
				at = append(at, words[1])
			}
			words = words[1:]
		}
		if len(at) == len(names) {
			go io.Copy(io.Discard, out)
			return at
		}
	}
	t.Fatalf("%s has ended:\n%s", program, said)
	return nil
}

// world is the all-in-one, where users of the stand-in read what they see there.
type world struct {
	api, ingest string
	mu          sync.Mutex
	asked       []string // by cf, of Log Cache, with the answers' statuses
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{}
	// The two name each other, so one of them is reached by what is there before.
	var logs *httputil.ReverseProxy
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) { logs.ServeHTTP(rw, r) }))
	t.Cleanup(front.Close)
	w.api = start(t, []string{"-a"}, "platform", "-listen", "127.0.0.1:0", "-log-cache", front.URL)[0]
	at := start(t, []string{"send", "read"}, "loggregator", "-ingest", "127.0.0.1:0", "-ingest-udp", "", "-v1-udp", "", "-grpc", "", "-egress", "",
		"-ops", "", "-http", "127.0.0.1:0", "-auth-cf", w.api, "-auth-uaa", w.api)
	w.ingest = at[0]
	target, err := url.Parse(at[1])
	if err != nil {
		t.Fatal(at, err)
	}
	logs = &httputil.ReverseProxy{
		ErrorLog: log.New(io.Discard, "", 0), // of requests that cf breaks off
		Rewrite:  func(r *httputil.ProxyRequest) { r.SetURL(target) },
		ModifyResponse: func(res *http.Response) error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.asked = append(w.asked, fmt.Sprint(res.StatusCode, " ", res.Request.URL.RequestURI()))
			return nil
		},
	}
	return w
}

// run is an application that prints what the script does.
func (w *world) run(t *testing.T, id, script string) {
	t.Helper()
	cmd := exec.Command(filepath.Join(programs, "loggregator-agent"), "run", "-server", w.ingest, "-app", "shop", "-source-id", id, "--", "sh", "-c", script)
	if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "not delivered") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// cf is the command line client of one user.
type cf struct {
	t    *testing.T
	home string
}

func (c *cf) command(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(c.t.Context(), filepath.Join(programs, "cf"), args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.home, "CF_HOME=" + c.home, "CF_PLUGIN_HOME=" + c.home, "CF_COLOR=false", "LANG=C"}
	return cmd
}

// do runs it to its end.
func (c *cf) do(args ...string) string {
	c.t.Helper()
	out, err := c.command(args...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("cf %v: %v\n%s", args, err, out)
	}
	return string(out)
}

// login is what the README says.
func login(t *testing.T, w *world, user, space string) *cf {
	t.Helper()
	c := &cf{t, t.TempDir()}
	out := c.do("login", "-a", w.api, "-u", user, "-p", user, "-o", "acme", "-s", space)
	if !regexp.MustCompile(`user: +`+user+`\norg: +acme\nspace: +`+space+`\n`).MatchString(out) || strings.Contains(out, "less than the minimum") {
		t.Fatalf("%s", out)
	}
	return c
}

var line = regexp.MustCompile(`(?m)^   \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d\d[+-]\d{4} (\[APP/PROC/WEB/0\] (OUT|ERR) .*)$`)

// lines are those of the output that are logs, without their times. The two outputs
// of a program are two pipes: each is in order, so here are OUT and then ERR.
func lines(out string) (all []string) {
	var errs []string
	for _, m := range line.FindAllStringSubmatch(out, -1) {
		if m[2] == "ERR" {
			errs = append(errs, m[1])
		} else {
			all = append(all, m[1])
		}
	}
	return append(all, errs...)
}

// numbered is what lines returns of a program that counted from first to last on
// both outputs.
func numbered(first, last int) (all []string) {
	for _, mark := range []string{"OUT", "ERR"} {
		for i := first; i <= last; i++ {
			all = append(all, fmt.Sprintf("[APP/PROC/WEB/0] %s line %d", mark, i))
		}
	}
	return all
}

func count(first, last int) string {
	return fmt.Sprintf("for i in $(seq %d %d); do echo line $i; echo line $i >&2; done", first, last)
}

// tail is `cf logs` while it runs.
type tail struct {
	t   *testing.T
	cmd *exec.Cmd
	mu  sync.Mutex
	out bytes.Buffer
}

func (x *tail) Write(p []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.Write(p)
}

func (x *tail) String() string {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.out.String()
}

func (c *cf) follow(app string) *tail {
	c.t.Helper()
	x := &tail{t: c.t, cmd: c.command("logs", app)}
	x.cmd.Stdout, x.cmd.Stderr = x, x
	if err := x.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	return x
}

// until waits for what it shows.
func (x *tail) until(what string, ok func(out string) bool) {
	x.t.Helper()
	for end := time.Now().Add(limit); !ok(x.String()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			x.t.Fatalf("after %v it does not show %s:\n%s", limit, what, x)
		}
	}
}

// end is Ctrl-C.
func (x *tail) end() {
	x.t.Helper()
	x.cmd.Process.Signal(os.Interrupt)
	defer time.AfterFunc(limit, func() { x.cmd.Process.Kill() }).Stop()
	if err := x.cmd.Wait(); err != nil || strings.Contains(x.String(), "Failed to retrieve") {
		x.t.Errorf("%v\n%s", err, x)
	}
}

// TestLogin: the steps of `cf login`, one by one, and who is not let in.
func TestLogin(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := &cf{t, t.TempDir()}
	c.do("api", w.api, "--skip-ssl-validation")
	if out, err := c.command("auth", "ann", "wrong").CombinedOutput(); err == nil {
		t.Errorf("a wrong password: %s", out)
	}
	c.do("auth", "ann", "ann")
	if out, err := c.command("target", "-o", "acme", "-s", "prod").CombinedOutput(); err == nil || !strings.Contains(string(out), "Space 'prod' not found") {
		t.Errorf("another's space: %v %s", err, out)
	}
	c.do("target", "-o", "acme", "-s", "dev")
	if out, err := c.command("logs", "unknown", "--recent").CombinedOutput(); err == nil || !strings.Contains(string(out), "App 'unknown' not found") {
		t.Errorf("no such application: %v %s", err, out)
	}
}

// TestRecent: `cf logs APP --recent` shows what one's own application said, whatever
// others call theirs.
func TestRecent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann, bob := login(t, w, "ann", "dev"), login(t, w, "bob", "prod")
	w.run(t, annShop, count(1, 100))
	w.run(t, annShop, count(101, 200))
	w.run(t, bobShop, "echo of bob")
	if got := lines(ann.do("logs", "shop", "--recent")); !slices.Equal(got, numbered(1, 200)) {
		t.Errorf("ann: %q", got)
	}
	if got := lines(bob.do("logs", "shop", "--recent")); !slices.Equal(got, []string{"[APP/PROC/WEB/0] OUT of bob"}) {
		t.Errorf("bob: %q", got)
	}
	if got := lines(ann.do("logs", "search", "--recent")); len(got) > 0 {
		t.Errorf("one that has said nothing: %q", got)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if want := "200 /api/v1/read/" + annShop + "?descending=true&envelope_types=LOG&limit=1000&start_time=-6795364578871345152"; !slices.Contains(w.asked, want) {
		t.Errorf("cf asks %q, not %q", w.asked, want)
	}
}

// TestTail: `cf logs APP` shows what is logged after it has begun, once and in
// order, be there lines from before or none, and ends by Ctrl-C.
func TestTail(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ann := login(t, w, "ann", "dev")
	w.run(t, annShop, count(1, 2))
	before, silent := ann.follow("shop"), ann.follow("search")
	defer before.end()
	defer silent.end()
	before.until("what there was", func(out string) bool { return len(lines(out)) == 4 })
	silent.until("that it runs", func(out string) bool { return strings.Contains(out, "Retrieving logs for app search") })
	for first := 3; first <= 300; first += 149 { // two reads of cf's, at least
		last := first + 148
		w.run(t, annShop, count(first, last))
		w.run(t, annSearch, count(first-2, last-2))
		before.until("all lines", func(out string) bool { return len(lines(out)) >= 2*last })
		silent.until("all lines", func(out string) bool { return len(lines(out)) >= 2*(last-2) })
	}
	if got := lines(before.String()); !slices.Equal(got, numbered(1, 300)) {
		t.Errorf("after others: %q", got)
	}
	if got := lines(silent.String()); !slices.Equal(got, numbered(1, 298)) {
		t.Errorf("from the first on: %q", got)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, prefix := range []string{
		"200 /api/v1/info",
		"200 /api/v1/read/" + annShop + "?descending=true&limit=1&start_time=",
		"200 /api/v1/read/" + annShop + "?envelope_types=LOG&start_time=",
	} {
		if !slices.ContainsFunc(w.asked, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
			t.Errorf("cf asks %.10q, not %q", w.asked, prefix)
		}
	}
	if i := slices.IndexFunc(w.asked, func(s string) bool { return !strings.HasPrefix(s, "200 ") }); i >= 0 {
		t.Errorf("cf is answered %q", w.asked[i])
	}
}
