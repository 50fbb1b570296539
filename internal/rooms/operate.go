package rooms

import (
	"errors"
	"net/http"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/ops"
)

// operate opens the operators' port.
func (p *Process) operate() (*http.Server, error) {
	mux := ops.Handler(p.metrics, p.isReady, p.healthy)
	for pattern, h := range p.pages {
		mux.Handle(pattern, h)
	}
	server := daemon.HTTPServer(mux, p.Log)
	ln, config, err := p.open(p.operators)
	if ln == nil || err != nil {
		return server, err
	}
	server.TLSConfig = config
	p.serve(func() error { return serveHTTP(server, limitConns(ln, maxOperators, config == nil)) }, http.ErrServerClosed)
	p.say("operate", "%s://%s   /metrics /healthz /readyz /debug/pprof", p.operators.scheme("http"), ln.Addr())
	return server, nil
}

// maxOperators bounds the connections to the operators' port.
const maxOperators = 100

func (p *Process) metrics(add func(ops.Metric)) {
	ready := 0.0
	if p.isReady() == nil {
		ready = 1
	}
	add(ops.Metric{Name: "ready", Help: "1 while /readyz says that the daemon can do its work.", Value: ready})
	for _, f := range p.figures {
		f(add)
	}
}

// isReady says what is in the way of the daemon's work, or nil.
func (p *Process) isReady() error {
	if p.stopping.Load() {
		return errors.New("stopping")
	}
	errs := []error{p.healthy()}
	for _, ready := range p.ready {
		errs = append(errs, ready())
	}
	return errors.Join(errs...)
}

// healthy says which parts do not answer, or nil.
func (p *Process) healthy() error { return p.pulses.Check() }

// onPulse says how to find out whether a part lives.
func (p *Process) onPulse(name string, beat func()) { p.pulses.Add(name, beat) }
