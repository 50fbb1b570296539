//go:build linux

package walkthrough

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/cluster"
	"github.com/cloudfoundry/loggregator/internal/receiver"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

// chaosEnv is how long TestChaos lasts, and chaosSeed what happens in it.
const (
	chaosEnv  = "LOGGREGATOR_CHAOS"
	chaosSeed = "LOGGREGATOR_CHAOS_SEED"
)

// source emits numbered lines of some apps through one agent, like programs whose
// agent's own ring is large enough for everything.
type source struct {
	router  *loggregator.Router
	link    *transport.Link
	apps    []*emitter.Emitter
	names   []string
	emitted []int // by app
}

func newSource(t testing.TB, agent string, names []string, space func(app string) string) *source {
	s := &source{router: loggregator.New(&loggregator.Options{Budget: 256 << 20}), names: names, emitted: make([]int, len(names))}
	var err error
	if s.link, err = transport.NewLink(agent, s.router, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.link.Close(); s.router.Close() })
	for _, name := range names {
		s.apps = append(s.apps, emitter.New(s.router, envelope.Identity{SourceID: guid(name), InstanceID: "0", Tags: map[string]string{
			envelope.TagAppName: name, envelope.TagAppID: guid(name), envelope.TagSpaceName: space(name), envelope.TagSpaceID: guid(space(name)),
			envelope.TagOrgName: "acme", envelope.TagOrgID: guid("acme"), envelope.TagSourceType: "APP/PROC/WEB",
		}}, nil))
	}
	return s
}

var padding = strings.Repeat("x", 170)

// emit has each app say n lines.
func (s *source) emit(n int) {
	for i, app := range s.apps {
		for range n {
			app.Log(envelope.Out, fmt.Sprintf("line %d %s", s.emitted[i], padding))
			s.emitted[i]++
		}
	}
}

// reader follows a space through any sink, and goes on where it was when one goes.
type reader struct {
	name string

	mu     sync.Mutex
	seen   map[string]int // by app
	next   map[string]int
	missed map[string]int // by reason
	wrong  string
	joined int // times it was let in
}

