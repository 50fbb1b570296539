//go:build !unix

package ringbuf

import "unsafe"

// newMemory takes memory from the Go heap, where it has no pointers but counts
// for the collector's pace: the process may grow beyond the budget by as much
// as GOGC allows.
func newMemory(size int) ([]byte, error) {
	words := make([]uint64, (size+7)/8) // aligned for blockMeta
	return unsafe.Slice((*byte)(unsafe.Pointer(&words[0])), size), nil
}

func freeMemory([]byte) {}
