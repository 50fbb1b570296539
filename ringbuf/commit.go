package ringbuf

import (
	"encoding/binary"
	"hash/crc32"
	"sync/atomic"
)

// The state of a block that counts is one word: a checksum, whether the next
// block of its ring has been begun, how many bytes are in it, and where the first
// record in it starts. Zero is a block that does not count.
const (
	stateUsed   = 1 << 31
	stateSealed = 1 << 30
	stateFill   = 12 // bits to the left
	stateMask   = 1<<12 - 1
)

// commit makes what was written count: the blocks from index touched on, the
// first of them from byte was on. The block in which the record starts comes
// last, so it counts whole or not at all.
func (s *Store) commit(r *Ring, touched, was int) {
	n := r.blocks.len()
	tail := uint32(0)
	for i := n - 1; i >= touched; i-- {
		id := r.blocks.at(i)
		fill, sum, from := blockSize, uint32(0), 0
		if i == n-1 {
			fill = blockSize - r.room()
		}
		if i == touched && was > 0 {
			sum, from = r.crc, was
		}
		sum = crc32.Update(sum, castagnoli, s.arena.block(id)[from:fill])
		if i == n-1 {
			tail = sum
		}
		s.seal(r, id, sum, fill, i < n-1)
	}
	if was == 0 && touched > 0 {
		s.seal(r, r.blocks.at(touched-1), r.crc, blockSize, true)
	}
	r.crc = tail
}

// seal stores the state of a block that has fill bytes with the checksum sum.
func (s *Store) seal(r *Ring, id uint32, sum uint32, fill int, sealed bool) {
	m := s.arena.meta(id)
	offset := uint32(stateMask)
	if m.offset != noStart {
		offset = uint32(m.offset)
	}
	word := stateUsed | uint32(fill)<<stateFill | offset
	if sealed {
		word |= stateSealed
	}
	sum = checkMeta(s.scratch[:], sum, m, r.salt, word)
	atomic.StoreUint64(&m.state, uint64(sum)<<32|uint64(word))
}

// checkMeta extends the checksum of a block's bytes by what of its meta belongs
// to them, and the word that goes with it.
func checkMeta(scratch []byte, sum uint32, m *blockMeta, salt uint64, word uint32) uint32 {
	b := scratch[:0]
	b = binary.NativeEndian.AppendUint64(b, salt)
	b = binary.NativeEndian.AppendUint32(b, m.seq)
	b = binary.NativeEndian.AppendUint32(b, word)
	if word&stateMask != stateMask {
		b = binary.NativeEndian.AppendUint64(b, m.number)
		b = binary.NativeEndian.AppendUint64(b, m.stream)
		b = binary.NativeEndian.AppendUint64(b, m.first)
	}
	if word&stateSealed != 0 {
		b = binary.NativeEndian.AppendUint64(b, uint64(m.time))
	}
	return crc32.Update(sum, castagnoli, b)
}

// What a state says.
func fillOf(state uint64) int { return int(state >> stateFill & (stateMask)) }

func offsetOf(state uint64) uint16 {
	if state&stateMask == stateMask {
		return noStart
	}
	return uint16(state & stateMask)
}

// checkBlock reports whether a block is what its state says.
func checkBlock(scratch []byte, m *blockMeta, mem []byte, salt uint64) bool {
	fill, offset := fillOf(m.state), offsetOf(m.state)
	if m.state&stateUsed == 0 || fill == 0 || fill > blockSize || offset != noStart && int(offset) >= fill {
		return false
	}
	sum := crc32.Update(0, castagnoli, mem[:fill])
	return checkMeta(scratch, sum, m, salt, uint32(m.state)) == uint32(m.state>>32)
}

// save writes an entry to the journal, if there is one.
func (s *Store) save(entry func([]byte) []byte) {
	if s.dir == nil {
		return
	}
	j := &s.dir.journal
	if j.file == nil {
		return // it is about to be written whole
	}
	j.buf = appendEntry(j.buf[:0], entry)
	was := j.broken
	if !j.write(j.buf) {
		s.dir.failed++
		if !was {
			s.dir.mark(stateBroken)
		}
		if j.misses++; j.misses%256 == 0 {
			s.rewrite()
		}
	} else if j.size > j.limit {
		if s.rewrite() != nil {
			j.limit *= 2
		}
	}
}

// rewrite writes the journal anew, with what is the case now.
func (s *Store) rewrite() error {
	j := &s.dir.journal
	was := j.broken
	b := appendEntry(nil, s.appendLife)
	for i := range s.arena.chunks {
		if s.arena.chunks[i].mem != nil {
			b = appendEntry(b, func(b []byte) []byte { return appendNumbers(append(b, entryChunk), uint64(i), 1) })
		}
	}
	for _, r := range s.rings {
		if r == nil {
			continue
		}
		b = appendEntry(b, r.appendEntry)
		for i := range r.origins {
			o := &r.origins[i]
			b = appendEntry(b, func(b []byte) []byte { return r.appendOrigin(b, o) })
			o.saved = true
		}
	}
	if err := j.replace(b); err != nil {
		s.dir.failed++
		return err
	}
	if was {
		return s.dir.mark(stateOpen)
	}
	return nil
}

func (s *Store) appendLife(dst []byte) []byte {
	return appendNumbers(append(dst, entryLife), s.life, s.made)
}

func (s *Store) saveChunk(i int, there bool) {
	n := uint64(0)
	if there {
		n = 1
	}
	s.save(func(b []byte) []byte { return appendNumbers(append(b, entryChunk), uint64(i), n) })
}

func (s *Store) saveLife() { s.save(s.appendLife) }

func (s *Store) saveOrigin(r *Ring, o *origin) {
	s.save(func(b []byte) []byte { return r.appendOrigin(b, o) })
	o.saved = true
}

// saveNumbers notes what the records before first are the last to tell.
func (s *Store) saveNumbers(r *Ring, first uint64) {
	if first == r.next {
		s.save(r.appendFloor)
		for i := range r.origins {
			if o := &r.origins[i]; !o.saved {
				s.saveOrigin(r, o)
			}
		}
		return
	}
	for i := r.runs0; i < len(r.runs)-1 && r.runs[i+1].position <= first; i++ {
		if r.runs[i].stream == r.id {
			if r.localAt <= first {
				s.save(r.appendFloor)
			}
		} else if k, known := r.origin(r.runs[i].stream); known && r.origins[k].at <= first && !r.origins[k].saved {
			s.saveOrigin(r, &r.origins[k])
		}
	}
}
