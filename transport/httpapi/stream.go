package httpapi

import (
	"context"
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// chunk is how many bytes must be taken within Options.WriteTimeout.
const chunk = 32 << 10

// serveStream answers with a chunked stream.
func (h *Handler) serveStream(w http.ResponseWriter, r *http.Request, rd *reader, q envelope.Query, f format, many bool) {
	defer h.leave(rd)
	w.Header().Set("Content-Type", contentTypes[f])
	w.Header().Set("X-Accel-Buffering", "no") // nginx in front would hold lines back
	s := &response{w: w, rc: http.NewResponseController(w), timeout: h.opt.WriteTimeout}
	s.out = outbuf.New(s.write)
	h.onAbort(rd, s.abort)

	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	if q.Follow {
		s.rc.Flush() // the client sees that it is connected before anything happens
	}
	err := h.deliver(ctx, rd.pass, q, f.putter(s.out, h.opt.Location, many))
	expired := errors.Is(err, access.ErrExpired)
	if expired {
		w.Header().Set(http.TrailerPrefix+endTrailer, err.Error())
		s.out.Append(f.end(err.Error()))
	}
	sent := s.out.Close()
	if errors.Is(sent, errStalled) {
		h.stalled.Add(1)
	}
	// A tail that the server ends is complete as far as it goes, and one that says
	// why it ends has been understood. Everything else that ends early must not look
	// like the end.
	if sent != nil || err != nil && !expired && !(q.Follow && h.ctx.Err() != nil) {
		panic(http.ErrAbortHandler)
	}
	s.rc.SetWriteDeadline(time.Time{}) // it would outlive the response on a connection that is kept
}

// endTrailer is why a stream has ended before its end (RFC 9110, section 6.5).
const endTrailer = "Loggregator-End"

// response is the sink of a stream.
type response struct {
	w       http.ResponseWriter
	rc      *http.ResponseController
	out     *outbuf.Writer
	timeout time.Duration

	mu      sync.Mutex
	aborted bool
}

func (s *response) write(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), chunk)
		if !s.setDeadline() {
			return errAborted
		}
		if _, err := s.w.Write(p[:n]); err != nil {
			return stalled(err)
		}
		p = p[n:]
	}
	return stalled(s.rc.Flush())
}

func (s *response) setDeadline() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted {
		s.rc.SetWriteDeadline(time.Now().Add(s.timeout))
	}
	return !s.aborted
}

// abort ends a write that is going on and all later ones.
func (s *response) abort() {
	s.out.Fail(errAborted)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	s.rc.SetWriteDeadline(time.Unix(1, 0))
}

// stalled puts the error that a write deadline makes by its name.
func stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errStalled
	}
	return err
}
