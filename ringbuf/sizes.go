package ringbuf

import "math/bits"

// sizes orders rings by how much they hold, to an eighth: a list for each number
// of blocks up to 8, then eight for each doubling. Finding the largest ring and
// moving one between lists are a few instructions, a heap would be a walk.
type sizes struct {
	lists [8 * 32]ringList
	used  [8 * 32 / 64]uint64 // lists that are not empty
}

type ringList struct{ head, tail *Ring }

func sizeClass(blocks int) int {
	if blocks < 8 {
		return blocks
	}
	octave := bits.Len(uint(blocks)) // 4 for 8..15
	return (octave-3)*8 + blocks>>(octave-4)&7
}

func (z *sizes) put(r *Ring) {
	r.class = sizeClass(r.blocks.len())
	l := &z.lists[r.class]
	r.prev, r.following = l.tail, nil
	if l.tail == nil {
		l.head = r
	} else {
		l.tail.following = r
	}
	l.tail = r
	z.used[r.class>>6] |= 1 << (r.class & 63)
}

func (z *sizes) remove(r *Ring) {
	l := &z.lists[r.class]
	if r.prev == nil {
		l.head = r.following
	} else {
		r.prev.following = r.following
	}
	if r.following == nil {
		l.tail = r.prev
	} else {
		r.following.prev = r.prev
	}
	r.prev, r.following = nil, nil
	if l.head == nil {
		z.used[r.class>>6] &^= 1 << (r.class & 63)
	}
}

func (z *sizes) move(r *Ring) {
	if sizeClass(r.blocks.len()) != r.class {
		z.remove(r)
		z.put(r)
	}
}

func (z *sizes) largest() *Ring {
	for i := len(z.used) - 1; i >= 0; i-- {
		if z.used[i] != 0 {
			return z.lists[i<<6+bits.Len64(z.used[i])-1].head
		}
	}
	return nil
}
