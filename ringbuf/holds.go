package ringbuf

// Bytes is how many the ring's records take, in the ring's own form.
func (r *Ring) Bytes() int64 {
	r.s.mu.Lock()
	defer r.s.mu.Unlock()
	return r.stored()
}
