package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/transport"
)

const runHelp = `Usage: loggregator-agent run [flags] -- COMMAND [ARGUMENTS]
       … | loggregator-agent run [flags] -

Runs COMMAND and sends each line of its standard output as OUT, of its standard
error as ERR. Both are passed through as they are. With "-" it reads standard
input instead, as OUT; if that is a file, no faster than the server takes it.

In a Cloud Foundry application no flag is needed: VCAP_APPLICATION, CF_INSTANCE_INDEX
and CF_INSTANCE_GUID say whose lines these are. Elsewhere --app NAME is enough.

INT, TERM, HUP, QUIT, USR1, USR2, WINCH, CONT and TSTP go to COMMAND. Exit status:
that of COMMAND, 128 and the signal's number if a signal ended it, 127 if there is
no such command, 126 if it cannot be started, 125 for flags that make no sense.
Under systemd set KillMode=mixed, or a stop reaches COMMAND twice.

While the server is away, up to -budget bytes of lines are kept, the newest. At
the end the agent hands over what is left for up to -flush-timeout, for a quarter
of a second only if the server was never there, and says how many lines were not
delivered.
`

// settings are what the flags of run say.
type settings struct {
	identityFlags
	server       string
	tls          transport.TLSFiles
	budget       int64
	flushTimeout time.Duration
	quiet        bool
	verbose      bool
	command      []string
}

func parse(args []string, std stdio) (*settings, error) {
	var s settings
	fs := flag.NewFlagSet(name+" run", flag.ContinueOnError)
	fs.SetOutput(io.Discard) // errors are told below, in one line
	fs.Usage = daemon.Usage(fs, runHelp)
	fs.StringVar(&s.server, "server", "tcp://127.0.0.1:3456", "`addresses` of servers, tcp://, tls:// or unix:///path, or of Loggregator agents and routers of the v2 API, grpc:// or grpcs://HOST:PORT?name=metron, separated by commas")
	fs.StringVar(&s.tls.CA, "tls-ca", "", "PEM `file` with who signs the certificates of tls:// servers (default those the system trusts)")
	fs.StringVar(&s.tls.Cert, "tls-cert", "", "PEM `file` with a certificate to show to tls:// servers")
	fs.StringVar(&s.tls.Key, "tls-key", "", "PEM `file` with its key")
	fs.StringVar(&s.app, "app", "", "application's `name`")
	fs.StringVar(&s.sourceID, "source-id", "", "`id` by which readers find the lines (default the application's id, else its name)")
	fs.StringVar(&s.instance, "instance", "", "`number` of this instance (default CF_INSTANCE_INDEX, else 0)")
	fs.StringVar(&s.space, "space", "", "space's `name`")
	fs.StringVar(&s.org, "org", "", "organization's `name`")
	fs.StringVar(&s.sourceType, "source-type", "", "which part of the application this is (default `APP/PROC/WEB`, or by its process type)")
	fs.Func("tag", "`KEY=VALUE` to put on each line; may be repeated", s.addTag)
	fs.Int64Var(&s.budget, "budget", 64<<20, "`bytes` of lines kept while the server is away")
	fs.DurationVar(&s.flushTimeout, "flush-timeout", 5*time.Second, "how long to hand over what is left at the end")
	fs.BoolVar(&s.quiet, "quiet", false, "do not pass the output through")
	fs.BoolVar(&s.verbose, "verbose", false, "tell on standard error when the server comes and goes")
	if err := daemon.Parse(fs, args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fs.SetOutput(std.out)
			fs.Usage()
			return nil, err
		}
		return nil, usage(err)
	}
	s.command = fs.Args()
	if len(s.command) == 0 {
		return nil, usage(fmt.Errorf(`nothing to run: put the command after "--", or "-" to read standard input`))
	}
	if s.command[0] == "-" && len(s.command) > 1 {
		return nil, usage(fmt.Errorf(`"-" reads standard input; %q is too much`, s.command[1]))
	}
	if s.budget <= 0 {
		return nil, usage(errors.New("-budget must be more than 0 bytes"))
	}
	return &s, nil
}

