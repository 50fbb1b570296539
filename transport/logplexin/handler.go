package logplexin

import (
	"cmp"
	"context"
	"log/slog"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/gather"
	"github.com/cloudfoundry/loggregator/internal/refusals"
)

// ContentType is that of the requests.
const ContentType = "application/logplex-1"

// Options are what a Handler can be told. Nil and the zero value mean the
// defaults.
type Options struct {
	// Authorize says whether a sender may send, by the user and password of Basic
	// authentication and the drain token (each may be empty), and the name of the
	// application whose messages these are; empty leaves that to Identify. It is
	// asked for every request, by several goroutines at once. Nil lets everybody
	// in and names nobody.
	Authorize func(user, password, drainToken string) (app string, ok bool)

	// Identify says whose records an origin's messages become; see Origin. False
	// leaves them out, counted as Filtered, as does an identity without a source
	// id. It is asked once per origin and may be called by several goroutines at
	// once. Tags it gives win over those of a message. Default Origin.Identity.
	Identify func(Origin) (envelope.Identity, bool)

	// MaxBody bounds a body in bytes, both as it comes and after decompression.
	// Default 8 MiB.
	MaxBody int
	// MaxBuffered bounds the bodies of all requests together, in bytes; requests
	// beyond it are answered with 503. Default 256 MiB.
	MaxBuffered int64
	// MaxLine bounds one record's text in bytes; longer ones are split. At least 1
	// KiB, at most 512 KiB. Default 64 KiB.
	MaxLine int
	// BodyTimeout bounds the time in which a body must have come. Default 30 s.
	BodyTimeout time.Duration
	// Frames is how many frames are remembered, so that they are not taken twice.
	// Default 16,384.
	Frames int

	// Logger hears of refused requests, at most once per reason and minute. Nil
	// discards.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.MaxBody = cmp.Or(max(c.MaxBody, 0), 8<<20)
	c.MaxBuffered = cmp.Or(max(c.MaxBuffered, 0), 256<<20)
	c.MaxLine = min(max(cmp.Or(c.MaxLine, 64<<10), 1<<10), 512<<10)
	c.BodyTimeout = cmp.Or(max(c.BodyTimeout, 0), 30*time.Second)
	c.Frames = cmp.Or(max(c.Frames, 0), 16<<10)
	return c
}

// maxOrigins bounds the origins whose identity is kept.
const maxOrigins = 4096

// Handler takes requests and hands their messages to a Writer.
type Handler struct {
	w       envelope.Writer
	opts    Options
	origins *gather.Cache[Origin, *origin]
	frames  *frames
	intakes sync.Pool // of *intake

	ctx    context.Context // of WriteBatch; ends with Close
	cancel context.CancelFunc

	mu      sync.Mutex
	closing bool
	serving sync.WaitGroup

	refused  *refusals.Counter
	buffered atomic.Int64
	counts   counts
}

type counts struct {
	requests, bytes, frames, mismatched atomic.Uint64
	rfc5424, unparsed, repeated         atomic.Uint64
	split, parts, bounded, missed       atomic.Uint64
	records, filtered, lost             atomic.Uint64
}

// Stats is what a Handler has counted since it was made. Messages and Parts are
// what came in, Records, Filtered and Lost what became of it.
type Stats struct {
	Requests   uint64 // all, refused ones too
	Bytes      uint64 // of bodies, as they came
	Mismatched uint64 // requests whose Logplex-Msg-Count does not agree with the body

	Messages uint64 // taken: RFC5424 + Unparsed
	RFC5424  uint64 // or Logplex's dialect of it
	Unparsed uint64 // frames that are neither, kept as they are
	Parts    uint64 // records that messages longer than MaxLine are more than one

	Records  uint64 // taken by the Writer
	Filtered uint64 // that Identify left out
	Lost     uint64 // for which the Writer returned an error; their request was answered with 503

	RepeatedFrames uint64 // requests with a frame that had been taken before
	Repeated       uint64 // messages of those, which were not taken again
	Missed         uint64 // messages that senders said they had lost
	Split          uint64 // messages longer than MaxLine
	Bounded        uint64 // messages with more, or longer, tags than are kept

	// Refused is how many requests were refused, by reason: method, type,
	// encoding, unauthorized, malformed, too_large, timeout, aborted, memory,
	// busy, writer, closed.
	Refused map[string]uint64
}

// New makes a Handler that hands messages to w, whose WriteBatch is called by
// several goroutines at once. It starts nothing.
func New(w envelope.Writer, o *Options) *Handler {
	h := &Handler{
		w:       w,
		opts:    o.withDefaults(),
		origins: gather.NewCache[Origin, *origin](maxOrigins),
	}
	h.frames = newFrames(h.opts.Frames)
	h.refused = refusals.New(h.opts.Logger)
	h.intakes.New = func() any { return newIntake(h) }
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// refusal is an error that is answered.
type refusal struct {
	status int
	reason string // for Stats.Refused
	says   string // for the sender and the log; holds nothing of what was sent
}

// isShuttle reports whether log-shuttle sends.
func isShuttle(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("User-Agent"), "log-shuttle")
}

