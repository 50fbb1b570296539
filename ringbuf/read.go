package ringbuf

import (
	"slices"
	"sort"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Reader is a place in a ring, and costs nothing but itself: the ring knows
// nothing of its readers. A Reader is used by one goroutine at a time.
type Reader struct {
	ring *Ring
	next uint64 // position of the next record
	addr uint64 // its address, if it is held and the reader came from before it
	here bool   // it is a place somebody asked for, who knows the record before it
}

// Reader returns a reader at a position. One before the oldest record held will
// be told what it missed; position 0, and positions that do not exist yet, stand
// for the oldest record held and for the next one to come.
func (r *Ring) Reader(position uint64) Reader {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	here := position != 0
	if !here {
		position = r.first
	}
	return Reader{ring: r, next: min(position, r.next), here: here}
}

// Position is that of the next record to read.
func (at *Reader) Position() uint64 { return at.next }

// Behind returns how many records there are to read, and how many this reader
// has missed since the last one it read.
func (at *Reader) Behind() (held, missed uint64) {
	r := at.ring
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	from := max(at.next, r.first)
	return r.next - from, from - at.next
}

// copyBlocks is how many blocks a read of the default size can touch.
const copyBlocks = 64<<10>>blockBits + 2

// Read reads on: whole records of one maker, as many as are there and fit into
// buf's capacity, or one that does not. The batch is empty if there is nothing to
// read; what was missed is told with the next record that is there. Its records
// are in buf, or in memory of their own if they did not fit; they are the
// caller's.
//
// Its Begin is where the ring's knowledge of that maker begins, and its Told how
// many of the numbers missing before First the record read just before tells of
// (see Append): only the reader of a whole ring that wants to compare numbers
// needs them.
//
// The bytes are copied out while no lock is held; the blocks are only pinned.
// Handing out the ring's own memory instead would save 25 ns per record and
// reader, and let one that is stuck in a write hold on to the budget.
func (at *Reader) Read(buf []byte) (b envelope.Batch) {
	r, s := at.ring, at.ring.s
	s.mu.Lock()
	b.Ring = r.id
	if max(at.next, r.first) == r.next || s.closed {
		b.Position = at.next
		s.mu.Unlock()
		return b
	}
	contiguous := at.addr != 0 || at.here
	if at.next < r.first {
		b.Missed = r.first - at.next
		at.next, at.addr, contiguous = r.first, 0, false
	}
	// Which maker's records these are, and where they end.
	i := r.runs0 + sort.Search(len(r.runs)-r.runs0, func(i int) bool { return r.runs[r.runs0+i].position > at.next }) - 1
	owner := &r.runs[i]
	endPosition, endAddr := r.next, r.end
	if i+1 < len(r.runs) {
		endPosition, endAddr = r.runs[i+1].position, r.runs[i+1].addr
	}
	switch {
	case owner.position == at.next:
		at.addr = owner.start()
		if contiguous {
			b.Told = owner.told
		}
	case at.addr < r.base || at.addr == 0:
		at.addr = r.find(owner, at.next)
	}

	// What fits: up to the last record that starts in a block in reach, which the
	// block's meta knows, so that nothing has to be walked.
	if limit := max(cap(buf), blockSize); endAddr-at.addr > uint64(limit) {
		endPosition, endAddr = r.lastStart(at.next, at.addr, at.addr+uint64(limit))
	}
	b.Stream, b.First = owner.stream, owner.number+(at.next-owner.position)
	if b.Begin = 1; b.Stream != r.id {
		b.Begin = 0
		if i, known := r.origin(b.Stream); known {
			b.Begin = r.origins[i].begin
		}
	}
	b.Count = int(endPosition - at.next)
	b.Next = b.First + uint64(b.Count)
	b.Position = endPosition

	size := int(endAddr - at.addr)
	from := int(at.addr-r.base) >> blockBits
	n := int(endAddr-1-r.base)>>blockBits - from + 1
	var few [copyBlocks]uint32
	ids := few[:0]
	if n > len(few) {
		ids = make([]uint32, 0, n)
	}
	var fewMem [copyBlocks][]byte
	mem := fewMem[:0]
	if n > len(fewMem) {
		mem = make([][]byte, 0, n)
	}
	for k := range n {
		id := r.blocks.at(from + k)
		s.arena.meta(id).pins++
		ids = append(ids, id)
		mem = append(mem, s.arena.block(id))
	}
	s.reading++
	s.mu.Unlock()

	if size > cap(buf) {
		buf = make([]byte, 0, size)
	}
	buf = buf[:0]
	off := int(at.addr & (blockSize - 1))
	for _, m := range mem {
		buf = append(buf, m[off:min(blockSize, off+size-len(buf))]...)
		off = 0
	}
	b.Records = buf
	at.next, at.addr = endPosition, endAddr

	s.mu.Lock()
	for _, id := range ids {
		s.unpin(id)
	}
	s.reading--
	if s.closed && s.reading == 0 {
		s.arena.close()
	}
	s.mu.Unlock()
	return b
}

func (s *Store) unpin(id uint32) {
	m := s.arena.meta(id)
	m.pins--
	if m.pins > 0 || m.ring != none {
		return
	}
	s.free(id)
}

// find is the address of the record at a position that is held, of a given run.
func (r *Ring) find(owner *run, position uint64) uint64 {
	a := &r.s.arena
	i := sort.Search(r.blocks.len(), func(i int) bool { return a.meta(r.blocks.at(i)).number > position }) - 1
	for i > 0 && a.meta(r.blocks.at(i)).offset == noStart {
		i--
	}
	m := a.meta(r.blocks.at(i))
	n, addr := m.number, r.base+uint64(i)<<blockBits+uint64(m.offset)
	if n < owner.position { // what is between two runs is no record
		n, addr = owner.position, owner.start()
	}
	for ; n < position; n++ {
		addr += uint64(r.sizeAt(addr))
	}
	return addr
}

// lastStart is the last record start after addr and not beyond limit: where to
// end a read of several records. If the record at addr alone is longer than
// that, it is the end of this record.
func (r *Ring) lastStart(position, addr, limit uint64) (uint64, uint64) {
	a := &r.s.arena
	for i := int(limit-r.base) >> blockBits; i >= 0; i-- {
		m := a.meta(r.blocks.at(min(i, r.blocks.len()-1)))
		start := r.base + uint64(min(i, r.blocks.len()-1))<<blockBits + uint64(m.offset)
		if m.offset == noStart || start > limit {
			continue
		}
		if m.number <= position {
			break
		}
		return m.number, start
	}
	// All that starts in reach starts in the block of addr itself.
	end := addr + uint64(r.sizeAt(addr))
	position++
	for end < limit {
		size := uint64(r.sizeAt(end))
		if end+size > limit {
			break
		}
		end += size
		position++
	}
	return position, end
}

// sizeAt is the size of the record at addr, whose framing may straddle blocks.
func (r *Ring) sizeAt(addr uint64) int {
	var head [8]byte
	n := 0
	for at := addr; n < len(head) && at < r.end; {
		i := int(at-r.base) >> blockBits
		c := copy(head[n:], r.s.arena.block(r.blocks.at(i))[at&(blockSize-1):])
		n += c
		at += uint64(c)
	}
	return recordSize(slices.Clip(head[:n]))
}
