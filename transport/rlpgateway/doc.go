// Package rlpgateway is the HTTP door of the Reverse Log Proxy, as go-loggregator's
// RLPGatewayClient and curl know it:
//
//	GET /v2/read?log&counter&gauge&timer&event&source_id=…
//
// The answer is a stream of server-sent events. Each has a batch of envelopes as
// JSON (envelope.ProtoJSON, deprecated tags among the tags):
//
//	id: CAESDgk…
//	data: {"batch":[{"timestamp":"1378000000000000000","source_id":"app",…}]}
//
// After 15 seconds without one a heartbeat comes, and after Options.StreamTimeout
// the event "closing" and the end, upon which clients come again.
//
// # Parameters
//
// log, counter, gauge, timer and event, of which at least one, say what kinds of
// envelopes; counter.name= which counters; gauge.name=a,b those gauges that have
// exactly these metrics. Each name may be given several times. source_id=, given
// any number of times, says of which sources; none is all. Readers with the same
// shard_id= and the same selection split the sources between them;
// deterministic_name= makes which are whose follow from their names. An envelope
// that several parameters describe comes once, where the stock gateway sends it
// once for each.
//
// # Resuming
//
// Beyond the stock gateway, an event has an id. A client that comes again with the
// last one as Last-Event-ID, as browsers do of themselves, goes on behind that
// event: nothing is repeated, and what the rings have lost meanwhile is told. Of a
// reader of many sources the id is long, so it stands with fewer events, and after
// a cut those since the last id come again; beyond some 400 sources there is none.
// Members of a shard have none either: what one of them leaves, the others take
// over.
//
// # Delivery
//
// A reader is a cursor in rings, see package httpapi; what it missed is told by a
// log of source type LGR in the source's own stream if it reads logs, and by a
// comment, which clients skip, in any case:
//
//	: missed 123
//
// Stats has the numbers. For each reader, what its query selects is Records or
// Missed; of the former, those that no name selects are Filtered and not sent.
//
// # Rights
//
// Every refusal by the Gate looks like 404, as the stock gateway's do, except that
// a limit, and not being able to tell who may read what, is 503, and a web page
// from elsewhere 403. The stock client
// gives up for good after ten refusals in a row, for which it takes a moment; so
// such a request is held for Options.Patience first.
package rlpgateway
