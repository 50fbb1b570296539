package drain

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/cloudfoundry/loggregator/envelope"
)

// memory is a Source: rings of records in memory, each bounded to keep records,
// that are numbered from 1.
type memory struct {
	mu    sync.Mutex
	rings map[envelope.StreamID]*memoryRing
	order []envelope.StreamID
	wake  chan struct{}
	batch int // records of one batch at most
	keep  int // records of a ring; 0: all

	wakers []*memoryWaker
}

type memoryRing struct {
	first   uint64 // number of records[0]
	records [][]byte
}

func newMemory() *memory {
	return &memory{rings: make(map[envelope.StreamID]*memoryRing), wake: make(chan struct{}), batch: 64}
}

func (m *memory) append(ring envelope.StreamID, records ...[]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.rings[ring]
	if r == nil {
		r = &memoryRing{first: 1}
		m.rings[ring] = r
		m.order = append(m.order, ring)
	}
	r.records = append(r.records, records...)
	if over := len(r.records) - m.keep; m.keep > 0 && over > 0 {
		r.records = r.records[over:]
		r.first += uint64(over)
	}
	close(m.wake)
	m.wake = make(chan struct{})
	for _, w := range m.wakers {
		w.f()
	}
}

type memoryWaker struct{ f func() }

// Wake implements envelope.Waker.
func (m *memory) Wake(q envelope.Query, f func()) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, r := range m.rings {
		if q.Cursor.Rings[id] < r.first+uint64(len(r.records)) {
			f()
		}
	}
	w := &memoryWaker{f}
	m.wakers = append(m.wakers, w)
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.wakers = slices.DeleteFunc(m.wakers, func(o *memoryWaker) bool { return o == w })
	}
}

// drop forgets a ring.
func (m *memory) drop(ring envelope.StreamID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.rings, ring)
	m.order = slices.DeleteFunc(m.order, func(id envelope.StreamID) bool { return id == ring })
}

func (m *memory) lines(ring envelope.StreamID, from, to int) {
	fixed := shop.Encode()
	var records [][]byte
	for i := from; i < to; i++ {
		records = append(records, envelope.AppendLog(nil, fixed, stamp, envelope.Out, fmt.Appendf(nil, "ring=%d seq=%d", ring, i)))
	}
	m.append(ring, records...)
}

func (m *memory) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		next := clone(q.Cursor).Rings
		if next == nil {
			next = make(map[envelope.StreamID]uint64)
		}
		m.mu.Lock()
		if q.Cursor.IsZero() && !q.History {
			for id, r := range m.rings {
				next[id] = r.first + uint64(len(r.records))
			}
		}
		m.mu.Unlock()
		for {
			var found []envelope.Batch
			m.mu.Lock()
			wake := m.wake
			for _, id := range m.order {
				r := m.rings[id]
				at, ok := next[id]
				if !ok {
					at = 1
					if q.Cursor.IsZero() {
						at = r.first
					}
				}
				var missed uint64
				if at < r.first {
					missed, at = r.first-at, r.first
				}
				rest := r.records[min(at-r.first, uint64(len(r.records))):]
				rest = rest[:min(len(rest), m.batch)]
				if len(rest) == 0 && missed == 0 {
					continue
				}
				b := envelope.Batch{Stream: id, Ring: id, First: at, Missed: missed, Count: len(rest)}
				for _, record := range rest {
					b.Records = append(b.Records, record...)
				}
				b.Next = at + uint64(b.Count)
				b.Position = b.Next
				next[id] = b.Next
				found = append(found, b)
			}
			m.mu.Unlock()
			for _, b := range found {
				if ctx.Err() != nil {
					yield(envelope.Batch{}, ctx.Err())
					return
				}
				if !yield(b, nil) {
					return
				}
				clear(b.Records) // the memory was lent
			}
			if len(found) > 0 {
				continue
			}
			if !q.Follow {
				return
			}
			select {
			case <-wake:
			case <-ctx.Done():
				yield(envelope.Batch{}, ctx.Err())
				return
			}
		}
	}
}

var everything = envelope.Query{Select: envelope.Everything, History: true}

type (
	ctx        = context.Context
	envelopeID = envelope.StreamID
)
