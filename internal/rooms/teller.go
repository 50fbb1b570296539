package rooms

import (
	"context"
	"fmt"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// Teller brings what a process without rings has to tell applications to the
// servers: a small ring and a link.
type Teller struct {
	p    *Process
	tls  *dialer
	addr string
}

// NewTeller adds the flags of the servers to send to.
func NewTeller(p *Process) *Teller {
	t := &Teller{p: p}
	p.Flags.StringVar(&t.addr, "server", "tcp://127.0.0.1:3456", "`addresses` of servers to send to what applications are told of their drains; empty: they are not told")
	t.tls = p.dialer("", "tls:// servers to send to")
	p.checks = append(p.checks, func() error {
		if t.addr == "" {
			return nil
		}
		if err := transport.CheckAddress(t.addr); err != nil {
			return fmt.Errorf("-server: %w", err)
		}
		return nil
	})
	return t
}

// Open connects to the servers. Without any, there is no writer.
func (t *Teller) Open() (envelope.Writer, error) {
	if t.addr == "" {
		return nil, nil
	}
	current, err := t.tls.open(t.p)
	if err != nil {
		return nil, err
	}
	router := loggregator.New(&loggregator.Options{Budget: 1 << 20})
	link, err := transport.NewLink(t.addr, router, &transport.LinkOptions{CurrentTLS: current, Logger: t.p.Log})
	if err != nil {
		router.Close()
		return nil, fmt.Errorf("-server: %w", err)
	}
	t.p.onStop(phaseLast, "servers to tell", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, time.Second) // what was said last has a moment to arrive
		defer cancel()
		if link.Stats().Connected {
			link.Flush(ctx)
		}
		link.Close()
		return router.Close()
	}, nil)
	return router, nil
}
