package v1api

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/sonde"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
	"github.com/cloudfoundry/loggregator/transport/internal/wsout"
)

const (
	// batchSize is how many bytes of records are read at a time: large enough that
	// a batch costs nothing, small enough for ten thousand readers.
	batchSize = 32 << 10

	// silence is what a client is told that does not answer a ping.
	silence = "Client did not respond to ping before keep-alive timeout expired."

	// dropped is the counter by which nozzles know that they are too slow, if its
	// origin is dropper.
	dropped = "TruncatingBuffer.DroppedMessages"
	dropper = "doppler"
)

// stream is one WebSocket.
type stream struct {
	h    *Handler
	ws   *wsout.Conn
	enc  sonde.Encoder
	lost uint64 // records missed so far

	source string                 // whose lines are missing where nothing says it
	sends  func(event int32) bool // which events have a place in it
	logs   bool                   // LogMessages have
	counts bool                   // CounterEvents have
}

// serveApp streams what belongs to an application.
func (h *Handler) serveApp(w http.ResponseWriter, r *http.Request, rd *outlet.Reader, pass *access.Pass, id string) {
	s := &stream{h: h, source: id, logs: true, sends: func(event int32) bool {
		return event == sonde.LogMessage || event == sonde.ContainerMetric || event == sonde.HTTPStartStop
	}}
	h.stream(w, r, rd, pass, s, "")
}

// firehose streams everything, or what there is of it for who asks.
func (h *Handler) firehose(w http.ResponseWriter, r *http.Request, name string) {
	s := &stream{h: h, source: "loggregator", logs: true, counts: true, sends: func(int32) bool { return true }}
	var sel envelope.Selector
	switch r.URL.Query().Get("filter-type") {
	case "logs":
		sel.Kinds = []envelope.Kind{envelope.KindLog}
		s.counts, s.sends = false, func(event int32) bool { return event == sonde.LogMessage }
	case "metrics":
		sel.Kinds = []envelope.Kind{envelope.KindCounter, envelope.KindGauge, envelope.KindTimer}
		s.logs = false
	}
	rd, pass := h.admit(w, r, []envelope.Selector{sel}, http.StatusUnauthorized)
	if pass != nil {
		h.stream(w, r, rd, pass, s, "firehose/"+name)
	}
}

// stream upgrades the request and leaves the rest to a goroutine of its own, so
// that the request and its buffers are free.
func (h *Handler) stream(w http.ResponseWriter, r *http.Request, rd *outlet.Reader, pass *access.Pass, s *stream, shard string) {
	leave := func() {
		pass.Close()
		rd.Leave()
	}
	if !isUpgrade(r.Header) {
		defer leave()
		w.Header().Set("Sec-WebSocket-Version", "13")
		http.Error(w, "this page is a WebSocket", http.StatusBadRequest)
		return
	}
	ws, err := wsout.Accept(w, r, wsout.Options{
		WriteTimeout: h.opt.WriteTimeout, PingInterval: h.opt.PingInterval, PongTimeout: h.opt.PongTimeout,
	})
	if err != nil { // Accept has answered
		leave()
		return
	}
	rd.OnAbort(ws.Abort)
	s.ws = ws
	q := envelope.Query{Follow: true, Shard: shard, MaxBytes: batchSize}
	go func() {
		defer leave()
		sent := ws.Run(h.readers.Context(), func(ctx context.Context) error {
			for b, err := range pass.Batches(ctx, q) {
				if err != nil {
					return err
				}
				if err := s.put(b); err != nil {
					return err
				}
			}
			return nil
		}, h.closing)
		switch {
		case errors.Is(sent, outlet.ErrStalled):
			h.stalled.Add(1)
		case sent == wsout.ErrFlood:
			h.flooded.Add(1)
		}
	}()
}

// closing is the status and reason with which a WebSocket ends.
func (h *Handler) closing(err error) (status int, reason string) {
	if err == wsout.ErrSilent {
		h.silent.Add(1)
		return 1008, silence
	}
	return 1000, ""
}

func isUpgrade(header http.Header) bool {
	has := func(key, token string) bool {
		for _, v := range header.Values(key) {
			for t := range strings.SplitSeq(v, ",") {
				if strings.EqualFold(strings.TrimSpace(t), token) {
					return true
				}
			}
		}
		return false
	}
	return has("Connection", "upgrade") && has("Upgrade", "websocket")
}

// scratch is where batches are translated. Readers take one for a batch, not for
// life, so quiet ones have none.
type scratch struct{ b []byte }

const scratchSize = 64 << 10

var scratches = sync.Pool{New: func() any { return &scratch{make([]byte, 0, scratchSize)} }}

// put sends a batch, each envelope as a binary message of one frame.
func (s *stream) put(b envelope.Batch) error {
	s.h.read(&b, s.logs || s.counts)
	if b.Count == 0 && b.Missed == 0 && !b.Reset {
		return nil
	}
	c := scratches.Get().(*scratch)
	defer func() {
		if cap(c.b) <= 4*scratchSize {
			scratches.Put(c)
		}
	}()
	c.b = c.b[:0]
	var err error
	made, skipped := uint64(0), uint64(0)
	send := func(e envelope.Envelope) {
		was := made
		s.enc.Each(e, func(event int32, msg []byte) {
			if err != nil || !s.sends(event) {
				return
			}
			made++
			c.b = append(wsout.AppendFrame(c.b, len(msg)), msg...)
			if len(c.b) >= scratchSize/2 {
				err = s.ws.Append(c.b)
				c.b = c.b[:0]
			}
		})
		if made == was {
			skipped++
		}
	}
	if b.Missed > 0 || b.Reset {
		for e := range (envelope.Batch{Records: s.gap(b)}).All() {
			send(e)
		}
	}
	for e, broken := range b.All() {
		if broken != nil || err != nil {
			break
		}
		send(e)
	}
	s.h.envelopes.Add(made)
	s.h.skipped.Add(skipped)
	if err != nil {
		return err
	}
	return s.ws.Append(c.b)
}

// gap is what a reader is told of the records that are missing before b.
func (s *stream) gap(b envelope.Batch) (records []byte) {
	now := time.Now().UnixNano()
	s.lost += b.Missed
	if s.logs {
		records, _ = b.AppendGapRecords(records, s.source, now)
	}
	if s.counts && b.Missed > 0 {
		records = envelope.AppendCounter(records, dropping, now, dropped, b.Missed, s.lost)
	}
	return records
}

var dropping = envelope.Identity{SourceID: dropper, Tags: map[string]string{sonde.TagOrigin: dropper}}.Encode()
