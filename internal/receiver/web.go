package receiver

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strconv"
	"time"
)

type connKey struct{}

func (r *Receiver) newWeb() *http.Server {
	if len(r.opt.TLS.NextProtos) == 0 {
		r.opt.TLS = r.opt.TLS.Clone()
		r.opt.TLS.NextProtos = []string{"http/1.1"}
	}
	return &http.Server{
		Handler:           http.HandlerFunc(r.serve),
		ReadHeaderTimeout: 30 * time.Second,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, connKey{}, c.(*tls.Conn).NetConn())
		},
	}
}

// serve takes one request of a drain.
func (r *Receiver) serve(w http.ResponseWriter, req *http.Request) {
	c := req.Context().Value(connKey{}).(*conn)
	f, _ := c.current()
	r.report.Lock()
	r.stats.Requests++
	r.report.Unlock()
	body, err := io.ReadAll(http.MaxBytesReader(w, req.Body, MaxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		r.problem(c, fmt.Sprintf("the body is larger than %d bytes", MaxBody))
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	}
	if err != nil {
		r.problem(c, "the connection ended in the middle of a request")
		return
	}
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-f.over:
		case <-req.Context().Done():
			return
		case <-r.done:
			return
		}
	}
	if f.Status != 0 {
		if f.RetryAfter > 0 {
			w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter/time.Second)))
		}
		w.WriteHeader(f.Status)
		if f.Status/100 != 2 {
			return // what is not accepted comes again
		}
	}
	messages, problems := split(req, body)
	if len(problems) > 0 {
		r.tell(Message{Conn: c.number, Peer: c.RemoteAddr().String(), Path: req.URL.Path, Problems: problems})
	}
	check := newChecker()
	for _, text := range messages {
		m := Message{Conn: c.number, Peer: c.RemoteAddr().String(), Path: req.URL.Path, Text: text}
		if isLogplex(req) {
			check.checkHeroku(&m)
		} else {
			check.check(&m)
		}
		r.tell(m)
	}
}

func isLogplex(req *http.Request) bool {
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	return kind == "application/logplex-1"
}

// split takes a request's body apart, and says what is wrong with the request.
func split(req *http.Request, body []byte) (messages [][]byte, problems []string) {
	if req.Method != http.MethodPost {
		problems = append(problems, fmt.Sprintf("the method is %q, not POST", shorten(req.Method)))
	}
	if isLogplex(req) {
		messages, problem := splitCounted(body)
		if problem != "" {
			problems = append(problems, problem)
		}
		return messages, append(problems, logplexProblems(req.Header, len(messages))...)
	}
	kind, _, _ := mime.ParseMediaType(req.Header.Get("Content-Type"))
	if kind != "text/plain" {
		problems = append(problems, fmt.Sprintf("the content type is %q, not text/plain or application/logplex-1", shorten(kind)))
	}
	if len(body) == 0 {
		return nil, append(problems, "the body is empty")
	}
	return splitPlain(body), problems
}

// splitPlain takes messages apart that just follow each other. As they may hold
// an LF, the next one is where an LF and the beginning of a header are.
func splitPlain(body []byte) (messages [][]byte) {
	for len(body) > 0 {
		end := len(body)
		for at := 0; ; {
			i := bytes.Index(body[at:], []byte("\n<"))
			if i < 0 {
				break
			}
			at += i + 1
			if beginsMessage(body[at:]) {
				end = at
				break
			}
		}
		messages = append(messages, body[:end:end])
		body = body[end:]
	}
	return messages
}

// beginsMessage reports whether b begins with PRI and VERSION.
func beginsMessage(b []byte) bool {
	i := 1
	for i < len(b) && i < 4 && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	return i > 1 && bytes.HasPrefix(b[i:], []byte(">1 "))
}

func splitCounted(body []byte) (messages [][]byte, problem string) {
	in := bufio.NewReader(bytes.NewReader(body))
	for {
		if _, err := in.Peek(1); err != nil {
			return messages, ""
		}
		m, err := readCounted(in, nil)
		if err != nil {
			return messages, fmt.Sprintf("the body's octet counting is broken after %d messages: %v", len(messages), err)
		}
		messages = append(messages, m)
	}
}

// logplexProblems checks the headers of Heroku's drains.
func logplexProblems(h http.Header, count int) (problems []string) {
	for _, name := range []string{"Logplex-Msg-Count", "Logplex-Frame-Id", "Logplex-Drain-Token"} {
		if h.Get(name) == "" {
			problems = append(problems, fmt.Sprintf("there is no header %s", name))
		}
	}
	if said := h.Get("Logplex-Msg-Count"); said != "" && said != strconv.Itoa(count) {
		problems = append(problems, fmt.Sprintf("the header Logplex-Msg-Count says %q, and the body has %d messages", shorten(said), count))
	}
	return problems
}

func shorten(s string) string { return s[:min(len(s), 64)] }
