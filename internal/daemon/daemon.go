// Package daemon is what the commands share: flags, environment and config file
// as one, signals, and the way a command ends.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime/pprof"
	"strings"
	"syscall"

	"github.com/peterbourgon/ff/v3"
)

// EnvPrefix begins the environment variable of every flag: -http is also
// LOGGREGATOR_HTTP.
const EnvPrefix = "LOGGREGATOR"

// Parse fills fs from the arguments, then, for flags not given there, from the
// environment, then from the file that -config names, one "flag value" a line.
// On -help it returns flag.ErrHelp after fs has printed its usage.
func Parse(fs *flag.FlagSet, args []string) error {
	fs.String("config", "", "`file` with one \"flag value\" a line, for flags given neither here nor in the environment")
	return ff.Parse(fs, args,
		ff.WithEnvVarPrefix(EnvPrefix),
		ff.WithConfigFileFlag("config"),
		ff.WithConfigFileParser(ff.PlainParser),
	)
}

// Usage prints text, then the flags with their environment variables.
func Usage(fs *flag.FlagSet, text string) func() {
	return func() {
		out := fs.Output()
		fmt.Fprintf(out, "%s\nFlags (each also an environment variable, as -http is %s_HTTP):\n", text, EnvPrefix)
		fs.PrintDefaults()
	}
}

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
// error is printed as one line, name first, and the process exits with status 1.
func Main(name string, run func(ctx context.Context, args []string, stdout, stderr io.Writer) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // from then on a signal has its default effect
	DumpOnSignal(ctx, os.Stdout)
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

// Logger logs as text to w.
func Logger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
