package ringbuf

// Release gives up what the ring holds before position, because nobody will ask
// for it again, and leaves the last block that has some of it: up to 2 KiB. It
// is counted in Stats.Released.
func (r *Ring) Release(position uint64) {
	s := r.s
	s.mu.Lock()
	defer s.mu.Unlock()
	for r.blocks.len() > 0 && r.afterHead() <= position {
		s.released += s.dropHead(r)
	}
}

// afterHead is the position of the first record that starts behind the oldest
// block.
func (r *Ring) afterHead() uint64 {
	for i := 1; i < r.blocks.len(); i++ {
		if m := r.s.arena.meta(r.blocks.at(i)); m.offset != noStart {
			return m.number
		}
	}
	return r.next
}
