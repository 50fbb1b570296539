package rooms

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
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// Process is a daemon: its flags, and the parts that it has. It is used by one
// goroutine, up to Run.
type Process struct {
	Flags *flag.FlagSet
	Log   *slog.Logger // set when parts are opened

	name      string
	insecure  bool
	version   bool
	grace     time.Duration
	graceNow  atomic.Int64 // as the last reload says
	log       daemon.LogFlags
	operators *door

	checks []func() error
	live   map[string]func(value string) error // flags that a reload can change

	certificates, follows map[string]bool // flags of files, see sums
	seen                  sums

	// What opened parts have said.
	listeners []io.Closer
	serving   []func() error
	stops     []*ending
	figures   []func(add func(ops.Metric))
	ready     []func() error
	pulses    daemon.Pulses
	pages     map[string]http.Handler
	lines     []string
	reports   []func(out io.Writer)
	reloads   []func() string

	stopping atomic.Bool
}

// phase is when something ends: in the direction of flow, so that what has been
// taken in comes out.
type phase int

const (
	phaseIn phase = iota
	phaseDrains
	phaseRings
	phaseOut
	phaseLast // what the others read from
)

// ending is how a part ends.
type ending struct {
	phase phase
	name  string
	stop  func(ctx context.Context) error // gracefully until ctx ends, and then at once
	left  func() string                   // what is unfinished; empty: nothing
}

// New makes a Process with the flags that every daemon has. about begins the text
// of -help; ops is the default of -ops, which is another one for each daemon, so
// that all can run on one machine.
func New(name, about, ops string) *Process {
	p := &Process{
		name:  name,
		Flags: flag.NewFlagSet(name, flag.ContinueOnError),
		Log:   slog.New(slog.DiscardHandler),
		live:  make(map[string]func(string) error),

		certificates: make(map[string]bool),
		follows:      make(map[string]bool),
		pages:        make(map[string]http.Handler),
	}
	fs := p.Flags
	fs.Usage = daemon.Usage(fs, about+`
  `+name+` config check        say what is wrong with flags, environment and -config, and end
  `+name+` config show         the same, and print what is in effect, without secrets
`)
	p.operators = p.door("ops", ops, "for operators: /metrics /healthz /readyz /debug/pprof")
	p.operators.strict = true
	fs.DurationVar(&p.grace, "grace", 10*time.Second, "how long a stop waits for readers and drains to finish")
	fs.BoolVar(&p.insecure, "insecure", false, "allow unprotected addresses that other machines can reach")
	fs.BoolVar(&p.version, "version", false, "print the version and end")
	p.log.Register(fs)
	p.live["log-level"] = p.log.SetLevel
	p.live["grace"] = func(value string) error {
		d, err := time.ParseDuration(value)
		p.graceNow.Store(int64(d))
		return err
	}
	return p
}

// Run parses args, has open open the parts, and runs them until ctx ends or one
// of them fails. Then it stops them, within -grace.
func (p *Process) Run(ctx context.Context, args []string, stdout, stderr io.Writer, open func() error) error {
	action, args := action(args)
	p.Flags.SetOutput(stdout)
	if err := p.configure(args, stderr); err != nil {
		return err
	}
	switch {
	case p.version:
		fmt.Fprintln(stdout, daemon.Version(p.name))
		return nil
	case action == "show":
		daemon.Show(stdout, p.Flags)
		return nil
	case action == "check":
		fmt.Fprintf(stdout, "%s: the configuration is in order.\n", p.name)
		return nil
	}
	reload := daemon.Reloads(ctx)
	p.Log.Info("starting, with what is not the default", daemon.Given(p.Flags)...)
	err := open()
	if err == nil {
		err = daemon.Unclaimed()
	}
	operators, opsErr := p.operate()
	if err = errors.Join(err, opsErr); err != nil {
		now, cancel := context.WithCancel(ctx)
		cancel()
		p.stop(now)
		p.closeListeners()
		return err
	}
	serving, failed := errgroup.WithContext(ctx)
	for _, serve := range p.serving {
		serving.Go(serve)
	}
	go daemon.Watchdog(failed, p.healthy)
	lines := slices.Concat([]string{title(p.name) + " is running. Ctrl-C stops it."}, p.lines, []string{""})
	io.WriteString(stdout, strings.Join(lines, "\n")) // at once: who waits for the first has them all
	p.seen = p.sums()
	daemon.Notify("READY=1", "STATUS=running")

	for failed.Err() == nil {
		select {
		case <-failed.Done(): // a signal, or a part that broke
		case <-reload:
			p.reload(args, stdout)
		}
	}
	grace := time.Duration(p.graceNow.Load())
	p.stopping.Store(true)
	daemon.Notify("STOPPING=1", "STATUS=stopping")
	fmt.Fprintf(stdout, "Stopping: no more input; readers and drains have %v to finish.\n", grace)
	left, stopErr := p.stopWithin(context.WithoutCancel(ctx), grace)
	for _, report := range p.reports {
		report(stdout)
	}
	if left != nil {
		fmt.Fprintf(stdout, "Left when the %v were over: %s.\n", grace, strings.Join(left, "; "))
		stopErr = fmt.Errorf("cut off after %v: %s", grace, strings.Join(left, "; "))
	}
	operators.Close()
	p.closeListeners()
	return errors.Join(serving.Wait(), stopErr)
}