// ServeHTTP takes one request. It panics with http.ErrAbortHandler, which ends
// the connection, where log-shuttle shall send again: it does that when a
// connection breaks, and takes every answer for good.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h.counts.requests.Add(1)
	f := h.take(w, r)
	if f == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h.refused.Add(f.reason, r.RemoteAddr, f.says)
	if f.status == http.StatusServiceUnavailable && isShuttle(r) {
		panic(http.ErrAbortHandler)
	}
	switch f.status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", `Basic realm="logplex"`)
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodPost)
	case http.StatusUnsupportedMediaType:
		w.Header().Set("Accept", ContentType)
		w.Header().Set("Accept-Encoding", "gzip")
	case http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "1")
	}
	http.Error(w, f.says, f.status)
}

func (h *Handler) take(w http.ResponseWriter, r *http.Request) *refusal {
	if !h.enter() {
		return &refusal{http.StatusServiceUnavailable, "closed", "shutting down; send this again"}
	}
	defer h.serving.Done()
	token := r.Header.Get("Logplex-Drain-Token")
	user, password, _ := r.BasicAuth()
	o := Origin{DrainToken: token, User: user}
	if h.opts.Authorize != nil {
		var ok bool
		if o.App, ok = h.opts.Authorize(user, password, token); !ok {
			return &refusal{http.StatusUnauthorized, "unauthorized", "user, password or drain token are not known here"}
		}
	}
	switch t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); {
	case r.Method != http.MethodPost:
		return &refusal{http.StatusMethodNotAllowed, "method", "send with POST"}
	case err != nil || t != ContentType:
		return &refusal{http.StatusUnsupportedMediaType, "type", "Content-Type must be " + ContentType}
	}
	in := h.intakes.Get().(*intake)
	defer in.give()
	if f := in.read(w, r); f != nil {
		return f
	}
	n, f := count(in.body)
	if f != nil {
		return f
	}
	if s := r.Header.Get("Logplex-Msg-Count"); s != "" && s != strconv.Itoa(n) {
		h.counts.mismatched.Add(1)
	}

	id := r.Header.Get("Logplex-Frame-Id")
	if id == "" && isShuttle(r) {
		id = r.Header.Get("X-Request-Id")
	}
	frame := h.frames.begin(cmp.Or(o.App, token, user), id)
	if frame.busy {
		return &refusal{http.StatusServiceUnavailable, "busy", "this frame is being taken just now; send it again later"}
	}
	fresh := n
	if frame.seen {
		// Logplex may put a notice in front of a frame that it sends again.
		fresh = max(0, n-frame.count)
		h.counts.frames.Add(1)
		h.counts.repeated.Add(uint64(n - fresh))
	}
	in.logplex = strings.HasPrefix(r.Header.Get("User-Agent"), "Logplex/")
	missed, told := number(r, "Logplex-Drop-Count"), number(r, "Logplex-Lost-Count")
	in.noticed = missed+told > 0
	if !frame.seen {
		in.missed = missed + told
	}
	if err := in.take(o, fresh); err != nil {
		h.frames.end(frame, frame.count, false)
		return &refusal{http.StatusServiceUnavailable, "writer", "not taken; send this again"}
	}
	h.frames.end(frame, n, true)
	return nil
}

// number reads a header; what is no number is none.
func number(r *http.Request, name string) uint64 {
	n, err := strconv.ParseUint(r.Header.Get(name), 10, 32)
	if err != nil {
		return 0
	}
	return n
}

func (h *Handler) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closing {
		return false
	}
	h.serving.Add(1)
	return true
}

// Shutdown answers further requests with 503 and returns when those under way
// have been answered. When ctx ends first, what waits in the Writer is let go
// and ctx's error is returned. The connections are the http.Server's.
func (h *Handler) Shutdown(ctx context.Context) error {
	h.refuseAll()
	done := make(chan struct{})
	go func() {
		h.serving.Wait()
		close(done)
	}()
	select {
	case <-done:
		h.cancel()
		return nil
	case <-ctx.Done():
		h.cancel()
		return ctx.Err()
	}
}

// Close answers further requests with 503 and lets go of what waits in the
// Writer. It does not wait for bodies that are still being sent: those are the
// http.Server's, as are the connections.
func (h *Handler) Close() error {
	h.refuseAll()
	h.cancel()
	return nil
}

func (h *Handler) refuseAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closing = true
}

// Stats may be called at any time. The numbers are read one after the other, so
// they fit together exactly only when nothing arrives.
func (h *Handler) Stats() Stats {
	c := &h.counts
	s := Stats{
		Requests:       c.requests.Load(),
		Bytes:          c.bytes.Load(),
		Mismatched:     c.mismatched.Load(),
		RFC5424:        c.rfc5424.Load(),
		Unparsed:       c.unparsed.Load(),
		Parts:          c.parts.Load(),
		Records:        c.records.Load(),
		Filtered:       c.filtered.Load(),
		Lost:           c.lost.Load(),
		RepeatedFrames: c.frames.Load(),
		Repeated:       c.repeated.Load(),
		Missed:         c.missed.Load(),
		Split:          c.split.Load(),
		Bounded:        c.bounded.Load(),
		Refused:        h.refused.Counts(),
	}
	s.Messages = s.RFC5424 + s.Unparsed
	return s
}
