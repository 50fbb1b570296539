package ringbuf

import "sync/atomic"

// shrink is for after something other than a block was charged.
func (s *Store) shrink() {
	for s.used > s.budget && s.evict() {
	}
	s.giveBack(0)
}

// giveBack returns chunks to the system when what they take beyond the blocks in
// use, and the n about to be, is needed by rings: memory that was ever touched is
// resident, free or not. It looks at two numbers unless there is something to
// do, and there is not again until as much has changed as two chunks hold.
func (s *Store) giveBack(n int) {
	for {
		a := &s.arena
		resident := s.used + int64(a.mapped*a.perChunk()-s.inUse)*blockCost
		if resident <= s.budget || a.free-n < 2*a.perChunk() || !s.vacate(a.emptiest()) {
			return
		}
	}
}

// vacate moves the blocks of a chunk into others, which have room for them, and
// gives its memory back.
func (s *Store) vacate(i uint32) bool {
	if i == none {
		return false
	}
	a := &s.arena
	c := &a.chunks[i]
	a.room[i>>6] &^= 1 << (i & 63)
	for k := range c.metas {
		if from := &c.metas[k]; from.ring != none {
			s.move(i<<a.bits+uint32(k), a.get())
			c.used--
			a.free++
		}
	}
	a.drop(i)
	return true
}

// move puts what a block holds into another one.
func (s *Store) move(from, to uint32) {
	a := &s.arena
	m := a.meta(from)
	copy(a.block(to), a.block(from))
	moved := *m
	moved.state = 0
	*a.meta(to) = moved
	atomic.StoreUint64(&a.meta(to).state, m.state) // for a moment it is there twice, and so the process may die
	atomic.StoreUint64(&m.state, 0)
	a.join(m.older, to)
	a.join(to, m.newer)
	r := s.rings[m.ring]
	r.blocks.set(int(m.seq-uint32(r.base>>blockBits)), to)
	m.ring = none
}
