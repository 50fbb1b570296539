package ringbuf

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
	if live := b.len(); cap(b.ids) > 8 && live < cap(b.ids)/8 {
		b.ids, b.head = append(make([]uint32, 0, 2*live), b.ids[b.head:]...), 0
	} else if live == 0 {
		b.ids, b.head = b.ids[:0], 0
	}
	return id
}
