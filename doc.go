// Package loggregator is the core of an application-log system: a router that
// keeps the recent log records of every source and hands them to whoever wants
// them.
//
// # The few types
//
// A [Router] is rings plus who wants what. Everything that produces records
// writes them to it (it is an [envelope.Writer]), everything that consumes them
// ranges over its Batches (it is an [envelope.Source]). A source is an
// application or a component, named by the source id of its envelopes. Each has
// a ring (package ringbuf); a reader is a cursor on the rings of the sources that
// its query selects: by source, application, space, organization, or all.
//
// Package emitter gives a program log calls, an slog.Handler and an io.Writer on
// top of a Router; package transport carries batches between processes and to
// people; package drain sends them to syslog receivers. The commands in cmd join
// these parts.
//
// # Delivery
//
// For each reader, every record that its query selects is either yielded or
// counted in Missed, exactly once, and records of one source come in the order
// in which they arrived. A reader that falls behind loses the oldest records,
// when the budget needs their memory or they are past the maximum age, and its
// next batch says how many. A sender's numbers reveal what was lost before it
// arrived; that is told to everyone by a line in the source's own stream, of
// source type LGR. [Router.Stats] has all of it as numbers:
//
//	Accepted + Marked + Recovered = Evicted + Expired + Released + Held
//
// Publishing never waits for readers and never blocks on I/O.
//
// # Lifecycle
//
// [New] starts one goroutine. Shutdown takes no more, lets readers finish, and
// closes; Close does so at once. Both may be called twice, and return when the
// goroutine has ended.
//
// With a directory ([Options].Dir, [Open]) the rings outlive the process, closed
// or killed: the next Router begins with what they hold, and cursors go on in it.
// Package ringbuf says what a machine that goes down may take along.
//
// # Memory
//
// WriteBatch borrows the batch until it returns. A reader borrows each batch
// until its next step: it is a copy of ring memory that is used again.
package loggregator
