package receiver

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
)

// readStream reads messages framed by octet counting (RFC 6587, section 3.4.1)
// until the connection ends or what comes makes no sense any more.
func (r *Receiver) readStream(c *conn) {
	var stream net.Conn = c
	if r.opt.TLS != nil {
		secure := tls.Server(c, r.opt.TLS)
		if !r.shakeHands(c, secure) {
			return
		}
		defer secure.Close() // says goodbye, as RFC 5425 asks
		stream = secure
	}
	in := bufio.NewReaderSize(stream, 64<<10)
	check := newChecker()
	var buf []byte
	for {
		first, err := in.Peek(1)
		if err != nil {
			if !ended(err) && !errors.Is(err, syscall.ECONNRESET) {
				r.problem(c, fmt.Sprintf("the connection broke: %v", withoutAddr(err)))
			}
			return
		}
		m := Message{Conn: c.number, Peer: c.RemoteAddr().String()}
		if first[0] == '<' {
			m.Problems = append(m.Problems, "there is no length in front (octet counting, RFC 6587): taking this line as a message")
			m.Text, err = readLine(in, buf[:0])
		} else {
			m.Text, err = readCounted(in, buf[:0])
		}
		if err != nil {
			r.problem(c, framingProblem(in, first[0], err))
			return
		}
		buf = m.Text
		check.check(&m)
		r.tell(m)
	}
}

var errTooLong = fmt.Errorf("a message is longer than %d bytes", MaxMessage)

// readLine reads a message that ends in LF, which is not in its length then.
func readLine(in *bufio.Reader, dst []byte) ([]byte, error) {
	for {
		part, err := in.ReadSlice('\n')
		dst = append(dst, part...)
		switch {
		case len(dst) > MaxMessage:
			return dst, errTooLong
		case err != bufio.ErrBufferFull:
			return dst, err
		}
	}
}

func readCounted(in *bufio.Reader, dst []byte) ([]byte, error) {
	n, err := readLength(in)
	if err != nil {
		return nil, err
	}
	if cap(dst) < n {
		// Not more at once than came, so that a length costs nothing.
		body := bytes.NewBuffer(dst)
		if _, err := io.CopyN(body, in, int64(n)); err != nil {
			return nil, tornError(err)
		}
		return body.Bytes(), nil
	}
	dst = dst[:n]
	if _, err := io.ReadFull(in, dst); err != nil {
		return nil, tornError(err)
	}
	return dst, nil
}

// lengthError is a length that is none.
type lengthError struct{ text string }

func (e *lengthError) Error() string { return fmt.Sprintf("no length of a message: %q", e.text) }

// readLength reads MSG-LEN and the space after it.
func readLength(in *bufio.Reader) (int, error) {
	n, digits := 0, []byte(nil)
	for {
		b, err := in.ReadByte()
		if err != nil {
			return 0, tornError(err)
		}
		if b == ' ' && len(digits) > 0 {
			if digits[0] == '0' {
				return 0, &lengthError{string(digits)}
			}
			return n, nil
		}
		digits = append(digits, b)
		if b < '0' || b > '9' {
			return 0, &lengthError{string(digits)}
		}
		if n = 10*n + int(b-'0'); n > MaxMessage {
			return 0, errTooLong
		}
	}
}

// tornError is err, where a message was expected to go on.
func tornError(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

func framingProblem(in *bufio.Reader, first byte, err error) string {
	length, noLength := errors.AsType[*lengthError](err)
	switch {
	case noLength && first == 0x16:
		return "the peer speaks TLS, and this is a clear port: start with -tls, or use syslog:// in the drain's URL"
	case noLength && first >= 'A' && first <= 'Z':
		rest, _ := in.Peek(min(in.Buffered(), 64))
		line, _, _ := bytes.Cut(append([]byte(length.text), rest...), []byte("\r\n"))
		if bytes.Contains(line, []byte(" HTTP/")) || bytes.HasPrefix(line, []byte("POST ")) {
			return "the peer speaks HTTP: start with -https, or use syslog:// in the drain's URL"
		}
	case errors.Is(err, io.ErrUnexpectedEOF):
		return "the connection ended in the middle of a message"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, net.ErrClosed):
		return "the connection was reset in the middle of a message"
	}
	return fmt.Sprintf("%v; closing the connection", withoutAddr(err))
}

// shakeHands reports a TLS handshake that fails. One that was not begun is not:
// that is how people look whether a port is open.
func (r *Receiver) shakeHands(c *conn, secure *tls.Conn) bool {
	err := secure.Handshake()
	if err != nil && !ended(err) {
		r.problem(c, handshakeProblem(err))
	}
	return err == nil
}

func handshakeProblem(err error) string {
	if record, ok := errors.AsType[tls.RecordHeaderError](err); ok {
		if first := record.RecordHeader[0]; first >= '0' && first <= '9' || first == '<' {
			return "the peer sends clear text, and this is a TLS port: use syslog-tls:// in the drain's URL"
		}
		return "what the peer sends is no TLS"
	}
	return fmt.Sprintf("the TLS handshake failed: %v", withoutAddr(err))
}

// problem reports what is wrong outside of a message.
func (r *Receiver) problem(c *conn, sentence string) {
	r.tell(Message{Conn: c.number, Peer: c.RemoteAddr().String(), Problems: []string{sentence}})
}

// ended reports whether err is a connection's end that is nobody's fault.
func ended(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded)
}

// withoutAddr is the inner error of one of package net.
func withoutAddr(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}
