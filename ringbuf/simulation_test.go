package ringbuf

import (
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"
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

// modelReader is a reader and what it has got so far. A reader that stalls has
// put its place away as a number, as a cursor does.
type modelReader struct {
	ring    *modelRing
	at      Reader
	start   uint64
	read    uint64
	missed  uint64
	stalled bool
}

// simulation is a store and the model of all that ever happened to it.
type simulation struct {
	t       *testing.T
	rng     *rand.Rand
	s       *Store
	rings   []*modelRing // that are in the store
	readers []*modelReader
	tiny    []*Ring // empty ones, of which many come and go
	reopen  func()  // closes the store and opens it again; nil: it has no directory
	dir     string

	vacated int // times that memory was given back
}

type markRecord struct{}

func (m markRecord) MarkMissed(n uint64, why envelope.Reason, _ envelope.Numbers) []byte {
	return envelope.AppendRecord(nil, binary.AppendUvarint([]byte{0x08}, n*uint64(envelope.Reasons)+uint64(why)))
}

// record makes a record of about size bytes whose content is its own.
func record(rng *rand.Rand, size int) []byte {
	e := make([]byte, size)
	own := rng.Uint64()
	for i := 0; i+8 <= size; i += 8 {
		binary.LittleEndian.PutUint64(e[i:], own+uint64(i)*0x9e3779b97f4a7c15)
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

// TestSimulation runs random appends of several makers, repeats, gaps, reads of
// readers that stall for long, trims, rings that are removed and made again, and
// evictions against a model that keeps everything. It checks after each read that
// what comes out is what went in, and at the end that for each reader
// accepted = read + missed + held.
func TestSimulation(t *testing.T) {
	var vacated atomic.Int64
	t.Cleanup(func() {
		if vacated.Load() == 0 {
			t.Error("no memory was ever given back")
		}
	})
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			vacated.Add(int64(simulate(t, seed)))
		})
	}
}

