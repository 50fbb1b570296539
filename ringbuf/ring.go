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
	key   string
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
	origins []origin

	class           int // place in Store.sizes
	prev, following *Ring
	removed         bool

	kept int64 // bytes that the owner keeps for it, see Charge

	// With a directory:
	salt    uint64            // goes into the checksums of its blocks
	crc     uint32            // of what is in the last block
	localAt uint64            // position behind the last record that the ring numbered
	was     envelope.StreamID // id in its former life
	wasEnd  uint64            // positions before this one are the same in both
}

// Marker makes the record that tells readers of n records lost on the way to
// this ring: those of these numbers, or some of them; of zero, nobody knows of
// which. It is called under the store's lock and must not call it.
type Marker interface {
	MarkMissed(n uint64, why envelope.Reason, of envelope.Numbers) []byte
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

// Key is what NewRing was given.
func (r *Ring) Key() string { return r.key }

// Adopt makes owner the one that Empty tells of. Rings that a Store found in its
// directory have none.
func (r *Ring) Adopt(owner any) {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	r.owner = owner
}

// Resume is where a reader goes on that knows rings and positions by a cursor.
// exact is false if it comes from a former life of this ring, of which records
// may be lost that nobody counted; ok if it knows the ring at all.
func (r *Ring) Resume(positions map[envelope.StreamID]uint64) (position uint64, exact, ok bool) {
	if position, ok := positions[r.id]; ok {
		return max(position, 1), true, true
	}
	if position, ok := positions[r.was]; ok && r.was != 0 {
		return min(max(position, 1), r.wasEnd), false, true
	}
	return 0, false, false
}

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
	now := s.time(b.Now)
	if s.closed || r.removed {
		done.Refused = uint64(b.Count)
		return done
	}
	records, number := b.Records, b.First
	done.Said = b.Missed
	gap := uint64(0) // missing by the numbers, and nobody said so
	var missing envelope.Numbers
	var from *origin
	fresh := false
	if b.Stream != 0 {
		var known bool
		from, known = r.recognise(b.Stream)
		fresh = !known
		if known && b.Next <= from.next {
			return Appended{Repeated: uint64(b.Count)}
		}
		if known && b.First < from.next {
			// Numbers left out by a query cannot be told apart here; links carry
			// whole streams.
			for number < from.next && len(records) > 0 {
				records = records[recordSize(records):]
				number++
				done.Repeated++
			}
			number = from.next
			done.Said = 0 // said when the first of them came
			r.reach(&b)
		} else {
			next := expected(&b, from, known)
			if !known {
				from.begin = next
			}
			missing = envelope.Numbers{Stream: b.Stream, First: next, Next: b.First}
			gap = b.First - next
			gap -= min(gap, b.Told)
			done.Said, gap = r.missed(&b, b.First-next, gap)
		}
		from, _ = r.recognise(b.Stream)
	}
	done.Lost = done.Said + gap
	by := run{stream: b.Stream, number: number}
	if done.Lost > 0 && mark != nil {
		why := envelope.ReasonUnknown
		if b.Missed == 0 {
			why = b.Reason
		}
		said, rest := missing, missing
		if several(&b) {
			said = envelope.Numbers{}
		} else if done.Said > 0 {
			said.First = max(missing.First, missing.Next-min(missing.Next, done.Said))
			rest.Next = said.First
		}
		by.told = r.tell(done.Said, b.Reason, said, mark, now, &done) + r.tell(gap, why, rest, mark, now, &done)
	}
	if b.Stream == 0 {
		by.stream, by.number = r.id, r.local
	}
	for len(records) > 0 {
		size, count := r.put(records, now, by)
		done.Accepted += count
		by.number += count
		if b.Stream == 0 {
			r.local += count
		}
		if count > 0 {
			by.told = 0
			records = records[size:]
			continue
		}
		// This record is refused; the rest lives.
		records = records[recordSize(records):]
		done.Refused++
		if b.Stream != 0 {
			by.number++
		}
	}
	if from != nil {
		// Only now: the journal must not know of what the ring does not hold yet.
		from.next, from.at, from.saved = b.Next, r.next, false
		if s.dir != nil && (fresh || by.number != from.next || done.Refused > 0) {
			s.saveOrigin(r, from) // its records do not tell all of it
		}
		if s.dir != nil && b.Missed > 0 {
			if i, known := r.origin(b.Ring); known && !r.origins[i].saved {
				s.saveOrigin(r, &r.origins[i])
			}
		}
	}
	s.touch(r, now)
	return done
}

