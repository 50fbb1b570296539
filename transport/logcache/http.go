package logcache

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// Paths of the API. What follows readPath is a source id, slashes and all.
const (
	readPath  = "/api/v1/read/"
	metaPath  = "/api/v1/meta"
	infoPath  = "/api/v1/info"
	queryPath = "/api/v1/query"
	rangePath = "/api/v1/query_range"
)

// ServeHTTP serves the API.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff") // envelopes may look like HTML
	w.Header().Set("Cache-Control", "no-store")
	source, read := strings.CutPrefix(r.URL.Path, readPath)
	switch path := r.URL.Path; {
	case path == infoPath:
		s.serveInfo(w)
	case path == queryPath, path == rangePath:
		s.unimplemented.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotImplemented)
		w.Write([]byte(`{"status":"error","errorType":"internal","error":"` + noPromQL + `"}` + "\n"))
	case path != metaPath && (!read || source == ""):
		refuse(w, http.StatusNotFound, codes.NotFound, "there is no such page; there are "+readPath+"SOURCE_ID, "+metaPath+" and "+infoPath)
	case r.Method != http.MethodGet:
		refuse(w, http.StatusNotImplemented, codes.Unimplemented, "this page takes GET")
	default:
		ctx, leave, err := s.enter(access.WithPeer(r.Context(), r.RemoteAddr))
		if err != nil {
			s.refuseFor(w, err)
			return
		}
		defer leave()
		if read {
			s.serveRead(ctx, w, r, source)
		} else {
			s.serveMeta(ctx, w, r)
		}
	}
}

const noPromQL = "PromQL is not here: read the envelopes, or ask a Prometheus"

// refuse answers as the gateway before Log Cache does.
func refuse(w http.ResponseWriter, status int, code codes.Code, sentence string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	body, _ := json.Marshal(struct {
		Code    codes.Code `json:"code"`
		Message string     `json:"message"`
		Details []string   `json:"details"`
	}{code, sentence, []string{}})
	w.Write(append(body, '\n'))
}

// refuseFor answers what Admit, or putting an answer together, failed with.
func (s *Server) refuseFor(w http.ResponseWriter, err error) {
	status, sentence := access.Explain(err)
	switch {
	case errors.Is(err, errMemory), errors.Is(err, errClosing):
		sentence = err.Error()
	case status == http.StatusUnauthorized || status == http.StatusNotFound:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Retry-After", "1")
	code := codes.Unavailable
	if status == http.StatusTooManyRequests {
		code = codes.ResourceExhausted
	}
	refuse(w, status, code, sentence)
}

func (s *Server) serveInfo(w http.ResponseWriter) {
	body, _ := json.Marshal(struct {
		Version string `json:"version"`
		Uptime  string `json:"vm_uptime"`
	}{s.opt.Version, strconv.FormatInt(int64(time.Since(s.since).Seconds()), 10)})
	w.Header().Set("Content-Type", "application/json")
	w.Write(append(body, '\n'))
}

func (s *Server) serveRead(ctx context.Context, w http.ResponseWriter, r *http.Request, source string) {
	raw, err := parseQuery(source, r.URL.RawQuery)
	if err != nil {
		s.malformed.Add(1)
		refuse(w, http.StatusBadRequest, codes.InvalidArgument, err.Error())
		return
	}
	req, err := raw.check(time.Now())
	if err != nil {
		s.malformed.Add(1)
		refuse(w, http.StatusInternalServerError, codes.Unknown, err.Error())
		return
	}
	pass, err := s.gate.Admit(ctx, access.BearerToken(r), req.sel())
	if err != nil {
		s.refuseFor(w, err)
		return
	}
	defer pass.Close()
	p := s.newPage()
	defer p.free()
	if err := p.fill(ctx, pass, req, s.reply); err != nil {
		s.refuseFor(w, err)
		return
	}
	s.reads.Add(1)
	w.Header().Set("Content-Type", "application/json")
	out := s.newWriter(ctx, w, p.scratch)
	defer func() { p.scratch = out.close() }()
	out.b = append(out.b, `{"envelopes":{"batch":[`...)
	for i := range p.records {
		if i > 0 {
			out.b = append(out.b, ',')
		}
		e, _, _ := envelope.Next(p.record(i))
		out.b = p.json.Append(out.b, e)
		if !out.more() {
			return
		}
	}
	out.b = append(out.b, "]}}\n"...)
}

// writer sends an answer in pieces, and cuts off a client who takes nothing.
type writer struct {
	s    *Server
	w    http.ResponseWriter
	rc   *http.ResponseController
	stop func() bool
	b    []byte
	err  error
}

// pieceSize is about how many bytes are sent at a time.
const pieceSize = 64 << 10

func (s *Server) newWriter(ctx context.Context, w http.ResponseWriter, scratch []byte) *writer {
	rc := http.NewResponseController(w)
	if cap(scratch) < pieceSize {
		scratch = make([]byte, 0, pieceSize+pieceSize/8)
	}
	// A write that hangs when the Server closes ends.
	stop := context.AfterFunc(s.ctx, func() { rc.SetWriteDeadline(time.Unix(1, 0)) })
	return &writer{s: s, w: w, rc: rc, stop: stop, b: scratch[:0]}
}

// more sends what there is if that is enough, and reports whether to go on.
func (w *writer) more() bool {
	if len(w.b) >= pieceSize {
		w.flush()
	}
	return w.err == nil
}

func (w *writer) flush() {
	if w.err == nil && len(w.b) > 0 && w.s.ctx.Err() == nil {
		w.rc.SetWriteDeadline(time.Now().Add(w.s.opt.WriteTimeout))
		_, w.err = w.w.Write(w.b)
	}
	w.b = w.b[:0]
}

// close sends the rest, ends a connection whose answer is not complete, and returns
// the memory that it was given.
func (w *writer) close() []byte {
	w.flush()
	w.stop()
	if errors.Is(w.err, os.ErrDeadlineExceeded) && w.s.ctx.Err() == nil {
		w.s.stalled.Add(1)
	}
	if w.err != nil || w.s.ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	w.rc.SetWriteDeadline(time.Time{}) // it would outlive the answer on a connection that is kept
	if cap(w.b) > 4*pieceSize {
		return nil
	}
	return w.b
}

var _ http.Handler = (*Server)(nil)
