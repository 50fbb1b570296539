//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/drain/share"
	"github.com/cloudfoundry/loggregator/internal/processtest"
	"github.com/cloudfoundry/loggregator/internal/receiver"
	"github.com/cloudfoundry/loggregator/transport"
)

// shareServer is a server whose doors for drains can be closed and opened again:
// its registry forgets, its rings do not.
type shareServer struct {
	server
	t             *testing.T
	egress, share string // host:port
	stop          func()
}

func startShareServer(t *testing.T) *shareServer {
	s := &shareServer{server: *startServer(t), t: t}
	s.egress, s.share = "127.0.0.1:0", "127.0.0.1:0"
	s.open()
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *shareServer) open() {
	s.t.Helper()
	listen := func(addr *string) net.Listener {
		var ln net.Listener
		eventually(s.t, "listen at "+*addr, func() (ok bool) {
			var err error
			ln, err = net.Listen("tcp", *addr)
			return err == nil
		})
		*addr = ln.Addr().String()
		return ln
	}
	out := transport.NewEgress(s.Router, nil)
	go out.Serve(listen(&s.egress))
	mux := http.NewServeMux()
	mux.Handle(share.Path, share.NewRegistry(nil))
	web := &http.Server{Handler: mux}
	go web.Serve(listen(&s.share))
	s.stop = func() {
		out.Close()
		web.Close()
	}
}

