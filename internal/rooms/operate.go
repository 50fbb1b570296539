package rooms

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

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

// pulseLimit is how long a part may take to answer. Its locks are held for
// microseconds.
const pulseLimit = 5 * time.Second

// pulse asks a part whether it lives: whether it answers at all.
type pulse struct {
	name string
	beat func() // takes the locks that the part's work needs, and returns

	mu      sync.Mutex
	pending chan struct{} // closed when the last beat returns
}

// healthy says which parts do not answer, or nil.
func (p *Process) healthy() error {
	deadline := time.NewTimer(pulseLimit)
	defer deadline.Stop()
	var errs []error
	for _, u := range p.pulses {
		done := u.begin()
		select {
		case <-done:
			continue
		default:
		}
		select {
		case <-done:
		case <-deadline.C:
			deadline.Reset(0) // for the others, too
			errs = append(errs, fmt.Errorf("%s: does not answer", u.name))
		}
	}
	return errors.Join(errs...)
}

// begin asks, unless the part still owes the answer to the last question.
func (u *pulse) begin() <-chan struct{} {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.pending != nil {
		select {
		case <-u.pending:
		default:
			return u.pending
		}
	}
	done := make(chan struct{})
	u.pending = done
	go func() {
		u.beat()
		close(done)
	}()
	return done
}

// onPulse says how to find out whether a part lives.
func (p *Process) onPulse(name string, beat func()) {
	p.pulses = append(p.pulses, &pulse{name: name, beat: beat})
}