func (r *reader) run(ctx context.Context, sinks []*httpclient.Client, space string) {
	var cursor envelope.Cursor
	for i := 0; ctx.Err() == nil; i++ {
		params := url.Values{"space": {space}, "wait": {"true"}, "order": {"source"}}
		if !cursor.IsZero() {
			params.Set("cursor", cursor.String())
		} else {
			params.Set("since", "1h")
		}
		sinks[i%len(sinks)].Stream(ctx, "tail", params, func() { r.mu.Lock(); r.joined++; r.mu.Unlock() }, func(b envelope.Batch) error {
			cursor.Advance(b)
			r.add(b)
			return nil
		})
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (r *reader) add(b envelope.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b.Missed > 0 {
		r.missed["told by the server: "+b.Reason.String()] += int(b.Missed)
	}
	for e := range b.All() {
		route, err := e.Route()
		if err != nil {
			r.wrong = err.Error()
			return
		}
		if n, why, ok := e.Missed(); ok {
			r.missed["told by the app's log: "+why] += int(n)
			continue
		}
		app := string(route.SourceID)
		var n int
		if _, err := fmt.Sscanf(string(e.Payload()), "line %d ", &n); err != nil {
			continue // what is told of servers that are away
		}
		if n < r.next[app] && r.wrong == "" {
			r.wrong = fmt.Sprintf("%s: line %d where %d was due", app, n, r.next[app])
		}
		r.next[app] = n + 1
		r.seen[app]++
	}
}

func (r *reader) account() (seen, missed int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, n := range r.seen {
		seen += n
	}
	for _, n := range r.missed {
		missed += n
	}
	return seen, missed
}

// catcher is what a drain delivers: each line once or more, and how many it says
// are lost.
type catcher struct {
	*receiver.Receiver
	mu      sync.Mutex
	lines   map[string]map[int]bool
	again   int
	gaps    map[string]bool // what tells of loss, to know it when it comes again
	told    int
	unknown int
}

// What is lost before the drain is told in the application's stream, and what the
// drain misses in an element of its message.
var missingHere = regexp.MustCompile(`^(\d+) lines? (?:is|are) missing here`)

func newCatcher(t *testing.T) *catcher {
	c := &catcher{lines: make(map[string]map[int]bool), gaps: make(map[string]bool)}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.Receiver, err = receiver.New(ln, &receiver.Options{Report: c.take})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func (c *catcher) take(m receiver.Message) {
	if m.Parsed == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	app := ""
	if m.Parsed.Appname != nil {
		app = *m.Parsed.Appname
	}
	missed := ""
	if m.Parsed.StructuredData != nil {
		missed = (*m.Parsed.StructuredData)["gap@47450"]["missed"]
	}
	if found := missingHere.FindStringSubmatch(m.Line()); found != nil {
		missed = found[1]
	}
	if missed != "" {
		if again := c.gaps[string(m.Text)]; again {
			return
		}
		c.gaps[string(m.Text)] = true
		if k, err := strconv.Atoi(missed); err == nil {
			c.told += k
		} else {
			c.unknown++
		}
		return
	}
	var n int
	if _, err := fmt.Sscanf(m.Line(), "line %d ", &n); err != nil {
		return
	}
	if c.lines[app] == nil {
		c.lines[app] = make(map[int]bool)
	}
	if c.lines[app][n] {
		c.again++
	}
	c.lines[app][n] = true
}

func (c *catcher) account() (seen, told int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, l := range c.lines {
		seen += len(l)
	}
	return seen, c.told
}

// TestChaos has daemons killed, stopped, started anew and cut off while 500 apps
// log 20,000 lines a second. In the end every reader's account balances, nobody
// has seen another's app, and no process has grown beyond its bounds.
//
// What the drain delivered just before it was killed, and had not noted yet, its
// successor may tell as missed if the server that held it has gone as well. So of the
// drain no line is untold, and some may be told that came.
func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a minute")
	}
	lasts, err := time.ParseDuration(os.Getenv(chaosEnv))
	if err != nil {
		lasts = 15 * time.Second
	}
	seed, err := strconv.ParseUint(os.Getenv(chaosSeed), 10, 64)
	if err != nil {
		seed = rand.Uint64()
	}
	t.Logf("%s=%v %s=%d", chaosEnv, lasts, chaosSeed, seed)
	rng := rand.New(rand.NewPCG(seed, 0))

	// 500 apps, in two spaces of different people.
	const apps, rate = 500, 20_000
	spaces := map[string][]string{"dev": nil, "prod": nil}
	var names []string
	for i := range apps {
		name := fmt.Sprintf("app-%03d", i)
		names = append(names, name)
		space := []string{"dev", "prod"}[i%2]
		spaces[space] = append(spaces[space], name)
	}
	space := func(app string) string {
		if slices.Contains(spaces["dev"], app) {
			return "dev"
		}
		return "prod"
	}
	people := map[string][]string{"dev": {"ann"}, "prod": {"bob"}}

	w := newWorld(t)
	every := newCatcher(t)
	drains := filepath.Join(w.dir, "drains.json")
	if err := os.WriteFile(drains, fmt.Appendf(nil, `{"drains":[{"url":%q}]}`, every.URL()), 0o600); err != nil {
		t.Fatal(err)
	}
	var wires []*wire
	c := startCluster(t, &cluster.Options{Bin: w.bin, Dir: w.dir, Drains: drains, World: writeWorld(t, w.dir, spaces, people),
		Via: func(_, addr string) string {
			wire := newWire(t, addr)
			wires = append(wires, wire)
			return wire.ln.Addr().String()
		},
		Flags: map[string][]string{"server": {"-budget", "128MiB", "-new-sources", "-1"}},
	})

	// Who reads.
	ctx, cancel := context.WithCancel(t.Context())
	var reading sync.WaitGroup
	readers := make(map[string]*reader)
	for space, users := range people {
		var sinks []*httpclient.Client
		for _, url := range c.People {
			client, err := httpclient.New(url, &httpclient.Options{Header: http.Header{"Authorization": {"bearer " + token(t, c, users[0])}}})
			if err != nil {
				t.Fatal(err)
			}
			sinks = append(sinks, client)
		}
		r := &reader{name: users[0], seen: make(map[string]int), next: make(map[string]int), missed: make(map[string]int)}
		readers[space] = r
		reading.Go(func() { r.run(ctx, sinks, space) })
	}
	defer reading.Wait()
	defer cancel()

	// Who logs.
	sources := []*source{newSource(t, c.Programs[0], names[:apps/2], space), newSource(t, c.Programs[1], names[apps/2:], space)}
	// Everybody has read before anything is lost: what went before that is nobody's.
	for _, s := range sources {
		s.emit(1)
	}
	until(t, 30*time.Second, "first line of each app", func() bool {
		seen, _ := every.account()
		for _, r := range readers {
			n, _ := r.account()
			seen += n
		}
		return seen == 2*apps
	})
	stop := make(chan struct{})
	var logging sync.WaitGroup
	for _, s := range sources {
		logging.Go(func() {
			const every = 100 * time.Millisecond
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
					s.emit(rate / apps * int(every) / int(time.Second))
				case <-stop:
					return
				}
			}
		})
	}

	// What befalls them.
	done := make(map[string]int)
	began := time.Now()
	peak := make(map[string]int)
	daemons := c.All()[1:]
	for end := time.Now().Add(lasts); time.Now().Before(end); {
		d := daemons[rng.IntN(len(daemons))]
		what := []string{"killed", "stopped", "hung", "cut", "slow"}[rng.IntN(5)]
		pause := time.Duration(rng.IntN(1500)) * time.Millisecond
		if what == "cut" || what == "slow" {
			t.Logf("%v %s for %v", time.Since(began).Round(time.Millisecond), what, pause)
		} else {
			t.Logf("%v %s %s for %v", time.Since(began).Round(time.Millisecond), d.Name, what, pause)
		}
		done[what]++
		for _, d := range daemons {
			peak[d.Name] = max(peak[d.Name], resident(d))
		}
		switch what {
		case "killed", "stopped":
			s := map[string]os.Signal{"killed": syscall.SIGKILL, "stopped": syscall.SIGTERM}[what]
			if code, err := d.Stop(s, 30*time.Second); err != nil || what == "stopped" && code > 1 {
				t.Errorf("%s ended with status %d, %v", d.Name, code, err)
			}
			time.Sleep(pause)
			if err := d.Start(); err != nil {
				t.Fatal(err)
			}
			// A signal that comes before it listens to signals would end it.
			until(t, 30*time.Second, d.Name, func() bool { _, status := d.Get("/healthz"); return status == http.StatusOK })
		case "hung":
			d.Signal(syscall.SIGSTOP)
			time.Sleep(pause)
			d.Signal(syscall.SIGCONT)
		case "cut":
			wires[rng.IntN(len(wires))].cut(pause)
		case "slow":
			w := wires[rng.IntN(len(wires))]
			w.delay(50 * time.Millisecond)
			time.Sleep(pause)
			w.delay(0)
		}
		time.Sleep(time.Duration(rng.IntN(500)) * time.Millisecond)
	}
	close(stop)
	logging.Wait()

	// All is well again. A last line of each app reveals what was lost before it.
	for _, d := range daemons {
		until(t, 30*time.Second, d.Name+" that is ready", func() bool { _, status := d.Get("/readyz"); return status == http.StatusOK })
	}
	flush := func() {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
		defer cancel()
		for _, s := range sources {
			if err := s.link.Flush(ctx); err != nil {
				t.Fatalf("%v: %+v", err, s.link.Stats())
			}
		}
	}
	flush()
	for _, s := range sources {
		s.emit(1)
	}
	flush()
	emitted := map[string]int{}
	total := 0
	for _, s := range sources {
		if st := s.router.Stats(); st.Missed > 0 {
			t.Errorf("the programs' own rings were too small: %+v", st)
		}
		for i, name := range s.names {
			emitted[space(name)] += s.emitted[i]
			total += s.emitted[i]
		}
	}
	for space, r := range readers {
		whole := func() bool { seen, missed := r.account(); return seen+missed >= emitted[space] }
		for end := time.Now().Add(60 * time.Second); !whole() && time.Now().Before(end); {
			time.Sleep(20 * time.Millisecond)
		}
		seen, missed := r.account()
		t.Logf("%s, let in %d times: %d seen + %d told as missed of %d; %v", r.name, r.joined, seen, missed, emitted[space], r.missed)
		if seen+missed != emitted[space] {
			t.Errorf("%s: %d seen + %d missed = %d, of %d", r.name, seen, missed, seen+missed, emitted[space])
		}
		r.mu.Lock()
		if r.wrong != "" {
			t.Errorf("%s: %s", r.name, r.wrong)
		}
		for app := range r.seen {
			if !slices.ContainsFunc(spaces[space], func(name string) bool { return guid(name) == app }) {
				t.Errorf("%s saw %s, which is in another's space", r.name, app)
			}
		}
		r.mu.Unlock()
	}
	// A drain tells every 30 s at most.
	whole := func() bool { seen, told := every.account(); return seen+told >= total }
	for end := time.Now().Add(60 * time.Second); !whole() && time.Now().Before(end); {
		time.Sleep(20 * time.Millisecond)
	}
	seen, told := every.account()
	t.Logf("the drain: %d delivered + %d told as missed of %d; %d came again, %d gaps of unknown size", seen, told, total, every.again, every.unknown)
	if seen+told < total || seen > total {
		t.Errorf("the drain: %d delivered + %d told = %d, of %d", seen, told, seen+told, total)
	}
	t.Logf("what befell them: %v", done)

	// Nobody has grown beyond bounds.
	for _, d := range daemons {
		peak[d.Name] = max(peak[d.Name], resident(d))
		if limit := 300 << 20; peak[d.Name] > limit {
			t.Errorf("%s was %d MiB large", d.Name, peak[d.Name]>>20)
		}
	}
	for _, k := range slices.Sorted(maps.Keys(peak)) {
		t.Logf("%s: at most %d MiB resident, %d descriptors, %d goroutines", k, peak[k]>>20, descriptors(find(daemons, k)), goroutines(find(daemons, k)))
	}
	for _, d := range daemons {
		if n := descriptors(d); n > 100 {
			t.Errorf("%s has %d files open", d.Name, n)
		}
		if n := goroutines(d); n > 200 {
			t.Errorf("%s has %d goroutines", d.Name, n)
		}
	}
}

func find(daemons []*cluster.Daemon, name string) *cluster.Daemon {
	return daemons[slices.IndexFunc(daemons, func(d *cluster.Daemon) bool { return d.Name == name })]
}

// resident is the most memory in bytes that the process had so far.
func resident(d *cluster.Daemon) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.Pid()))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	var kb int
	fmt.Sscan(rest, &kb)
	return kb << 10
}

func descriptors(d *cluster.Daemon) int {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", d.Pid()))
	if err != nil {
		return -1
	}
	return len(list)
}

func goroutines(d *cluster.Daemon) int {
	body, _ := d.Get("/debug/pprof/goroutine?debug=1")
	var n int
	if _, err := fmt.Sscanf(body, "goroutine profile: total %d", &n); err != nil {
		return -1
	}
	return n
}
