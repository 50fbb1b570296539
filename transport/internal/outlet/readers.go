package outlet

import (
	"context"
	"errors"
	"sync"
)

// ErrClosing is the error of Enter when Shutdown has begun, and the cause with
// which Context ends.
var ErrClosing = errors.New("the server is shutting down")

// Readers are those whom a handler serves.
type Readers struct {
	ctx    context.Context // ends when Shutdown begins
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	readers map[*Reader]struct{}
	running sync.WaitGroup // one for each of readers
}

// Reader is one of them.
type Reader struct {
	set   *Readers
	abort func() // ends it at once
}

// NewReaders returns an empty set.
func NewReaders() *Readers {
	s := &Readers{readers: make(map[*Reader]struct{})}
	s.ctx, s.cancel = context.WithCancelCause(context.Background())
	return s
}

// Context ends when Shutdown begins.
func (s *Readers) Context() context.Context { return s.ctx }

// Len is how many there are.
func (s *Readers) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.readers)
}

// Enter adds a reader, who must Leave.
func (s *Readers) Enter() (*Reader, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return nil, ErrClosing
	}
	r := &Reader{set: s}
	s.readers[r] = struct{}{}
	s.running.Add(1)
	return r, nil
}

// OnAbort says how to end r at once.
func (r *Reader) OnAbort(abort func()) {
	r.set.mu.Lock()
	defer r.set.mu.Unlock()
	r.abort = abort
}

// Leave takes r out.
func (r *Reader) Leave() {
	r.set.mu.Lock()
	delete(r.set.readers, r)
	r.set.mu.Unlock()
	r.set.running.Done()
}

// Shutdown lets nobody in any more and ends Context. It returns when all have
// left; those who have not when ctx ends are aborted, and the error is ctx's. Cut
// is how many these were.
func (s *Readers) Shutdown(ctx context.Context) (cut int, err error) {
	s.mu.Lock()
	s.cancel(ErrClosing)
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		s.running.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return 0, nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	cut = len(s.readers)
	for r := range s.readers {
		if r.abort != nil {
			go r.abort() // closing a TLS connection can take seconds
		}
	}
	s.mu.Unlock()
	<-gone
	return cut, ctx.Err()
}
