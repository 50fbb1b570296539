package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/follow"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport"
)

const daemonHelp = `Usage: loggregator-agent daemon CONFIG

Collects logs on this machine, as the file says, and brings them to servers:
files, sockets of containers, syslog, Logplex's HTTP, dropsonde, the v2 API over gRPC, and what agents
and programs send natively. "loggregator-agent check CONFIG" says what it would
collect, "loggregator-agent example" prints a file that shows everything it can
be told. One to begin with:

  state: /var/lib/loggregator-agent
  files:
    - paths: /var/log/{app}/*.log

INT and TERM stop it: what is there is read, and handed over for up to the file's
grace. HUP reads the file again. USR1 writes all goroutines to standard output.
Started by systemd, it tells it when it collects and that it lives, and uses the
sockets that it has opened at the addresses of the file.
`

// runDaemon is the command daemon.
func runDaemon(args []string, std stdio) error {
	path, err := configPath("daemon", daemonHelp, args, std)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from then on a signal has its default effect
	defer stop()
	daemon.DumpOnSignal(context.Background(), std.out) // while it stops, too
	return collect(ctx, path, daemon.Reloads(ctx), std.out, std.err)
}

// configPath is the one argument of a command: the file, with -config before it
// or not.
func configPath(command, help string, args []string, std stdio) (path string, err error) {
	fs := flag.NewFlagSet(name+" "+command, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are told below, in one line
	fs.Usage = func() { io.WriteString(fs.Output(), help) }
	fs.StringVar(&path, "config", os.Getenv(daemon.EnvPrefix+"_CONFIG"), "")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			io.WriteString(std.out, help)
			return "", err
		}
		return "", usage(err)
	}
	switch {
	case fs.NArg() == 1:
		path = fs.Arg(0)
	case fs.NArg() > 1:
		return "", usage(fmt.Errorf("one file is wanted; %q is too much", fs.Arg(1)))
	case path == "":
		return "", usage(fmt.Errorf("which file? %s %s CONFIG; %[1]s %[2]s -help shows one", name, command))
	}
	return path, nil
}

// collector is the daemon under way.
type collector struct {
	config *config
	level  *daemon.LogFlags
	log    *slog.Logger
	router *loggregator.Router
	link   link
	began  time.Time
	pulses daemon.Pulses

	mu       sync.Mutex
	parts    []*part
	follower *follow.Follower // nil without files
	running  sync.WaitGroup
	failed   chan error // a part that ended by itself
}

// releaseEvery is how often memory is given back that servers have acknowledged.
const releaseEvery = time.Second

// collect collects until ctx ends.
func collect(ctx context.Context, path string, reload <-chan struct{}, stdout, stderr io.Writer) error {
	c, err := loadConfig(path)
	if err != nil {
		return err
	}
	level := c.Log.flags()
	log, err := level.Logger(stderr)
	if err != nil {
		return err
	}
	unlock, err := prepareState(c.State)
	if err != nil {
		return err
	}
	defer unlock()
	router, err := loggregator.Open(&loggregator.Options{Budget: int64(c.Memory), MaxAge: keep, Dir: c.Dir})
	if err != nil {
		return fmt.Errorf("memory_dir: %w", err)
	}
	defer router.Close()
	current, err := transport.TLSFiles{CA: c.TLS.CA, Cert: c.TLS.Cert, Key: c.TLS.Key, Logger: log}.Client()
	if err != nil {
		return err
	}
	link, err := newLink(strings.Join(c.Servers, ","), router, &transport.LinkOptions{CurrentTLS: current, Resume: router.Begin(), Logger: log})
	if err != nil {
		return err
	}
	defer link.Close()
	d := &collector{config: c, level: level, log: log, router: router, link: link, began: time.Now(), failed: make(chan error, 1)}
	d.pulses.Add("rings", func() { router.Stats() })
	d.pulses.Add("link", func() { link.Stats() })
	defer d.stop(context.WithoutCancel(ctx), d.sections())
	if err := d.start(c, d.sections()); err != nil {
		return err
	}
	operators, err := d.operate()
	if err != nil {
		return err
	}
	defer operators.Close()
	if err := daemon.Unclaimed(); err != nil {
		return err
	}
	d.announce(stdout)
	go daemon.Watchdog(ctx, d.pulses.Check)
	daemon.Notify("READY=1", "STATUS=collecting")

	var broken error
	release := time.NewTicker(releaseEvery)
	defer release.Stop()
	for broken == nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case broken = <-d.failed:
		case <-release.C:
			router.Release(link.Acked())
		case <-reload:
			daemon.NotifyReloading()
			d.reload(path, stdout)
			daemon.Notify("READY=1")
		}
	}
	daemon.Notify("STOPPING=1", "STATUS=stopping")
	fmt.Fprintf(stdout, "Stopping: what is there is handed over, for at most %v.\n", c.Grace.std())
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Grace.std())
	defer cancel()
	return errors.Join(broken, d.finish(grace, stdout))
}