// tell adds the record that tells of n lost ones, among these numbers, and returns n
// if it could.
func (r *Ring) tell(n uint64, why envelope.Reason, of envelope.Numbers, mark Marker, now int64, done *Appended) uint64 {
	if n == 0 {
		return 0
	}
	if of.First == of.Next {
		of = envelope.Numbers{}
	}
	record := mark.MarkMissed(n, why, of)
	if record == nil {
		return 0
	}
	if _, added := r.put(record, now, run{stream: r.id, number: r.local}); added == 0 {
		return 0
	}
	r.local++
	done.Marked++
	return n
}

// put copies records in until they are all there or one must be refused, and
// returns how many it took. by says who numbered them.
func (r *Ring) put(records []byte, now int64, by run) (taken int, count uint64) {
	s := r.s
	var buf [maxRunSize]byte
	head := buf[:0]
	if !r.continues(&by) {
		head = by.append(head)
	}
	for len(records) > 0 {
		if len(head) == 0 && s.dir == nil {
			size, n := r.fill(records, now, &by)
			taken += size
			count += n
			if records = records[size:]; len(records) == 0 {
				break
			}
		}
		// As many records as fit into the rest of the last block go in one copy.
		room := r.room() - len(head)
		fit, n, size := 0, uint64(0), 0
		for fit < len(records) {
			size = recordSize(records[fit:])
			if fit+size > room {
				break
			}
			fit += size
			n++
		}
		if n == 0 {
			// The next one straddles. Its blocks are reserved before a byte of it
			// is written, because reserving may cost this ring blocks.
			if size > s.MaxRecord() {
				return taken, count
			}
			if !r.reserve(len(head) + size) {
				return taken, count
			}
			fit, n = size, 1
		}
		if len(head) > 0 {
			by.position, by.addr = r.next, r.end
			r.runs = append(r.runs, by)
			s.used += runCost
		}
		if by.number += n; by.stream == r.id {
			r.localAt = r.next + n
		}
		r.write(head, records[:fit], now)
		r.next += n
		s.held += n
		taken += fit
		count += n
		records = records[fit:]
		head = head[:0]
	}
	return taken, count
}

// maxFill bounds the bytes that fill copies at once.
const maxFill = 64 << 10

// fill is put for what needs several blocks and goes on where the last record
// ended: block by block, where put goes record by record. Most of a batch of a
// hundred comes this way, which is 85 in place of 135 ns a record when its memory is cold. It leaves to put what
// fits into the last block, and what a directory holds: there each record must
// count whole or not at all.
func (r *Ring) fill(records []byte, now int64, by *run) (taken int, count uint64) {
	s := r.s
	for maxFill <= s.MaxRecord() && len(records) > r.room() {
		size := len(records)
		if size > maxFill {
			size = wholeIn(records, maxFill)
		}
		if size <= r.room() || !r.reserve(size) {
			break
		}
		n, at, off := uint64(0), 0, 0 // records begun; where the next one is; bytes copied
		for s.bytes += int64(size); off < size; {
			if r.room() == 0 {
				s.take(r, now, r.next+n)
			}
			id := r.blocks.at(r.blocks.len() - 1)
			m, from := s.arena.meta(id), int(r.end&(blockSize-1))
			m.time = now
			copied := copy(s.arena.block(id)[from:], records[off:size])
			if at < off+copied {
				r.starts(m, from+at-off, r.next+n)
			}
			for off += copied; at < off; n++ {
				at += recordSize(records[at:])
			}
			r.end += uint64(copied)
		}
		if by.number += n; by.stream == r.id {
			r.localAt = r.next + n
		}
		r.next += n
		s.held += n
		taken, count, records = taken+size, count+n, records[size:]
	}
	return taken, count
}

