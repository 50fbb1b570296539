package rlpgateway

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

// batchSize is how many bytes of records an event has, unless a single one is
// larger. As JSON they are up to twice as many.
const batchSize = 32 << 10

var errTimeout = errors.New("stream timeout")

// stream is one answer.
type stream struct {
	h     *Handler
	out   *outlet.Response
	p     params
	json  envelope.ProtoJSON
	place place // guarded by mu

	mu    sync.Mutex
	timer *time.Timer
	last  time.Time // when the last batch or heartbeat was sent
	ended bool
}

// stream answers, until the source, the client or the server ends it.
func (h *Handler) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, rd *outlet.Reader, pass *access.Pass, p params) {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	if r.ProtoMajor == 1 {
		header.Set("Connection", "keep-alive")
	}
	header.Set("X-Accel-Buffering", "no")             // nginx in front would hold events back
	header.Set("X-Content-Type-Options", "nosniff")   // lines may look like HTML
	if http.NewResponseController(w).Flush() != nil { // the client sees that it is connected before anything happens
		refuse(w, unsupported)
		return
	}
	s := &stream{h: h, p: p, out: outlet.NewResponse(w, h.opt.WriteTimeout), json: envelope.ProtoJSON{Preferred: true}, last: time.Now()}
	rd.OnAbort(s.out.Abort)
	q := envelope.Query{Follow: true, Shard: p.shard, Member: p.member, MaxBytes: batchSize}
	if p.shard != "" {
		s.place.off = true
	} else if id := r.Header.Get("Last-Event-ID"); id != "" {
		s.resume(id, &q)
	}

	ctx, cancel := context.WithTimeoutCause(ctx, h.opt.StreamTimeout, errTimeout)
	defer cancel()
	s.timer = time.AfterFunc(time.Hour, s.tick) // tick finds it set when it is reset
	s.timer.Reset(min(idDelay, h.opt.Heartbeat))
	err := s.deliver(ctx, pass, q)
	s.end(ctx, err)
	if sent := s.out.Close(); sent != nil {
		if errors.Is(sent, outlet.ErrStalled) {
			h.stalled.Add(1)
		}
		panic(http.ErrAbortHandler) // what ends in the middle must not look like the end
	}
}

// resume goes on at the id of an event.
func (s *stream) resume(id string, q *envelope.Query) {
	if cursor, err := envelope.ParseCursor(id); err == nil && !cursor.IsZero() && len(id) <= maxID {
		s.h.resumed.Add(1)
		q.Cursor = cursor
		s.place.cursor, s.place.sent = cursor.Clone(), true
		return
	}
	// An id of somebody else's: what has come since cannot be found.
	s.put(envelope.Batch{Reset: true})
}

func (s *stream) deliver(ctx context.Context, pass *access.Pass, q envelope.Query) error {
	for b, err := range pass.Batches(ctx, q) {
		if err != nil {
			return err
		}
		if err := s.put(b); err != nil {
			return err
		}
	}
	return nil
}

// scratch is where events are rendered. Streams take one for a batch, not for
// life, so quiet ones have none.
type scratch struct{ b []byte }

const scratchSize = 64 << 10

var scratches = sync.Pool{New: func() any { return &scratch{make([]byte, 0, scratchSize)} }}

