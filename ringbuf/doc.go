// Package ringbuf keeps the recent records of many sources in bounded memory.
//
// # Why it is built so
//
// The bytes in a [Ring] are already the wire. A record is kept as 0x0A, length,
// envelope: one repeated field of an encoded EnvelopeBatch, so any run of
// records is a batch that can be written to a socket as it is. Nothing is
// decoded on the way in or out, and nothing in the memory is a pointer, so the
// garbage collector does not see the logs however many there are.
//
// A ring is not a channel, and not a queue per reader, because both make
// somebody wait or lose a whole buffer at once. Here the writer never waits, and
// a reader is a number: the position of the record it wants next. A slow reader
// falls behind in the ring. When the ring has given up what it wanted, the
// difference of two positions is exactly what it lost, and its next batch says
// so. A thousand readers of one ring cost it what one does.
//
// All rings of a [Store] share one budget of bytes, their own bookkeeping
// included. Memory is cut into blocks of one size, which any ring can use after
// any other. When the budget is spent, the ring that holds the most gives up its
// oldest block; so a flood eats its own past, and a source below its fair share
// keeps its whole hour.
//
// Records keep the number their maker gave them, next to their position in the
// ring. By that a ring recognises what a sender repeats after a broken
// connection, and sees a gap as a gap.
//
// # What it refuses to do
//
// It does not look into envelopes, does not know the names of sources, does not
// wake readers, and does not sort: order is order of arrival, so equal and
// backward timestamps cost nothing. Package loggregator adds what is missing.
//
// # Memory
//
// Append copies records in; Read copies them out into the caller's buffer. No
// slice of ring memory ever leaves the package. On Unix the blocks are mapped
// outside the Go heap, which keeps them out of the collector's pacing.
//
// The budget is about resident memory: rings, what a router knows of their
// sources and the garbage that the collector lets pile up for them are charged to
// it, and blocks that are free go back to the system, a chunk at a time, when
// something else needs what they take. A full Store of usual sources is 90 %
// records and more; one of sources with three lines each is a fifth.
package ringbuf
