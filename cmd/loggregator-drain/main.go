// Command loggregator-drain sends the logs of applications to their syslog
// receivers, and plays a receiver for people to test with.
//
//	loggregator-drain -drains drains.json
//	loggregator-drain receive
package main

import (
	"context"
	"io"

	"github.com/cloudfoundry/loggregator/internal/daemon"
)

const name = "loggregator-drain"

func main() { daemon.Main(name, dispatch) }

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == "receive" {
		return receive(ctx, args[1:], stdout, stderr)
	}
	return run(ctx, args, stdout, stderr)
}
