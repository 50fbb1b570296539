// Command loggregator-sink is where people and clients read the logs that servers
// in other processes keep. It keeps none itself.
package main

import (
	"context"
	"errors"
	"io"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/rooms"
)

const about = `Usage: loggregator-sink [flags]

Serves people who tail and dump logs, and clients of the v2 API, of Log Cache and
of the Reverse Log Proxy, out of what servers hold. It keeps nothing, so there may
be any number of it, before any number of servers.

  loggregator-sink                                              before a server on this machine
  loggregator-sink -read tcp://log-1:3459,tcp://log-2:3459
  loggregator-sink -read tls://log-1:3459 -read-ca ca.pem -read-cert sink.pem -read-key sink.key
  cf-logs --app shop
`

func main() { daemon.Main("loggregator-sink", run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := rooms.New("loggregator-sink", about, "127.0.0.1:6062")
	servers, readers := rooms.NewRemote(p), rooms.NewAccess(p)
	grpc, people, compat := rooms.NewGRPC(p, "127.0.0.1:3461", readers), rooms.NewPeople(p, readers), rooms.NewCompat(p)
	return p.Run(ctx, args, stdout, stderr, func() error {
		logs, err := servers.Open()
		if err != nil {
			return err
		}
		gate, err := readers.Open(logs)
		if err != nil {
			return err
		}
		compat.Open(gate, logs, grpc.Certificate)
		return errors.Join(grpc.Open(nil, gate, compat), people.Open(gate, compat))
	})
}
