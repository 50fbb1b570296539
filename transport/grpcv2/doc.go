// Package grpcv2 is the Loggregator v2 API over gRPC: a [Server] of Ingress and
// Egress for the clients that there are, and a [Link] that sends to the agents
// and routers that there are.
//
// # Wire
//
// The services are loggregator.v2.Ingress (Sender, BatchSender, Send) and
// loggregator.v2.Egress (Receiver, BatchedReceiver). An encoded EnvelopeBatch is
// what a ring's memory is made of, so a message goes from its gRPC frames into
// the ring, and from the ring into frames, without being decoded; field by field
// is looked at only what has to be changed. No message is registered with
// protobuf, and no codec with gRPC, so a program may link the stock client, too.
//
// What is accepted: records without a source are of the one that their tag origin
// names; deprecated_tags become tags, as agents do it. One record that is no good
// costs the others of its batch nothing.
//
// What is sent: to a reader that uses preferred tags, records as they are held,
// but for those with deprecated tags, which become tags; to others, with all tags
// as deprecated ones. Batches end at Options.MaxRecords and MaxBytes, and wait for
// nothing: a single record leaves at once.
//
// # Selectors and shards
//
// A record that several selectors describe is sent once; stock servers send it
// once for each. All five kinds of one source, or of all, are selected without a
// look at any record; envelopes with no message in them come along then.
//
// A shard_id splits sources, not records, between the streams of one user that
// ask for the same: each source is read by one of them at a time, whole and in
// order. When one leaves, what it was given but not sent is sent by another one
// before anything later of these sources. What gRPC has taken, up to 64 KiB and
// what the client's window holds, is gone with the connection; the protocol has
// no acknowledgements. deterministic_name decides by the names alone which member
// reads which source.
//
// # Who may read
//
// Readers are behind an access.Gate. They show a token in the metadata
// "authorization: Bearer …", or, where Options.Certificates says so, a certificate.
//
// # Delivery
//
// A reader that falls behind loses the oldest records, as everywhere, and is told
// by a line of source type LGR in the place of what is missing (see
// envelope.AppendMissed), if it reads logs of that source; else Stats.Untold
// counts it.
//
// A sender of a stock client gets no acknowledgements: what is under way when its
// connection breaks is lost, and nobody counts it. A [Link] has the server answer
// from time to time, see there.
//
// # Lifecycle
//
// A Server runs goroutines for each connection and stream; EndInput, Shutdown and
// Close end them. A Link runs one, and two more while it is connected.
//
// # Memory
//
// A stream of a sender holds what has arrived of one message, at most
// Options.MaxMessage, and 512 KiB beyond; Options.MaxSenders bounds them. A stream
// of a reader holds up to 128 KiB while it is being sent, and 64 KiB with gRPC, or
// one record that is larger; nothing otherwise. A Link holds as much.
package grpcv2
