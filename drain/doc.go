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
// A [Drain] is one receiver. A [Set] is the drains that its Providers name, a
// [File] or Cloud Foundry's servers ([CAPI], [BindingCache]), which it follows
// while running; it can keep the places of its drains in a file, so that they
// outlive the process. A [Formatter] writes single envelopes as syslog messages.
//
// # Delivery
//
// A drain is a cursor on its source. It has no queue of its own: what the
// receiver does not take stays in the source's ring, for as long as that holds
// it, and a drain that is behind costs at most the two pieces of formatted lines
// of about 64 KiB, or 512 KiB for batches over HTTPS, of which one is being
// written, and a few KiB of prepared headers. One that has nothing to send gives
// those up after ten seconds, closes its connection after MaxIdle, and, if its
// source is an [envelope.Waker], as a router is, sleeps without goroutines: then
// it costs about 4 KiB.
//
// Syslog has no acknowledgements, so what a kernel took may still be lost. A
// drain therefore remembers where in the source the bytes came from that are on
// their way, and asks the kernel (on Linux) how many of them the peer's TCP has
// acknowledged, and how large a window it advertises: about as much the peer's
// kernel may hold that its process has not read. When the connection breaks, the
// drain goes back to the first record that cannot be known to have been read, and
// sends from there again:
//
//   - all that was not acknowledged;
//   - if the receiver closed in good order, what was acknowledged in the last half
//     second, since a process that is killed may not have worked off what it read;
//   - if not, what the largest window it advertised can hold, and half a megabyte
//     (on systems that tell nothing of windows, 1 MiB; see Options.Replay), unless
//     all was acknowledged more than a minute ago.
//
// So after a break a receiver may see lines twice, in order, and their number is
// in Stats.Resent; without one it sees each line once.
//
// What can be lost, and where it shows:
//
//   - Records that the source gave up before the drain could read them. Stats has
//     their number and the last gap. The receiver is told at the place of the gap,
//     by one message in a form that receivers know; gaps that follow within 30 s
//     are added up and told then. If Options.Tell is set, the application is told
//     in its own stream, too, by a line of source type LGR.
//
//     <172>1 2026-02-03T04:05:06+00:00 acme.prod.shop heroku logplex - [gap@47450 missed="12345" from="2026-02-03T03:00:00+00:00" until="2026-02-03T04:05:06+00:00" reason="the receiver was away"] Error L10 (output buffer overflow): 12345 messages dropped since 2026-02-03T03:00:00+00:00.
//
//   - What a proxy or load balancer between acknowledged and then lost, or what a
//     receiver that hung for longer than a minute had not read when it was killed.
//     Nobody can know.
//
// For every record that the source gave to a drain, at all times,
//
//	Accepted = Delivered + Missed + Filtered + Refused + Pending
//
// After an outage of more than a second the backlog is sent at a bounded rate,
// see Options.CatchUp, so that the receiver survives its own return.
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
//	408, 425, 429, 5xx, no answer    again, not before 100 ms or Retry-After have passed
//	401, 403, 404, 405, 407, 410     again in one to five minutes: a person has to act (state held);
//	                                 after a day of nothing but 410, every hour (state disabled)
//	3xx                              the same; redirects are never followed
//	413                              in halves, and the size is remembered
//	415                              without compression, if there was any
//	other 4xx                        in halves, down to the one message that is refused
//
// A single message that is refused for good is given up and in Stats.Refused.
// But until a receiver has accepted anything, a refusal is taken for a wrong URL
// and tried again.
//
// A request that was answered too late, or whose answer was lost, is sent again
// as it was, with the same Idempotency-Key and Logplex-Frame-Id. Proxies that the
// environment names are not used. Of an answer at most 64 KiB are read.
//
// # Connections
//
// A read is always pending, so a peer's close is seen when it comes, and the
// next line goes over a new connection. Half-open connections are found within
// 30 s, by TCP keepalive when idle and, on Linux, TCP_USER_TIMEOUT with data on
// its way. The first attempt to connect again follows within 50 ms; then the
// pause doubles up to 30 s, of which a random part is waited. A connection ends a
// row of failures only when it lived for ten seconds or took 64 KiB, so a receiver
// that accepts and closes is not hammered. Nothing is ever given up but by the
// source.
//
// Names are resolved at every attempt, all their addresses are tried, IPv6 and
// IPv4 by turns, the next one when one has not answered for 300 ms, and each is
// checked against Options.Deny when it is dialled. About once a minute a name is
// looked up while a connection is in use: when it no longer means the address, and
// when the connection is older than Options.MaxAge, a new one takes over, after
// everything on the old one was acknowledged: nothing is sent twice for it, and
// the order holds.
//
// TLS is 1.2 or newer with authenticated encryption only. Certificates are asked
// for at every handshake, see Options.GetTLS; 30, 7 and one day before the first of
// those in use ends there is a warning.
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
// A message has at most 64 KiB, or what max-message-size says. A longer line comes
// in parts, cut between characters, each with a header of its own; put together
// they are the line. Where the tags alone take more than a quarter of the limit,
// those are left out, in order of name, that do not fit; a measurement's texts are
// cut. Both are counted (Stats.Shortened) and said in the message:
//
//	[part@47450 id="6c1f0b6e0a2d4f11" part="2/3" tags-omitted="7"]
//
// With sequence=on each message says which record it is: who numbered it, for as
// long as that lives, and its number there. What is sent again has the same
// numbers, so a receiver can drop it; numbers left out are those of records that
// were missed, or that the drain's URL leaves out. Where a query picks records out
// of a source one by one the numbers are not known and not told.
//
//	[seq@47450 stream="9f86d081884c7d65" number="4711"]
//
// In Heroku's forms (https-logplex, format=heroku) APP-NAME and PROCID are those
// of Heroku, "app web.0" for APP/PROC/WEB and "heroku router" for RTR; PRI is 190
// for an application, 158 for the router and 45 for the platform, with severity 3
// in place of 6 and 5 for stderr, which Heroku does not tell apart; lines are cut
// at 10,000 bytes; there are no tags. Over HTTPS the HOSTNAME is "host" and
// structured data is missing altogether, over syslog they are the drain's token
// and "-".
//
// # Bindings
//
// A Set has a drain for each binding of its providers. One whose URL or
// certificate changes goes on where it was. What a File does not name any more is
// flushed and closed. A server's answer has to leave a binding out twice in a row,
// and if it leaves out more than half of them, or all, to go on so for an hour:
// a failed, torn or empty answer ends no drain. A new binding is tested, in at most
// five seconds, by one line that says what it is; how that went is in Status, and
// a log record of source type LGR tells it to the application (Options.Tell).
//
// With SetOptions.Positions drains outlive the process. After Shutdown the next
// one repeats nothing. After a crash it goes back as after a broken connection:
// what was not acknowledged comes again, and of what was, as much as the receiver
// may not have read, which is at most a minute's. What a source holds in memory
// only dies with it; then the numbers that makers gave their records find the
// place again, as far as they are sent again.
//
// # Sharing
//
// With SetOptions.Shared several processes have the drains between them, see package
// share: each server says by whom those records are drained that it holds, so that
// no cut network makes two of them send the same. All drains of one selection are
// with one process, at each server. Before every write and every request a drain
// looks at its lease, by the monotonic clock, and a write that hangs ends with it:
// 3 s after the server was heard last nothing of its records is sent, and after 3.5 s
// at most another process may begin.
//
// Where drains are is kept at the servers, four times a second, as far as receivers
// have acknowledged. What comes twice:
//
//   - nothing where a process ends in good order, where one comes and takes its
//     share, where a server is restarted while its rings live on (-recent-dir) and a
//     process that drains from it lives, or is away for however long;
//   - after a process was killed, what it delivered since it last told its place, a
//     quarter of a second to half a one; after it hung or was cut off from the
//     servers, what it delivered until its lease ended, three seconds more at most.
//
// What a drain missed and has not told its receiver of yet goes to the next process
// with its place. A drain is begun at some of the servers only if the others cannot be
// reached, or another process keeps it there for more than five seconds: what moved
// between servers that two processes read is told as missed by one of them.
//
// That the receiver and the process that sends to it are killed at the same time is
// the one case in which acknowledged lines may be missing: the next process does not
// know what the receiver had not read. Where all servers and all processes end at
// once, places are in the servers' files (-share-file), as old as a second;
// without them they are lost, as the records are. A server that was restarted gives
// no drain to another process for 3.25 s.
//
// # Parameters of a drain URL
//
//	drain-data                  logs (with events; the default), metrics, traces, all
//	drain-type                  older: logs (without events), metrics, all (logs and metrics)
//	include-metrics-deprecated  anything: as drain-data=all
//	disable-metadata            true or false: leave out tags; older: omit-metadata
//	include-log-source-types    list of API, STG, RTR, LGR, APP, SSH, CELL: only logs and events of these
//	exclude-log-source-types    the same: none of these
//	ssl-strict-internal         true: of TLS 1.2 only ECDHE-RSA with AES-GCM
//
// The filter by source types is also known by source-types and log-types. These
// are ours:
//
//	include-, exclude-instances       list of instance ids
//	include-, exclude-streams         list of out, err: of logs
//	include-, exclude-envelope-types  list of log, event, counter, gauge, timer; include- alone decides
//	include-, exclude-text            a regular expression (Go's syntax, at most 1 KiB and 500 steps) on the text of logs
//	max-message-size                  bytes of a message, 1024 to 2 MiB
//	format                            cf, heroku, heroku-strict (with "-" for structured data over HTTPS, too)
//	framing                           octet-counting, lf (LF within a message becomes a space)
//	utf8                              any, strict (what is not UTF-8 becomes U+FFFD)
//	gzip                              true: compress requests
//	sequence                          on: tell each record's number, see below
//
// What an URL leaves out is in Stats.Filtered. Unknown values are refused;
// unknown parameters are ignored. The whole query goes to HTTPS receivers.
//
// Where URLs come from tenants, set Options.Deny, so that no drain reaches into
// the operator's own network.
//
// User, password, path and query of a URL appear in no log, error or status.
package drain
