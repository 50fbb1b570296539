package ringbuf

import (
	"math/bits"
	"unsafe"
)

// All records live in blocks of one size. One size means that memory given up
// by one ring fits every other and nothing fragments; a record may straddle
// blocks, so none of it is wasted but the rest of a ring's last block.
//
// 2 KiB: a source with three ordinary lines takes one block, and what is kept
// per block (blockMeta and its place in the ring) is 4 % of it.
const (
	blockBits = 11
	blockSize = 1 << blockBits
	metaSize  = int(unsafe.Sizeof(blockMeta{}))

	// What is asked of the system at a time, and given back to it, is a chunk: a
	// 256th of the budget within these bounds.
	minChunk = 32 << 10
	maxChunk = 16 << 20
)

// blockMeta is what is known of a block. It lies in the block's chunk, outside
// the Go heap, and in its file if the Store has a directory.
type blockMeta struct {
	state  uint64 // with a directory: how much of the block counts, see Store.seal
	number uint64 // position of the first record that starts in this block, or after it
	stream uint64 // who numbered that record, if it starts here
	first  uint64 // which number it has
	time   int64  // when the block was last appended to, Unix ns
	seq    uint32 // address of its first byte in the ring, in blocks
	ring   uint32 // index in Store.rings; none if it is free
	older  uint32 // neighbours in the store-wide list by age; none at its ends
	newer  uint32 // or, of a free block, the next free one of its chunk
	pins   uint32 // readers copying from it
	offset uint16 // where that first record starts; noStart if none does
}

const (
	none    = ^uint32(0)
	noStart = ^uint16(0)
)

// chunk is memory for a number of blocks: a header, their metas, and they. Free
// ones are a list.
type chunk struct {
	mem   []byte // nil: given back
	metas []blockMeta
	data  []byte
	free  uint32
	used  int // blocks that are not free
}

// chunkHeader is room for what a chunk's file says about itself.
const chunkHeader = 64

func chunkSize(bits uint) int { return chunkHeader + (metaSize+blockSize)<<bits }

// over lays a chunk of 1<<bits blocks over memory.
func over(mem []byte, bits uint) chunk {
	metas := mem[chunkHeader:]
	return chunk{
		mem:   mem,
		metas: unsafe.Slice((*blockMeta)(unsafe.Pointer(&metas[0])), 1<<bits),
		data:  metas[metaSize<<bits:],
		free:  none,
	}
}

// arena hands out blocks. It grows chunk by chunk, and gives chunks back when
// something else needs the memory, see Store.giveBack.
type arena struct {
	bits   uint // log2 of the blocks in a chunk
	chunks []chunk
	room   []uint64 // which chunks have free blocks
	low    int      // no word of room before this one is set
	mapped int      // chunks that have memory
	free   int      // blocks
	oldest uint32   // list by age: oldest first
	newest uint32
	dir    *dir // nil: memory only

	saved  func(i int, there bool) // notes in the journal that there is a chunk, or is none
	region region
}

// chunkBitsFor is the log2 of the blocks in a chunk of a Store of this budget.
func chunkBitsFor(budget int64) uint {
	return uint(bits.Len64(uint64(min(max(budget/256, minChunk), maxChunk)))) - 1 - blockBits
}

func (a *arena) perChunk() int { return 1 << a.bits }

func (a *arena) block(id uint32) []byte {
	off := int(id&(1<<a.bits-1)) << blockBits
	return a.chunks[id>>a.bits].data[off : off+blockSize : off+blockSize]
}

func (a *arena) meta(id uint32) *blockMeta {
	return &a.chunks[id>>a.bits].metas[id&(1<<a.bits-1)]
}

// grow adds a chunk.
func (a *arena) grow() error {
	i := 0
	for i < len(a.chunks) && (a.mapped == len(a.chunks) || a.chunks[i].mem != nil) {
		i++
	}
	mem, err := a.newChunk(i)
	if err != nil {
		return err
	}
	a.set(i, over(mem, a.bits))
	base := uint32(i) << a.bits
	for k := a.perChunk() - 1; k >= 0; k-- {
		a.put(base + uint32(k))
	}
	return nil
}

