package ringbuf

import (
	"sort"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Ring is the records of one source. Its memory comes from a Store.
//
// A record has a position, 1, 2, 3 … in the order of arrival, and it keeps the
// number its maker gave it (see [envelope.Batch]); records that come without
// one are numbered by the ring.
type Ring struct {
	s     *Store
	owner any
	id    envelope.StreamID
	index uint32 // in Store.rings

	// Bytes have addresses that only grow; base is that of the first block held,
	// end is where the next record goes.
	blocks blocks
	base   uint64
	end    uint64

	first uint64 // position of the oldest record held
	next  uint64 // position of the next record
	local uint64 // number for the next record that has none

	runs    []run // who numbered which records, oldest first
	runs0   int   // runs[:runs0] are gone
	origins map[envelope.StreamID]origin

	class           int // place in Store.sizes
	prev, following *Ring
	removed         bool
}

// run is a stretch of records with consecutive numbers of one maker. A source
// with one maker has one run however long it is.
type run struct {
	position uint64
	addr     uint64
	stream   envelope.StreamID
	number   uint64 // of its first record
	told     uint64 // records lost before it, of which the record before it tells
}

// origin is what a ring knows of a maker: the numbers of the first record that it
// took, or was told of as lost, and of the one that comes next.
type origin struct{ begin, next uint64 }

// maxOrigins bounds how many makers of records a ring remembers, to recognise
// what they repeat.
const maxOrigins = 4096

// Marker makes the record that tells readers of n records lost on the way to
// this ring. It is called under the store's lock and must not call it.
type Marker interface {
	MarkMissed(n uint64, why envelope.Reason) []byte
}

// Appended is what became of a batch.
type Appended struct {
	Accepted uint64 // records now in the ring
	Repeated uint64 // records the ring had taken before, dropped
	Refused  uint64 // records larger than MaxRecord, or for which there is no room; dropped
	Lost     uint64 // records that never arrived: those that the batch said were missed, and by the numbers of their maker
	Said     uint64 // of those, the ones that the batch said, for its Reason
	Marked   uint64 // records added that tell of Lost
}

// ID names this life of the ring.
func (r *Ring) ID() envelope.StreamID { return r.id }

// Append copies the records of b in. Of a numbered batch, what has been taken
// before is dropped. What the batch says was missed just before it, and what is
// missing by the numbers of its maker and not accounted for by whoever gives the
// batch (see envelope.Batch.From), is counted as Lost, and told in the ring by
// records that mark makes (nil: not told). Append never waits for readers.
//
// The records must be whole, as envelope.Of and envelope.ParseBatch make sure.
func (r *Ring) Append(b envelope.Batch, mark Marker) (done Appended) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().UnixNano()
	if s.closed || r.removed {
		done.Refused = uint64(b.Count)
		return done
	}
	records, number := b.Records, b.First
	done.Said = b.Missed
	gap := uint64(0) // missing by the numbers, and nobody said so
	if b.Stream != 0 {
		o, known := r.origins[b.Stream]
		if known && b.Next <= o.next {
			return Appended{Repeated: uint64(b.Count)}
		}
		switch {
		case !known:
			o.begin = b.First - min(b.First, b.Missed)
		case b.First < o.next:
			// Numbers left out by a query cannot be told apart here; links carry
			// whole streams.
			for number < o.next && len(records) > 0 {
				records = records[recordSize(records):]
				number++
				done.Repeated++
			}
			number = o.next
			done.Said = 0 // said when the first of them came
		case b.From != 0:
			gap = max(min(b.From, b.First), o.next) - o.next
		default: // what was missed may be the gap, or another maker's
			gap = b.First - o.next - min(b.First-o.next, b.Missed)
		}
		o.next = b.Next
		r.noteOrigin(b.Stream, o, known)
	}
	done.Lost = done.Said + gap
	told := uint64(0)
	if done.Lost > 0 && mark != nil {
		why := envelope.ReasonUnknown
		if b.Missed == 0 {
			why = b.Reason
		}
		told = r.tell(done.Said, b.Reason, mark, now, &done) + r.tell(gap, why, mark, now, &done)
	}
	for len(records) > 0 {
		if b.Stream != 0 {
			r.startRun(b.Stream, number, told)
		} else {
			r.startRun(r.id, r.local, told)
		}
		size, count := r.put(records, now)
		if count == 0 { // this record is refused; the rest lives
			records = records[recordSize(records):]
			done.Refused++
			number++
			continue
		}
		records = records[size:]
		told = 0
		number += count
		if b.Stream == 0 {
			r.local += count
		}
		done.Accepted += count
	}
	s.touch(r, now)
	return done
}

// tell adds the record that tells of n lost ones, and returns n if it could.
func (r *Ring) tell(n uint64, why envelope.Reason, mark Marker, now int64, done *Appended) uint64 {
	if n == 0 {
		return 0
	}
	record := mark.MarkMissed(n, why)
	if record == nil {
		return 0
	}
	r.startRun(r.id, r.local, 0)
	if _, added := r.put(record, now); added == 0 {
		return 0
	}
	r.local++
	done.Marked++
	return n
}

func (r *Ring) noteOrigin(stream envelope.StreamID, o origin, known bool) {
	if r.origins == nil {
		r.origins = make(map[envelope.StreamID]origin, 1)
	}
	if !known {
		if len(r.origins) >= maxOrigins {
			for id := range r.origins { // any: it is a process long gone, most likely
				delete(r.origins, id)
				r.s.used -= originCost
				break
			}
		}
		r.s.used += originCost
	}
	r.origins[stream] = o
}