// put sends a batch as an event.
func (s *stream) put(b envelope.Batch) error {
	c := scratches.Get().(*scratch)
	defer func() {
		if cap(c.b) <= 4*scratchSize {
			scratches.Put(c)
		}
	}()
	event, sent := s.render(c.b[:0], b)
	c.b = event

	h := s.h
	h.batches.Add(1)
	h.records.Add(uint64(b.Count))
	h.bytes.Add(uint64(len(b.Records)))
	if b.Missed > 0 {
		h.missed.Add(b.Missed)
		if !s.p.logs {
			h.untold.Add(b.Missed)
		}
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	s.place.advance(b)
	if len(event) == 0 {
		s.wait()
		return nil
	}
	id := s.place.with(len(event))
	if sent {
		s.last = time.Now()
	}
	if err := s.out.Out.Append(id, event); err != nil {
		return err
	}
	s.wait()
	return nil
}

// render appends the event of a batch, and reports whether it has data: one that
// has but comments is none to the client.
func (s *stream) render(dst []byte, b envelope.Batch) (_ []byte, data bool) {
	start := len(dst)
	if b.Missed > 0 {
		dst = strconv.AppendUint(append(dst, ": missed "...), b.Missed, 10)
		dst = append(dst, '\n')
	}
	if b.Reset {
		dst = append(dst, ": reset\n"...)
	}
	head := len(dst)
	dst = append(dst, `data: {"batch":[`...)
	first := len(dst)
	put := func(e envelope.Envelope) {
		if len(dst) > first {
			dst = append(dst, ',')
		}
		dst = s.json.Append(dst, e)
	}
	if s.p.logs && head > start {
		gap, _ := b.AppendGapRecords(nil, s.source(), time.Now().UnixNano())
		for e := range (envelope.Batch{Records: gap}).All() {
			put(e)
		}
	}
	filtered := 0
	for e, err := range b.All() {
		if err != nil {
			break
		}
		if !s.p.names.any() && !s.p.names.match(e) {
			filtered++
			continue
		}
		put(e)
	}
	if filtered > 0 {
		s.h.filtered.Add(uint64(filtered))
	}
	switch {
	case len(dst) > first:
		return append(dst, "]}\n\n"...), true
	case head > start:
		return append(dst[:head], '\n'), false
	}
	return dst[:start], false
}

// source is whose lines are missing where nothing says it.
func (s *stream) source() string {
	if s.p.source != "" {
		return s.p.source
	}
	return "loggregator"
}

// wait sets the timer for an id that is due. The caller holds s.mu.
func (s *stream) wait() {
	if s.place.due() && s.timer != nil {
		s.timer.Reset(idDelay)
	}
}

// idDelay is for how long an id waits for an event to stand with.
const idDelay = 200 * time.Millisecond

// tick sends, when nothing else was, a heartbeat or the id of where the reader is.
func (s *stream) tick() {
	if !s.mu.TryLock() { // a batch is being sent, or waits to be
		s.timer.Reset(time.Second)
		return
	}
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	now, every := time.Now(), s.h.opt.Heartbeat
	beat := now.Sub(s.last) >= every
	if s.place.due() || beat {
		s.whereItIs()
	}
	if beat {
		s.out.Out.TryAppend(fmt.Appendf(nil, "event: heartbeat\ndata: %d\n\n", now.Unix()))
		s.last = now
	}
	next := every - now.Sub(s.last)
	if s.place.due() {
		next = min(next, idDelay)
	}
	s.timer.Reset(next)
}

// whereItIs sends the id alone, which is no event to the client, but is kept. The
// caller holds s.mu.
func (s *stream) whereItIs() {
	id := s.place.id()
	if len(id) == 0 {
		return
	}
	if s.out.Out.TryAppend(id, []byte{'\n'}) != nil { // what waits before it has a later one
		s.place.dirty = true
	}
}

// end says why the stream ends, to a client that listens to it.
func (s *stream) end(ctx context.Context, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.timer.Stop()
	why := ""
	switch {
	case errors.Is(err, access.ErrExpired):
		why = "closing: " + err.Error()
	case context.Cause(ctx) == errTimeout:
		why = "closing due to stream timeout"
	case s.h.readers.Context().Err() != nil:
		why = "closing due to server shutdown"
	default:
		return // the client has left, or the source has ended
	}
	id := s.place.id()
	if len(id) > 0 {
		id = append(id, '\n')
	}
	s.out.Out.Append(id, fmt.Appendf(nil, "event: closing\ndata: %s\n\n", why))
}
