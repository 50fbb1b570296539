package drain

import (
	"context"
	"iter"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// several is one source of several servers, for one shared drain: the servers at
// which the drain is this process's. It remembers which rings are at which of
// them. Batches of one server come in order, those of different ones as they
// come; following, a server that is away holds up no other. What a maker sent to one
// server and, since it did not hear of it, to the next one again, comes once.
type several struct {
	parts []part

	mu    sync.Mutex
	rings map[envelope.StreamID]int // the server of each
}

// makers is how far a sequence has read the records of each maker, and in which
// ring.
type makers struct {
	mu   sync.Mutex
	read map[envelope.StreamID]madeRead
}

type madeRead struct {
	ring envelope.StreamID
	next uint64
}

// once leaves out of b what came from another ring before.
func (m *makers) once(b envelope.Batch) envelope.Batch {
	if b.Stream == 0 || b.Stream == b.Ring {
		return b
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	was := m.read[b.Stream]
	if was.ring != 0 && was.ring != b.Ring && b.First < was.next {
		n := min(was.next-b.First, uint64(b.Count))
		switch {
		case b.Next <= was.next:
			n = uint64(b.Count)
		case b.Next-b.First != uint64(b.Count): // the query left some out: which ones nobody knows
			n = 0
		}
		if n > 0 {
			for range n {
				_, rest, err := envelope.Next(b.Records)
				if err != nil {
					break
				}
				b.Records = rest
			}
			b.Count -= int(n)
			b.First, b.Missed = b.First+n, 0
		}
		if b.Count == 0 { // all that is left is the place in the ring
			b.Records, b.Stream, b.First, b.Next = nil, 0, 0, 0
			return b
		}
	}
	if len(m.read) >= envelope.MaxCursor {
		clear(m.read) // most are gone; of the others something may come twice
	}
	m.read[b.Stream] = madeRead{b.Ring, max(b.Next, was.next)}
	return b
}

type part struct {
	envelope.Source
	server int
	// since, if it is set, is what the drain began with: this server's records
	// from before are not wanted, though no place there is known.
	since time.Time
}

// newSeveral makes a source of parts. If all of them can wake sleepers, it can.
func newSeveral(parts []part, rings map[envelope.StreamID]int) (*several, envelope.Source) {
	s := &several{parts: parts, rings: rings}
	for _, p := range parts {
		if _, ok := p.Source.(envelope.Waker); !ok {
			return s, s
		}
	}
	return s, wakingSeveral{s}
}

// at gives the part of c that is about one server: of the rings those that are there
// or may be, and all makers.
func (s *several) at(c envelope.Cursor, server int) envelope.Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	part := envelope.Cursor{Rings: make(map[envelope.StreamID]uint64), Streams: c.Streams}
	for ring, position := range c.Rings {
		if known, ok := s.rings[ring]; !ok || known == server {
			part.Rings[ring] = position
		}
	}
	if len(s.rings) > 2*len(c.Rings)+100 { // most of them are gone
		for ring := range s.rings {
			if _, ok := c.Rings[ring]; !ok {
				delete(s.rings, ring)
			}
		}
	}
	return part
}

// query is q for one of the servers.
func (s *several) query(q envelope.Query, p *part) envelope.Query {
	if p.since.IsZero() {
		return q
	}
	if s.knows(q.Cursor, p.server) {
		return q
	}
	q.Cursor, q.Since, q.History, q.Last = envelope.Cursor{}, p.since, false, 0
	return q
}

func (s *several) knows(c envelope.Cursor, server int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for ring := range c.Rings {
		if known, ok := s.rings[ring]; ok && known == server {
			return true
		}
	}
	return false
}

func (s *several) note(ring envelope.StreamID, server int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rings[ring] = server
}

// part is the sequence of one server.
func (s *several) part(ctx context.Context, q envelope.Query, p *part, made *makers) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		last := envelope.StreamID(0)
		for b, err := range p.Batches(ctx, s.query(q, p)) {
			if b.Ring != last && b.Ring != 0 {
				last = b.Ring
				s.note(b.Ring, p.server)
			}
			if made != nil && err == nil {
				b = made.once(b)
			}
			if !yield(b, err) {
				return
			}
		}
	}
}

func (s *several) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	switch {
	case len(s.parts) == 1:
		return s.part(ctx, q, &s.parts[0], nil)
	case !q.Follow:
		return s.oneByOne(ctx, q)
	}
	return func(yield func(envelope.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		type step struct {
			batch envelope.Batch
			err   error
		}
		steps := make(chan step)
		taken := make(chan struct{}) // the memory was lent until now
		made := &makers{read: make(map[envelope.StreamID]madeRead)}
		for i := range s.parts {
			running.Go(func() {
				for b, err := range s.part(ctx, q, &s.parts[i], made) {
					select {
					case steps <- step{b, err}:
					case <-ctx.Done():
						return
					}
					select {
					case <-taken:
					case <-ctx.Done():
						return
					}
				}
			})
		}
		for {
			select {
			case step := <-steps:
				if !yield(step.batch, step.err) || step.err != nil {
					return
				}
				select {
				case taken <- struct{}{}:
				case <-ctx.Done(): // the other has gone
				}
			case <-ctx.Done():
				yield(envelope.Batch{}, ctx.Err())
				return
			}
		}
	}
}

// oneByOne gives what each server holds. The error of one comes after what the
// others have.
func (s *several) oneByOne(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		var first error
		made := &makers{read: make(map[envelope.StreamID]madeRead)}
		for i := range s.parts {
			for b, err := range s.part(ctx, q, &s.parts[i], made) {
				if err != nil {
					if first == nil {
						first = err
					}
					break
				}
				if !yield(b, nil) {
					return
				}
			}
		}
		if first != nil {
			yield(envelope.Batch{}, first)
		}
	}
}

// wakingSeveral is several, all of which can wake.
type wakingSeveral struct{ *several }

func (s wakingSeveral) Wake(q envelope.Query, f func()) (stop func()) {
	stops := make([]func(), 0, len(s.parts))
	for i := range s.parts {
		p := &s.parts[i]
		stops = append(stops, p.Source.(envelope.Waker).Wake(s.query(q, p), f))
	}
	return func() {
		for _, stop := range stops {
			stop()
		}
	}
}

// Behind sums what the servers tell, if all do.
func (s *several) behind(sel []envelope.Selector, at map[envelope.StreamID]uint64) (n uint64, ok bool) {
	for _, p := range s.parts {
		c, ok := p.Source.(counter)
		if !ok {
			return 0, false
		}
		n += c.Behind(sel, at)
	}
	return n, true
}

// merge takes more into c: of rings and of makers the further place.
func merge(c *envelope.Cursor, more envelope.Cursor) {
	if c.Rings == nil {
		c.Rings = make(map[envelope.StreamID]uint64)
	}
	if c.Streams == nil {
		c.Streams = make(map[envelope.StreamID]uint64)
	}
	for ring, position := range more.Rings {
		c.Rings[ring] = max(c.Rings[ring], position)
	}
	for stream, next := range more.Streams {
		c.Streams[stream] = max(c.Streams[stream], next)
	}
}