// startRun makes the next record number of stream, unless it is so already.
func (r *Ring) startRun(stream envelope.StreamID, number, told uint64) {
	if k := len(r.runs); k > r.runs0 {
		last := &r.runs[k-1]
		if last.position == r.next { // nothing was put into it
			*last = run{r.next, r.end, stream, number, told}
			return
		}
		if last.stream == stream && last.number+(r.next-last.position) == number && told == 0 {
			return
		}
	}
	r.runs = append(r.runs, run{r.next, r.end, stream, number, told})
	r.s.used += runCost
}

// dropRuns forgets the runs of records that are gone.
func (r *Ring) dropRuns() {
	for r.runs0 < len(r.runs)-1 && r.runs[r.runs0+1].position <= r.first {
		r.runs0++
		r.s.used -= runCost
	}
	if r.runs0 > 32 && r.runs0 > len(r.runs)/2 {
		r.runs = append(r.runs[:0], r.runs[r.runs0:]...)
		r.runs0 = 0
	}
}

// put copies records in until they are all there or one must be refused, and
// returns how many it took.
func (r *Ring) put(records []byte, now int64) (taken int, count uint64) {
	s := r.s
	for len(records) > 0 {
		// As many records as fit into the rest of the last block go in one copy.
		room := r.room()
		fit, n, size := 0, uint64(0), 0
		for fit < len(records) {
			size = recordSize(records[fit:])
			if fit+size > room {
				break
			}
			fit += size
			n++
		}
		if n > 0 {
			r.begin(now)
			copy(r.tail()[r.end&(blockSize-1):], records[:fit])
		} else {
			// The next one straddles. Its blocks are reserved before a byte of it
			// is written, because reserving may cost this ring blocks.
			if size > s.MaxRecord() {
				return taken, count
			}
			for need := -1; need != r.need(size); {
				need = r.need(size)
				if !s.reserve(need) {
					return taken, count
				}
			}
			r.straddle(records[:size], now)
			fit, n = size, 1
		}
		r.end += uint64(fit)
		r.next += n
		s.held += n
		s.bytes += int64(fit)
		taken += fit
		count += n
		records = records[fit:]
	}
	return taken, count
}

// need is how many more blocks it takes to append size bytes.
func (r *Ring) need(size int) int {
	return (size - r.room() + blockSize - 1) >> blockBits
}

// straddle writes one record over the end of the last block into new ones.
func (r *Ring) straddle(record []byte, now int64) {
	if r.room() == 0 {
		r.s.take(r, now, r.next)
	}
	r.begin(now)
	record = record[copy(r.tail()[r.end&(blockSize-1):], record):]
	for len(record) > 0 {
		r.s.take(r, now, r.next+1)
		record = record[copy(r.tail(), record):]
	}
}

// tail is the last block.
func (r *Ring) tail() []byte {
	return r.s.arena.block(r.blocks.at(r.blocks.len() - 1))
}

// begin notes in the last block that a record starts at end.
func (r *Ring) begin(now int64) {
	m := r.s.arena.meta(r.blocks.at(r.blocks.len() - 1))
	m.time = now
	if m.offset == noStart {
		m.offset, m.number = uint16(r.end&(blockSize-1)), r.next
	}
}

// room is what is left in the last block.
func (r *Ring) room() int {
	return int(r.base + uint64(r.blocks.len())<<blockBits - r.end)
}

// stored is the bytes of the records held, and of a record whose beginning is
// gone.
func (r *Ring) stored() int64 { return int64(r.end - r.base) }

// recordSize is the size of the first record, framing included.
func recordSize(records []byte) int {
	if n := records[1]; n < 0x80 {
		return 2 + int(n)
	}
	n, shift := uint64(records[1]&0x7f), 7
	for i := 2; ; i++ {
		c := records[i]
		n |= uint64(c&0x7f) << shift
		if c < 0x80 {
			return i + 1 + int(n)
		}
		shift += 7
	}
}

// Bounds returns the positions of the oldest record held and of the one that
// comes next: equal if the ring is empty.
func (r *Ring) Bounds() (first, next uint64) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.first, r.next
}

// Since returns the position of the first record that arrived at t or later, or
// a few that arrived before: positions are found by the block.
func (r *Ring) Since(t time.Time) uint64 {
	ns := t.UnixNano()
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	n := r.blocks.len()
	i := sort.Search(n, func(i int) bool { return s.arena.meta(r.blocks.at(i)).time >= ns })
	if i == n {
		return r.next
	}
	return max(r.first, s.arena.meta(r.blocks.at(i)).number)
}

// Remove takes an empty ring out of its Store. It reports false, and does
// nothing, if records are in it.
func (r *Ring) Remove() bool {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.removed {
		return true
	}
	if r.blocks.len() > 0 {
		return false
	}
	r.removed = true
	s.sizes.remove(r)
	s.used -= ringCost + int64(len(r.runs)-r.runs0)*runCost + int64(len(r.origins))*originCost
	r.runs, r.origins, r.runs0 = nil, nil, 0
	s.rings[r.index] = nil
	s.spare = append(s.spare, r.index)
	return true
}

// blocks is the ring's blocks, oldest first.
type blocks struct {
	ids  []uint32
	head int
}

func (b *blocks) len() int        { return len(b.ids) - b.head }
func (b *blocks) at(i int) uint32 { return b.ids[b.head+i] }

func (b *blocks) push(id uint32) {
	if b.head > 32 && b.head > len(b.ids)/2 && len(b.ids) == cap(b.ids) {
		b.ids = b.ids[:copy(b.ids, b.ids[b.head:])]
		b.head = 0
	}
	b.ids = append(b.ids, id)
}

func (b *blocks) pop() uint32 {
	id := b.ids[b.head]
	b.head++
	if b.head == len(b.ids) {
		b.ids, b.head = b.ids[:0], 0
	}
	return id
}
