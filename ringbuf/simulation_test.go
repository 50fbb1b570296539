package ringbuf

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

var seeds = flag.Int("seeds", 60, "how many random simulations to run")

// modelRecord is what the slow model knows of a record that a ring accepted.
type modelRecord struct {
	stream envelope.StreamID
	number uint64
	record []byte
}

// modelRing keeps everything a ring ever accepted, by position.
type modelRing struct {
	ring    *Ring
	records []modelRecord // position-1
	local   uint64
	origins map[envelope.StreamID]uint64
}

type modelReader struct {
	ring   *modelRing
	at     Reader
	start  uint64
	read   uint64
	missed uint64
}

type markRecord struct{}

func (m markRecord) MarkMissed(n uint64, why envelope.Reason) []byte {
	return envelope.AppendRecord(nil, binary.AppendUvarint([]byte{0x08}, n*uint64(envelope.Reasons)+uint64(why)))
}

// record makes a record of about size bytes whose content is its own.
func record(rng *rand.Rand, size int) []byte {
	e := make([]byte, size)
	for i := range e {
		e[i] = byte(rng.Uint32())
	}
	return envelope.AppendRecord(nil, e)
}

func recordOfSomeSize(rng *rand.Rand) []byte {
	switch rng.IntN(20) {
	case 0:
		return record(rng, rng.IntN(4))
	case 1:
		return record(rng, 2000+rng.IntN(100)) // around a block
	case 2:
		return record(rng, rng.IntN(20_000))
	case 3:
		if rng.IntN(10) == 0 {
			return record(rng, rng.IntN(1<<18+100)) // around the largest that a small budget takes
		}
	}
	return record(rng, 100+rng.IntN(500))
}

// TestSimulation runs random appends, repeats, gaps, reads, trims, removals and
// evictions against a model that keeps everything, and checks after each read
// that what comes out is what went in, and at the end that for each reader
// accepted = read + missed + held.
func TestSimulation(t *testing.T) {
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			simulate(t, seed)
		})
	}
}

