// Package v1api is the door of the Traffic Controller, Loggregator's first API, as
// the noaa library and nozzles built on it know it:
//
//	GET /apps/{id}/stream            an application's logs, container metrics and requests; a WebSocket
//	GET /apps/{id}/recentlogs        its last logs, newest first, ?limit=1000 of them
//	GET /apps/{id}/containermetrics  the latest container metrics of each of its instances
//	GET /firehose/{name}             everything, shared between the WebSockets of one user that give this name;
//	                                 ?filter-type=logs or metrics
//	POST /set-cookie                 the token as a cookie, for pages that may read (Options.CookieDomain)
//
// A WebSocket's binary messages, and the parts of the other answers, which are
// multipart, are v1 envelopes, made by package internal/sonde. A gauge that is no
// container's is one for each of its metrics. Events have no form in v1; counters,
// single values and errors are in the firehose alone, and errors in neither of its
// filters: those records are Skipped.
//
// # Delivery
//
// A reader is a cursor in rings, see package httpapi. What it missed is told by a
// LogMessage of source type LGR in the application's own stream; in a firehose
// that has metrics also, or alone, by a CounterEvent
// TruncatingBuffer.DroppedMessages of origin doppler, upon which nozzles warn. The
// answer of containermetrics has no room for it: Untold counts that. For each
// reader, what is selected is Records or Missed.
//
// A slow reader is not cut off after five seconds, as the stock server does it, but
// falls behind. Whoever takes nothing for Options.WriteTimeout is. Who does not answer
// a ping is told so with status 1008, and otherwise the server ends a WebSocket
// with status 1000.
//
// # Rights
//
// The token is in the header Authorization, or in the cookie "authorization". What
// a page from elsewhere asks for is refused (403, access.Gate.Elsewhere), since a
// browser would send that cookie along. A firehose of a user who may read a part is that
// part. A firehose name is the user's own.
package v1api
