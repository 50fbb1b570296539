package rooms

import (
	"errors"
	"fmt"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/dropsonde"
)

// Ingest is where agents and programs send.
type Ingest struct {
	p *Process

	native         *door
	udp, v1        string
	limits         transport.ServerOptions
	maxMessage     int64
	maxBuffered    int64
	messageTimeout time.Duration

	server *transport.Server
	old    *dropsonde.Server
}

// NewIngest adds the flags of what comes in.
func NewIngest(p *Process) *Ingest {
	in := &Ingest{p: p}
	fs := p.Flags
	in.native = p.door("ingest", "127.0.0.1:3456", "at which agents and programs send, over TCP")
	fs.StringVar(&in.udp, "ingest-udp", "127.0.0.1:3456", "`address` at which datagrams are taken, one batch each; empty turns it off")
	fs.StringVar(&in.v1, "v1-udp", "127.0.0.1:3457", "`address` at which old components send dropsonde datagrams; empty turns it off")
	fs.IntVar(&in.limits.NewSources, "new-sources", 0, "how `many` sources that were never seen a sender may bring in a second; 0 is 1000, negative any number")
	fs.Int64Var(&in.limits.SourceRate, "source-rate", 0, "`bytes` of logs in a second that are taken from one source; what is beyond it is counted and told; 0 is any number")
	fs.Int64Var(&in.limits.SourceBurst, "source-burst", 0, "`bytes` that a source may bring at once within -source-rate; 0 is one second's worth")
	fs.IntVar(&in.limits.MaxConns, "max-senders", 4096, "how `many` connections -ingest takes at a time")
	daemon.SizeVar(fs, &in.maxMessage, "max-message", 10<<20, "`bytes` of one message of a sender")
	daemon.SizeVar(fs, &in.maxBuffered, "max-buffered", 128<<20, "`bytes` that the messages of all senders that are on their way take together")
	fs.DurationVar(&in.messageTimeout, "message-timeout", 30*time.Second, "how long a sender may take for a message once it has begun it")
	p.checks = append(p.checks, func() error {
		var errs []error
		for name, addr := range map[string]string{"ingest-udp": in.udp, "v1-udp": in.v1} {
			errs = append(errs, daemon.CheckAddress(name, addr, p.insecure))
		}
		for name, n := range map[string]int64{"max-senders": int64(in.limits.MaxConns), "max-message": in.maxMessage, "max-buffered": in.maxBuffered, "message-timeout": int64(in.messageTimeout)} {
			if n <= 0 {
				errs = append(errs, fmt.Errorf("-%s: must be more than 0", name))
			}
		}
		return errors.Join(errs...)
	})
	return in
}

// Open takes in what goes to w.
func (in *Ingest) Open(w envelope.Writer) error {
	p := in.p
	ln, config, err := p.open(in.native)
	if err != nil {
		return err
	}
	o := in.limits
	o.TLS, o.Logger, o.MaxMessage, o.MaxBuffered, o.MessageTimeout = config, p.Log, int(in.maxMessage), in.maxBuffered, in.messageTimeout
	in.server = transport.NewServer(w, &o)
	in.old = dropsonde.NewServer(w, &dropsonde.Options{Logger: p.Log})
	p.onStop(phaseIn, "ingest", in.server.Shutdown, func() string {
		if n := in.server.Stats().Connections; n > 0 {
			return fmt.Sprintf("%d connections of senders", n)
		}
		return ""
	})
	p.onStop(phaseIn, "v1-udp", in.old.Shutdown, nil)
	p.onPulse("ingest", func() { in.server.Stats() })
	p.figures = append(p.figures, in.figures)

	what := "send"
	if ln != nil {
		p.serve(func() error { return in.server.Serve(ln) }, transport.ErrClosed)
		address := in.native.scheme("tcp") + "://" + ln.Addr().String()
		if ln.Addr().Network() == "unix" {
			address = "unix://" + ln.Addr().String()
		}
		p.say(what, "%s    loggregator-agent run -server %[1]s --app NAME -- COMMAND", address)
		what = ""
	}
	datagrams, err := p.listenPacket("ingest-udp", in.udp)
	if err != nil {
		return err
	}
	if datagrams != nil {
		p.serve(func() error { return in.server.ServePacket(datagrams) }, transport.ErrClosed)
		p.say(what, "udp://%s    one batch a datagram", datagrams.LocalAddr())
		what = ""
	}
	old, err := p.listenPacket("v1-udp", in.v1)
	if err != nil {
		return err
	}
	if old != nil {
		p.serve(func() error { return in.old.ServePacket(old) }, dropsonde.ErrClosed)
		p.say(what, "udp://%s    dropsonde, from components of the old API", old.LocalAddr())
	}
	return nil
}

// Writer is what other doors write to, behind the limit of each source; nil if
// Open failed.
func (in *Ingest) Writer() envelope.Writer {
	if in.server == nil {
		return nil
	}
	return in.server
}

func (in *Ingest) figures(add func(ops.Metric)) {
	figure := func(name, help string, value float64, labels ...string) {
		add(ops.Metric{Name: name, Help: help, Value: value, Labels: labels})
	}
	s := in.server.Stats()
	figure("ingest_connections", "Connections of senders.", float64(s.Connections))
	figure("ingest_connections_total", "Connections of senders taken.", float64(s.Accepted))
	figure("ingest_bytes_total", "Bytes received.", float64(s.Bytes))
	figure("ingest_batches_total", "Batches received.", float64(s.Batches))
	figure("ingest_datagrams_total", "Datagrams received.", float64(s.Datagrams))
	figure("ingest_datagrams_dropped_total", "Datagrams that the system had no room for.", float64(s.Dropped))
	figure("ingest_limited_total", "Records that were not taken, for -source-rate.", float64(s.Limited))
	for reason, n := range s.Refused {
		figure("ingest_refused_total", "Connections and datagrams given up, by what was wrong with them.", float64(n), "reason", reason)
	}
	d := in.old.Stats()
	figure("v1_datagrams_total", "Dropsonde datagrams received.", float64(d.Datagrams))
	figure("v1_datagrams_dropped_total", "Dropsonde datagrams that the system had no room for.", float64(d.Dropped))
	for reason, n := range d.Refused {
		figure("v1_refused_total", "Dropsonde datagrams given up, by what was wrong with them.", float64(n), "reason", reason)
	}
}
