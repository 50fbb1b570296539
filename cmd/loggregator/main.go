// Loggregator is the whole log system in one process: it takes in what agents and
// programs send, keeps the last hour, serves people who tail and dump logs, and
// drains them to syslog receivers.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/ringbuf"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/dropsonde"
	"github.com/cloudfoundry/loggregator/transport/httpapi"
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

type config struct {
	ingest, ingestUDP, v1UDP, http, ops string
	tls                                 transport.TLSFiles // of ingest
	newSources                          int
	sourceRate, sourceBurst             int64
	drains                              drains.Flags
	budget                              int64
	recentDir                           string
	maxAge, grace                       time.Duration
	insecure                            bool
}

func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet("loggregator", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = daemon.Usage(fs, about)
	fs.StringVar(&c.ingest, "ingest", "127.0.0.1:3456", "`address` at which agents and programs send, over TCP; empty turns it off")
	fs.StringVar(&c.ingestUDP, "ingest-udp", "127.0.0.1:3456", "`address` at which datagrams are taken, one batch each; empty turns it off")
	fs.StringVar(&c.tls.Cert, "ingest-cert", "", "PEM `file` of a certificate: -ingest then takes tls:// only. Changed files are read again")
	fs.StringVar(&c.tls.Key, "ingest-key", "", "PEM `file` of its key")
	fs.StringVar(&c.tls.CA, "ingest-clients", "", "PEM `file` of the CA that must have signed senders' certificates; empty asks them for none")
	fs.IntVar(&c.newSources, "new-sources", 0, "how `many` sources that were never seen a sender may bring in a second; 0 is 1000, negative any number")
	fs.Int64Var(&c.sourceRate, "source-rate", 0, "`bytes` of logs in a second that are taken from one source; what is beyond it is counted and told; 0 is any number")
	fs.Int64Var(&c.sourceBurst, "source-burst", 0, "`bytes` that a source may bring at once within -source-rate; 0 is one second's worth")
	fs.StringVar(&c.v1UDP, "v1-udp", "127.0.0.1:3457", "`address` at which old components send dropsonde datagrams; empty turns it off")
	fs.StringVar(&c.http, "http", "127.0.0.1:8080", "`address` at which people read; empty turns it off")
	fs.StringVar(&c.ops, "ops", "127.0.0.1:6060", "`address` for operators: /metrics /healthz /readyz /v1/drains /debug/pprof; empty turns it off")
	c.drains.Register(fs, "")
	fs.Int64Var(&c.budget, "budget", 256<<20, "`bytes` of memory for recent logs, at least 1 MiB")
	fs.StringVar(&c.recentDir, "recent-dir", "", "`directory` in which recent logs outlive the process, as files mapped into memory, of -budget bytes; empty keeps them in memory only")
	fs.DurationVar(&c.maxAge, "max-age", time.Hour, "how long logs are kept")
	fs.DurationVar(&c.grace, "grace", 10*time.Second, "how long Ctrl-C waits for readers and drains to finish")
	fs.BoolVar(&c.insecure, "insecure", false, "allow unprotected addresses that other machines can reach")
	if err := daemon.Parse(fs, args); err != nil {
		return c, err
	}
	if fs.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q; see -help", fs.Arg(0))
	}
	if c.recentDir != "" && c.drains.Positions == "" { // what outlives the process, drains go on with
		if c.drains.Positions = drains.Beside; c.drains.File == "" {
			c.drains.Positions = filepath.Clean(c.recentDir) + ".positions"
		}
	}
	return c, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := daemon.Logger(stderr)

	router, err := loggregator.Open(&loggregator.Options{Budget: c.budget, MaxAge: c.maxAge, Dir: c.recentDir})
	if err != nil {
		return fmt.Errorf("-recent-dir: %w", err)
	}
	defer router.Close()
	found := router.Recovery()
	if found.Blocks > 0 || len(found.Unusable) > 0 || found.Missing > 0 {
		log.Warn("not all of the recent logs could be read; what is lost is cut out, and readers are told", "dir", c.recentDir,
			"damaged_blocks", found.Blocks, "known_lost_records", found.Cut, "unusable_files", found.Unusable, "missing_files", found.Missing)
	}
	limits := transport.ServerOptions{Logger: log, NewSources: c.newSources, SourceRate: c.sourceRate, SourceBurst: c.sourceBurst}
	if limits.TLS, err = c.ingestTLS(log); err != nil {
		return err
	}
	server := transport.NewServer(router, &limits)
	defer server.Close()
	v1 := dropsonde.NewServer(router, &dropsonde.Options{Logger: log})
	defer v1.Close()
	handler := httpapi.New(router, &httpapi.Options{Logger: log})
	defer handler.Close()
	var set *drain.Set
	if c.drains.Named() {
		if set, err = c.drains.Open(router, router, log); err != nil {
			return err
		}
		defer set.Close()
	}

	ingest, err := daemon.Listen("ingest", "tcp", c.ingest, c.insecure || limits.TLS != nil)
	if err != nil {
		return err
	}
	datagrams, err := daemon.ListenPacket("ingest-udp", c.ingestUDP, c.insecure)
	if err != nil {
		return err
	}
	oldDatagrams, err := daemon.ListenPacket("v1-udp", c.v1UDP, c.insecure)
	if err != nil {
		return err
	}
	people, err := daemon.Listen("http", "tcp", c.http, c.insecure)
	if err != nil {
		return err
	}
	operators, err := daemon.Listen("ops", "tcp", c.ops, c.insecure)
	if err != nil {
		return err
	}

	serving, failed := errgroup.WithContext(ctx)
	peopleServer := daemon.HTTPServer(handler, log)
	forOperators := ops.Handler(metrics(router, server, v1, handler, set), func() error { return nil })
	forOperators.Handle("GET /v1/drains", drains.Handler(set))
	opsServer := daemon.HTTPServer(forOperators, log)
	if ingest != nil {
		serving.Go(func() error { return ended(server.Serve(ingest)) })
	}
	if datagrams != nil {
		serving.Go(func() error { return ended(server.ServePacket(datagrams)) })
	}
	if oldDatagrams != nil {
		serving.Go(func() error { return ended(v1.ServePacket(oldDatagrams)) })
	}
	if people != nil {
		serving.Go(func() error { return ended(peopleServer.Serve(people)) })
	}
	if operators != nil {
		serving.Go(func() error { return ended(opsServer.Serve(operators)) })
	}
	announce(stdout, c, found, set)

	<-failed.Done() // a signal, or a listener that broke
	fmt.Fprintf(stdout, "Stopping: no more input; readers and drains have %v to finish.\n", c.grace)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.grace)
	defer cancel()
	stopErr := stop(grace, server, v1, set, router, handler, peopleServer, opsServer)
	report(stdout, router)
	return errors.Join(serving.Wait(), stopErr)
}

