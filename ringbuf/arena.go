package ringbuf

// All records live in blocks of one size. One size means that memory given up
// by one ring fits every other and nothing fragments; a record may straddle
// blocks, so none of it is wasted but the rest of a ring's last block.
//
// 2 KiB: a source with three ordinary lines takes one block, and what is kept
// per block (blockMeta and its place in the ring, 44 bytes) is 2 % of it.
const (
	blockBits = 11
	blockSize = 1 << blockBits

	chunkBits   = 9 // blocks per chunk
	chunkBlocks = 1 << chunkBits
	chunkSize   = chunkBlocks * blockSize // 1 MiB is asked of the system at a time
)

// blockMeta is what is known of a block. It holds no pointers, so the collector
// does not look at it.
type blockMeta struct {
	number uint64 // position of the first record that starts in this block, or after it
	time   int64  // when the block was last appended to, Unix ns
	ring   uint32 // index in Store.rings
	older  uint32 // neighbours in the store-wide list by age; none at its ends
	newer  uint32
	pins   uint32 // readers copying from it
	offset uint16 // where that first record starts; noStart if none does
}

const (
	none    = ^uint32(0)
	noStart = ^uint16(0)
)

// arena hands out blocks. It grows chunk by chunk and keeps what it has: the
// budget is memory that the process has set aside.
type arena struct {
	chunks [][]byte
	metas  [][]blockMeta
	free   []uint32
	oldest uint32 // list by age: oldest first
	newest uint32
}

func (a *arena) block(id uint32) []byte {
	off := int(id&(chunkBlocks-1)) << blockBits
	return a.chunks[id>>chunkBits][off : off+blockSize : off+blockSize]
}

func (a *arena) meta(id uint32) *blockMeta {
	return &a.metas[id>>chunkBits][id&(chunkBlocks-1)]
}

func (a *arena) grow() error {
	chunk, err := newChunk(chunkSize)
	if err != nil {
		return err
	}
	base := uint32(len(a.chunks)) << chunkBits
	a.chunks = append(a.chunks, chunk)
	a.metas = append(a.metas, make([]blockMeta, chunkBlocks))
	for i := chunkBlocks - 1; i >= 0; i-- {
		a.free = append(a.free, base+uint32(i))
	}
	return nil
}

func (a *arena) close() {
	for _, c := range a.chunks {
		freeChunk(c)
	}
	a.chunks, a.metas, a.free = nil, nil, nil
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
	if m.older == none {
		a.oldest = m.newer
	} else {
		a.meta(m.older).newer = m.newer
	}
	if m.newer == none {
		a.newest = m.older
	} else {
		a.meta(m.newer).older = m.older
	}
}
