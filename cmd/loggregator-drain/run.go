package main

import (
	"context"
	"io"

	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/rooms"
)

const about = `Usage: loggregator-drain [flags]
       loggregator-drain receive [flags]

Sends the logs of applications from servers to syslog receivers, in a process of
its own. "loggregator -drains" does the same inside of the server.

  loggregator-drain -drains drains.json             drain to what the file names
  loggregator-drain -read tcp://log-1:3459,tcp://log-2:3459 -drains drains.json
  loggregator-drain -drains-capi https://cloud-controller:9023 -drains-cert c.pem -drains-key k.pem
  loggregator-drain receive                         a receiver to try it with; see receive -help

Where each drain stands is kept in a file, drains.json.positions: killed and
started again, it goes on there, and what the servers still hold arrives.

Drains that the Cloud Controller or the binding cache name reach the public
Internet only, unless -drains-allow says more.
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := rooms.New(name, about, "127.0.0.1:6061")
	servers, teller, receivers := rooms.NewRemote(p), rooms.NewTeller(p), rooms.NewDrains(p, drains.Beside)
	servers.All = true // what one of them has is drained by nobody else
	receivers.Required()
	return p.Run(ctx, args, stdout, stderr, func() error {
		logs, err := servers.Open()
		if err != nil {
			return err
		}
		tell, err := teller.Open()
		if err != nil {
			return err
		}
		return receivers.Open(logs, tell, true)
	})
}
