package ringbuf

import (
	"cmp"
	"encoding/binary"
	"math/bits"
	"slices"
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

// run is a stretch of records with consecutive numbers of one maker. A source
// with one maker has one run however long it is.
//
// What it says also stands in the ring's bytes, before its first record, so that
// they explain themselves: see appendRun.
type run struct {
	position uint64
	addr     uint64 // where that begins; the first record is behind it
	stream   envelope.StreamID
	number   uint64 // of its first record
	told     uint64 // records lost before it, of which the record before it tells
}

// keyRun begins the bytes that say what a run is: field 120 of EnvelopeBatch,
// length-delimited, with the stream as eight bytes and two varints in it.
const (
	keyRun     = 120<<3 | 2
	maxRunSize = 3 + 8 + 10 + 10
)

func (u *run) append(dst []byte) []byte {
	n := 8 + uvarintSize(u.number) + uvarintSize(u.told)
	dst = append(dst, keyRun&0x7f|0x80, keyRun>>7, byte(n))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(u.stream))
	return binary.AppendUvarint(binary.AppendUvarint(dst, u.number), u.told)
}

// start is the address of the first record.
func (u *run) start() uint64 {
	return u.addr + 3 + 8 + uint64(uvarintSize(u.number)+uvarintSize(u.told))
}

func uvarintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// origin is what a ring knows of a maker of records.
type origin struct {
	stream envelope.StreamID
	begin  uint64 // number of the first record that it took, or was told of as lost
	next   uint64 // number of the one that comes next; 0: it made none
	at     uint64 // position behind its last record
	saved  bool   // the journal says so, too

	// Of a ring elsewhere in which several makers meet: the position up to which
	// its records came from there, and how many that were missed there have not yet
	// shown as gaps in their makers' numbers.
	reach, hidden uint64
}

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
	now := s.clock.Now()
	if s.closed || r.removed {
		done.Refused = uint64(b.Count)
		return done
	}
	records, number := b.Records, b.First
	done.Said = b.Missed
	gap := uint64(0) // missing by the numbers, and nobody said so
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
		by.told = r.tell(done.Said, b.Reason, mark, now, &done) + r.tell(gap, why, mark, now, &done)
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

