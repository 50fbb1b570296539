package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

// serveStream answers with a chunked stream.
func (h *Handler) serveStream(w http.ResponseWriter, r *http.Request, rd *reader, q envelope.Query, f format, many bool) {
	defer h.leave(rd)
	w.Header().Set("Content-Type", contentTypes[f])
	w.Header().Set("X-Accel-Buffering", "no") // nginx in front would hold lines back
	s := outlet.NewResponse(w, h.opt.WriteTimeout)
	rd.OnAbort(s.Abort)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.readers.Context(), cancel)()
	if q.Follow {
		http.NewResponseController(w).Flush() // the client sees that it is connected before anything happens
	}
	err := h.deliver(ctx, rd.pass, q, f.putter(s.Out, h.opt.Location, many))
	expired := errors.Is(err, access.ErrExpired)
	if expired {
		w.Header().Set(http.TrailerPrefix+endTrailer, err.Error())
		s.Out.Append(f.end(err.Error()))
	}
	sent := s.Close()
	if errors.Is(sent, outlet.ErrStalled) {
		h.stalled.Add(1)
	}
	// A tail that the server ends is complete as far as it goes, and one that says
	// why it ends has been understood. Everything else that ends early must not look
	// like the end.
	if sent != nil || err != nil && !expired && !(q.Follow && h.readers.Context().Err() != nil) {
		panic(http.ErrAbortHandler)
	}
}

// endTrailer is why a stream has ended before its end (RFC 9110, section 6.5).
const endTrailer = "Loggregator-End"