// prepareState makes the directory and keeps other agents out of it.
func prepareState(dir string) (unlock func(), err error) {
	if dir == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	return lock(filepath.Join(dir, "lock"))
}

// sections are the keys of the config that can change while the daemon runs.
func (d *collector) sections() []string {
	return []string{"native", "syslog", "logplex", "dropsonde", "grpc", "sockets", "files"}
}

// start starts the parts of these sections. An error leaves those running that
// could be started.
func (d *collector) start(c *config, sections []string) error {
	var errs []error
	add := func(p *part, err error) {
		if err != nil {
			errs = append(errs, err)
			if p != nil {
				p.stop(context.Background())
			}
			return
		}
		d.mu.Lock()
		d.parts = append(d.parts, p)
		d.mu.Unlock()
		d.running.Go(func() {
			if err := ended(p.run()); err != nil {
				select {
				case d.failed <- fmt.Errorf("%s %s: %w", p.section, p.name, err):
				default:
				}
			}
		})
	}
	wants := func(section string) bool { return slices.Contains(sections, section) }
	if wants("native") {
		for _, n := range c.Native {
			add(c.native(n, d.router, d.log))
		}
	}
	if wants("syslog") {
		for _, s := range c.Syslog {
			add(c.syslog(s, d.router, d.log))
		}
	}
	if wants("logplex") {
		for _, l := range c.Logplex {
			add(c.logplex(l, d.router, d.log))
		}
	}
	if wants("dropsonde") {
		for _, e := range c.Dropsonde {
			add(c.dropsonde(e, d.router, d.log))
		}
	}
	if wants("grpc") {
		for _, g := range c.GRPC {
			add(c.grpc(g, d.router, d.log))
		}
	}
	if wants("sockets") {
		for i := range c.Sockets {
			add(c.sockets(&c.Sockets[i], d.router, d.log), nil)
		}
	}
	if wants("files") && (len(c.Files) > 0 || d.follower != nil) && c.State != "" {
		p, f, err := c.files(d.router, follow.Options{Mark: d.mark, Hold: d.hold, From: d.follower}, d.log)
		if err == nil {
			d.mu.Lock()
			d.follower = f
			d.mu.Unlock()
		}
		add(p, err)
	}
	return errors.Join(errs...)
}

// stop stops the parts of these sections.
func (d *collector) stop(ctx context.Context, sections []string) error {
	d.mu.Lock()
	var going []*part
	d.parts = slices.DeleteFunc(d.parts, func(p *part) bool {
		if slices.Contains(sections, p.section) {
			going = append(going, p)
			return true
		}
		return false
	})
	d.mu.Unlock()
	errs := make([]error, len(going))
	var stopping sync.WaitGroup
	for i, p := range going {
		stopping.Go(func() { errs[i] = p.stop(ctx) })
	}
	stopping.Wait()
	return errors.Join(errs...)
}

// mark tells when everything that the router holds now has been acknowledged.
func (d *collector) mark() func() bool {
	end := d.router.End()
	return func() bool { return d.acknowledged(end) }
}

// acknowledged reports whether servers have acknowledged everything before end
// that the router still holds.
func (d *collector) acknowledged(end envelope.Cursor) bool {
	acked := d.link.Acked()
	var held envelope.Cursor
	for ring, position := range end.Rings {
		if acked.Rings[ring] >= position {
			continue
		}
		if held.Rings == nil {
			held = d.router.End()
		}
		if _, ok := held.Rings[ring]; ok {
			return false
		}
	}
	return true
}