// tell adds the record that tells of n lost ones, and returns n if it could.
func (r *Ring) tell(n uint64, why envelope.Reason, mark Marker, now int64, done *Appended) uint64 {
	if n == 0 {
		return 0
	}
	record := mark.MarkMissed(n, why)
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

// origin finds a maker of records, or where to insert it.
func (r *Ring) origin(stream envelope.StreamID) (int, bool) {
	return slices.BinarySearchFunc(r.origins, stream, func(o origin, stream envelope.StreamID) int {
		return cmp.Compare(o.stream, stream)
	})
}

// expected is the number from which on b's records are missing that are not
// there: at most b.First.
func expected(b *envelope.Batch, from *origin, known bool) uint64 {
	next := b.From
	switch {
	case known:
		next = max(next, from.next)
	case next != 0:
	case b.Begin != 0:
		next = b.Begin
	case several(b):
		next = b.First
	default:
		next = b.First - min(b.First, b.Missed)
	}
	return min(next, b.First)
}

// several reports whether the batch was read from a ring in which several makers
// meet. In a ring of one maker numbers are positions.
func several(b *envelope.Batch) bool {
	return b.Ring != 0 && (b.Ring != b.Stream || b.Position != b.Next)
}

// missed tells what is missing before b: how many of those that b says, and how
// many more by the numbers, of which all are missing, and untold no record tells.
//
// A batch is sent again when its acknowledgement was lost. It says once more then
// what it missed, and some of that may have come before: by numbers, or for a
// ring of several makers by its positions, that is known here. What was missed in
// such a ring was of all its makers, whose gaps show as their next records come.
func (r *Ring) missed(b *envelope.Batch, all, untold uint64) (said, gap uint64) {
	if several(b) {
		beyond := r.reach(b)
		said = min(b.Missed, beyond)
		hop, _ := r.recognise(b.Ring)
		hop.hidden += said
		shown := min(untold, hop.hidden)
		hop.hidden -= shown
		return said, untold - shown
	}
	said = b.Missed
	if b.Ring != 0 {
		said = min(said, all)
	}
	return said, untold - min(untold, said)
}

// recognise finds the origin of that name, or makes one, of which nothing is
// known.
func (r *Ring) recognise(stream envelope.StreamID) (from *origin, known bool) {
	i, known := r.origin(stream)
	if !known {
		i = r.addOrigin(origin{stream: stream, at: r.next})
	}
	return &r.origins[i], r.origins[i].next > 0
}

// reach notes up to where the batch reaches in a ring in which several makers
// meet, and returns how far it begins behind what came from there before.
func (r *Ring) reach(b *envelope.Batch) uint64 {
	if !several(b) {
		return 0
	}
	hop, _ := r.recognise(b.Ring)
	start := b.Position - min(b.Position, uint64(b.Count))
	beyond := start - min(start, hop.reach)
	hop.reach, hop.at = max(hop.reach, b.Position), r.next
	return beyond
}

// addOrigin adds a maker that is not known. If there are too many, the one that
// has been silent for longest is forgotten.
func (r *Ring) addOrigin(o origin) int {
	if len(r.origins) >= maxOrigins {
		oldest := 0
		for i := range r.origins {
			if r.origins[i].at < r.origins[oldest].at {
				oldest = i
			}
		}
		r.origins = slices.Delete(r.origins, oldest, oldest+1)
		r.s.used -= originCost
	}
	r.s.used += originCost
	i, _ := r.origin(o.stream)
	r.origins = slices.Insert(r.origins, i, o)
	return i
}

// continues reports whether the next record is known to be by's.
func (r *Ring) continues(by *run) bool {
	if len(r.runs) == r.runs0 || by.told != 0 {
		return false
	}
	last := &r.runs[len(r.runs)-1]
	return last.stream == by.stream && last.number+(r.next-last.position) == by.number
}

// dropRuns forgets the runs of records that are gone.
func (r *Ring) dropRuns() {
	for r.runs0 < len(r.runs)-1 && r.runs[r.runs0+1].position <= r.first {
		r.runs0++
		r.s.used -= runCost
	}
	switch live := len(r.runs) - r.runs0; {
	case cap(r.runs) > 8 && live < cap(r.runs)/4:
		r.runs, r.runs0 = append(make([]run, 0, 2*live), r.runs[r.runs0:]...), 0
	case r.runs0 > 8 && r.runs0 > live/4:
		r.runs, r.runs0 = append(r.runs[:0], r.runs[r.runs0:]...), 0
	}
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
			for need := -1; need != r.need(len(head)+size); {
				need = r.need(len(head) + size)
				if !s.reserve(need) {
					return taken, count
				}
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
			if !started && m.offset == noStart {
				last := &r.runs[len(r.runs)-1]
				m.number, m.stream, m.first = r.next, uint64(last.stream), last.number+(r.next-last.position)
				m.offset = uint16(r.end & (blockSize - 1))
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
// the kilobyte that every ring is charged for. They come out of the budget,
// twice, as the collector lets as much garbage pile up.
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

// blocks is the ring's blocks, oldest first.
type blocks struct {
	ids  []uint32
	head int
}

func (b *blocks) len() int             { return len(b.ids) - b.head }
func (b *blocks) at(i int) uint32      { return b.ids[b.head+i] }
func (b *blocks) set(i int, id uint32) { b.ids[b.head+i] = id }

func (b *blocks) push(id uint32) {
	if b.head > 0 && b.head >= len(b.ids)/2 && len(b.ids) == cap(b.ids) {
		b.ids = b.ids[:copy(b.ids, b.ids[b.head:])]
		b.head = 0
	}
	b.ids = append(b.ids, id)
}

// pop takes the oldest one out. A ring that was large once does not keep what it
// took to remember that.
func (b *blocks) pop() uint32 {
	id := b.ids[b.head]
	b.head++
	if live := b.len(); cap(b.ids) > 8 && live < cap(b.ids)/4 {
		b.ids, b.head = append(make([]uint32, 0, 2*live), b.ids[b.head:]...), 0
	} else if live == 0 {
		b.ids, b.head = b.ids[:0], 0
	}
	return id
}
