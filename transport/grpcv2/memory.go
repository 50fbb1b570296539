package grpcv2

import (
	"encoding/binary"
	"sync"
)

// records is memory in which single records are put together.
var records = sync.Pool{New: func() any { b := make([]byte, 0, 4<<10); return &b }}

func keep(b *[]byte) {
	if cap(*b) <= maxPooled {
		records.Put(b)
	}
}

func appendLength(dst []byte, n int) []byte { return binary.AppendUvarint(dst, uint64(n)) }
