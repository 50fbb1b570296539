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
// connection, and sees a gap as a gap. Where another maker's records begin, the
// ring's own bytes say so, in a field that readers of an EnvelopeBatch skip; so
// blocks explain themselves, and can be found again without what was known of
// them.
//
// # Outliving the process
//
// With a directory (Options.Dir) the blocks are in files that are mapped into
// memory. Append writes to memory as before, and one word more: a checksum of the
// block with how far it is filled. What was appended when a process is killed is
// with the kernel, and the next one finds every record, under the same ring ids
// and positions, by the same makers' numbers; a reader's cursor goes on. No
// record comes out that is not what went in.
//
// Nothing is synced until Close, so a machine that goes down may take the last
// half minute with it. What was not written has a wrong checksum and is cut out.
// Rings have new ids then, since it cannot be known whether their last records
// are there, and readers who come with an old one are told (see [Ring.Resume]);
// the same holds for a ring whose end was damaged otherwise. [Store.Recovery]
// has it in numbers.
//
// The price is a quarter of a microsecond and more per record, most of it page
// faults, a file system that holds the budget once, and what the kernel writes
// to it: at most the budget every half minute. Disk space is set aside a chunk at
// a time; when there is none, older records go earlier, and if a journal of what
// rings there are cannot be written, Stats.Failed says so. Do not cut the files
// short while they are used: that ends the process.
//
// # What it refuses to do
//
// It does not look into envelopes, does not know what a ring's key means, does
// not wake readers, and does not sort: order is order of arrival, so equal and
// backward timestamps cost nothing. It keeps no index, and does not replicate or
// sync: it is the last hour, not a database. Package loggregator adds what is
// missing.
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
