// Loggregator is the whole log system in one process: it takes in what agents and
// programs send, keeps the last hour, serves people who tail and dump logs, and
// drains them to syslog receivers.
package main

import (
	"context"
	"errors"
	"io"
	"path/filepath"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/rooms"
)

const about = `Usage: loggregator [flags]

Takes in application logs, keeps the last hour of them in memory, and serves
them: to people (cf-logs, curl) and to syslog receivers (-drains). It needs no
other software and runs until Ctrl-C.

  loggregator                                   on this machine, default ports
  loggregator -drains drains.json               and drain to what the file names
  loggregator-agent run --app shop -- ./shop    run a program and send its output
  cf-logs --app shop                            follow it
  curl '127.0.0.1:8080/v1/recent?app=shop'      what it said in the last hour
`

func main() { daemon.Main("loggregator", run) }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	p := rooms.New("loggregator", about, "127.0.0.1:6060")
	rings, ingest, readers := rooms.NewRings(p), rooms.NewIngest(p), rooms.NewAccess(p)
	grpc, people, compat := rooms.NewGRPC(p, "127.0.0.1:3458", readers), rooms.NewPeople(p, readers), rooms.NewCompat(p)
	egress, share, receivers := rooms.NewEgress(p), rooms.NewShare(p), rooms.NewDrains(p, "")
	return p.Run(ctx, args, stdout, stderr, func() error {
		router, err := rings.Open()
		if err != nil {
			return err
		}
		gate, err := readers.Open(router)
		if err != nil {
			return err
		}
		compat.Open(gate, router, grpc.Certificate)
		if dir := rings.Dir(); dir != "" && receivers.Flags.Positions == "" { // what outlives the process, drains go on with
			if receivers.Flags.Positions = drains.Beside; receivers.Flags.File == "" {
				receivers.Flags.Positions = filepath.Clean(dir) + ".positions"
			}
		}
		return errors.Join(ingest.Open(router), grpc.Open(ingest.Writer(), gate, compat), people.Open(gate, compat), egress.Open(router), share.Open(rings.Dir()), receivers.Open(router, router, rings.Dir() != ""))
	})
}