// hold reports whether half of the memory is taken by what servers have not
// acknowledged. Then files wait, and the other half is for what cannot.
func (d *collector) hold() bool {
	if s := d.router.Stats(); s.Used < s.Budget/2 {
		return false
	}
	d.router.Release(d.link.Acked())
	s := d.router.Stats()
	return s.Used >= s.Budget/2 && !d.acknowledged(d.router.End())
}

// reload reads the file again and starts anew what has changed in it.
func (d *collector) reload(path string, stdout io.Writer) {
	c, err := loadConfig(path)
	if err != nil {
		fmt.Fprintf(stdout, "Reload: nothing is changed, because of what is wrong in the file:\n%v\n", err)
		return
	}
	var changed, fixed []string
	for _, key := range c.changed(d.config) {
		switch {
		case slices.Contains(d.sections(), key):
			changed = append(changed, key)
		case key == "tags":
			changed = append(changed, "files", "sockets", "syslog", "logplex")
		case key == "poll" || key == "poll_only" || key == "max_open_files":
			changed = append(changed, "files")
		case key == "log" && c.Log.Format == d.config.Log.Format:
			d.level.SetLevel(cmp.Or(c.Log.Level, "info"))
			fmt.Fprintln(stdout, "Reload: log has another level.")
		case key != "insecure":
			fixed = append(fixed, key)
		}
	}
	slices.Sort(changed)
	changed = slices.Compact(changed)
	if len(fixed) > 0 {
		fmt.Fprintf(stdout, "Reload: %s changed, which takes a restart.\n", strings.Join(fixed, ", "))
		was := d.config
		c.Servers, c.TLS, c.Memory, c.Dir, c.State, c.Ops, c.Log.Format, c.Grace = was.Servers, was.TLS, was.Memory, was.Dir, was.State, was.Ops, was.Log.Format, was.Grace
	}
	if len(changed) == 0 {
		fmt.Fprintln(stdout, "Reload: nothing that is collected has changed.")
	} else {
		ctx, cancel := context.WithTimeout(context.Background(), d.config.Grace.std())
		defer cancel()
		err := d.stop(ctx, changed)
		err = errors.Join(err, d.start(c, changed))
		fmt.Fprintf(stdout, "Reload: started anew, as they have changed: %s.\n", strings.Join(changed, ", "))
		if err != nil {
			fmt.Fprintf(stdout, "Reload: not everything is collected: %v\n", err)
		}
	}
	d.mu.Lock()
	d.config = c
	d.mu.Unlock()
}

// finish stops collecting, hands over what is left, and says what was not.
func (d *collector) finish(ctx context.Context, stdout io.Writer) error {
	err := d.stop(ctx, d.sections())
	d.running.Wait()
	left, linkErr := d.link.Shutdown(ctx)
	if d.follower != nil && left == 0 && linkErr == nil {
		err = errors.Join(err, d.follower.Save())
	}
	s, l := d.router.Stats(), d.link.Stats()
	fmt.Fprintf(stdout, "Stopped after %v. Took in %d records, refused %d; servers have acknowledged %d; %d were given up before they could be sent.\n",
		time.Since(d.began).Round(time.Second), s.Accepted, s.Malformed+s.TooLarge+s.BadSourceID+s.MixedSource+s.NoRoom, l.Acked, l.Missed)
	if left > 0 {
		why := l.LastError
		if why == "" && linkErr != nil {
			why = linkErr.Error()
		}
		then := "Those of files are read again at the next start; others are lost."
		if d.config.Dir != "" {
			then = "They are kept, and sent at the next start."
		}
		fmt.Fprintf(stdout, "%d records were not delivered: %s. %s\n", left, why, then)
		return errors.Join(err, &daemon.Exit{Code: 1})
	}
	return err
}

