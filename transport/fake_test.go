package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"iter"
	"maps"
	"slices"
	"sync"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// rings is a Source made of a few rings of numbered records, each of which says
// in its payload which ring it is from and which number it has.
type rings struct {
	mu      sync.Mutex
	changed *sync.Cond
	held    map[envelope.StreamID]*ring
	ended   bool
	perStep int // records of one batch; default 10
	steps   int // batches yielded
}

type ring struct {
	first   uint64 // number of the oldest record held
	records [][]byte
}

func newRings(perStep int) *rings {
	r := &rings{held: make(map[envelope.StreamID]*ring), perStep: perStep}
	r.changed = sync.NewCond(&r.mu)
	return r
}

func payload(id envelope.StreamID, number uint64) []byte {
	p := binary.LittleEndian.AppendUint64(nil, uint64(id))
	return binary.LittleEndian.AppendUint64(p, number)
}

var fixed = envelope.Identity{SourceID: "source", InstanceID: "0"}.Encode()

// add appends n records to a ring.
func (r *rings) add(id envelope.StreamID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.held[id]
	if g == nil {
		g = &ring{first: 1}
		r.held[id] = g
	}
	for range n {
		number := g.first + uint64(len(g.records))
		g.records = append(g.records, envelope.AppendLog(nil, fixed, int64(number), envelope.Out, payload(id, number)))
	}
	r.changed.Broadcast()
}

// drop makes a ring lose its n oldest records.
func (r *rings) drop(id envelope.StreamID, n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	g := r.held[id]
	g.first += uint64(n)
	g.records = g.records[n:]
}

// end makes every sequence end once it has yielded what is there.
func (r *rings) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended = true
	r.changed.Broadcast()
}

func (r *rings) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		defer context.AfterFunc(ctx, func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.changed.Broadcast()
		})()
		at := maps.Clone(q.Cursor.Rings)
		if at == nil {
			at = make(map[envelope.StreamID]uint64)
		}
		for {
			bs, err := r.next(ctx, q.Follow, at)
			if err != nil {
				yield(envelope.Batch{}, err)
				return
			}
			for _, b := range bs {
				if !yield(b, nil) {
					return
				}
			}
			if len(bs) == 0 {
				return
			}
		}
	}
}

// next is a batch of every ring that has one; none means the end.
func (r *rings) next(ctx context.Context, follow bool, at map[envelope.StreamID]uint64) ([]envelope.Batch, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		var bs []envelope.Batch
		for _, id := range slices.Sorted(maps.Keys(r.held)) {
			g := r.held[id]
			from := max(at[id], 1)
			b := envelope.Batch{Stream: id, Ring: id, First: max(from, g.first)}
			b.Missed = b.First - from
			have := g.records[b.First-g.first:]
			have = have[:min(len(have), r.perStep)]
			b.Count = len(have)
			b.Records = slices.Concat(have...)
			b.Next = b.First + uint64(b.Count)
			b.Position = b.Next
			if b.Count == 0 && b.Missed == 0 {
				continue
			}
			at[id] = b.Position
			bs = append(bs, b)
		}
		r.steps += len(bs)
		if len(bs) > 0 || r.ended || !follow {
			return bs, nil
		}
		r.changed.Wait()
	}
}

// sink is a Writer that drops what it has seen, counts gaps, and fails the test
// when a record is not the one its number says.
type sink struct {
	t testing.TB

	mu       sync.Mutex
	expected map[envelope.StreamID]uint64
	taken    map[envelope.StreamID]uint64
	gaps     map[envelope.StreamID]uint64
	repeats  int
	batches  int
	loose    int   // records that nobody numbered
	err      error // returned instead of taking
	grew     *sync.Cond
}

func newSink(t testing.TB) *sink {
	s := &sink{t: t, expected: make(map[envelope.StreamID]uint64), taken: make(map[envelope.StreamID]uint64), gaps: make(map[envelope.StreamID]uint64)}
	s.grew = sync.NewCond(&s.mu)
	return s
}

func (s *sink) WriteBatch(_ context.Context, b envelope.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.grew.Broadcast()
	if s.err != nil {
		return s.err
	}
	s.batches++
	if b.Stream == 0 {
		s.loose += b.Count
		return nil
	}
	want := max(s.expected[b.Stream], 1)
	if b.First > want {
		s.gaps[b.Stream] += b.First - want
	}
	number, count := b.First, 0
	for e, err := range b.All() {
		if err != nil {
			s.t.Errorf("record: %v", err)
			return err
		}
		r, err := e.Route()
		if err != nil || string(r.Payload) != string(payload(b.Stream, number)) {
			s.t.Errorf("stream %d: record %d is another: %x, %v", b.Stream, number, r.Payload, err)
		}
		if number < want {
			s.repeats++
		} else {
			s.taken[b.Stream]++
		}
		number++
		count++
	}
	if count != b.Count {
		s.t.Errorf("Count = %d, records %d", b.Count, count)
	}
	s.expected[b.Stream] = max(want, b.Next)
	return nil
}

func (s *sink) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// check compares with what was made: each record of each stream was taken once,
// or is in a gap.
func (s *sink) check(made map[envelope.StreamID]uint64) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range made {
		if s.taken[id]+s.gaps[id] != n {
			s.t.Errorf("stream %d: made %d, taken %d, missed %d", id, n, s.taken[id], s.gaps[id])
		}
	}
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprintf("taken %v gaps %v repeats %d", s.taken, s.gaps, s.repeats)
}

// sourceFunc is a function as a Source that knows no errors.
type sourceFunc func(ctx context.Context, q envelope.Query, yield func(envelope.Batch) bool)

func (f sourceFunc) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		f(ctx, q, func(b envelope.Batch) bool { return yield(b, nil) })
	}
}
