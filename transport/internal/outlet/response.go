// Package outlet is what the doors have in common by which people and programs
// read over HTTP: who reads, their tokens, and responses that do not end. Such a
// response, as a WebSocket of package wsout, has an outbuf.Writer in front, so
// what is thin goes at once and what is thick goes in large writes, and is cut
// when its reader takes nothing for too long.
package outlet

import (
	"errors"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

var (
	// ErrStalled means a reader who took nothing for the write timeout.
	ErrStalled = errors.New("the reader took nothing for too long")
	// ErrAborted means a stream that was ended by Abort.
	ErrAborted = errors.New("ended by the server")
)

// Chunk is how many bytes must be taken within the write timeout.
const Chunk = 32 << 10

// Response is a response that is written as it comes.
type Response struct {
	Out *outbuf.Writer

	w       http.ResponseWriter
	rc      *http.ResponseController
	timeout time.Duration

	mu      sync.Mutex
	aborted bool
}

// NewResponse puts a Writer in front of w, whose header is written. A chunk of
// 32 KiB must be taken within timeout. Nothing else may write to w until Close.
func NewResponse(w http.ResponseWriter, timeout time.Duration) *Response {
	s := &Response{w: w, rc: http.NewResponseController(w), timeout: timeout}
	s.Out = outbuf.New(s.write)
	return s
}

func (s *Response) write(p []byte) error {
	for len(p) > 0 {
		n := min(len(p), Chunk)
		if !s.setDeadline() {
			return ErrAborted
		}
		if _, err := s.w.Write(p[:n]); err != nil {
			return Stalled(err)
		}
		p = p[n:]
	}
	return Stalled(s.rc.Flush())
}

func (s *Response) setDeadline() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.aborted {
		s.rc.SetWriteDeadline(time.Now().Add(s.timeout))
	}
	return !s.aborted
}

// Close writes out what was appended. Its error is ErrStalled, ErrAborted, or
// another for which the reader does not have all of it.
func (s *Response) Close() error {
	err := s.Out.Close()
	if err == nil {
		s.rc.SetWriteDeadline(time.Time{}) // it would outlive the response on a connection that is kept
	}
	return err
}

// Abort ends a write that is going on and all later ones, with ErrAborted.
func (s *Response) Abort() { s.fail(ErrAborted) }

// Stall does the same with ErrStalled, for an answer that must be taken as a whole
// within a time.
func (s *Response) Stall() { s.fail(ErrStalled) }

func (s *Response) fail(err error) {
	s.Out.Fail(err)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.aborted = true
	s.rc.SetWriteDeadline(time.Unix(1, 0))
}

// Stalled puts the error that a write deadline makes by its name.
func Stalled(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ErrStalled
	}
	return err
}
