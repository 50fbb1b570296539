package transport

import (
	"context"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Follow implements envelope.Follower: it is Batches for who has nothing to read
// most of the time, and has a goroutine only while there is something to do. It ends
// with ctx and with the Reader, whose Close does not wait for a put that blocks: what
// comes last is end.
func (r *Reader) Follow(ctx context.Context, q envelope.Query, put func(envelope.Batch) error, end func(error)) {
	q.Follow = true
	f := &following{ctx: ctx, put: put, end: end, running: true}
	f.t = newTail(r, r.remotes, q, f.wake)
	f.stop = context.AfterFunc(ctx, f.wake)
	go f.run()
}

// following is a tail without a goroutine of its own.
type following struct {
	t    *tail // of whoever runs
	ctx  context.Context
	put  func(envelope.Batch) error
	end  func(error)
	stop func() bool

	mu      sync.Mutex
	running bool // a goroutine is at it
	again   bool // there is news for it
	over    bool
	settled bool        // of whoever runs
	clock   *time.Timer // wakes it when something is due
}

// wake has somebody look at the tail.
func (f *following) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.over:
	case f.running:
		f.again = true
	default:
		f.running = true
		go f.run()
	}
}

// run does what there is to do.
func (f *following) run() {
	over, err := false, error(nil)
	if !f.settled {
		f.settled = true
		if err = f.t.settle(f.ctx); err == nil {
			f.t.start()
		}
	}
	for err == nil && !over {
		var idle time.Time
		idle, over, err = f.t.proceed(f.ctx, f.put)
		if over || err != nil {
			break
		}
		if f.rest(f.t.due(idle)) {
			return
		}
	}
	f.mu.Lock()
	f.over = true
	if f.clock != nil {
		f.clock.Stop()
	}
	f.mu.Unlock()
	f.stop()
	f.t.close()
	f.end(err)
}

// rest ends the running, for as long as nothing comes and nothing is due, unless
// something has come.
func (f *following) rest(due time.Duration) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.again {
		f.again = false
		return false
	}
	f.running = false
	switch {
	case due == 0:
		if f.clock != nil {
			f.clock.Stop()
		}
	case f.clock == nil:
		f.clock = time.AfterFunc(due, f.wake)
	default:
		f.clock.Reset(due)
	}
	return true
}
