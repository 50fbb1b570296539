package grpcv2

import (
	"encoding/binary"
	"hash/maphash"
	"sync"

	"github.com/cloudfoundry/loggregator/envelope"
)

// totals are the sums of counters whose senders say only by how much they grew,
// as the stock client does. An agent adds them, and readers rely on it.
type totals struct {
	mu   sync.Mutex
	seed maphash.Seed
	all  map[uint64]uint64 // by all that tells one counter from another
}

// maxTotals bounds the counters; when there are more, all sums begin anew, as
// those of the stock agent do.
const maxTotals = 10_000

// append appends what makes e say its total, if e is a counter that does not:
// the field that is appended merges with the counter there is.
func (t *totals) append(dst []byte, e envelope.Envelope) []byte {
	r, err := e.Route()
	if err != nil || r.Kind != envelope.KindCounter {
		return dst
	}
	name, delta, total := e.Counter()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.seed, t.all = maphash.MakeSeed(), make(map[uint64]uint64)
	}
	key := t.key(e, name, r.SourceID)
	before, known := t.all[key]
	if !known && len(t.all) >= maxTotals {
		clear(t.all)
	}
	sum := total
	if total == 0 && delta != 0 {
		sum = before + delta
	}
	t.all[key] = sum
	if sum == total {
		return dst
	}
	var field [binary.MaxVarintLen64 + 1]byte
	field[0] = 3 << 3
	n := 1 + binary.PutUvarint(field[1:], sum)
	dst = append(dst, keyCounter, byte(n))
	return append(dst, field[:n]...)
}

func (t *totals) key(e envelope.Envelope, name, source []byte) uint64 {
	var h maphash.Hash
	h.SetSeed(t.seed)
	add := func(b []byte) {
		h.Write(b)
		h.WriteByte(0xff) // which is in no UTF-8 text
	}
	add(name)
	add(source)
	var tags [16]envelope.Tag
	for _, tag := range e.AppendTags(tags[:0]) {
		add(tag.Key)
		add(tag.Value)
	}
	return h.Sum64()
}