func simulate(t *testing.T, seed uint64) {
	rng := rand.New(rand.NewPCG(seed, 1))
	s, err := New(&Options{Budget: MinBudget + rng.Int64N(MinBudget)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var rings []*modelRing
	var readers []*modelReader
	check := func(r *modelReader, size int) {
		b := r.at.Read(make([]byte, 0, size))
		r.missed += b.Missed
		at := r.start + r.read + r.missed
		if b.Position != at+uint64(b.Count) && b.Count > 0 {
			t.Fatalf("batch of %d ends at %d, reader was at %d", b.Count, b.Position, at)
		}
		i := uint64(0)
		for e, err := range b.All() {
			if err != nil {
				t.Fatal(err)
			}
			want := r.ring.records[at+i-1]
			if got := envelope.AppendRecord(nil, e); !bytes.Equal(got, want.record) {
				t.Fatalf("position %d: another record came out", at+i)
			}
			if b.Stream != want.stream || b.First+i != want.number {
				t.Fatalf("position %d: number %d of %x, want %d of %x", at+i, b.First+i, b.Stream, want.number, want.stream)
			}
			i++
		}
		if i != uint64(b.Count) {
			t.Fatalf("batch says %d records, has %d", b.Count, i)
		}
		r.read += i
	}
	for range 1500 {
		switch op := rng.IntN(100); {
		case op < 3 || len(rings) == 0:
			ring, err := s.NewRing(nil)
			if err != nil {
				t.Fatal(err)
			}
			rings = append(rings, &modelRing{ring: ring, origins: make(map[envelope.StreamID]uint64), local: 1})
		case op < 60:
			appendSome(t, rng, s, rings[rng.IntN(len(rings))])
		case op < 65:
			r := rings[rng.IntN(len(rings))]
			first, next := r.ring.Bounds()
			start := first + rng.Uint64N(next-first+1)
			readers = append(readers, &modelReader{ring: r, at: r.ring.Reader(start), start: start})
		case op < 99:
			if len(readers) > 0 {
				check(readers[rng.IntN(len(readers))], rng.IntN(20_000))
			}
		default:
			if rng.IntN(3) == 0 {
				s.Trim(time.Now().Add(2 * time.Hour)) // everything is too old
			}
		}
		verify(t, s)
	}
	for _, r := range readers {
		for {
			was := r.read
			check(r, 64<<10)
			if r.read == was {
				break
			}
		}
		held, missed := r.at.Behind()
		if got := r.read + r.missed + held + missed; got != uint64(len(r.ring.records))+1-r.start {
			t.Errorf("read %d + missed %d + held %d = %d, accepted %d", r.read, r.missed+missed, held, got, uint64(len(r.ring.records))+1-r.start)
		}
	}
	removed := 0
	s.Trim(time.Now().Add(2 * time.Hour))
	for _, r := range rings {
		if r.ring.Remove() {
			removed++
		}
	}
	if st := s.Stats(); removed != len(rings) || st.Used != 0 || st.Records != 0 || st.Bytes != 0 {
		t.Errorf("after everything is removed: %+v", st)
	}
}

func appendSome(t *testing.T, rng *rand.Rand, s *Store, r *modelRing) {
	var b envelope.Batch
	var parts [][]byte
	for range 1 + rng.IntN(40) {
		rec := recordOfSomeSize(rng)
		parts = append(parts, rec)
		b.Records = append(b.Records, rec...)
		b.Count++
	}
	skip, lost := uint64(0), uint64(0)
	if rng.IntN(2) == 0 {
		b.Stream = envelope.StreamID(1 + rng.IntN(3))
		expected, known := r.origins[b.Stream]
		if !known {
			expected = 1 + rng.Uint64N(100)
		}
		b.First = expected
		switch rng.IntN(6) {
		case 0: // repeats, some or all of it
			b.First -= min(b.First, rng.Uint64N(60))
		case 1: // a gap
			b.First += rng.Uint64N(50)
		}
		b.Next = b.First + uint64(b.Count)
		if known && b.First < expected {
			skip = min(expected-b.First, uint64(b.Count))
		} else if known {
			lost = b.First - expected
		}
		if !known {
			expected = 0
		}
		r.origins[b.Stream] = max(b.Next, expected)
	}
	done := r.ring.Append(b, markRecord{})
	if done.Repeated != skip || done.Lost != lost || (done.Marked > 0) != (lost > 0) {
		t.Fatalf("append: %+v, want %d repeated, %d lost", done, skip, lost)
	}
	if done.Marked > 0 {
		r.records = append(r.records, modelRecord{r.ring.id, r.local, markRecord{}.MarkMissed(lost, 0)})
		r.local++
	}
	refused := uint64(0)
	for i := int(skip); i < len(parts); i++ {
		if len(parts[i]) > s.MaxRecord() {
			refused++
			continue
		}
		m := modelRecord{b.Stream, b.First + uint64(i), parts[i]}
		if b.Stream == 0 {
			m.stream, m.number = r.ring.id, r.local
			r.local++
		}
		r.records = append(r.records, m)
	}
	if done.Refused != refused || done.Accepted != uint64(len(parts))-skip-refused {
		t.Fatalf("append of %d: %+v, want %d refused", len(parts), done, refused)
	}
	if _, next := r.ring.Bounds(); next != uint64(len(r.records))+1 {
		t.Fatalf("next position %d, model %d", next, len(r.records)+1)
	}
}

// verify checks the store against itself, as slowly as it takes.
func verify(t *testing.T, s *Store) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	used, inUse, held := int64(0), 0, uint64(0)
	for i, r := range s.rings {
		if r == nil {
			continue
		}
		used += ringCost + int64(r.blocks.len())*blockCost + int64(len(r.runs)-r.runs0)*runCost + int64(len(r.origins))*originCost
		inUse += r.blocks.len()
		held += r.next - r.first
		for k := range r.blocks.len() {
			if m := s.arena.meta(r.blocks.at(k)); m.ring != uint32(i) || m.pins != 0 {
				t.Fatalf("block %d of ring %d: %+v", k, i, m)
			}
		}
		if r.class != sizeClass(r.blocks.len()) {
			t.Fatalf("ring of %d blocks is in class %d", r.blocks.len(), r.class)
		}
	}
	listed, last := 0, int64(0)
	for id := s.arena.oldest; id != none; id = s.arena.meta(id).newer {
		if m := s.arena.meta(id); m.time < last {
			t.Fatal("the list by age is out of order")
		} else {
			last = m.time
		}
		listed++
	}
	if used != s.used || listed != inUse || held != s.held || inUse+len(s.arena.free) != len(s.arena.chunks)*chunkBlocks {
		t.Fatalf("used %d, counted %d; listed %d of %d blocks, %d free of %d; held %d, counted %d",
			s.used, used, listed, inUse, len(s.arena.free), len(s.arena.chunks)*chunkBlocks, s.held, held)
	}
	if s.used > s.budget+int64(len(s.rings))*(runCost+originCost) {
		t.Fatalf("%d bytes used of a budget of %d", s.used, s.budget)
	}
}
