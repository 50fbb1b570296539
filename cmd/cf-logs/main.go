// Command cf-logs shows the logs of an application, a space or an org, and
// follows them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

func main() { daemon.Main("cf-logs", run) }

// run is the command: its lines go to stdout, what it says about itself to
// stderr. It ends when ctx does, with status 130, as a shell expects after an
// interrupt.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opt, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		opt.usage(stdout)
		return nil
	}
	if err != nil {
		return err
	}
	srv, err := opt.server()
	if err != nil {
		return err
	}

	reading, stop := context.WithCancel(ctx) // ends as soon as nobody takes the output
	defer stop()
	out := outbuf.New(func(p []byte) error {
		if _, err := stdout.Write(p); err != nil {
			stop()
			return &outputError{err}
		}
		return nil
	})
	defer context.AfterFunc(ctx, func() { // a print may wait for standard output
		time.AfterFunc(patience, func() { out.Fail(context.Canceled) })
	})()
	p := &printer{out: out, loc: time.Local, json: opt.json, withApp: opt.several(), color: colored(stdout)}
	if opt.recent {
		err = srv.dump(reading, p.print)
	} else {
		f := &follower{server: srv, print: p.print, stderr: stderr, backoff: backoff}
		err = f.run(reading)
	}
	if failed := finish(ctx, out); failed != nil && ctx.Err() == nil {
		err = failed
	}
	return ending(ctx, err)
}

// patience is how long a standard output that takes nothing may hold up the end.
const patience = 300 * time.Millisecond

// finish writes out what is at hand; after an interrupt it does not wait for a
// reader that has stopped reading, as a pager does.
func finish(ctx context.Context, out *outbuf.Writer) error {
	done := make(chan error, 1)
	go func() { done <- out.Close() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return nil
	}
}

// outputError is a failure to write to standard output.
type outputError struct{ err error }

func (e *outputError) Error() string { return fmt.Sprintf("write to standard output: %v", e.err) }
func (e *outputError) Unwrap() error { return e.err }

// ending says how the command ends: quietly if somebody closed our output or
// interrupted us.
func ending(ctx context.Context, err error) error {
	switch out, ok := errors.AsType[*outputError](err); {
	case ok && (errors.Is(out, syscall.EPIPE) || errors.Is(out, io.ErrClosedPipe)):
		return nil
	case ok:
		return out
	case ctx.Err() != nil:
		return &daemon.Exit{Code: 130}
	}
	return err
}

// colored is whether w is a terminal whose user has nothing against colours
// (no-color.org).
func colored(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
