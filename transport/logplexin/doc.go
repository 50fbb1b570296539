// Package logplexin takes in what log-shuttle, Logplex's HTTPS drains and their
// like send: POST requests of type application/logplex-1. They need to change
// nothing but the address.
//
// A [Handler] is an http.Handler; who serves it decides about address, TLS and
// HTTP/2. The body is syslog messages in octet counting, back to back, of RFC
// 5424 or of Logplex's dialect without structured data; gzip is taken.
//
// # What becomes of a message
//
// It becomes a log record with its text, without a line end, and its own time.
// Severities from emerg to err go to the stream ERR, the others to OUT.
// Severity, facility, procid, msgid and structured data become tags as in
// package syslogin. A frame that is not syslog is kept as it is, with the time of
// arrival, and counted as Unparsed. A text above Options.MaxLine becomes several
// records with the tag "part".
//
// Source, instance and tags come from Options.Identify, which sees an [Origin].
// By default the source is what Options.Authorize said, else the drain token or
// the user, and web.3 is instance 3 of source type APP/PROC/WEB.
//
// # Delivery
//
// A request is answered with 204 when the Writer has taken all of its records. If
// it has taken but a part, the answer is 503, and the sender sends all again. A
// frame that is sent again, which Logplex-Frame-Id tells (of log-shuttle,
// X-Request-Id), is answered likewise and not taken again; a notice that Logplex
// has put in front of it meanwhile is. The last Options.Frames of them are known.
//
// A body that is not what it should be is refused as a whole, with the reason as
// text: senders drop a batch on 4xx. A Logplex-Msg-Count that does not agree with
// the body is counted, no more. What cannot be taken just now is answered with
// 503, which Logplex answers with the batch again. log-shuttle takes every answer
// for good and sends again only when a connection breaks; so for it, this one
// breaks.
//
// Where a sender says how many messages it has lost, by Logplex-Drop-Count and
// Logplex-Lost-Count or by an L10 notice, the Writer is told that as the Missed
// of a batch.
//
//	Messages + Parts = Records + Filtered + Lost
//
// # Memory
//
// A request takes its body, after decompression, and up to 256 KiB of records at
// a time; memory follows the bytes that have arrived, and all bodies together
// stay within Options.MaxBuffered. A Frame-Id that is remembered takes some 200
// bytes.
package logplexin
