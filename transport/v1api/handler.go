package v1api

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
	"github.com/cloudfoundry/loggregator/transport/internal/outlet"
)

// Defaults of Options.
const (
	DefaultWriteTimeout = time.Minute
	DefaultPingInterval = 15 * time.Second
	DefaultPongTimeout  = 30 * time.Second
)

// Options of a Handler. The zero value is useful.
type Options struct {
	// AnyID serves applications whatever their id. Otherwise one that is no GUID
	// gets status 401, as it does from the stock Traffic Controller.
	AnyID bool

	// WriteTimeout is how long a reader may take nothing before it is cut off.
	// Default one minute.
	WriteTimeout time.Duration

	// PingInterval is the time from a client's answer to a ping to the next ping;
	// the first is sent at once. Default 15 seconds.
	PingInterval time.Duration

	// PongTimeout is how long a client may take to answer, unless it takes
	// something else meanwhile. Default 30 seconds.
	PongTimeout time.Duration

	// CookieDomain is the domain of the cookies that /set-cookie sets. Default
	// none: there is no such page.
	CookieDomain string

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
	if opt.PongTimeout <= 0 {
		opt.PongTimeout = DefaultPongTimeout
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// Handler serves the endpoints.
type Handler struct {
	gate    *access.Gate
	opt     Options
	readers *outlet.Readers
	dumps   chan struct{} // full when no more may be gathered
	held    atomic.Int64  // bytes of those that are being written

	stalled, silent, flooded, batches, records, skipped, bytes, missed, untold, envelopes atomic.Uint64
}

// New returns a Handler that lets read what the gate admits.
func New(gate *access.Gate, o *Options) *Handler {
	return &Handler{gate: gate, opt: o.withDefaults(), readers: outlet.NewReaders(), dumps: make(chan struct{}, maxDumps)}
}

// Stats counts what a Handler did. Those whom the Gate refused are in its Stats.
type Stats struct {
	Readers   int    // streams and dumps served now
	Stalled   uint64 // readers cut off because they took nothing for WriteTimeout
	Silent    uint64 // readers cut off because they did not answer a ping
	Flooded   uint64 // readers cut off because they sent too much
	Batches   uint64 // batches read for all readers together
	Records   uint64 // records in them
	Skipped   uint64 // of those, not sent: v1, or this answer, has no form for them
	Bytes     uint64 // bytes of Records, as they are held
	Missed    uint64 // records that readers missed
	Untold    uint64 // of those, not told to the reader
	Envelopes uint64 // v1 envelopes made for all readers together
}

// Stats returns the counters.
func (h *Handler) Stats() Stats {
	return Stats{
		Readers: h.readers.Len(), Stalled: h.stalled.Load(), Silent: h.silent.Load(), Flooded: h.flooded.Load(),
		Batches: h.batches.Load(), Records: h.records.Load(), Skipped: h.skipped.Load(), Bytes: h.bytes.Load(),
		Missed: h.missed.Load(), Untold: h.untold.Load(), Envelopes: h.envelopes.Load(),
	}
}

// read counts a batch, and whether its reader can be told what it missed.
func (h *Handler) read(b *envelope.Batch, told bool) {
	h.batches.Add(1)
	h.records.Add(uint64(b.Count))
	h.bytes.Add(uint64(len(b.Records)))
	if b.Missed > 0 {
		h.missed.Add(b.Missed)
		if !told {
			h.untold.Add(b.Missed)
		}
	}
}

// Shutdown takes no more requests, writes out to every reader what was read for
// it already, and ends it. It returns when all are gone; those that are not when
// ctx ends are cut off, and the error is ctx's. A WebSocket is nothing that
// http.Server.Shutdown knows of: call this first.
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

// ServeHTTP serves the endpoints. For a WebSocket it returns after the handshake;
// the stream goes on until Shutdown.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff") // lines may look like HTML
	w.Header().Set("Cache-Control", "no-store")
	if sentence := h.gate.Elsewhere(r); sentence != "" { // a browser would send the cookie along
		http.Error(w, sentence, http.StatusForbidden)
		return
	}
	parts := strings.Split(r.URL.EscapedPath(), "/")
	for i, p := range parts {
		part, err := url.PathUnescape(p)
		if err != nil {
			http.NotFound(w, r)
			return
		}
		parts[i] = part
	}
	switch {
	case len(parts) == 2 && parts[1] == "set-cookie" && h.opt.CookieDomain != "":
		h.setCookie(w, r)
	case r.Method != http.MethodGet:
		w.Header().Set("Allow", http.MethodGet)
		http.Error(w, "this page takes GET", http.StatusMethodNotAllowed)
	case len(parts) == 4 && parts[1] == "apps" && parts[2] != "":
		h.app(w, r, parts[2], parts[3])
	case len(parts) == 3 && parts[1] == "firehose" && parts[2] != "":
		h.firehose(w, r, parts[2])
	default:
		http.NotFound(w, r)
	}
}

// app serves what there is of one application.
func (h *Handler) app(w http.ResponseWriter, r *http.Request, id, what string) {
	var serve func(http.ResponseWriter, *http.Request, *outlet.Reader, *access.Pass, string)
	sel := envelope.Selector{SourceID: id}
	switch what {
	case "stream":
		serve = h.serveApp
	case "recentlogs":
		serve, sel.Kinds = h.serveRecent, []envelope.Kind{envelope.KindLog}
	case "containermetrics":
		serve, sel.Kinds = h.serveContainers, []envelope.Kind{envelope.KindGauge}
	default:
		http.NotFound(w, r)
		return
	}
	if !h.opt.AnyID && !isGUID(id) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	rd, pass := h.admit(w, r, []envelope.Selector{sel}, http.StatusNotFound)
	if pass != nil {
		serve(w, r, rd, pass, id)
	}
}

// admit lets a reader in, or answers why not, with status denied for what may not
// be read. Whoever gets a pass has to close it, and rd has to leave.
func (h *Handler) admit(w http.ResponseWriter, r *http.Request, sel []envelope.Selector, denied int) (*outlet.Reader, *access.Pass) {
	rd, err := h.readers.Enter()
	if err != nil {
		w.Header().Set("Retry-After", "5")
		http.Error(w, "the server is shutting down; try again later", http.StatusServiceUnavailable)
		return nil, nil
	}
	token := tokenOf(r)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(h.readers.Context(), cancel)()
	pass, err := h.gate.Admit(access.WithPeer(ctx, r.RemoteAddr), token, sel)
	if err == nil {
		return rd, pass
	}
	defer rd.Leave()
	status, sentence := access.Explain(err)
	switch {
	case errors.Is(err, access.ErrDenied):
		status = denied
	case errors.Is(err, access.ErrUnavailable):
		status = http.StatusInternalServerError
	}
	switch status {
	case http.StatusUnauthorized:
		w.Header().Set("WWW-Authenticate", "Basic")
		why := "invalid authorization"
		if token == "" {
			why = "authorization not provided"
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(status)
		fmt.Fprint(w, "You are not authorized. "+why)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		w.Header().Set("Retry-After", "5")
		fallthrough
	default:
		http.Error(w, sentence, status)
	}
	return nil, nil
}

// tokenOf is the request's token: in its header, or in a cookie.
func tokenOf(r *http.Request) string {
	if r.Header.Get("Authorization") != "" {
		return outlet.Token(r)
	}
	c, err := r.Cookie("authorization")
	if err != nil {
		return ""
	}
	value, err := url.QueryUnescape(c.Value)
	if err != nil {
		return ""
	}
	return outlet.Token(&http.Request{Header: http.Header{"Authorization": {value}}})
}

// isGUID reports whether id is hexadecimal in the groups 8-4-4-4-12.
func isGUID(id string) bool {
	if len(id) != 36 {
		return false
	}
	for i := range len(id) {
		switch c := id[i]; i {
		case 8, 13, 18, 23:
			if c != '-' {
				return false
			}
		default:
			if !('0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F') {
				return false
			}
		}
	}
	return true
}

// maxCookie bounds the form of /set-cookie, in bytes.
const maxCookie = 4 << 10

// setCookie gives a page the token that it sends back as a cookie.
func (h *Handler) setCookie(w http.ResponseWriter, r *http.Request) {
	if origin := r.Header.Get("Origin"); origin != "" {
		w.Header().Set("Access-Control-Allow-Origin", origin)
		w.Header().Set("Access-Control-Allow-Credentials", "true")
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxCookie)
	if err := r.ParseForm(); err != nil {
		http.Error(w, "the form is longer than 4 KiB, or is none", http.StatusBadRequest)
		return
	}
	c := &http.Cookie{
		Name: r.PostForm.Get("CookieName"), Value: r.PostForm.Get("CookieValue"), Domain: h.opt.CookieDomain,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	}
	if c.Value == "" || c.Valid() != nil {
		http.Error(w, "the form has CookieName and CookieValue, which make a cookie", http.StatusBadRequest)
		return
	}
	http.SetCookie(w, c)
}

var _ http.Handler = (*Handler)(nil)
