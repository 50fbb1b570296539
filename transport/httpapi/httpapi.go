// Package httpapi is the HTTP door for people and scripts that read logs.
//
//	GET /v1/recent  what is held, oldest first, then the end
//	GET /v1/tail    what arrives, until the client leaves; a WebSocket if the
//	                client asks for one, a chunked stream if not
//	GET /           a page of help
//
// Which records: app=, space=, org=, source_id= (names or ids, repeatable; an app
// within a space within an org; none is everything), stream=out|err, instance=,
// source_type=, kind=. From where: one of since=, lines= and cursor=; without
// any, recent gives everything held and tail starts now. wait=true waits for an
// app that has not logged yet, in place of 404. order=time merges the apps by
// timestamp and order=source does not, which is cheaper; the latter is what a
// tail in protobuf does unless told. Tails with the same shard=NAME split the
// apps between them.
//
// The header Accept chooses the form: text/plain is lines that a person reads
// (the default), application/x-ndjson one JSON object a line, application/
// x-protobuf encoded EnvelopeBatch messages, each behind its length as a varint.
// On a WebSocket a binary message is one encoded EnvelopeBatch. The last two are
// written straight from the memory of the ring. Their fields above 100 carry the
// numbers from which a client builds its cursor (envelope.ParseBatch and
// envelope.Cursor.Advance do), to be handed back as cursor= after a cut: then no
// record is repeated, and what was lost is counted. A cursor that is too long for
// an address can be sent in the body of a POST, as a form.
//
// # Who reads what
//
// Where the Gate asks for a token, it is sent as Authorization: Bearer TOKEN. What
// one may not read is answered like what is not there: 404. When the token runs out
// in mid-stream, the stream ends and says so: in text as a last line between
// dashes, in JSON as {"type":"end","error":…}, in all three forms in the trailer
// Loggregator-End, and on a WebSocket as its closing, with status 1008.
//
// # Delivery
//
// A reader is a cursor in rings that others write. One that is too slow falls
// behind, and what the ring gave up in the meantime is a number that it is told:
// in text as the line "-- 123 lines missed --", in JSON as
// {"type":"missed","missed":123}, in protobuf in the header of the batch. A
// server that was started anew cannot know the number; that is told as well.
// Nobody else is affected. Of one reader at most 128 KiB wait to be written, and
// its connection is cut after Options.WriteTimeout without progress.
//
// # Lifecycle
//
// A Handler takes over the connections of tails, WebSockets and others, which
// http.Server.Shutdown does not know of then: call Handler.Shutdown first. Tails in
// HTTP/2 stay with their server. Behind a gate whose Source is an
// envelope.Follower, a tail that has nothing to send has one goroutine, which waits
// for its client to leave.
package httpapi

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

// Defaults of Options.
const (
	DefaultWriteTimeout = time.Minute
	DefaultPingInterval = 30 * time.Second
)

// MaxURL bounds the request's path and query, in bytes. A cursor over some ten
// thousand sources fits.
const MaxURL = 256 << 10

// Options of a Handler. The zero value is useful.
type Options struct {
	// WriteTimeout is how long a reader may take nothing before it is cut off.
	// Default one minute.
	WriteTimeout time.Duration

	// PingInterval is the time between pings on a WebSocket, which tell a quiet
	// connection from a dead one. Default 30 seconds.
	PingInterval time.Duration

	// Location is the time zone of text. Default the server's own.
	Location *time.Location

	// Logger gets what happens to the Handler as a whole. Default none.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.WriteTimeout <= 0 {
		opt.WriteTimeout = DefaultWriteTimeout
	}
	if opt.PingInterval <= 0 {
		opt.PingInterval = DefaultPingInterval
	}
	if opt.Location == nil {
		opt.Location = time.Local
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// Handler serves the endpoints above.
type Handler struct {
	gate    *access.Gate
	opt     Options
	readers *outlet.Readers

	stalled, flooded, batches, records, bytes, missed atomic.Uint64
}

// reader is one tail or dump.
type reader struct {
	*outlet.Reader
	pass *access.Pass
}

// New returns a Handler to what is behind the gate.
func New(gate *access.Gate, o *Options) *Handler {
	return &Handler{gate: gate, opt: o.withDefaults(), readers: outlet.NewReaders()}
}

// Stats counts what a Handler did.
type Stats struct {
	Readers int    // tails and dumps served now
	Flooded uint64 // readers cut off because they sent too much on their WebSockets
	Stalled uint64 // readers cut off because they took nothing for WriteTimeout
	Batches uint64 // batches read for all readers together
	Records uint64 // records in them
	Bytes   uint64 // bytes of these records, as they are held
	Missed  uint64 // records that readers were told are missing
}

// Stats returns the counters.
func (h *Handler) Stats() Stats {
	return Stats{
		Readers: h.readers.Len(),
		Flooded: h.flooded.Load(),
		Stalled: h.stalled.Load(),
		Batches: h.batches.Load(),
		Records: h.records.Load(),
		Bytes:   h.bytes.Load(),
		Missed:  h.missed.Load(),
	}
}

// enter makes a reader of a pass, which must leave.
func (h *Handler) enter(pass *access.Pass) (*reader, error) {
	r, err := h.readers.Enter()
	if err != nil {
		return nil, err
	}
	return &reader{r, pass}, nil
}

func (h *Handler) leave(r *reader) {
	r.pass.Close()
	r.Leave()
}

// Shutdown takes no more requests, writes out to every reader what was read for
// it already, and ends it: a WebSocket with the status "going away", which tells
// the client to come again with its cursor. It returns when all are gone; those
// that are not when ctx ends are cut off, and the error is ctx's.
func (h *Handler) Shutdown(ctx context.Context) error {
	if n := h.readers.Len(); n > 0 {
		h.opt.Logger.Info("ending readers", "readers", n)
	}
	cut, err := h.readers.Shutdown(ctx)
	if cut > 0 {
		h.opt.Logger.Warn("cutting readers off", "readers", cut)
	}
	return err
}

// Close is Shutdown without patience.
func (h *Handler) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	h.Shutdown(ctx)
	return nil
}

// deliver puts the batches of a query until the query ends, or put fails.
func (h *Handler) deliver(ctx context.Context, pass *access.Pass, q envelope.Query, put func(envelope.Batch) error) error {
	for b, err := range pass.Batches(ctx, q) {
		if err != nil {
			return err
		}
		h.tally(&b)
		if err := put(b); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) tally(b *envelope.Batch) {
	h.batches.Add(1)
	h.records.Add(uint64(b.Count))
	h.bytes.Add(uint64(len(b.Records)))
	if b.Missed > 0 {
		h.missed.Add(b.Missed)
	}
}
