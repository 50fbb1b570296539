//go:build !unix

package ringbuf

// newChunk takes memory from the Go heap, where it has no pointers but counts
// for the collector's pace: the process may grow beyond the budget by as much
// as GOGC allows.
func newChunk(size int) ([]byte, error) { return make([]byte, size), nil }

func freeChunk([]byte) {}
