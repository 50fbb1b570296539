// Cluster runs Loggregator as a deployment has it, two of each daemon, on this
// machine: with certificates between them that it makes, and a stand-in for a Cloud
// Foundry that says who may read what. It runs until Ctrl-C.
//
//	go run ./examples/cluster
package main

import (
	"context"
	"flag"
	"fmt"
	"log"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"

	"github.com/cloudfoundry/loggregator/internal/cluster"
)

func main() {
	drains := flag.String("drains", "", "`file` of drains; empty: no drain servers")
	dir := flag.String("dir", "", "`directory` for certificates and what the daemons say; empty: one that is removed at the end")
	flag.Parse()
	if err := run(*drains, *dir); err != nil {
		log.Fatal(err)
	}
}

func run(drains, dir string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	bin, err := os.MkdirTemp("", "loggregator-cluster-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(bin)
	if dir == "" {
		dir = bin
	}
	fmt.Println("Building.")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+string(filepath.Separator), "github.com/cloudfoundry/loggregator/cmd/...", "github.com/cloudfoundry/loggregator/examples/cf")
	build.Stdout, build.Stderr = os.Stdout, os.Stderr
	if err := build.Run(); err != nil {
		return err
	}
	c, err := cluster.Start(&cluster.Options{Bin: bin, Dir: dir, Drains: drains})
	if err != nil {
		return err
	}
	token, err := c.Token("ann", "ann")
	if err != nil {
		return err
	}
	fmt.Printf(`The cluster runs; its logs are in %s. Ctrl-C stops it. In another terminal:

  export LOGGREGATOR_TARGET=%s LOGGREGATOR_TOKEN=%s
  %s run -server %s --app shop --source-id 0c000000-0000-4000-8000-000000000001 -- ping -c 100 localhost
  %s --app shop
`, dir, c.People[0], token, filepath.Join(bin, "loggregator-agent"), c.Programs[0], filepath.Join(bin, "cf-logs"))
	<-ctx.Done()
	fmt.Println("Stopping.")
	return c.Stop()
}
