package access

import (
	"context"
	"errors"
	"iter"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Pass is one admitted reader: an envelope.Source and an envelope.Follower of what
// was granted.
type Pass struct {
	g      *Gate
	grant  Grant
	closed atomic.Bool

	token string // to ask again; empty: nobody is asked
	asked []envelope.Selector
}

// User is who reads; empty where nobody is asked for a token.
func (p *Pass) User() string { return p.grant.User }

// Select is what was granted. It is not to be changed.
func (p *Pass) Select() []envelope.Selector { return p.grant.Select }

// Expires is when the pass ends. Zero: never.
func (p *Pass) Expires() time.Time { return p.grant.Expires }

// Known reports whether anything held now is what was granted. What it asks of
// single records is not looked at.
func (p *Pass) Known() bool { return p.g.src.Known(p.grant.Select) }

// Close gives the reader's place to others. It ends no sequence. It may be called
// more than once.
func (p *Pass) Close() {
	if p.closed.Swap(true) {
		return
	}
	g := p.g
	g.mu.Lock()
	defer g.mu.Unlock()
	g.readers--
	if g.a == nil {
		return
	}
	u := g.users[p.grant.User]
	if u.passes--; u.passes == 0 {
		delete(g.users, p.grant.User)
		return
	}
	u.selectors -= len(p.grant.Select)
	g.users[p.grant.User] = u
}

// Batches is the Source's, of what was granted: the query's own Select is not
// looked at, its Shard is a name among the user's own, and its MaxBytes at most
// MaxBatch. The sequence pauses as Options.BytesPerSecond says, and ends with
// ErrExpired when the token does, or with ErrRevoked.
func (p *Pass) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		ctx, stop := p.begin(ctx, &q)
		defer stop()
		allowance := p.allowance()
		for b, err := range p.g.src.Batches(ctx, q) {
			if err != nil {
				yield(envelope.Batch{}, p.ended(ctx, err))
				return
			}
			if !yield(b, nil) {
				return
			}
			if err := p.pause(ctx, &allowance, &b); err != nil {
				yield(envelope.Batch{}, p.ended(ctx, err))
				return
			}
		}
	}
}

// Follow implements envelope.Follower, as Batches does it. It has a goroutine, if the
// Source is no envelope.Follower.
func (p *Pass) Follow(ctx context.Context, q envelope.Query, put func(envelope.Batch) error, end func(error)) {
	q.Follow = true
	src, ok := p.g.src.(envelope.Follower)
	if !ok {
		go func() {
			for b, err := range p.Batches(ctx, q) {
				if err == nil {
					err = put(b)
				}
				if err != nil {
					end(err)
					return
				}
			}
			end(nil)
		}()
		return
	}
	ctx, stop := p.begin(ctx, &q)
	allowance := p.allowance()
	src.Follow(ctx, q, func(b envelope.Batch) error {
		if err := put(b); err != nil {
			return err
		}
		return p.pause(ctx, &allowance, &b)
	}, func(err error) {
		if err != nil {
			err = p.ended(ctx, err)
		}
		stop()
		end(err)
	})
}

// begin makes q what was granted. Its context ends when that ends; stop ends what
// watches over it.
func (p *Pass) begin(ctx context.Context, q *envelope.Query) (_ context.Context, stop func()) {
	q.Select = p.grant.Select
	q.MaxBytes = min(q.MaxBytes, MaxBatch)
	if q.Shard != "" && p.g.a != nil {
		q.Shard = strconv.Quote(p.grant.User) + q.Shard // no name of another's begins like this
	}
	watched := q.Follow && p.token != "" && p.g.opt.Recheck > 0
	if !watched && p.grant.Expires.IsZero() {
		return ctx, func() {}
	}
	ctx, end := context.WithCancelCause(ctx) // one for both: each takes half a KiB
	stop = func() { end(nil) }
	if watched {
		stop = p.recheck(ctx, end)
	}
	if !p.grant.Expires.IsZero() {
		looking := stop
		clock := time.AfterFunc(time.Until(p.grant.Expires), func() { end(ErrExpired) })
		stop = func() { clock.Stop(); looking() }
	}
	return ctx, stop
}

// allowance is what the reader may be sent.
func (p *Pass) allowance() meter { return meter{rate: float64(p.g.opt.BytesPerSecond)} }

// pause waits until the reader may be sent more than b.
func (p *Pass) pause(ctx context.Context, allowance *meter, b *envelope.Batch) error {
	if pause := allowance.take(len(b.Records)); pause > 0 {
		p.g.heldBack.Add(1)
		sleep(ctx, pause)
	}
	return ctx.Err()
}

// ended is why a sequence ends with err.
func (p *Pass) ended(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); ctx.Err() != nil && errors.Is(cause, ErrExpired) {
		p.g.expired.Add(1)
		p.g.auditEnd(p.grant.User, cause)
		return cause
	}
	return err
}

// meter is an allowance of bytes that grows with time, up to one second's worth.
// With a rate below zero it never ends.
type meter struct {
	rate, left float64
	at         time.Time
}

// take says how long to wait after n bytes.
func (m *meter) take(n int) time.Duration {
	if m.rate < 0 || n == 0 {
		return 0
	}
	now := time.Now()
	if m.at.IsZero() {
		m.left = m.rate
	} else {
		m.left = min(m.rate, m.left+now.Sub(m.at).Seconds()*m.rate)
	}
	m.at = now
	if m.left -= float64(n); m.left >= 0 {
		return 0
	}
	return time.Duration(-m.left / m.rate * float64(time.Second))
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
