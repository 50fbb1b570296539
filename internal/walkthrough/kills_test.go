package walkthrough

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wire is a TCP proxy that can be cut.
type wire struct {
	ln net.Listener
	to string

	mu    sync.Mutex
	ends  []net.Conn
	until time.Time     // nobody gets through before
	late  time.Duration // what is carried
}

func newWire(t *testing.T, to string) *wire {
	w := &wire{ln: listen(t, "127.0.0.1:0"), to: to}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := w.ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() {
		w.ln.Close()
		w.cut(time.Hour)
		wg.Wait()
	})
	return w
}

// carry copies both ways until one end is gone, and then resets the other.
func (w *wire) carry(c net.Conn) {
	defer c.Close()
	s, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer s.Close()
	w.mu.Lock()
	if time.Now().Before(w.until) {
		w.mu.Unlock()
		return
	}
	w.ends = append(w.ends, c, s)
	w.mu.Unlock()
	go func() {
		w.copy(c, s)
		c.Close()
	}()
	w.copy(s, c)
}

func (w *wire) copy(to, from net.Conn) {
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		w.mu.Lock()
		late := w.late
		w.mu.Unlock()
		if late > 0 {
			time.Sleep(late)
		}
		if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
			return
		}
	}
}

// delay makes each piece that is carried late.
func (w *wire) delay(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.late = d
}

// cut breaks what is carried, and lets nobody through for so long.
func (w *wire) cut(pause time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = time.Now().Add(pause)
	for _, c := range w.ends {
		c.(*net.TCPConn).SetLinger(0) // what is under way is lost
		c.Close()
	}
	w.ends = nil
}

var toldMissing = regexp.MustCompile(`-- (\d+) lines? missed`)

// account follows a cf-logs's output, and checks that numbered lines come one
// after the other, but for those that are told as missing in their place.
type account struct {
	t            *testing.T
	f            *os.File
	rest         []byte // of a line that is not whole yet
	next         int    // number of the line that comes next
	told         int    // missing since the last line
	seen, missed int
}

func newAccount(t *testing.T, file string) *account {
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &account{t: t, f: f}
}

// read takes what was added to the file.
func (a *account) read() {
	buf := make([]byte, 1<<20)
	for {
		n, err := a.f.Read(buf)
		text := append(a.rest, buf[:n]...)
		for {
			line, tail, whole := bytes.Cut(text, []byte("\n"))
			if !whole {
				break
			}
			a.line(line)
			text = tail
		}
		a.rest = bytes.Clone(text)
		if err != nil {
			if !errors.Is(err, io.EOF) {
				a.t.Fatal(err)
			}
			return
		}
	}
}

func (a *account) line(line []byte) {
	if m := toldMissing.FindSubmatch(line); m != nil {
		n, _ := strconv.Atoi(string(m[1]))
		a.told += n
		a.missed += n
		return
	}
	_, text, ok := bytes.Cut(line, []byte(" OUT line "))
	if !ok {
		return
	}
	number, _, _ := bytes.Cut(text, []byte(" "))
	n, err := strconv.Atoi(string(number))
	if err != nil {
		a.t.Fatalf("%.80q", line)
	}
	if n != a.next+a.told {
		a.t.Fatalf("line %d came, where %d was due and %d are told as missing", n, a.next, a.told)
	}
	a.seen++
	a.next, a.told = n+1, 0
}

// TestTenKillsFiveCuts prints a million lines while the server, which keeps its
// hour in a directory, is killed ten times and the network between cut five
// times. As long as the rings can hold what is under way nothing is missing;
// with little memory, what is missing is told at its place.
func TestTenKillsFiveCuts(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	const printed, rate = 1_000_000, 60_000
	for name, test := range map[string]struct {
		agent []string
		loses bool
	}{
		"memory enough": {agent: []string{"-budget", "536870912"}},
		"little memory": {agent: []string{"-budget", "1048576"}, loses: true},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.flags = []string{"-budget", "671088640", "-recent-dir", w.dir + "/recent"}
			w.serve()
			wire := newWire(t, w.ingest)
			tail := w.start("tail", nil, "cf-logs", "--target", "http://"+w.people, "--space=prod")
			until(t, 10*time.Second, "reader", func() bool { return w.metric("http_readers") == 1 })
			a := newAccount(t, tail.out.Name())
			program := w.agent("paced", "prod", fmt.Sprintf("paced %d %d", printed, rate),
				append(test.agent, "-server", "tcp://"+wire.ln.Addr().String(), "-quiet", "-flush-timeout", "30s")...)
			reach := func(n int) {
				until(t, 60*time.Second, fmt.Sprint("line ", n), func() bool { a.read(); return a.next >= n })
			}
			for i := range 10 {
				reach(printed / 12 * (i + 1))
				w.server.signal(syscall.SIGKILL)
				w.server.wait(10 * time.Second)
				w.serve()
				if i%2 == 1 {
					reach(printed/12*(i+1) + printed/24)
					wire.cut(300 * time.Millisecond)
				}
			}
			if code := program.wait(60 * time.Second); code != 0 {
				t.Errorf("the agent ended with status %d", code)
			}
			reach(printed)
			if a.seen+a.missed != printed || (a.missed > 0) != test.loses {
				t.Errorf("seen %d + missed %d, printed %d", a.seen, a.missed, printed)
			}
			t.Logf("seen %d, missed %d", a.seen, a.missed)
			for _, p := range []*process{tail, w.server} {
				p.signal(os.Interrupt)
				p.wait(15 * time.Second)
			}
		})
	}
}
