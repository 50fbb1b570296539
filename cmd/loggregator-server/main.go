// Command loggregator-server keeps the recent logs: agents and programs send to
// it, and sinks and drains in other processes read from it. It serves no people.
package main

import (
	"context"
	"errors"
	"io"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/rooms"
)

const about = `Usage: loggregator-server [flags]

Takes in application logs, keeps the last hour of them in memory, and lets other
daemons read them: loggregator-sink, where people come in, and loggregator-drain.
Agents share several servers among them, and sinks read from all.

  loggregator-server                                            on this machine
  loggregator-sink                                              for people to read from it
  loggregator-server -ingest :3456 -ingest-cert server.pem -ingest-key server.key -ingest-clients ca.pem \
                     -egress :3459 -egress-cert server.pem -egress-key server.key -egress-clients ca.pem
`

func main() { daemon.Main("loggregator-server", run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := rooms.New("loggregator-server", about, "127.0.0.1:6060")
	rings, ingest, grpc, egress := rooms.NewRings(p), rooms.NewIngest(p), rooms.NewGRPC(p, "127.0.0.1:3458", nil), rooms.NewEgress(p)
	share := rooms.NewShare(p)
	return p.Run(ctx, args, stdout, stderr, func() error {
		router, err := rings.Open()
		if err != nil {
			return err
		}
		return errors.Join(ingest.Open(router), grpc.Open(ingest.Writer(), nil, nil), egress.Open(router), share.Open(rings.Dir()))
	})
}
