package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/drain"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/drains"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

const about = `Usage: loggregator-drain [flags]
       loggregator-drain receive [flags]

Sends the logs of applications from servers to syslog receivers, in a process of
its own. "loggregator -drains" does the same inside of the server.

  loggregator-drain -drains drains.json             drain to what the file names
  loggregator-drain -target http://log-1:8080,http://log-2:8080 -drains drains.json
  loggregator-drain -drains-capi https://cloud-controller:9023 -drains-cert c.pem -drains-key k.pem
  loggregator-drain receive                         a receiver to try it with; see receive -help

Where each drain stands is kept in a file, drains.json.positions: killed and
started again, it goes on there, and what the servers still hold arrives.

Drains that the Cloud Controller or the binding cache name reach the public
Internet only, unless -drains-allow says more.
`

type config struct {
	drains            drains.Flags
	target, tell      string
	targetTLS, ownTLS transport.TLSFiles
	ops               string
	grace             time.Duration
	insecure          bool
}

func parse(args []string, stderr io.Writer) (config, error) {
	var c config
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.Usage = daemon.Usage(fs, about)
	fs.StringVar(&c.target, "target", "http://127.0.0.1:8080", "`URLs` of the servers to read from, with commas between")
	fs.StringVar(&c.targetTLS.CA, "target-ca", "", "PEM `file` of their CA; default the system's")
	fs.StringVar(&c.targetTLS.Cert, "target-cert", "", "PEM `file` of the certificate to show to them")
	fs.StringVar(&c.targetTLS.Key, "target-key", "", "PEM `file` of its key")
	fs.StringVar(&c.tell, "server", "tcp://127.0.0.1:3456", "`addresses` of servers to send to what applications are told of their drains; empty: they are not told")
	fs.StringVar(&c.ownTLS.CA, "ca", "", "PEM `file` of the CA of tls:// servers; default the system's")
	fs.StringVar(&c.ownTLS.Cert, "cert", "", "PEM `file` of the certificate to show to them")
	fs.StringVar(&c.ownTLS.Key, "key", "", "PEM `file` of its key")
	c.drains.Register(fs, drains.Beside)
	fs.StringVar(&c.ops, "ops", "127.0.0.1:6061", "`address` for operators: /metrics /healthz /readyz /v1/drains /debug/pprof; empty turns it off")
	fs.DurationVar(&c.grace, "grace", 10*time.Second, "how long Ctrl-C waits for drains to finish")
	fs.BoolVar(&c.insecure, "insecure", false, "allow an -ops address that other machines can reach")
	if err := daemon.Parse(fs, args); err != nil {
		return c, err
	}
	switch {
	case fs.NArg() > 0:
		return c, fmt.Errorf("unexpected argument %q; see -help", fs.Arg(0))
	case !c.drains.Named():
		return c, errors.New("there is nothing to do without -drains FILE, -drains-capi URL or -drains-cache URL; see -help")
	}
	return c, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	c, err := parse(args, stderr)
	if err != nil {
		return err
	}
	log := daemon.Logger(stderr)
	servers, err := c.servers(log)
	if err != nil {
		return err
	}
	operators, err := daemon.Listen("ops", "tcp", c.ops, c.insecure)
	if err != nil {
		return err
	}
	messenger, err := c.messenger(log)
	if err != nil {
		return err
	}
	defer messenger.close()
	set, err := c.drains.Open(httpclient.Join(servers...), messenger.writer(), log)
	if err != nil {
		return err
	}
	defer set.Close()

	serving, failed := errgroup.WithContext(ctx)
	handler := ops.Handler(func(add func(ops.Metric)) { metrics(servers, set, add) }, func() error { return ready(servers, set) })
	handler.Handle("GET /v1/drains", drains.Handler(set))
	opsServer := daemon.HTTPServer(handler, log)
	if operators != nil {
		serving.Go(func() error {
			if err := opsServer.Serve(operators); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	if operators != nil {
		c.ops = operators.Addr().String() // with port 0 it is another one
	}
	c.announce(stdout, set)

	<-failed.Done() // a signal, or a listener that broke
	fmt.Fprintf(stdout, "Stopping: drains have %v to finish.\n", c.grace)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.grace)
	defer cancel()
	stopErr := set.Shutdown(grace)
	report(stdout, set)
	if stopErr != nil && c.drains.PositionsFile() != "" && set.Err() == nil {
		fmt.Fprintf(stdout, "What was not delivered is when this is started again, as far as the servers hold it: %s\n",
			strings.ReplaceAll(stopErr.Error(), "\n", "; "))
		stopErr = nil
	}
	opsServer.Close()
	return errors.Join(serving.Wait(), stopErr)
}

// servers are those to read from.
func (c *config) servers(log *slog.Logger) ([]*httpclient.Client, error) {
	files := c.targetTLS
	files.Logger = log
	current, err := files.Client()
	if err != nil {
		return nil, fmt.Errorf("-target-cert, -target-key, -target-ca: %w", err)
	}
	var clients []*httpclient.Client
	for target := range strings.SplitSeq(c.target, ",") {
		client, err := httpclient.New(strings.TrimSpace(target), &httpclient.Options{CurrentTLS: current, Logger: log})
		if err != nil {
			return nil, fmt.Errorf("-target: %w", err)
		}
		clients = append(clients, client)
	}
	return clients, nil
}

// ready says what is in the way of draining.
func ready(servers []*httpclient.Client, set *drain.Set) error {
	errs := []error{set.Err()}
	for _, s := range servers {
		errs = append(errs, s.Err())
	}
	return errors.Join(errs...)
}

func metrics(servers []*httpclient.Client, set *drain.Set, add func(ops.Metric)) {
	for _, s := range servers {
		away := 0.0
		if s.Err() != nil {
			away = 1
		}
		add(ops.Metric{Name: "server_away", Help: "1 while a server to read from is not reached.", Value: away, Labels: []string{"server", s.String()}})
	}
	drains.Metrics(set, add)
}

// messenger brings to the servers what applications are told: a small ring and a
// link.
type messenger struct {
	router *loggregator.Router
	link   *transport.Link
}

func (c *config) messenger(log *slog.Logger) (*messenger, error) {
	if c.tell == "" {
		return &messenger{}, nil
	}
	files := c.ownTLS
	files.Logger = log
	current, err := files.Client()
	if err != nil {
		return nil, fmt.Errorf("-cert, -key, -ca: %w", err)
	}
	m := &messenger{router: loggregator.New(&loggregator.Options{Budget: 1 << 20})}
	if m.link, err = transport.NewLink(c.tell, m.router, &transport.LinkOptions{CurrentTLS: current, Logger: log}); err != nil {
		m.router.Close()
		return nil, fmt.Errorf("-server: %w", err)
	}
	return m, nil
}

func (m *messenger) writer() envelope.Writer {
	if m.router == nil {
		return nil
	}
	return m.router
}

// close gives what was said last a moment to arrive.
func (m *messenger) close() {
	if m.router == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if m.link.Stats().Connected {
		m.link.Flush(ctx)
	}
	m.link.Close()
	m.router.Close()
}

func (c *config) announce(out io.Writer, set *drain.Set) {
	fmt.Fprintln(out, "Draining. Ctrl-C stops it.")
	fmt.Fprintf(out, "  from     %s\n", c.target)
	for _, p := range set.Providers() {
		fmt.Fprintf(out, "  to       what %s names, %d now; it is followed\n", p.Name, p.Bindings)
	}
	if c.ops != "" {
		fmt.Fprintf(out, "  operate  http://%s   /metrics /healthz /readyz /v1/drains /debug/pprof\n", c.ops)
	}
	if file := c.drains.PositionsFile(); file != "" {
		fmt.Fprintf(out, "  places   kept in %s\n", file)
	} else {
		fmt.Fprintln(out, "  places   not kept: a restart begins where the bindings say; -positions FILE keeps them")
	}
}

func report(out io.Writer, set *drain.Set) {
	var sum drain.Stats
	list := set.Status()
	for _, d := range list {
		sum.Delivered += d.Delivered
		sum.Missed += d.Missed
		sum.Filtered += d.Filtered
		sum.Refused += d.Refused
		sum.Pending += d.Pending
	}
	fmt.Fprintf(out, "Stopped. %d drains delivered %d records, missed %d, filtered %d, had %d refused, and left %d.\n",
		len(list), sum.Delivered, sum.Missed, sum.Filtered, sum.Refused, sum.Pending)
}
