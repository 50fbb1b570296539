package rooms

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport"
)

// Egress is where sinks and drains in other processes read.
type Egress struct {
	p      *Process
	door   *door
	max    int
	server *transport.Egress
}

// NewEgress adds the flags of the port at which other daemons read.
func NewEgress(p *Process) *Egress {
	e := &Egress{p: p}
	e.door = p.door("egress", "127.0.0.1:3459", "at which loggregator-sink and loggregator-drain read")
	e.door.strict = true
	p.Flags.IntVar(&e.max, "max-daemons", 1024, "how `many` connections -egress takes at a time")
	p.checks = append(p.checks, func() error {
		if e.max <= 0 {
			return errors.New("-max-daemons: must be more than 0")
		}
		return nil
	})
	return e
}

// Open lets other daemons read from src. They are trusted with everything.
func (e *Egress) Open(src envelope.Source) error {
	p := e.p
	ln, config, err := p.open(e.door)
	if err != nil || ln == nil {
		return err
	}
	e.server = transport.NewEgress(src, &transport.EgressOptions{TLS: config, Insecure: p.insecure, MaxConns: e.max, Logger: p.Log})
	p.onStop(phaseOut, "egress", e.server.Shutdown, func() string {
		if n := e.server.Stats().Connections; n > 0 {
			return fmt.Sprintf("%d daemons that read", n)
		}
		return ""
	})
	p.onPulse("egress", func() { e.server.Stats() })
	p.figures = append(p.figures, e.figures)
	p.serve(func() error { return e.server.Serve(ln) }, transport.ErrClosed)
	address := e.door.scheme("tcp") + "://" + ln.Addr().String()
	if ln.Addr().Network() == "unix" {
		address = "unix://" + ln.Addr().String()
	}
	p.say("daemons", "%s   loggregator-sink -read %[1]s", address)
	return nil
}

func (e *Egress) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := e.server.Stats()
	figure("egress_connections", "Daemons that read.", float64(s.Connections))
	figure("egress_connections_total", "Connections of such taken.", float64(s.Accepted))
	figure("egress_queries", "Queries of theirs that are open.", float64(s.Queries))
	figure("egress_queries_asleep", "Of those, the ones that wait for something to read.", float64(s.Asleep))
	figure("egress_queries_total", "Queries opened.", float64(s.Opened))
	figure("egress_batches_total", "Batches sent.", float64(s.Batches))
	figure("egress_records_total", "Records sent, each reader counted.", float64(s.Records))
	figure("egress_bytes_total", "Bytes of these records.", float64(s.Bytes))
	figure("egress_missed_total", "Records that readers were told they missed.", float64(s.Missed))
	for reason, n := range s.Refused {
		figure("egress_refused_total", "Connections and queries given up, by what was wrong with them.", float64(n), "reason", reason)
	}
}

// Remote is the servers that a process without rings reads from.
type Remote struct {
	All   bool // the process is not ready unless all are connected
	Quiet bool // nothing is said within sequences of servers that are away

	p      *Process
	tls    *dialer
	addr   string
	reader *transport.Reader
}

// NewRemote adds the flags of the servers to read from.
func NewRemote(p *Process) *Remote {
	r := &Remote{p: p}
	p.Flags.StringVar(&r.addr, "read", "tcp://127.0.0.1:3459", "`addresses` of the servers to read from, with commas between: tcp://, tls://, unix://")
	r.tls = p.dialer("read", "tls:// servers to read from")
	p.checks = append(p.checks, func() error {
		if r.addr == "" {
			return errors.New("-read: a server to read from is wanted")
		}
		if err := transport.CheckAddress(r.addr); err != nil {
			return fmt.Errorf("-read: %s", strings.TrimPrefix(err.Error(), "transport: "))
		}
		return nil
	})
	return r
}

// Open connects to the servers, and does not wait for them.
func (r *Remote) Open() (*transport.Reader, error) {
	p := r.p
	current, err := r.tls.open(p)
	if err != nil {
		return nil, err
	}
	if r.reader, err = transport.NewReader(r.addr, &transport.ReaderOptions{CurrentTLS: current, Quiet: r.Quiet, Logger: p.Log}); err != nil {
		return nil, fmt.Errorf("-read: %w", err)
	}
	p.onStop(phaseLast, "servers", func(context.Context) error { return r.reader.Close() }, nil)
	p.onPulse("servers", func() { r.reader.Stats() })
	p.ready = append(p.ready, r.isReady)
	p.figures = append(p.figures, r.figures)
	p.reports = append(p.reports, func(out io.Writer) {
		s := r.reader.Stats()
		fmt.Fprintf(out, "Stopped. Read %d records from servers, and was told of %d missed.\n", s.Records, s.Missed)
	})
	p.say("from", "%s", r.addr)
	return r.reader, nil
}

// isReady says nil while a server is connected, or all are.
func (r *Remote) isReady() error {
	var errs []error
	for _, s := range r.reader.Servers() {
		if s.Connected && !r.All {
			return nil
		}
		if s.Connected {
			continue
		}
		errs = append(errs, fmt.Errorf("%s is not connected: %s", s.Address, s.LastError))
	}
	return errors.Join(errs...)
}

func (r *Remote) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := r.reader.Stats()
	figure("read_sequences", "Readers of the servers: tails, dumps, streams.", float64(s.Sequences))
	figure("read_queries_total", "Queries opened at servers, anew after a broken connection included.", float64(s.Opened))
	figure("read_records_total", "Records read from servers, each reader counted.", float64(s.Records))
	figure("read_bytes_total", "Bytes of these records.", float64(s.Bytes))
	figure("read_missed_total", "Records that readers were told they missed.", float64(s.Missed))
	figure("read_repeated_total", "Records that came from two servers and were left out once.", float64(s.Repeated))
	figure("read_reconnects_total", "Connections to servers after the first.", float64(s.Reconnects))
	for _, server := range r.reader.Servers() {
		connected := 0.0
		if server.Connected {
			connected = 1
		}
		figure("read_server_connected", "Whether a server to read from is connected.", connected, "server", server.Address)
		figure("read_server_queries", "Queries that are open there.", float64(server.Queries), "server", server.Address)
	}
}