func simulate(t *testing.T, seed uint64) (vacated int) {
	rng := rand.New(rand.NewPCG(seed, 1))
	s, err := New(&Options{Budget: MinBudget + rng.Int64N(MinBudget)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	m := &simulation{t: t, rng: rng, s: s}
	m.run()
	return m.vacated
}

func (m *simulation) run() {
	m.makeRing()
	for i := range 1500 {
		m.step()
		if i%16 == 0 {
			m.verify()
		}
	}
	m.finish()
}

func (m *simulation) step() {
	rng := m.rng
	switch op := rng.IntN(100); {
	case op < 3:
		m.makeRing()
	case op < 60:
		m.append(m.rings[rng.IntN(len(m.rings))])
	case op < 65:
		r := m.rings[rng.IntN(len(m.rings))]
		first, next := r.ring.Bounds()
		start := first + rng.Uint64N(next-first+1)
		m.readers = append(m.readers, &modelReader{ring: r, at: r.ring.Reader(start), start: start})
	case op < 95:
		if len(m.readers) > 0 {
			r := m.readers[rng.IntN(len(m.readers))]
			if r.stalled && rng.IntN(10) > 0 {
				return
			}
			r.stalled = rng.IntN(20) == 0
			m.check(r, rng.IntN(20_000))
		}
	case op < 98:
		m.come(rng.IntN(100))
	case m.reopen != nil && rng.IntN(6) == 0:
		m.reopen()
	case rng.IntN(6) == 0:
		m.go_()
	case rng.IntN(6) == 0:
		m.s.Trim(time.Now().Add(2 * time.Hour)) // everything is too old
	case rng.IntN(2) == 0:
		r := m.rings[rng.IntN(len(m.rings))]
		first, next := r.ring.Bounds()
		r.ring.Release(first + rng.Uint64N(next-first+1))
	case len(m.rings) > 1:
		k := rng.IntN(len(m.rings))
		if m.rings[k].ring.Remove() {
			m.settle(m.rings[k])
			m.rings = slices.Delete(m.rings, k, k+1)
		}
	}
}

func (m *simulation) makeRing() {
	ring, err := m.s.NewRing("", nil)
	if err != nil {
		m.t.Fatal(err)
	}
	m.rings = append(m.rings, &modelRing{ring: ring, origins: make(map[envelope.StreamID]uint64), local: 1})
}

// come and go_ are sources that say nothing: what they cost is taken from the
// others' blocks, whose memory goes back to the system, and comes again.
func (m *simulation) come(n int) {
	for ; n > 0 && !m.crowded(); n-- {
		mapped := m.s.arena.mapped
		ring, err := m.s.NewRing("", nil)
		if err != nil {
			m.t.Fatal(err)
		}
		m.tiny = append(m.tiny, ring)
		if m.s.arena.mapped < mapped {
			m.vacated++
			m.verify()
		}
	}
}

// crowded reports whether rings leave no room that is sure to hold the largest
// record.
func (m *simulation) crowded() bool { return m.s.ringsUsed > m.s.budget/2 }

func (m *simulation) go_() {
	for _, ring := range m.tiny {
		if !ring.Remove() {
			m.t.Fatal("an empty ring cannot be removed")
		}
	}
	m.tiny = m.tiny[:0]
}

// check reads one batch and compares it with the model.
func (m *simulation) check(r *modelReader, size int) {
	t := m.t
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
	if r.stalled {
		r.at = r.ring.ring.Reader(r.at.Position())
	}
}

// settle checks the account of a ring's readers, and lets them go.
func (m *simulation) settle(of *modelRing) {
	m.readers = slices.DeleteFunc(m.readers, func(r *modelReader) bool {
		if r.ring != of {
			return false
		}
		for {
			was := r.read
			m.check(r, 64<<10)
			if r.read == was {
				break
			}
		}
		held, missed := r.at.Behind()
		accepted := uint64(len(of.records)) + 1 - r.start
		if got := r.read + r.missed + held + missed; got != accepted || held != 0 {
			m.t.Errorf("read %d + missed %d + held %d = %d, accepted %d", r.read, r.missed+missed, held, got, accepted)
		}
		return true
	})
}

func (m *simulation) finish() {
	m.verify()
	for _, r := range m.rings {
		m.settle(r)
	}
	m.go_()
	m.s.Trim(time.Now().Add(2 * time.Hour))
	for _, r := range m.rings {
		if !r.ring.Remove() {
			m.t.Error("a ring of which everything is too old is not empty")
		}
	}
	if st := m.s.Stats(); st.Used != 0 || st.Records != 0 || st.Bytes != 0 || st.Rings != 0 {
		m.t.Errorf("after everything is removed: %+v", st)
	}
}

func (m *simulation) append(r *modelRing) {
	t, rng, s := m.t, m.rng, m.s
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
		r.records = append(r.records, modelRecord{r.ring.id, r.local, markRecord{}.MarkMissed(lost, 0, envelope.Numbers{})})
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
func (m *simulation) verify() {
	t, s := m.t, m.s
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	used, inUse, held := int64(0), 0, uint64(0)
	for i, r := range s.rings {
		if r == nil {
			continue
		}
		used += ringCost + r.kept + int64(r.blocks.len())*blockCost + int64(len(r.runs)-r.runs0)*runCost + int64(len(r.origins))*originCost
		inUse += r.blocks.len()
		held += r.next - r.first
		for k := range r.blocks.len() {
			if m := s.arena.meta(r.blocks.at(k)); m.ring != uint32(i) || m.pins != 0 || m.seq != uint32(r.base>>blockBits)+uint32(k) {
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
	if used != s.used || listed != inUse || held != s.held || inUse != s.inUse || inUse+s.arena.free != s.arena.mapped*s.arena.perChunk() {
		t.Fatalf("used %d, counted %d; listed %d of %d blocks, %d free of %d; held %d, counted %d",
			s.used, used, listed, inUse, s.arena.free, s.arena.mapped*s.arena.perChunk(), s.held, held)
	}
	if s.used > max(s.budget, s.ringsUsed)+int64(len(s.rings))*(runCost+originCost) {
		t.Fatalf("%d bytes used of a budget of %d", s.used, s.budget)
	}
	free := int64(s.arena.free) * blockCost
	if chunks := 2 * int64(s.arena.perChunk()) * blockCost; s.used+free > max(s.budget, s.used)+chunks {
		t.Fatalf("%d bytes used, and %d free beside them, of a budget of %d", s.used, free, s.budget)
	}
}
