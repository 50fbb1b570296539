package outlet

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

// Stream is an answer without an end that has taken its connection over: chunks
// (RFC 9112, section 7.1) for as long as the client stays. It outlives the
// request's handler, whose buffers and goroutine are free then: with them an idle tail
// took 48 KiB, and without 26.
type Stream struct {
	conn net.Conn
	out  *outbuf.Writer
	gone chan struct{} // closed when nothing more is read
}

// Detach answers a request of HTTP/1.1 with the header of w and status 200. Of a
// request that it cannot take over it writes nothing and returns nil. A chunk of
// 32 KiB must be taken within timeout. Left is called, by a goroutine that ends
// with the connection, when the client has left.
func Detach(w http.ResponseWriter, r *http.Request, timeout time.Duration, left func()) *Stream {
	if r.ProtoMajor != 1 || r.ProtoMinor < 1 {
		return nil
	}
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil
	}
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 200 OK\r\n")
	w.Header().Write(&head)
	fmt.Fprintf(&head, "Date: %s\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n", time.Now().UTC().Format(http.TimeFormat))
	s := &Stream{conn: conn, gone: make(chan struct{})}
	s.out = outbuf.New(func(p []byte) error { return Send(conn, p, timeout) })
	s.out.Append(head.Bytes()) // the client sees that it is connected before anything happens
	go func() {
		defer close(s.gone)
		s.listen()
		left()
	}()
	return s
}

// maxSaid is how many bytes a client may say, who has nothing to say any more.
const maxSaid = 64 << 10

// listen returns when the client has left.
func (s *Stream) listen() {
	var buf [64]byte
	for said := 0; said < maxSaid; {
		n, err := s.conn.Read(buf[:])
		if err != nil {
			return
		}
		said += n
	}
}

// Append appends the parts as one chunk. It blocks while the buffer is full. The
// error is that of an earlier write.
func (s *Stream) Append(parts ...[]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n == 0 {
		return nil // that would be the last chunk
	}
	var size [18]byte
	var room [6][]byte
	all := append(room[:0], append(strconv.AppendInt(size[:0], int64(n), 16), "\r\n"...))
	all = append(append(all, parts...), crlf)
	return s.out.Append(all...)
}

var crlf = []byte("\r\n")

// Close writes out what was appended, ends the chunks, with a trailer if that has a
// value, and closes the connection. Its error is ErrStalled, ErrAborted, or another
// for which the client does not have all of it.
func (s *Stream) Close(trailer, value string) error {
	last := "0\r\n\r\n"
	if value != "" {
		last = "0\r\n" + trailer + ": " + value + "\r\n\r\n"
	}
	s.out.Append([]byte(last))
	return s.Break()
}

// Break closes the connection, when what was appended has been written, without an
// end: the client sees that it is none. Its error is Close's.
func (s *Stream) Break() error {
	err := s.out.Flush()
	s.conn.Close()
	<-s.gone
	s.out.Close()
	return err
}

// Abort cuts the connection.
func (s *Stream) Abort() {
	s.out.Fail(ErrAborted)
	s.conn.Close()
}

// Send writes p, of which each 32 KiB must be taken within timeout.
func Send(conn net.Conn, p []byte, timeout time.Duration) error {
	for len(p) > 0 {
		n := min(len(p), Chunk)
		conn.SetWriteDeadline(time.Now().Add(timeout))
		if _, err := conn.Write(p[:n]); err != nil {
			return Stalled(err)
		}
		p = p[n:]
	}
	return nil
}
