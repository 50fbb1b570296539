package rooms

import (
	"crypto/x509"
	"errors"
	"fmt"

	"google.golang.org/grpc"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// GRPC is the port of the v2 API, and of Log Cache's.
type GRPC struct {
	p       *Process
	door    *door
	readers string // names of certificates
	limits  grpcv2.Options

	server *grpcv2.Server
}

// NewGRPC adds the flags of the port, which is addr by default. a, if not nil, says
// who may read there.
func NewGRPC(p *Process, addr string, a *Access) *GRPC {
	g := &GRPC{p: p}
	g.door = p.door("grpc", addr, "of the v2 API over gRPC: senders, readers, Log Cache")
	g.door.foreign = true
	p.Flags.IntVar(&g.limits.MaxConns, "grpc-max-connections", 4096, "how `many` connections -grpc takes at a time")
	p.checks = append(p.checks, func() error {
		if g.limits.MaxConns <= 0 {
			return errors.New("-grpc-max-connections: must be more than 0")
		}
		return nil
	})
	if a != nil {
		g.door.strict, g.door.guarded = true, a.restricted
		p.Flags.StringVar(&g.readers, "grpc-readers", "", "`names` in certificates, with commas between, by which clients of -grpc may read everything without a token, as reverselogproxy")
	}
	return g
}

// Certificate says who a client is, and whether he may read everything.
func (g *GRPC) Certificate(c *x509.Certificate) (user string, ok bool) {
	for _, name := range carried(c) {
		if listed(g.readers, name) {
			return "certificate:" + name, true
		}
	}
	return "", false
}

// Open takes what goes to w, if there is one, and serves what the gate lets read,
// if there is one, as the v2 API and by compat.
func (g *GRPC) Open(w envelope.Writer, gate *access.Gate, compat *Compat) error {
	p := g.p
	ln, config, err := p.open(g.door)
	if err != nil || ln == nil {
		return err
	}
	o := g.limits
	o.TLS, o.Logger = config, p.Log
	if compat != nil {
		o.Certificates = g.Certificate
		o.Services = func(r grpc.ServiceRegistrar) { compat.cache.Register(r) }
	}
	g.server = grpcv2.NewServer(w, gate, &o)
	p.onStop(phaseIn, "senders over gRPC", g.server.EndInput, func() string {
		if n := g.server.Stats().Senders; n > 0 {
			return fmt.Sprintf("%d senders over gRPC", n)
		}
		return ""
	})
	p.onStop(phaseOut, "gRPC", g.server.Shutdown, func() string {
		if n := g.server.Stats().Readers; n > 0 {
			return fmt.Sprintf("%d readers over gRPC", n)
		}
		return ""
	})
	p.onPulse("gRPC", func() { g.server.Stats() })
	p.figures = append(p.figures, g.figures)
	p.serve(func() error { return g.server.Serve(ln) }, grpcv2.ErrClosed)
	what := "senders and readers"
	switch {
	case gate == nil:
		what = "senders"
	case w == nil:
		what = "readers"
	}
	p.say("", "grpc://%s   %s of the v2 API", ln.Addr(), what)
	return nil
}

func (g *GRPC) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := g.server.Stats()
	figure("grpc_connections", "Connections to -grpc.", float64(s.Connections))
	figure("grpc_connections_total", "Connections to -grpc taken.", float64(s.Accepted))
	figure("grpc_senders", "Streams of senders.", float64(s.Senders))
	figure("grpc_readers", "Streams of readers.", float64(s.Readers))
	figure("grpc_batches_total", "Messages received from senders.", float64(s.Batches))
	figure("grpc_received_total", "Records in these.", float64(s.Records))
	figure("grpc_bytes_total", "Bytes of these records.", float64(s.Bytes))
	figure("grpc_records_total", "Records sent to readers.", float64(s.RecordsSent))
	figure("grpc_bytes_sent_total", "Bytes of these records.", float64(s.BytesSent))
	figure("grpc_filtered_total", "Records left out because of the name of a counter or gauge.", float64(s.Filtered))
	figure("grpc_unsent_total", "Records read for clients that left before they could be sent.", float64(s.Unsent))
	figure("grpc_missed_total", "Records that readers missed.", float64(s.Missed))
	figure("grpc_untold_total", "Of those, which they were not told of, because they read no logs there.", float64(s.Untold))
	figure("grpc_not_taken_total", "Records received that could not be kept; their streams were ended.", float64(s.NotTaken))
	for reason, n := range s.Refused {
		figure("grpc_refused_total", "Connections, streams and messages given up, by reason.", float64(n), "reason", reason)
	}
}
