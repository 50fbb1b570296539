package httpapi

import (
	"context"
	"errors"
	"net/http"

	"github.com/coder/websocket"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
	"github.com/cloudfoundry/loggregator/transport/internal/wsout"
)

// tail is one WebSocket.
type tail struct {
	h  *Handler
	ws *wsout.Conn
}

// serveWebSocket upgrades the request and leaves the tail to a goroutine of its
// own, so that the request and its buffers are free.
func (h *Handler) serveWebSocket(w http.ResponseWriter, r *http.Request, rd *reader, q envelope.Query) {
	// Where it comes from has been looked at.
	ws, err := wsout.Accept(w, r, wsout.Options{
		WriteTimeout: h.opt.WriteTimeout, PingAfter: h.opt.PingInterval, PingInterval: h.opt.PingInterval, PongTimeout: h.opt.WriteTimeout,
	})
	if err != nil { // Accept has answered
		h.leave(rd)
		return
	}
	t := &tail{h: h, ws: ws}
	rd.OnAbort(ws.Abort)
	go func() {
		defer h.leave(rd)
		t.run(rd.pass, q)
	}()
}

// run sends until the source, the client or the server ends it.
func (t *tail) run(pass *access.Pass, q envelope.Query) {
	h := t.h
	sent := t.ws.Run(h.readers.Context(), func(ctx context.Context) error { return h.deliver(ctx, pass, q, t.put) }, h.closing)
	switch {
	case sent == wsout.ErrFlood:
		h.flooded.Add(1)
	case errors.Is(sent, outlet.ErrStalled):
		h.stalled.Add(1)
	}
}

// closing is the status and reason with which a WebSocket ends.
func (h *Handler) closing(err error) (status int, reason string) {
	code, reason := websocket.StatusNormalClosure, ""
	switch {
	case err == wsout.ErrSilent:
		h.stalled.Add(1)
		code, reason = websocket.StatusPolicyViolation, "you did not answer a ping; come again with your cursor"
	case errors.Is(err, access.ErrExpired):
		code, reason = websocket.StatusPolicyViolation, err.Error()
	case h.readers.Context().Err() != nil:
		code, reason = websocket.StatusGoingAway, "the server is shutting down; come again with your cursor"
	case err != nil:
		code, reason = websocket.StatusInternalError, "the logs cannot be read; come again with your cursor"
	}
	return int(code), reason
}

// put sends a batch as one binary message of one frame.
func (t *tail) put(b envelope.Batch) error {
	var header [envelope.MaxBatchHeader]byte
	h := b.AppendHeader(header[:0])
	n := len(h) + len(b.Records)
	if n == 0 {
		return nil
	}
	var frame [10]byte
	return t.ws.Append(wsout.AppendFrame(frame[:0], n), h, b.Records)
}