func (d *collector) announce(out io.Writer) {
	fmt.Fprintf(out, "Collecting, and sending to %s. Ctrl-C stops it.\n", strings.Join(d.config.Servers, ", "))
	for i := range d.config.Files {
		f := &d.config.Files[i]
		for _, p := range f.Paths {
			fmt.Fprintf(out, "  %-10s %s\n", f.Name, p)
		}
	}
	for i := range d.config.Sockets {
		s := &d.config.Sockets[i]
		for _, p := range s.Dirs {
			fmt.Fprintf(out, "  %-10s %s\n", s.Name, p)
		}
		if s.Instances != "" {
			fmt.Fprintf(out, "  %-10s %s\n", s.Name, s.Instances)
		}
	}
	for _, n := range d.config.Native {
		fmt.Fprintf(out, "  %-10s %s\n", "native", n.Listen)
	}
	for _, s := range d.config.Syslog {
		fmt.Fprintf(out, "  %-10s %s\n", s.Name, s.Listen)
	}
	for _, l := range d.config.Logplex {
		fmt.Fprintf(out, "  %-10s %s\n", l.Name, l.Listen)
	}
	for _, g := range d.config.GRPC {
		fmt.Fprintf(out, "  %-10s %s\n", "grpc", g.Listen)
	}
	for _, e := range d.config.Dropsonde {
		fmt.Fprintf(out, "  %-10s %s\n", "dropsonde", e.Listen)
	}
	if d.config.Ops != "" {
		fmt.Fprintf(out, "  %-10s http://%s   /metrics /healthz /readyz /debug/pprof\n", "operate", d.config.Ops)
	}
}

// operate serves the operators' port, if there is one.
func (d *collector) operate() (*http.Server, error) {
	server := daemon.HTTPServer(ops.Handler(d.figures, d.ready, d.pulses.Check), d.log)
	if d.config.Ops == "" {
		return server, nil
	}
	ln, err := net.Listen("tcp", d.config.Ops)
	if err != nil {
		return nil, fmt.Errorf("ops: %w", err)
	}
	go server.Serve(ln) // until the server is closed
	return server, nil
}

// ready says nil while a server is connected.
func (d *collector) ready() error {
	if s := d.link.Stats(); !s.Connected {
		return fmt.Errorf("no server is connected: %s", s.LastError)
	}
	return nil
}

func (d *collector) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: "agent_" + name, Help: help, Value: value, Labels: labels})
	}
	ready := 0.0
	if d.ready() == nil {
		ready = 1
	}
	add(ops.Metric{Name: "ready", Help: "1 while /readyz says that the daemon can do its work.", Value: ready})
	r, l := d.router.Stats(), d.link.Stats()
	const in = "Records that arrived at the rings, by what became of them."
	for outcome, n := range map[string]uint64{
		"accepted": r.Accepted, "repeated": r.Repeated, "malformed": r.Malformed, "too_large": r.TooLarge,
		"bad_source_id": r.BadSourceID, "mixed_source": r.MixedSource, "no_room": r.NoRoom,
	} {
		figure("records_in_total", in, float64(n), "outcome", outcome)
	}
	figure("records_acknowledged_total", "Records that servers have acknowledged.", float64(l.Acked))
	for why, n := range l.MissedFor {
		if n > 0 {
			figure("records_missed_total", "Records given up before they could be sent, by reason.", float64(n), "reason", envelope.Reason(why).String())
		}
	}
	for why, n := range r.LostFor {
		if n > 0 {
			figure("records_lost_total", "Records lost before they arrived, as their senders or their numbers tell, by reason.", float64(n), "reason", envelope.Reason(why).String())
		}
	}
	figure("records_held", "Records in memory.", float64(r.Held))
	figure("budget_bytes", "Memory for records.", float64(r.Budget))
	figure("budget_used_bytes", "Memory that records take.", float64(r.Used))
	figure("sources", "Sources that have records in memory.", float64(r.Sources))
	for _, s := range d.link.Servers() {
		connected := 0.0
		if s.Connected {
			connected = 1
		}
		figure("server_connected", "Whether a server is connected.", connected, "server", s.Address)
	}
	d.mu.Lock()
	parts := slices.Clone(d.parts)
	d.mu.Unlock()
	for _, p := range parts {
		p.figures(add)
	}
}