func eventually(t *testing.T, what string, ok func() bool) time.Duration {
	t.Helper()
	for start := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if ok() {
			return time.Since(start)
		}
		if time.Since(start) > 30*time.Second {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// group asks the operators' port what a process shares; nil if it does not answer.
func (p *process) group(t *testing.T) *drain.SharingStats {
	t.Helper()
	resp, err := (&http.Client{Timeout: 5 * time.Second}).Get(p.ops(t) + "/v1/drains")
	if err != nil {
		return nil
	}
	defer resp.Body.Close()
	var answer struct{ Group *drain.SharingStats }
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Group == nil {
		t.Fatalf("%+v, %v", answer, err)
	}
	return answer.Group
}

// owns waits until the processes have n drains between them, each one at least.
func owns(t *testing.T, n int, processes ...*process) time.Duration {
	t.Helper()
	return eventually(t, fmt.Sprintf("%d processes own %d drains", len(processes), n), func() bool {
		sum := 0
		for _, p := range processes {
			g := p.group(t)
			if g == nil || g.Owned == 0 {
				return false
			}
			sum += g.Owned
		}
		return sum == n
	})
}

// takeovers is how often these processes took drains from one that did not give
// them back.
func takeovers(t *testing.T, processes ...*process) (n uint64) {
	t.Helper()
	for _, p := range processes {
		g := p.group(t)
		if g == nil {
			t.Fatal("no answer")
		}
		n += g.Takeovers
	}
	return n
}

// Two and three processes share 20 drains of two servers under load, while one is
// killed, one hangs and wakes up, one ends in good order, and a server's registry
// forgets all: every line arrives, in order, and again only where a process was
// killed or hung.
func TestGroup(t *testing.T) {
	const drains = 20
	one, two := startShareServer(t), startShareServer(t)
	sinks := make([]*sink, drains)
	var list []string
	for i := range sinks {
		sinks[i] = startSink(t, receiver.Options{})
		list = append(list, fmt.Sprintf(`{"app":"app%d","url":"%s"}`, i, sinks[i].URL()))
	}
	file := writeDrains(t, `{"drains":[`+strings.Join(list, ",")+`]}`)
	start := func() *process {
		p := startProcess(t, &one.server, "-drains", file, "-group", "test", "-log-level", "warn",
			"-read", "tcp://"+one.egress+",tcp://"+two.egress, "-group-at", "http://"+one.share+",http://"+two.share)
		p.out.find(t, "is running")
		return p
	}
	var logging sync.WaitGroup
	done := make(chan struct{})
	lines := 0 // of each app
	logging.Go(func() {
		for tick := time.NewTicker(20 * time.Millisecond); ; {
			for i := range drains {
				[]*shareServer{one, two}[i%2].log(t, fmt.Sprint("app", i), lines, 2)
			}
			lines += 2
			select {
			case <-tick.C:
			case <-done:
				return
			}
		}
	})
	again := func() (sum int) { // lines that came twice until now
		for _, k := range sinks {
			k.mu.Lock()
			sum += len(k.lines) - len(k.seen)
			k.mu.Unlock()
		}
		return sum
	}

	a := start()
	owns(t, drains, a)
	b := start()
	owns(t, drains, a, b)
	c := start()
	owns(t, drains, a, b, c)
	handed := again()
	switch expired := takeovers(t, a, b, c); {
	case expired > 0: // the machine had no time for a process for longer than a lease
		t.Logf("%d takeovers, %d lines came again", expired, handed)
	case handed > 0:
		t.Errorf("%d lines came again, though drains were only handed over", handed)
	}

	b.kill()
	took := owns(t, drains, a, c)
	killed := again() - handed
	t.Logf("killed: taken over in %v, %d lines came again", took, killed)

	c.Process.Signal(syscall.SIGSTOP)
	took = owns(t, drains, a)
	c.Process.Signal(syscall.SIGCONT)
	owns(t, drains, a, c)
	hung := again()
	t.Logf("hung: taken over in %v, %d lines came again", took, hung-handed-killed)
	expired := takeovers(t, a, c)

	one.stop()
	one.open()
	eventually(t, "the server's registry knows both again", func() bool {
		g := a.group(t)
		return g.Servers[0].Members == 2 && g.Servers[0].Error == ""
	})
	owns(t, drains, a, c)
	if g := a.group(t); g.Takeovers == 0 || g.Drains != drains || len(g.Servers) != 2 {
		t.Errorf("%+v", g)
	}
	expired = takeovers(t, a, c) - expired
	before := takeovers(t, c)
	a.stop(t)
	took = owns(t, drains, c)
	close(done)
	logging.Wait()
	for i, k := range sinks {
		k.until(t, fmt.Sprintf("app%d seq=%d", i, lines-1))
	}
	expired += takeovers(t, c) - before
	c.stop(t)
	t.Logf("stopped: taken over in %v", took)
	if n := again(); n != hung && expired == 0 {
		t.Errorf("%d lines came again for a server that was restarted and a process that was stopped", n-hung)
	}
	// What a process did in half a second, and three more while it hung: 100 lines a
	// second of each drain; much more on a machine that is busy with other things.
	if most := drains * 100 * 20; hung > most {
		t.Errorf("%d lines came again", hung)
	}
	for i, k := range sinks {
		k.Shutdown(t.Context())
		complete(t, k.got(), fmt.Sprint("app", i), lines)
		for _, problem := range k.problems {
			if !strings.Contains(problem, "in the middle of a message") {
				t.Error(problem)
			}
		}
	}
	if n := one.Stats().Accepted + two.Stats().Accepted; n < uint64(lines*drains) {
		t.Errorf("%d records of %d were accepted", n, lines*drains)
	}
}

// A server of its own process, to which only those come who show a certificate.
func TestGroupOverMutualTLS(t *testing.T) {
	ca := processtest.NewCA(t)
	cert, key := ca.Issue("server")
	mine, myKey := ca.Issue("drain")
	var flags []string
	for _, door := range []string{"egress", "share"} {
		flags = append(flags, "-"+door, "127.0.0.1:0", "-"+door+"-cert", cert, "-"+door+"-key", key, "-"+door+"-clients", ca.File(), "-"+door+"-client-names", "drain")
	}
	backend := processtest.Start(t, nil, "loggregator-server", append(flags, "-ingest", "127.0.0.1:0", "-ingest-udp=", "-v1-udp=", "-grpc=", "-ops", "127.0.0.1:0", "-budget", "16MiB")...)
	find := func(pattern string) string {
		t.Helper()
		m := regexp.MustCompile(pattern).FindStringSubmatch(backend.Said())
		if m == nil {
			t.Fatalf("no %s in %s", pattern, backend.Said())
		}
		return m[1]
	}
	shop := startSink(t, receiver.Options{})
	file := writeDrains(t, fmt.Sprintf(`{"drains":[{"app":"shop","url":"%s"}]}`, shop.URL()))
	log := processtest.NewSender(t, "tcp://"+backend.Address("tcp"), "shop", nil)
	at := &server{read: "tls://" + find(`daemons +tls://(\S+)`), ingest: "tcp://" + backend.Address("tcp")}
	args := []string{"-drains", file, "-group", "test", "-group-at", "https://" + find(`share +https://(\S+)`), "-read-ca", ca.File()}
	stranger := startProcess(t, at, args...)
	stranger.out.find(t, "what drains are whose is not known of a server")
	p := startProcess(t, at, append(args, "-read-cert", mine, "-read-key", myKey)...)
	p.out.find(t, "is running")
	owns(t, 1, p)
	if n := stranger.group(t).Owned; n != 0 {
		t.Errorf("a stranger owns %d", n)
	}
	log.Send(100)
	log.Flush()
	shop.until(t, "line 99")
	eventually(t, "nothing is behind", func() bool {
		list := p.status(t)
		return len(list) == 1 && list[0].Delivered >= 100 && list[0].Behind != nil && *list[0].Behind == 0
	})
	for name, want := range map[string]float64{"loggregator_drain_group_owned": 1, "loggregator_drain_group_drains": 1, "loggregator_drain_group_takeovers_total": 0} {
		resp, err := http.Get(p.ops(t) + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if line := fmt.Sprintf(`%s{group="test"} %v`, name, want); !strings.Contains(string(text), line) {
			t.Errorf("no %s", line)
		}
	}
	p.stop(t)
}

// Servers and drains that all end in good order and begin again go on where they
// were: rings and places outlive them in files.
func TestGroupAllRestarted(t *testing.T) {
	shop := startSink(t, receiver.Options{})
	file := writeDrains(t, fmt.Sprintf(`{"drains":[{"app":"shop","url":"%s"}]}`, shop.URL()))
	dir := filepath.Join(t.TempDir(), "recent")
	for life := range 2 {
		backend := processtest.Start(t, nil, "loggregator-server", "-recent-dir", dir, "-egress", "127.0.0.1:0", "-share", "127.0.0.1:0",
			"-ingest", "127.0.0.1:0", "-ingest-udp=", "-v1-udp=", "-grpc=", "-ops", "127.0.0.1:0", "-budget", "16MiB")
		find := func(pattern string) string {
			t.Helper()
			m := regexp.MustCompile(pattern).FindStringSubmatch(backend.Said())
			if m == nil {
				t.Fatalf("no %s in %s", pattern, backend.Said())
			}
			return m[1]
		}
		log := processtest.NewSender(t, "tcp://"+backend.Address("tcp"), "shop", nil)
		log.Send(100 * (life + 1)) // in the second life there are as many again, and more
		log.Flush()
		at := &server{read: find(`daemons +(tcp://\S+)`), ingest: "tcp://" + backend.Address("tcp")}
		p := startProcess(t, at, "-drains", file, "-group", "test", "-group-at", find(`share +(http://\S+)`))
		p.out.find(t, "is running")
		shop.until(t, fmt.Sprintf("line %d", 100*(life+1)-1))
		p.stop(t)
		backend.Signal(syscall.SIGTERM)
		if code := backend.Wait(); code != 0 {
			t.Errorf("the server ended with %d", code)
		}
	}
	shop.Shutdown(t.Context())
	count := make(map[string]int)
	for _, line := range shop.got() {
		count[line]++
	}
	if count["line 50"] != 2 || count["line 150"] != 1 { // once of each life
		t.Errorf("%d and %d times", count["line 50"], count["line 150"])
	}
}

func TestGroupFlags(t *testing.T) {
	drains := writeDrains(t, `{"drains":[]}`)
	for _, tc := range []struct{ args, says string }{
		{"-group-at http://127.0.0.1:1", "-group-at: is of no use without -group"},
		{"-group g -read unix:///x", "-group-at: where is it for -read unix:///x"},
		{"-group g -group-at ftp://x", "-group-at: addresses are like http://127.0.0.1:3460"},
		{"-group g -group-at http://user:secret@x", "-group-at: addresses are like http://127.0.0.1:3460"},
		{"-group g -group-at http://a,http://b", "-group-at: names 2 servers, -read 1"},
	} {
		err := run(t.Context(), append([]string{"-ops=", "-drains", drains}, strings.Fields(tc.args)...), io.Discard, io.Discard)
		if err == nil || !strings.HasPrefix(err.Error(), tc.says) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", tc.args, err)
		}
	}
}
