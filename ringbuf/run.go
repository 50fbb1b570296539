package ringbuf

import (
	"encoding/binary"
	"math/bits"

	"github.com/cloudfoundry/loggregator/envelope"
)

// run is a stretch of records with consecutive numbers of one maker. A source
// with one maker has one run however long it is.
//
// What it says also stands in the ring's bytes, before its first record, so that
// they explain themselves: see appendRun.
type run struct {
	position uint64
	addr     uint64 // where that begins; the first record is behind it
	stream   envelope.StreamID
	number   uint64 // of its first record
	told     uint64 // records lost before it, of which the record before it tells
}

// keyRun begins the bytes that say what a run is: field 120 of EnvelopeBatch,
// length-delimited, with the stream as eight bytes and two varints in it.
const (
	keyRun     = 120<<3 | 2
	maxRunSize = 3 + 8 + 10 + 10
)

func (u *run) append(dst []byte) []byte {
	n := 8 + uvarintSize(u.number) + uvarintSize(u.told)
	dst = append(dst, keyRun&0x7f|0x80, keyRun>>7, byte(n))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(u.stream))
	return binary.AppendUvarint(binary.AppendUvarint(dst, u.number), u.told)
}

// start is the address of the first record.
func (u *run) start() uint64 {
	return u.addr + 3 + 8 + uint64(uvarintSize(u.number)+uvarintSize(u.told))
}

func uvarintSize(v uint64) int { return (bits.Len64(v|1) + 6) / 7 }

// continues reports whether the next record is known to be by's.
func (r *Ring) continues(by *run) bool {
	if len(r.runs) == r.runs0 || by.told != 0 {
		return false
	}
	last := &r.runs[len(r.runs)-1]
	return last.stream == by.stream && last.number+(r.next-last.position) == by.number
}

// dropRuns forgets the runs of records that are gone.
func (r *Ring) dropRuns() {
	for r.runs0 < len(r.runs)-1 && r.runs[r.runs0+1].position <= r.first {
		r.runs0++
		r.s.used -= runCost
	}
	switch live := len(r.runs) - r.runs0; {
	case cap(r.runs) > 8 && live < cap(r.runs)/4:
		r.runs, r.runs0 = append(make([]run, 0, 2*live), r.runs[r.runs0:]...), 0
	case r.runs0 > 8 && r.runs0 > live/4:
		r.runs, r.runs0 = append(r.runs[:0], r.runs[r.runs0:]...), 0
	}
}
