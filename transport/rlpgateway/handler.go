package rlpgateway

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

// Defaults of Options.
const (
	DefaultStreamTimeout = 14 * time.Minute
	DefaultHeartbeat     = 15 * time.Second
	DefaultWriteTimeout  = time.Minute
	DefaultPatience      = 5 * time.Second
)

// Options of a Handler. The zero value is useful.
type Options struct {
	// StreamTimeout is how long a stream lasts; then the client is told to come
	// again. Default 14 minutes.
	StreamTimeout time.Duration

	// Heartbeat is after how long without an event a heartbeat is sent. Default 15
	// seconds.
	Heartbeat time.Duration

	// WriteTimeout is how long a reader may take nothing before it is cut off.
	// Default one minute.
	WriteTimeout time.Duration

	// Patience is for how long a request is held for which there is no room, before
	// it is refused. Default 5 seconds; negative: not at all.
	Patience time.Duration

	// Logger gets what happens to the Handler as a whole. Default none.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.StreamTimeout <= 0 {
		opt.StreamTimeout = DefaultStreamTimeout
	}
	if opt.Heartbeat <= 0 {
		opt.Heartbeat = DefaultHeartbeat
	}
	if opt.WriteTimeout <= 0 {
		opt.WriteTimeout = DefaultWriteTimeout
	}
	if opt.Patience == 0 {
		opt.Patience = DefaultPatience
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// Handler serves the endpoint.
type Handler struct {
	gate    *access.Gate
	opt     Options
	readers *outlet.Readers

	resumed, stalled, batches, records, filtered, bytes, missed, untold atomic.Uint64
}

// New returns a Handler that lets read what the gate admits.
func New(gate *access.Gate, o *Options) *Handler {
	return &Handler{gate: gate, opt: o.withDefaults(), readers: outlet.NewReaders()}
}

// Stats counts what a Handler did. Those whom the Gate refused are in its Stats.
type Stats struct {
	Readers  int    // streams served now
	Resumed  uint64 // streams that went on where another had ended
	Stalled  uint64 // streams cut off because nobody took anything for WriteTimeout
	Batches  uint64 // batches read for all streams together
	Records  uint64 // records in them
	Filtered uint64 // of those, not sent because no name selects them
	Bytes    uint64 // bytes of Records, as they are held
	Missed   uint64 // records that readers missed, and were told of
	Untold   uint64 // of those, told by a comment alone: the reader reads no logs
}

// Stats returns the counters.
func (h *Handler) Stats() Stats {
	return Stats{
		Readers: h.readers.Len(), Resumed: h.resumed.Load(), Stalled: h.stalled.Load(),
		Batches: h.batches.Load(), Records: h.records.Load(), Filtered: h.filtered.Load(), Bytes: h.bytes.Load(),
		Missed: h.missed.Load(), Untold: h.untold.Load(),
	}
}

// Shutdown takes no more requests, writes out to every reader what was read for
// it already, tells it to come again, and ends its stream. It returns when all are
// gone; those that are not when ctx ends are cut off, and the error is ctx's. Call
// it before http.Server.Shutdown, which waits for streams.
func (h *Handler) Shutdown(ctx context.Context) error {
	cut, err := h.readers.Shutdown(ctx)
	if cut > 0 {
		h.opt.Logger.Warn("cut readers off", "readers", cut)
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

// ServeHTTP serves the endpoint, until the stream ends.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/v2/read" {
		http.NotFound(w, r)
		return
	}
	if sentence := h.gate.Elsewhere(r); sentence != "" {
		refuse(w, &refusal{http.StatusForbidden, "forbidden", sentence})
		return
	}
	rd, err := h.readers.Enter()
	if err != nil {
		refuse(w, unavailable)
		return
	}
	defer rd.Leave()
	p, bad := parseParams(r.URL.RawQuery)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.readers.Context(), cancel)()
	pass, err := h.admit(access.WithPeer(ctx, r.RemoteAddr), outlet.Token(r), p.sel)
	switch {
	case errors.Is(err, access.ErrToken), errors.Is(err, access.ErrDenied):
		refuse(w, notFound)
		return
	case err != nil:
		refuse(w, unavailable)
		return
	}
	defer pass.Close()
	if r.Method != http.MethodGet {
		bad = badMethod
	}
	if bad != nil {
		refuse(w, bad)
		return
	}
	h.stream(ctx, w, r, rd, pass, p)
}

// again is the time between two attempts to let somebody in.
const again = time.Second

// admit asks the gate, for a while again where it may soon answer otherwise: a
// client of the stock library that is refused comes back at once, ten times, and
// then never.
func (h *Handler) admit(ctx context.Context, token string, sel []envelope.Selector) (*access.Pass, error) {
	until := time.Now().Add(h.opt.Patience)
	for {
		pass, err := h.gate.Admit(ctx, token, sel)
		if err == nil || errors.Is(err, access.ErrToken) || errors.Is(err, access.ErrDenied) ||
			ctx.Err() != nil || time.Until(until) < again {
			return pass, err
		}
		timer := time.NewTimer(again)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// refuse answers as the stock gateway does, whose bodies end with two newlines.
func refuse(w http.ResponseWriter, bad *refusal) {
	body, _ := json.Marshal(struct {
		Message string `json:"message"`
		Error   string `json:"error"`
	}{bad.message, bad.code})
	if bad.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", "5")
	}
	http.Error(w, string(body)+"\n", bad.status)
}

var _ http.Handler = (*Handler)(nil)
