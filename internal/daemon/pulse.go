package daemon

import (
	"errors"
	"fmt"
	"sync"
	"time"
)

// pulseLimit is how long a part may take to answer. Its locks are held for
// microseconds.
const pulseLimit = 5 * time.Second

// Pulses are the parts of a process that are asked whether they live: whether they
// answer at all.
type Pulses struct {
	mu  sync.Mutex
	all []*pulse
}

type pulse struct {
	name    string
	beat    func()
	pending chan struct{} // closed when the last beat returns
}

// Add adds a part: beat takes the locks that its work needs, and returns.
func (p *Pulses) Add(name string, beat func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, &pulse{name: name, beat: beat})
}

// Check says which parts do not answer within 5 s, or nil.
func (p *Pulses) Check() error {
	over := time.NewTimer(pulseLimit)
	defer over.Stop()
	var errs []error
	for u, done := range p.begin() {
		select {
		case <-done:
			continue
		default:
		}
		select {
		case <-done:
		case <-over.C:
			over.Reset(0) // for the others, too
			errs = append(errs, fmt.Errorf("%s: does not answer", u.name))
		}
	}
	return errors.Join(errs...)
}

// begin asks all, but those that still owe the answer to the last question.
func (p *Pulses) begin() map[*pulse]<-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	asked := make(map[*pulse]<-chan struct{})
	for _, u := range p.all {
		if u.owes() {
			asked[u] = u.pending
			continue
		}
		done := make(chan struct{})
		u.pending = done
		asked[u] = done
		go func() {
			u.beat()
			close(done)
		}()
	}
	return asked
}

func (u *pulse) owes() bool {
	if u.pending == nil {
		return false
	}
	select {
	case <-u.pending:
		return false
	default:
		return true
	}
}
