// Package daemon is what the commands share: flags, environment and config file
// as one, logs, signals, systemd, and the way a command ends.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"
)

// StatusUsage is the exit status for flags or a config file that cannot be used:
// starting again will not help.
const StatusUsage = 2

// Exit is an error that ends the process with a status of its own. With a nil
// Err nothing is printed.
type Exit struct {
	Code int
	Err  error
}

func (e *Exit) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *Exit) Unwrap() error { return e.Err }

// Main runs a daemon until it returns or SIGINT or SIGTERM ends ctx; a second
// signal kills at once. SIGUSR1 writes all goroutines to standard output. An
// error is printed as one line, name first, and the process exits with status 1,
// or that of an Exit.
func Main(name string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)                  // from then on a signal has its default effect
	DumpOnSignal(context.Background(), os.Stdout) // while it stops, too
	os.Exit(Status(name, run(ctx, os.Args[1:], os.Stdout, os.Stderr), os.Stderr))
}

// Status is the exit status for err, which it prints if there is something to
// say.
func Status(name string, err error, stderr io.Writer) int {
	switch exit, ok := errors.AsType[*Exit](err); {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return 0
	case ok && exit.Err == nil:
		return exit.Code
	case ok:
		fmt.Fprintf(stderr, "%s: %s\n", name, oneLine(err))
		return exit.Code
	}
	fmt.Fprintf(stderr, "%s: %s\n", name, oneLine(err))
	return 1
}

func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// WriteGoroutines writes the stacks of all goroutines.
func WriteGoroutines(w io.Writer) { pprof.Lookup("goroutine").WriteTo(w, 2) }
