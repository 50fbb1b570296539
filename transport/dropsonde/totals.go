package dropsonde

import (
	"hash/maphash"
	"sync"
)

// maxTotals bounds the counters whose sums are kept.
const maxTotals = 10_000

// totals are the sums of counters, by all that tells one from another.
type totals struct {
	mu   sync.Mutex
	seed maphash.Seed
	by   map[uint64]uint64
}

// add returns the total of the counter that e is: what e says, or the sum of
// what came before and e's delta.
func (t *totals) add(e *event) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.seed, t.by = maphash.MakeSeed(), make(map[uint64]uint64)
	}
	key := t.key(e)
	sum, known := t.by[key]
	if !known && len(t.by) >= maxTotals {
		clear(t.by)
	}
	if sum += e.counter.delta; e.counter.total != 0 {
		sum = e.counter.total
	}
	t.by[key] = sum
	return sum
}

// key is the same for tags in any order: protobuf maps have none.
func (t *totals) key(e *event) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	sum := func(parts ...[]byte) uint64 {
		h.Reset()
		for _, p := range parts {
			h.Write(p)
			h.WriteByte(0xff) // which is in no UTF-8 text
		}
		return h.Sum64()
	}
	key := sum(e.counter.name, e.origin, e.deployment, e.job, e.index, e.ipAddr)
	for _, tag := range e.tags {
		key += sum(tag.key, tag.value)
	}
	return key
}
