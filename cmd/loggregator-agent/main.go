// Command loggregator-agent brings logs to Loggregator: the output of a program
// without the program knowing, or, as a daemon, what is logged on a machine.
//
//	loggregator-agent run --app shop -- ./shop --port 8080
//	loggregator-agent daemon agent.yaml
//
// Run it without arguments to learn the rest.
package main

import (
	_ "embed"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/cloudfoundry/loggregator/internal/daemon"
)

const name = "loggregator-agent"

const help = `loggregator-agent brings logs to Loggregator.

  Run a program. What it prints still appears here, byte for byte, and each line
  goes to the server too: standard output as OUT, standard error as ERR.

      loggregator-agent run --app shop -- ./shop --port 8080

  Or send the output of something that runs already:

      tail -F /var/log/shop.log | loggregator-agent run --app shop -

  Then read it, here or anywhere, once a server runs ("loggregator" starts one):

      cf-logs --app shop

  The program runs as it would alone. It gets the signals, standard input and
  exit status are its own, and if the server is slow, down or never there, the
  newest 64 MiB of lines wait in memory and the program does not.

  Or collect what is logged on this machine: files, sockets of containers, syslog
  and more, as a file says:

      loggregator-agent daemon agent.yaml

Commands:
  run     run a program, or read standard input, and send its lines
  daemon  collect logs on this machine
  check   say what the daemon would collect
  example print a file for the daemon that shows everything it can be told
  version say which one this is
  help    this text; "loggregator-agent COMMAND -help" tells more of each
`

// example shows everything that the daemon can be told.
//
//go:embed example.yaml
var example string

// Statuses that are the agent's own, by the custom of env, timeout and docker.
// Anything else is the status of the program that was run.
const (
	statusUsage      = 125 // nothing was run, because of flags or settings
	statusCannotExec = 126 // the program is there and could not be started
	statusNotFound   = 127 // there is no such program
	statusSignal     = 128 // and the number of the signal that ended the program
)

// stdio are the three files of a process.
type stdio struct{ in, out, err *os.File }

// commands are what the first argument can be.
var commands = map[string]func(args []string, std stdio) error{
	"run":    run,
	"daemon": runDaemon,
	"check":  runCheck,
	"example": func(_ []string, std stdio) error {
		_, err := io.WriteString(std.out, example)
		return err
	},
}

func main() {
	std := stdio{os.Stdin, os.Stdout, os.Stderr}
	os.Exit(daemon.Status(name, dispatch(os.Args[1:], std), std.err))
}

func dispatch(args []string, std stdio) error {
	if len(args) == 0 {
		_, err := io.WriteString(std.out, help)
		return err
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		_, err := io.WriteString(std.out, help)
		return err
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(std.out, daemon.Version(name))
		return err
	}
	if flag, _, _ := strings.Cut(args[0], "="); flag == "-config" || flag == "--config" {
		return runDaemon(args, std)
	}
	command, ok := commands[args[0]]
	if !ok {
		return usage(fmt.Errorf("no command %q; to run a program: %s run --app NAME -- %s", args[0], name, args[0]))
	}
	return command(args[1:], std)
}

// usage is an error that is the caller's to mend, before anything was run.
func usage(err error) error { return &daemon.Exit{Code: statusUsage, Err: err} }