// ingestTLS is nil if senders come unprotected.
func (c *config) ingestTLS(log *slog.Logger) (*tls.Config, error) {
	if c.tls == (transport.TLSFiles{}) {
		return nil, nil
	}
	c.tls.Logger = log
	t, err := c.tls.Server()
	if err != nil {
		return nil, fmt.Errorf("-ingest-cert, -ingest-key, -ingest-clients: %w", err)
	}
	return t, nil
}

// stop ends the parts in the direction of flow, so that what has been taken in
// comes out.
func stop(ctx context.Context, server *transport.Server, v1 *dropsonde.Server, set *drain.Set, router *loggregator.Router, handler *httpapi.Handler, people, ops *http.Server) error {
	errs := []error{server.Shutdown(ctx), v1.Shutdown(ctx)}
	if set != nil {
		errs = append(errs, set.Shutdown(ctx))
	}
	errs = append(errs, router.Shutdown(ctx), handler.Shutdown(ctx), people.Shutdown(ctx), ops.Close())
	return errors.Join(errs...)
}

// ended is nil for the errors by which servers say that they were told to stop.
func ended(err error) error {
	if errors.Is(err, transport.ErrClosed) || errors.Is(err, dropsonde.ErrClosed) || errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func announce(out io.Writer, c config, found ringbuf.Recovery, set *drain.Set) {
	fmt.Fprintln(out, "Loggregator is running. Ctrl-C stops it.")
	if c.ingest != "" {
		scheme := "tcp"
		if c.tls.Cert != "" {
			scheme = "tls"
		}
		fmt.Fprintf(out, "  send     %s://%s    loggregator-agent run -server %[1]s://%[2]s --app NAME -- COMMAND\n", scheme, c.ingest)
	}
	if c.ingestUDP != "" {
		fmt.Fprintf(out, "           udp://%s    one batch a datagram\n", c.ingestUDP)
	}
	if c.v1UDP != "" {
		fmt.Fprintf(out, "           udp://%s    dropsonde, from components of the old API\n", c.v1UDP)
	}
	if c.http != "" {
		fmt.Fprintf(out, "  read     http://%s   cf-logs --target http://%[1]s --app NAME\n", c.http)
		fmt.Fprintf(out, "                                   curl 'http://%s/v1/tail?app=NAME&wait=true'\n", c.http)
	}
	if c.ops != "" {
		fmt.Fprintf(out, "  operate  http://%s   /metrics /healthz /readyz /v1/drains /debug/pprof\n", c.ops)
	}
	if set != nil {
		for _, p := range set.Providers() {
			fmt.Fprintf(out, "  drains   %d, as %s says; it is followed\n", p.Bindings, p.Name)
		}
	}
	if c.recentDir != "" {
		fmt.Fprintf(out, "  recent   %s holds %d records of %d sources from before\n", c.recentDir, found.Records, found.Rings)
	}
}

func report(out io.Writer, router *loggregator.Router) {
	s := router.Stats()
	fmt.Fprintf(out, "Stopped. Took in %d records, refused %d, was told of %d lost on the way; readers got %d and were told of %d missed.\n",
		s.Accepted, s.Malformed+s.TooLarge+s.BadSourceID+s.MixedSource+s.NoRoom, s.Lost, s.Delivered, s.Missed)
}
