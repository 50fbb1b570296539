package access

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ErrRevoked ends a sequence in mid-stream: its reader may not read any more all of
// what he reads. It is an ErrExpired to errors.Is.
var ErrRevoked error = revoked{}

type revoked struct{}

func (revoked) Error() string {
	return "what you may read has changed; log in again and go on at your cursor"
}
func (revoked) Is(target error) bool { return target == ErrExpired }

// recheck asks the Authorizer again, now and then, and ends a sequence when the
// answer is no longer what it was. stop ends it, and waits until it has ended.
func (p *Pass) recheck(ctx context.Context, end context.CancelCauseFunc) (stop func()) {
	var mu sync.Mutex
	var timer *time.Timer
	stopped := false
	var running sync.WaitGroup
	look := func() {
		mu.Lock()
		if stopped {
			mu.Unlock()
			return
		}
		running.Add(1)
		mu.Unlock()
		defer running.Done()
		if !p.stillGranted(ctx) {
			end(ErrRevoked)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		if !stopped {
			timer.Reset(p.g.pause())
		}
	}
	mu.Lock()
	timer = time.AfterFunc(p.g.pause(), look)
	mu.Unlock()
	return func() {
		mu.Lock()
		stopped = true
		timer.Stop()
		mu.Unlock()
		end(nil) // whom it asks
		running.Wait()
	}
}

// pause is until the next look: half to one and a half of Options.Recheck, so that
// many readers who came at once do not ask at once.
func (g *Gate) pause() time.Duration { return g.opt.Recheck/2 + rand.N(g.opt.Recheck) }

// stillGranted reports whether all of what was granted is. While that cannot be
// asked, what was said stays said.
func (p *Pass) stillGranted(ctx context.Context) bool {
	grant, err := p.g.authorize(ctx, p.token, p.asked)
	if err != nil {
		return !errors.Is(err, ErrToken) && !errors.Is(err, ErrDenied)
	}
	now := make(map[string]bool, len(grant.Select))
	for i := range grant.Select {
		now[same(&grant.Select[i])] = true
	}
	for i := range p.grant.Select {
		if !now[same(&p.grant.Select[i])] {
			return false
		}
	}
	return true
}

// same is the same text for selectors that are.
func same(s *envelope.Selector) string { return fmt.Sprintf("%#v", *s) }
