// Package drain sends logs to people's own syslog receivers, and does not lose
// them on the way.
//
//	d, err := drain.Open("syslog-tls://logs.example.com:6514", router, envelope.Query{
//		Select:  []envelope.Selector{{App: "shop"}},
//		History: true,
//	}, nil)
//	…
//	err = d.Shutdown(ctx) // send the rest, then close
//
// A [Drain] is one receiver. A [Set] is the drains that a file of bindings
// names, which it follows while running. A [Formatter] writes single envelopes
// as syslog messages.
//
// # Delivery
//
// A drain is a cursor on its source. It has no queue of its own: what the
// receiver does not take stays in the source's ring, for as long as that holds
// it, and a drain that is behind costs at most the two pieces of formatted lines
// of about 64 KiB, or 512 KiB for batches over HTTPS, of which one is being
// written. An idle one costs some 20 KiB, connection included.
//
// Syslog has no acknowledgements, so what a kernel took may still be lost. A
// drain therefore remembers where in the source the bytes came from that are on
// their way, and asks the kernel (on Linux) how many of them the peer's TCP has
// acknowledged. When the connection breaks it goes back to the first record that
// was not, and sends from there again. If the peer did not close in good order
// it goes back further, by Options.Replay bytes that were acknowledged at last,
// since a receiver that was killed loses what its kernel had and it had not
// read. So after a break a receiver may see lines twice, in order, and their
// number is in Stats.Resent; without one it sees each line once.
//
// What can be lost, and where it shows:
//
//   - Records that the source gave up before the drain could read them. The
//     receiver is told at the place of the gap by one message in a form that
//     receivers know, and Stats.Missed counts them:
//
//     <172>1 2026-02-03T04:05:06+00:00 acme.prod.shop heroku logplex - - Error L10 (output buffer overflow): 12345 messages dropped since 2026-02-03T03:00:00+00:00.
//
//   - What a proxy or load balancer between acknowledged and then lost, or a
//     receiver that was killed had acknowledged more than Replay bytes ago.
//     Nobody can know.
//
// For every record that the source gave to a drain, at all times,
//
//	Accepted = Delivered + Missed + Filtered + Refused + Pending
//
// # HTTPS
//
// https:// sends one message a request, https-batch:// many, one after the other
// (text/plain, up to 512 KiB, at most four small ones a second), and
// https-logplex:// those of Heroku's drains (application/logplex-1). A request
// goes to the URL with its path and query; user and password become Basic
// authentication. One request is on its way at a time. The answer decides:
//
//	2xx                              delivered
//	408, 425, 429, 5xx, no answer    again, not before Retry-After has passed
//	401, 403, 404, 405, 407, 410     again in one to five minutes: a person has to act
//	3xx                              the same; redirects are never followed
//	413                              in halves, and the size is remembered
//	other 4xx                        in halves, down to the one message that is refused
//
// A single message that is refused for good is given up and in Stats.Refused.
// But until a receiver has accepted anything, a refusal is taken for a wrong URL
// and tried again.
//
// A request that was answered too late, or whose answer was lost, is sent again,
// with the same Logplex-Frame-Id.
//
// # Connections
//
// A read is always pending, so a peer's close is seen when it comes, and the
// next line goes over a new connection. Half-open connections are found by TCP
// keepalive (within 30 s when idle) and, on Linux, TCP_USER_TIMEOUT (30 s with
// data on its way). The first attempt to connect again follows within 50 ms;
// then the pause doubles up to 30 s, of which a random part is waited. A
// connection ends a row of failures only when it lived for ten seconds or took
// 64 KiB, so a receiver that accepts and closes is not hammered. Names are
// resolved at every attempt. Nothing is ever given up but by the source.
//
// Lines that come one by one go out one by one; under load they are gathered
// for half a millisecond or 64 KiB, and each write carries many.
//
// # Messages
//
// Messages are those of Cloud Foundry's drains, byte for byte: RFC 5424, over
// TCP (syslog://, port 514 unless given) or TLS (syslog-tls://, port 6514,
// RFC 5425), with a length in front of each (RFC 6587, octet counting):
//
//		215 <14>1 2026-02-03T04:05:06.000007+00:00 acme.prod.shop 0d1e2f30-1111-4222-8333-444455556666 [APP/PROC/WEB/0] - [tags@47450 app_name="shop" organization_name="acme" source_type="APP/PROC/WEB" space_name="prod"] hello
//
//	  - PRI is 14 for stdout and measurements, 11 for stderr.
//	  - TIMESTAMP is cut to microseconds, without trailing zeros.
//	  - HOSTNAME is organization.space.application by the envelope's tags, each
//	    reduced to letters, digits and dashes and at most 63 bytes; a part that is
//	    not known leaves its dots. Without any of the three it is "-".
//	  - APP-NAME is the source id, at most 48 bytes.
//	  - PROCID is [TYPE/INSTANCE], at most 128 bytes; for measurements [INSTANCE].
//	  - The tags are sorted. Counters, gauges, timers and events have an element
//	    of their own before them; a gauge is one message per metric, by name.
//	  - MSG is the line without NUL bytes and with one LF if it has none at its
//	    end; it may hold more, and bytes that are not UTF-8.
//
// Formatting cannot fail. In a tag's name illegal bytes become underscores, it
// is cut to 32 bytes, and numbered where two would be equal. A tag's value is
// made UTF-8. In HOSTNAME, APP-NAME and PROCID white space becomes a dash and
// what is not printable ASCII is left out. A strict RFC 5424 parser takes every
// message.
//
// # Parameters of a drain URL
//
//	drain-data                  logs (with events; the default), metrics, traces, all
//	drain-type                  older: logs (without events), metrics, all (logs and metrics)
//	include-metrics-deprecated  anything: as drain-data=all
//	disable-metadata            true or false: leave out tags; older: omit-metadata
//	include-log-source-types    list of API, STG, RTR, LGR, APP, SSH, CELL: only logs and events of these
//	exclude-log-source-types    the same: none of these
//
// The last two are also known as include-source-types and include-log-types.
// What an URL leaves out is in Stats.Filtered. Unknown values are refused;
// unknown parameters are ignored.
//
// Where URLs come from tenants, set Options.Deny, so that no drain reaches into
// the operator's own network.
//
// User, password, path and query of a URL appear in no log, error or status.
package drain
