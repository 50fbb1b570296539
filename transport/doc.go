// Package transport carries batches between processes: the native link, by which
// they are sent, and the read link, by which they are asked for.
//
// The native link has two ends. A [Server] listens and hands what arrives to an
// envelope.Writer. A [Link] reads an envelope.Source from the oldest record on
// and sends everything to a server, or to several that share the sources between
// them, for as long as it lives, over as many connections as that takes.
//
// The read link has two ends as well. An [Egress] listens and lets others read from
// an envelope.Source, a router mostly. A [Reader] is such a Source in another
// process, of one server or of several; a sink for people and a server of drains
// read with it.
//
// # Wire
//
// Over TCP, TLS or a unix stream socket the sender writes EnvelopeBatch
// messages, each after its length as a protobuf varint. The server answers, on
// the same connection and framed alike, with Ack messages. There is no greeting:
// any program that writes length-delimited protobuf is a sender. Over UDP a
// datagram is one EnvelopeBatch without a length; if it is signed, 32 bytes of
// HMAC-SHA-256 over it stand in front.
//
// A link to several servers begins each connection with a batch without records,
// of a stream of its own and with the numbers from 1 to 2. A server acknowledges
// it like any other, and has shown by that that its Writer takes batches.
//
// # Delivery
//
// A sender that names the stream of its batches (see envelope.Batch) is told how
// far the records of that stream have arrived, after the server's Writer has
// taken them. A Link keeps nothing but a cursor of what has been acknowledged.
// When a connection breaks, it goes back to that cursor in its Source, so
// nothing is lost that the Source still holds, and what it no longer holds is
// counted in the Missed of the next batch, with the Reason. What was under way
// when the connection broke is sent twice; the Writer knows it by its numbers.
//
// Over a chain of hops each loss is told once, where it happened: a link answers
// for what is missing in the numbers of its batches (see envelope.Batch.From),
// because it was told further up, is in Missed, or went to another server.
//
// A sender that names no stream gets no answer, and what was under way when its
// connection broke is lost uncounted. The same goes for datagrams; those whose
// sender names a stream and numbers are missed by the Writer when they are lost.
//
// # The read link
//
// One connection carries all queries of a Reader, over TCP, TLS 1.3 or a unix
// stream socket, in frames: a varint for how many bytes follow, a byte for the
// kind, a varint for the query, and the body. Both ends begin with a hello. The
// reader opens queries (envelope.AppendQuery), gives them credit and cancels them;
// the server answers with batches, as they are in its rings, with the numbers by
// which they are gone on with. Credit is counted in bytes, and for each query by
// itself: one that is not read on stays behind in the ring, is told what it missed,
// and holds up no other. A query that has nothing to read for a second is closed at
// the server up to its cursor, and takes no goroutine and no buffer there until
// something comes; at the reader it never has any beside what its caller ranges
// with.
//
// A Reader pings, and leaves a server that stops at once, and one that hangs after
// nine seconds. It goes on with each query at its cursor when it is back, or with
// the others meanwhile. An Egress trusts its readers with all that its Source
// holds. It takes them from this machine, or with a certificate that TLS verifies.
//
// # Lifecycle
//
// NewLink and NewReader start goroutines, as does each Serve for the connections
// it accepts. Close stops at once and Shutdown in good order; both return when the
// goroutines are gone and may be called again.
//
// # Memory
//
// A connection of a Server starts with 4 KiB and grows with the bytes that have
// arrived, never with a length that was merely announced; all connections
// together stay within ServerOptions.MaxBuffered beyond that. A Link holds, for
// each server, about twice 256 KiB and, of each batch in flight, some 64 bytes,
// which count into LinkOptions.MaxUnacked; the records themselves stay in the
// Source. A Reader holds of each sequence what the server may send ahead
// (ReaderOptions.Window, and a batch), while it is there; an Egress two buffers of
// 64 KiB for each connection while it writes, and of each query what it was opened
// with and its cursor, of about 100 bytes for each source. Batches handed to a
// Writer alias the connection's buffer and are borrowed, as envelope.Writer says.
package transport