// closeListeners closes those that no server has closed.
func (p *Process) closeListeners() {
	for _, ln := range p.listeners {
		ln.Close()
	}
}

// action is "check" or "show" if the command is config, which may stand before
// its flags.
func action(args []string) (action string, rest []string) {
	if len(args) >= 2 && args[0] == "config" && (args[1] == "check" || args[1] == "show") {
		return args[1], args[2:]
	}
	return "", args
}

// title is a command's name as a sentence begins.
func title(name string) string { return strings.ToUpper(name[:1]) + name[1:] }

// configure reads the flags and says everything that is wrong with them.
func (p *Process) configure(args []string, stderr io.Writer) error {
	if err := daemon.Parse(p.Flags, args, everyFlag()...); err != nil {
		return err
	}
	if p.version {
		return nil
	}
	var errs []error
	if p.Flags.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q; see -help", p.Flags.Arg(0)))
	}
	var err error
	if p.Log, err = p.log.Logger(stderr); err != nil {
		errs = append(errs, err)
	}
	if p.grace < 0 {
		errs = append(errs, errors.New("-grace: must not be negative"))
	}
	p.graceNow.Store(int64(p.grace))
	for _, check := range p.checks {
		errs = append(errs, check())
	}
	if err := errors.Join(errs...); err != nil {
		return &daemon.Exit{Code: daemon.StatusUsage, Err: err}
	}
	return nil
}

// everyFlag names the flags of all daemons, which may share a config file.
func everyFlag() (names []string) {
	p := New("all", "", "")
	NewRings(p)
	NewIngest(p)
	a := NewAccess(p)
	NewGRPC(p, "", a)
	NewPeople(p, a)
	NewCompat(p)
	NewEgress(p)
	NewShare(p)
	NewGroup(p, NewRemote(p))
	NewTeller(p)
	NewDrains(p, "")
	p.Flags.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
	return names
}

// reload reads everything again and says what has changed.
func (p *Process) reload(args []string, stdout io.Writer) {
	daemon.NotifyReloading()
	defer daemon.Notify("READY=1")
	changes, err := daemon.Changes(p.Flags, args, everyFlag()...)
	if err != nil {
		fmt.Fprintf(stdout, "Reload: flags stay as they are: %s\n", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	said := false
	say := func(format string, a ...any) {
		said = true
		fmt.Fprintf(stdout, "Reload: "+format+"\n", a...)
	}
	for _, c := range changes {
		name := c.Flag.Name
		set, ok := p.live[name]
		if !ok {
			say("%s is %q in place of %q, which takes a restart", name, c.Now, c.Was)
			continue
		}
		if err := set(c.Value); err != nil {
			say("%s stays %q: %v", name, c.Was, err)
			continue
		}
		p.Flags.Set(name, c.Value)
		say("%s is %q in place of %q", name, c.Now, c.Was)
	}
	p.filesChanged(say)
	for _, again := range p.reloads {
		if what := again(); what != "" {
			say("%s", what)
		}
	}
	if !said && err == nil {
		fmt.Fprintln(stdout, "Reload: nothing has changed.")
	}
}

// stopWithin stops everything, and cuts off what takes longer than grace: left is
// what that was.
func (p *Process) stopWithin(ctx context.Context, grace time.Duration) (left []string, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	over := make(chan struct{})
	timer := time.AfterFunc(grace, func() {
		defer close(over)
		for _, e := range p.stops {
			if e.left == nil {
				continue
			}
			if what := e.left(); what != "" {
				left = append(left, what)
			}
		}
		cancel()
	})
	err = p.stop(ctx)
	if !timer.Stop() {
		<-over
	}
	if left != nil {
		err = nil // it says the same
	}
	return left, err
}

func (p *Process) stop(ctx context.Context) error {
	slices.SortStableFunc(p.stops, func(a, b *ending) int { return cmp.Compare(a.phase, b.phase) })
	var errs []error
	for _, e := range p.stops {
		if err := e.stop(ctx); err != nil {
			errs = append(errs, fmt.Errorf("stopping %s: %w", e.name, err))
		}
	}
	return errors.Join(errs...)
}

// onStop says how a part ends.
func (p *Process) onStop(when phase, name string, stop func(ctx context.Context) error, left func() string) {
	p.stops = append(p.stops, &ending{when, name, stop, left})
}

// serve has run run, until it returns; ended are the errors that say that it was
// told to.
func (p *Process) serve(run func() error, ended ...error) {
	p.serving = append(p.serving, func() error {
		err := run()
		for _, told := range ended {
			if errors.Is(err, told) {
				return nil
			}
		}
		return err
	})
}

// say adds a line to what is printed at the start.
func (p *Process) say(what, format string, a ...any) {
	p.lines = append(p.lines, fmt.Sprintf("  %-8s %s", what, fmt.Sprintf(format, a...)))
}

// listen is daemon.Listen for a listener of this process.
func (p *Process) listen(d *door) (net.Listener, error) {
	ln, err := daemon.Listen(d.name, "tcp", d.addr, p.insecure || d.protected())
	if ln != nil {
		p.listeners = append(p.listeners, ln)
	}
	return ln, err
}

func (p *Process) listenPacket(name, addr string) (net.PacketConn, error) {
	pc, err := daemon.ListenPacket(name, addr, p.insecure)
	if pc != nil {
		p.listeners = append(p.listeners, pc)
	}
	return pc, err
}