func (a *arena) newChunk(i int) ([]byte, error) {
	if a.dir != nil {
		mem, err := a.dir.newChunk(i, a.bits)
		if err == nil {
			a.saved(i, true)
		}
		return mem, err
	}
	if mem := a.region.chunk(i, chunkSize(a.bits)); mem != nil {
		return mem, nil
	}
	return newMemory(chunkSize(a.bits))
}

// set makes c the chunk i. All its blocks count as used.
func (a *arena) set(i int, c chunk) {
	for i >= len(a.chunks) {
		a.chunks = append(a.chunks, chunk{})
	}
	for len(a.room)*64 < len(a.chunks) {
		a.room = append(a.room, 0)
	}
	c.used = a.perChunk()
	a.chunks[i] = c
	a.mapped++
}

// get takes a free block; there must be one. It takes those of the first chunks
// first, so that the last ones run empty.
func (a *arena) get() uint32 {
	for a.room[a.low] == 0 {
		a.low++
	}
	i := uint32(a.low<<6 + bits.TrailingZeros64(a.room[a.low]))
	c := &a.chunks[i]
	k := c.free
	c.free = c.metas[k].newer
	c.used++
	a.free--
	if c.free == none {
		a.room[i>>6] &^= 1 << (i & 63)
	}
	return i<<a.bits + k
}

// put makes a block free.
func (a *arena) put(id uint32) {
	i, k := id>>a.bits, id&(1<<a.bits-1)
	c := &a.chunks[i]
	m := &c.metas[k]
	m.ring, m.newer = none, c.free
	c.free = k
	c.used--
	a.free++
	a.room[i>>6] |= 1 << (i & 63)
	a.low = min(a.low, int(i>>6))
}

// emptiest is the chunk with the fewest blocks in use of those that no reader is
// copying from; none if there is no such chunk.
func (a *arena) emptiest() uint32 {
	best := none
	for i := range a.chunks {
		c := &a.chunks[i]
		if c.mem == nil || best != none && c.used >= a.chunks[best].used {
			continue
		}
		pinned := false
		for k := range c.metas {
			pinned = pinned || c.metas[k].pins > 0
		}
		if !pinned {
			best = uint32(i)
		}
	}
	return best
}

// drop gives the memory of chunk i back to the system. None of its blocks is in
// use.
func (a *arena) drop(i uint32) {
	c := a.chunks[i]
	a.chunks[i] = chunk{}
	a.free -= a.perChunk() - c.used
	a.room[i>>6] &^= 1 << (i & 63)
	a.mapped--
	if a.dir != nil {
		a.saved(int(i), false)
		a.dir.removeChunk(int(i), c.mem)
	} else if a.region.holds(int(i), c.mem) {
		a.region.giveBack(int(i))
	} else {
		freeMemory(c.mem)
	}
}

// close unmaps everything. Files stay.
func (a *arena) close() {
	for i := range a.chunks {
		if mem := a.chunks[i].mem; mem != nil && !a.region.holds(i, mem) {
			freeMemory(mem)
		}
	}
	a.region.close()
	a.chunks, a.room, a.mapped, a.free, a.low = nil, nil, 0, 0, 0
	a.oldest, a.newest = none, none
}

// link makes id the newest of the list, unlink takes it out.
func (a *arena) link(id uint32) {
	m := a.meta(id)
	m.older, m.newer = a.newest, none
	if a.newest == none {
		a.oldest = id
	} else {
		a.meta(a.newest).newer = id
	}
	a.newest = id
}

func (a *arena) unlink(id uint32) {
	m := a.meta(id)
	a.join(m.older, m.newer)
}

// join makes older and newer neighbours.
func (a *arena) join(older, newer uint32) {
	if older == none {
		a.oldest = newer
	} else {
		a.meta(older).newer = newer
	}
	if newer == none {
		a.newest = older
	} else {
		a.meta(newer).older = older
	}
}
