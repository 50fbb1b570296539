package main

import (
	"context"
	"io"

	"github.com/cloudfoundry/loggregator/envelope"
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

With -group several of them, on any machines, share the drains: each has its part,
and where they stand is kept at the servers, which need -share for it. One that stops
gives its part to the others where it is; one that is killed or hangs is replaced
within five seconds, and what it sent since it last told where it was, four times a
second, is sent again.

Drains that the Cloud Controller or the binding cache name reach the public
Internet only, unless -drains-allow says more.
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := rooms.New(name, about, "127.0.0.1:6061")
	servers, teller, receivers := rooms.NewRemote(p), rooms.NewTeller(p), rooms.NewDrains(p, drains.Beside)
	group := rooms.NewGroup(p, servers)
	servers.All = true   // what one of them has is drained by nobody else
	servers.Quiet = true // receivers are told of what is missing, when it is
	receivers.Required()
	return p.Run(ctx, args, stdout, stderr, func() error {
		shared, err := group.Open()
		if err != nil {
			return err
		}
		var logs envelope.Source
		if receivers.Flags.Shared = shared; shared == nil {
			if logs, err = servers.Open(); err != nil {
				return err
			}
		}
		tell, err := teller.Open()
		if err != nil {
			return err
		}
		return receivers.Open(logs, tell, true)
	})
}
