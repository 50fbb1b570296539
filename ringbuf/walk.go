package ringbuf

import (
	"encoding/binary"

	"github.com/cloudfoundry/loggregator/envelope"
)

// walk reads through blocks that follow each other as far as they make sense:
// their checksums are right, but nobody relies on that here. Blocks before the
// first record that starts and behind the last one that is whole are dropped.
func walk(pieces []fragment) (st stretch) {
	for len(pieces) > 0 && pieces[0].meta.offset == noStart {
		pieces[0].drop()
		pieces = pieces[1:]
	}
	if len(pieces) == 0 {
		return st
	}
	m := pieces[0].meta
	w := walker{pieces: pieces, base: uint64(m.seq) << blockBits}
	w.limit = uint64(len(pieces)-1)<<blockBits + uint64(fillOf(pieces[len(pieces)-1].meta.state))
	started := make([]bool, len(pieces)) // a record starts in it
	at, position := uint64(m.offset), m.number
	maker := run{position: position, stream: envelope.StreamID(m.stream), number: m.first}
	maker.addr -= maker.start() // what says so stood before it
	maker.addr += w.base + at
	st.first, st.size = position, at
	if position > 0 && position < 1<<62 && m.first < 1<<62 && m.stream != 0 {
		st.runs = append(st.runs, maker)
	}
	for len(st.runs) > 0 && at < w.limit {
		u, head, isRun := w.run(at)
		if isRun {
			u.position, u.addr = position, w.base+at
			maker = u
		}
		start := at + head
		size, ok := w.record(start)
		if !ok {
			break
		}
		i := start >> blockBits
		if m := pieces[i].meta; !started[i] && (uint64(m.offset) != start&(blockSize-1) || m.number != position ||
			m.stream != uint64(maker.stream) || m.first != maker.number+(position-maker.position)) {
			break
		}
		started[i] = true
		if isRun {
			st.runs = append(st.runs, maker)
		}
		position++
		at = start + size
	}
	st.next = position
	st.complete = at == w.limit
	if position == st.first {
		at = 0
	}
	st.size = at
	n := int((at + blockSize - 1) >> blockBits)
	st.pieces = pieces[:n]
	for i := range pieces {
		if i >= n {
			pieces[i].drop()
		} else if !started[i] {
			pieces[i].meta.offset = noStart
		}
	}
	return st
}

// walker reads bytes that lie in several blocks, by their distance from the first
// one's beginning.
type walker struct {
	pieces []fragment
	base   uint64 // address of that
	limit  uint64
	buf    [maxRunSize]byte
}

// peek is the bytes at at, as many as there are up to maxRunSize.
func (w *walker) peek(at uint64) []byte {
	b := w.buf[:0]
	for at < w.limit && len(b) < cap(b) {
		mem := w.pieces[at>>blockBits].mem[at&(blockSize-1):]
		mem = mem[:min(uint64(len(mem)), w.limit-at, uint64(cap(b)-len(b)))]
		b = append(b, mem...)
		at += uint64(len(mem))
	}
	return b
}

// record is the size of the whole record at at.
func (w *walker) record(at uint64) (size uint64, ok bool) {
	b := w.peek(at)
	if len(b) < 2 || b[0] != envelope.KeyRecord {
		return 0, false
	}
	body, n := binary.Uvarint(b[1:])
	if n <= 0 || n > 4 || body > envelope.MaxSize+8 {
		return 0, false
	}
	size = 1 + uint64(n) + body
	return size, size <= w.limit-at
}

// run reads who numbered the records that follow, if it stands at at.
func (w *walker) run(at uint64) (u run, size uint64, ok bool) {
	b := w.peek(at)
	if len(b) < 3+8+2 || b[0] != keyRun&0x7f|0x80 || b[1] != keyRun>>7 || len(b)-3 < int(b[2]) {
		return run{}, 0, false
	}
	body := b[3 : 3+int(b[2])]
	if len(body) < 8+2 {
		return run{}, 0, false
	}
	u.stream = envelope.StreamID(binary.LittleEndian.Uint64(body))
	number, n := binary.Uvarint(body[8:])
	if n <= 0 {
		return run{}, 0, false
	}
	told, k := binary.Uvarint(body[8+n:])
	u.number, u.told = number, told
	if k <= 0 || n != uvarintSize(number) || k != uvarintSize(told) || len(body) != 8+n+k || u.stream == 0 || number >= 1<<62 {
		return run{}, 0, false // not as it would be written
	}
	return u, uint64(3 + len(body)), true
}
