package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

// endTrailer is why a stream has ended before its end (RFC 9110, section 6.5).
const endTrailer = "Loggregator-End"

// serveStream answers with a chunked stream. The connection of a tail is taken over, if
// that can be done, so that the request, its buffers and its goroutine are free.
func (h *Handler) serveStream(w http.ResponseWriter, r *http.Request, rd *reader, q envelope.Query, f format, many bool) {
	w.Header().Set("Content-Type", contentTypes[f])
	w.Header().Set("X-Accel-Buffering", "no") // nginx in front would hold lines back
	if q.Follow {
		ctx, cancel := context.WithCancel(h.readers.Context())
		if s := outlet.Detach(w, r, h.opt.WriteTimeout, cancel); s != nil {
			rd.OnAbort(s.Abort)
			h.tail(ctx, rd, q, f, many, s)
			return
		}
		cancel()
	}
	defer h.leave(rd)
	s := outlet.NewResponse(w, h.opt.WriteTimeout)
	rd.OnAbort(s.Abort)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.readers.Context(), cancel)()
	if q.Follow {
		http.NewResponseController(w).Flush() // the client sees that it is connected before anything happens
	}
	err := h.deliver(ctx, rd.pass, q, f.putter(s.Out.Append, h.opt.Location, many))
	why := h.last(err, f, s.Out.Append)
	if why != "" {
		w.Header().Set(http.TrailerPrefix+endTrailer, why)
	}
	sent := s.Close()
	h.count(sent)
	if sent != nil || !h.whole(err, q) {
		panic(http.ErrAbortHandler)
	}
}

// tail has the Source send until itself, the client or the server ends it.
func (h *Handler) tail(ctx context.Context, rd *reader, q envelope.Query, f format, many bool, s *outlet.Stream) {
	put := f.putter(s.Append, h.opt.Location, many)
	rd.pass.Follow(ctx, q, func(b envelope.Batch) error {
		h.tally(&b)
		return put(b)
	}, func(err error) {
		defer h.leave(rd)
		why := h.last(err, f, s.Append)
		if h.whole(err, q) {
			h.count(s.Close(endTrailer, why))
		} else {
			h.count(s.Break())
		}
	})
}

// last tells the reader why a stream ends with err, if that is to be told.
func (h *Handler) last(err error, f format, out appender) (why string) {
	if errors.Is(err, access.ErrExpired) {
		why = err.Error()
		out(f.end(why))
	}
	return why
}

// whole reports whether a stream that ends with err may look like one that has come to
// its end. A tail that the server ends is complete as far as it goes, and one that says
// why it ends has been understood.
func (h *Handler) whole(err error, q envelope.Query) bool {
	return err == nil || errors.Is(err, access.ErrExpired) || q.Follow && h.readers.Context().Err() != nil
}

func (h *Handler) count(sent error) {
	if errors.Is(sent, outlet.ErrStalled) {
		h.stalled.Add(1)
	}
}