// wholeIn is the size of the whole records in the first limit bytes.
func wholeIn(records []byte, limit int) int {
	for size := 0; ; {
		next := size
		if size < len(records) {
			next += recordSize(records[size:])
		}
		if next == size || next > limit {
			return size
		}
		size = next
	}
}

// starts notes in a block that the record at a position starts in it, if it is
// the first to do so.
func (r *Ring) starts(m *blockMeta, offset int, position uint64) {
	if m.offset != noStart {
		return
	}
	last := &r.runs[len(r.runs)-1]
	m.number, m.stream, m.first = position, uint64(last.stream), last.number+(position-last.position)
	m.offset = uint16(offset)
}

// reserve makes sure that size bytes can be appended. That may cost this ring
// blocks, so that it needs others.
func (r *Ring) reserve(size int) bool {
	for need := -1; need != r.need(size); {
		need = r.need(size)
		if !r.s.reserve(need) {
			return false
		}
	}
	return true
}

// need is how many more blocks it takes to append size bytes.
func (r *Ring) need(size int) int {
	return (size - r.room() + blockSize - 1) >> blockBits
}

// write copies head and records behind the end, into blocks that are reserved.
// Either all of it fits into the last block, or it is one record.
func (r *Ring) write(head, records []byte, now int64) {
	s := r.s
	s.bytes += int64(len(head) + len(records))
	was, touched := int(r.end&(blockSize-1)), r.blocks.len()-1
	if r.room() == 0 {
		s.take(r, now, r.next)
		was, touched = 0, touched+1
	}
	for started := false; ; {
		id := r.blocks.at(r.blocks.len() - 1)
		m, mem := s.arena.meta(id), s.arena.block(id)[r.end&(blockSize-1):]
		m.time = now
		n := copy(mem, head)
		head = head[n:]
		r.end += uint64(n)
		if n < len(mem) {
			if !started {
				r.starts(m, int(r.end&(blockSize-1)), r.next)
			}
			started = true
			n = copy(mem[n:], records)
			records = records[n:]
			r.end += uint64(n)
		}
		if len(head)+len(records) == 0 {
			break
		}
		position := r.next
		if started {
			position++
		}
		s.take(r, now, position)
	}
	if s.dir != nil {
		s.commit(r, touched, was)
	}
}

// room is what is left in the last block.
func (r *Ring) room() int {
	return int(r.base + uint64(r.blocks.len())<<blockBits - r.end)
}

// stored is the bytes of the records held, of what says who numbered them, and
// of a record whose beginning is gone.
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

// Charge says how many bytes of Go memory the ring's owner keeps for it, beyond
// what every ring is charged for, which allows for a kilobyte. They come out of
// the budget, twice, as the collector lets as much garbage pile up.
func (r *Ring) Charge(bytes int) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.removed || s.closed {
		return
	}
	cost := 2 * int64(bytes)
	s.used += cost - r.kept
	s.ringsUsed += cost - r.kept
	r.kept = cost
	s.shrink()
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
	s.rings[r.index] = nil
	s.save(r.appendGone)
	s.sizes.remove(r)
	s.used -= ringCost + r.kept + int64(len(r.runs)-r.runs0)*runCost + int64(len(r.origins))*originCost
	s.ringsUsed -= ringCost + r.kept
	r.runs, r.origins, r.runs0 = nil, nil, 0
	s.spare = append(s.spare, r.index)
	return true
}