// run is the command of that name.
func run(args []string, std stdio) error {
	set, err := parse(args, std)
	if err != nil {
		return err
	}
	id, warning, err := set.identity(os.Getenv)
	if err != nil {
		return usage(err)
	}
	say := func(err error) { fmt.Fprintf(std.err, "%s: %v\n", name, err) }
	if warning != nil {
		say(warning)
	}
	log := slog.New(slog.DiscardHandler)
	if set.verbose {
		log = daemon.Logger(std.err)
	}
	send, err := newSender(set, id, log)
	if err != nil {
		return usage(err)
	}
	work := runCommand
	if set.command[0] == "-" {
		work = readInput
	}
	status, err := work(set, send, std, say)
	if lost := send.finish(set.flushTimeout); lost != nil {
		say(lost)
	}
	if err != nil {
		return &daemon.Exit{Code: status, Err: err}
	}
	return &daemon.Exit{Code: status}
}

// runCommand runs the program to its end. An error means that it did not run.
func runCommand(set *settings, send *sender, std stdio, say func(error)) (status int, err error) {
	// Before the program starts, so that no signal is lost on the way to it, and
	// those that were ignored here stay ignored there.
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)

	cmd := exec.Command(set.command[0], set.command[1:]...)
	cmd.Stdin = std.in
	cmd.SysProcAttr = procAttr()
	g := set.gather()
	out, stdout, err := attach(g.to(send.Writer(envelope.Out)), set.passTo(std.out), say)
	if err != nil {
		return statusUsage, err
	}
	defer stdout.Close()
	errs, stderr, err := attach(g.to(send.Writer(envelope.Err)), set.passTo(std.err), say)
	if err != nil {
		return statusUsage, err
	}
	defer stderr.Close()
	cmd.Stdout, cmd.Stderr = stdout, stderr

	// The thread that starts the program must outlive it, see procAttr.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return startStatus(set.command[0], err)
	}
	stdout.Close() // the program's copies alone keep the pipes open now
	stderr.Close()
	go out.run()
	go errs.run()
	stop := make(chan struct{})
	var forwarder sync.WaitGroup
	ended := false // by a signal that was forwarded
	forwarder.Go(func() { ended = forward(signals, stop, cmd.Process) })
	waitErr := cmd.Wait()
	close(stop)
	forwarder.Wait()
	var settling sync.WaitGroup
	settling.Go(func() { out.settle(ended) })
	settling.Go(func() { errs.settle(ended) })
	settling.Wait()
	if cmd.ProcessState == nil {
		return statusUsage, fmt.Errorf("waiting for %s: %w", set.command[0], waitErr)
	}
	return exitStatus(cmd.ProcessState), nil
}

// attach makes a pipe for a program to write to, and the pump that reads it.
func attach(log io.WriteCloser, pass io.Writer, say func(error)) (*pump, *os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, nil, fmt.Errorf("making a pipe: %w", err)
	}
	growPipe(r)
	return newPump(r, log, pass, say), w, nil
}

// passTo is where a stream is passed through to, nil for nowhere.
func (s *settings) passTo(f *os.File) io.Writer {
	if s.quiet {
		return nil
	}
	return f
}

// gather is for the program's text, on its way to the ring that keeps it.
func (s *settings) gather() *gather { return newGather(int(min(s.budget/2, maxGathered))) }

// startStatus puts into words why the program could not be started.
func startStatus(command string, err error) (int, error) {
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return statusNotFound, fmt.Errorf("%s: no such command in PATH", command)
	case errors.Is(err, fs.ErrNotExist):
		return statusNotFound, fmt.Errorf("%s: no such file, or the interpreter it names is missing", command)
	case errors.Is(err, fs.ErrPermission):
		return statusCannotExec, fmt.Errorf("%s: not allowed to run it; is it a program, and executable?", command)
	}
	return statusCannotExec, fmt.Errorf("%s: cannot be started: %w", command, err)
}

// readInput sends standard input until its end or a signal.
func readInput(set *settings, send *sender, std stdio, say func(error)) (status int, err error) {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals, forwarded()...)
	defer signal.Stop(signals)

	var log io.WriteCloser = paced{send.Writer(envelope.Out), send}
	if info, err := std.in.Stat(); err != nil || !info.Mode().IsRegular() {
		log = set.gather().to(send.Writer(envelope.Out)) // a file can wait; a program before a pipe must not
	}
	p := newPump(std.in, log, set.passTo(std.out), say)
	go p.run()
	for {
		select {
		case <-p.done:
			p.settle(false)
			if p.brokenPipe() {
				return brokenStatus, nil
			}
			return 0, nil
		case sig := <-signals:
			if !ends(sig) {
				continue
			}
			// The program before the pipe mostly gets the same signal, and its
			// last words are on their way.
			p.settle(true)
			return signalStatus(sig), nil
		}
	}
}
