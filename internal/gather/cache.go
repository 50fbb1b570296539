package gather

import "sync"

// Cache keeps what was worked out of keys that senders choose, for up to so many
// of them; when there are more, it forgets all and begins anew, which costs
// working it out again. It is safe for use by several goroutines at once.
type Cache[K comparable, V any] struct {
	mu    sync.RWMutex
	limit int
	by    map[K]V
}

// NewCache makes a Cache for up to limit keys.
func NewCache[K comparable, V any](limit int) *Cache[K, V] {
	return &Cache[K, V]{limit: limit, by: make(map[K]V)}
}

// Get does not keep k, which may be a view of memory that is used again.
func (c *Cache[K, V]) Get(k K) (v V, ok bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v, ok = c.by[k]
	return v, ok
}

// Put keeps k and v.
func (c *Cache[K, V]) Put(k K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.by) >= c.limit {
		clear(c.by)
	}
	c.by[k] = v
}
