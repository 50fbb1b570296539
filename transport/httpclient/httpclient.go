// Package httpclient reads logs from a server over HTTP: the other side of
// package httpapi.
//
//	client, err := httpclient.New("http://127.0.0.1:8080", nil)
//	…
//	for batch, err := range client.Batches(ctx, query) {
//
// A [Client] is an envelope.Source. A sequence that follows outlives its
// connections: it goes on at its cursor, so nothing is repeated and what was lost
// meanwhile is counted. [Client.Stream] is one request, for who wants to decide
// for himself.
package httpclient

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// MaxMessage bounds one batch from a server, in bytes.
const MaxMessage = 8 << 20

const (
	dialTimeout   = 10 * time.Second
	headerTimeout = 30 * time.Second // for a server to begin its answer
	maxDials      = 32               // requests of one Client that wait for their answer to begin
)

// Options of a Client. The zero value and nil mean the defaults.
type Options struct {
	// HTTP makes the requests. Default one that finds dead connections within
	// half a minute by TCP keepalive, and uses no proxy. Its Timeout must be
	// zero: streams last.
	HTTP *http.Client

	// CurrentTLS, if not nil, is asked for the configuration of each connection
	// that the default HTTP makes, as transport.TLSFiles gives it.
	CurrentTLS func() *tls.Config

	// Header is sent with each request: Authorization, most likely. Default none.
	Header http.Header

	// Backoff is the pause before the next connection after so many failures in
	// a row, 0 for the first. Default 100 ms, doubling up to 10 s, each half to
	// one and a half of it.
	Backoff func(failures int) time.Duration

	// Logger is told when the server is not reached, and when it is again, by
	// any of the sequences. Default nobody.
	Logger *slog.Logger
}

// Client reads from one server. It has no goroutines of its own, and may be used
// by many at once.
type Client struct {
	base *url.URL
	opt  Options
	turn chan struct{} // held by a request until its answer begins

	mu   sync.Mutex
	away error // the log was told
}

// New returns a client of the server at target, like http://127.0.0.1:8080. It
// does not connect.
func New(target string, o *Options) (*Client, error) {
	u, err := url.Parse(target)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, errors.New("httpclient: a server's address is like http://127.0.0.1:8080")
	}
	c := &Client{base: u, turn: make(chan struct{}, maxDials)}
	if o != nil {
		c.opt = *o
	}
	if c.opt.HTTP == nil {
		dialer := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
		t := &http.Transport{
			DialContext:           dialer.DialContext,
			TLSHandshakeTimeout:   dialTimeout,
			ResponseHeaderTimeout: headerTimeout,
			DisableCompression:    true,
			ReadBufferSize:        4 << 10,
			WriteBufferSize:       1 << 10,
		}
		if current := c.opt.CurrentTLS; current != nil {
			t.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
				ctx, cancel := context.WithTimeout(ctx, dialTimeout)
				defer cancel()
				return (&tls.Dialer{NetDialer: dialer, Config: current()}).DialContext(ctx, network, addr)
			}
		}
		c.opt.HTTP = &http.Client{Transport: t}
	}
	if c.opt.Backoff == nil {
		c.opt.Backoff = backoff
	}
	if c.opt.Logger == nil {
		c.opt.Logger = slog.New(slog.DiscardHandler)
	}
	return c, nil
}

// String is the server's address without what may be secret in it.
func (c *Client) String() string { return c.base.Scheme + "://" + c.base.Host }

// URL is the address of an endpoint of the server, as "tail".
func (c *Client) URL(endpoint string, params url.Values) string {
	u := c.base.JoinPath("v1", endpoint)
	u.RawQuery = params.Encode()
	return u.String()
}

// ErrForeign means that what came is no batch of logs.
var ErrForeign = errors.New("sent what is no batch of logs: is it a Loggregator server?")

// UnreachableError means that there was no answer at all.
type UnreachableError struct{ Err error }

func (e *UnreachableError) Error() string { return "cannot be reached: " + e.Err.Error() }
func (e *UnreachableError) Unwrap() error { return e.Err }

// BrokenError means that a stream ended before its end.
type BrokenError struct{ Err error }

func (e *BrokenError) Error() string { return "broke before the end: " + e.Err.Error() }
func (e *BrokenError) Unwrap() error { return e.Err }

// AnswerError is an answer other than logs, or a stream that the server ended
// because its reader's token expired.
type AnswerError struct {
	Status int
	Text   string // the status with its name
	Reason string // the server's sentence; empty if it is not one of ours
}

func (e *AnswerError) Error() string {
	if e.Reason != "" {
		return e.Reason
	}
	return fmt.Sprintf("answered %q: is it a Loggregator server?", e.Text)
}

// Temporary reports whether another request may do better than the one that
// ended with err.
func Temporary(err error) bool {
	if a, ok := errors.AsType[*AnswerError](err); ok {
		return a.Status >= http.StatusInternalServerError || a.Status == http.StatusTooManyRequests
	}
	_, unreachable := errors.AsType[*UnreachableError](err)
	_, broken := errors.AsType[*BrokenError](err)
	return unreachable || broken
}

// Refused is the error for an answer other than logs.
func Refused(resp *http.Response) *AnswerError {
	e := &AnswerError{Status: resp.StatusCode, Text: resp.Status}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") { // else a page of something else
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1024))
		e.Reason, _, _ = strings.Cut(strings.TrimSpace(string(body)), "\n")
	}
	return e
}

// Unreachable is the error for a request that got no answer, without the address
// that net/http puts into its own.
func Unreachable(err error) *UnreachableError {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		err = op.Err
	}
	if errors.Is(err, syscall.ECONNREFUSED) {
		err = fmt.Errorf("%w", syscall.ECONNREFUSED) // without the system call's name
	}
	return &UnreachableError{err}
}

// Stream makes one request, for "tail" or "recent", and gives put each batch,
// which is lent, until the stream ends, ctx does, or put fails, with whose error
// it returns. A tail's end is a *BrokenError wrapping io.EOF. begun, if not nil,
// is called when the server has accepted the request.
func (c *Client) Stream(ctx context.Context, endpoint string, params url.Values, begun func(), put func(envelope.Batch) error) error {
	resp, err := c.request(ctx, endpoint, params)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if begun != nil {
		begun()
	}
	in := bufio.NewReaderSize(resp.Body, 512)
	for {
		err := take(in, put)
		own, ok := err.(*putError)
		switch {
		case err == nil:
		case ok:
			return own.err
		case err == io.EOF && resp.Trailer.Get(endTrailer) != "":
			return &AnswerError{Status: http.StatusUnauthorized, Reason: resp.Trailer.Get(endTrailer)}
		case err == io.EOF && endpoint != "tail":
			return nil
		case err == ErrForeign:
			return err
		default:
			return &BrokenError{err}
		}
	}
}

// request returns when the answer has begun.
func (c *Client) request(ctx context.Context, endpoint string, params url.Values) (*http.Response, error) {
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		return nil, &UnreachableError{ctx.Err()}
	}
	method, target, body := http.MethodGet, c.URL(endpoint, params), io.Reader(nil)
	if len(target) > maxURL {
		method, target, body = http.MethodPost, c.URL(endpoint, nil), strings.NewReader(params.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, target, body)
	if err != nil {
		return nil, err
	}
	for k, v := range c.opt.Header {
		req.Header[k] = v
	}
	req.Header.Set("Accept", contentType)
	if body != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.opt.HTTP.Do(req)
	if err != nil {
		return nil, Unreachable(err)
	}
	switch {
	case resp.StatusCode != http.StatusOK:
		err = Refused(resp)
	case resp.Header.Get("Content-Type") != contentType:
		err = ErrForeign
	default:
		return resp, nil
	}
	resp.Body.Close()
	return nil, err
}

const (
	contentType = "application/x-protobuf"
	endTrailer  = "Loggregator-End" // why a stream ends before its end: the token has expired
	maxURL      = 16 << 10          // a longer query is posted: proxies take no more
)

// memory is for one message at a time. The many streams that are quiet hold none.
var memory = sync.Pool{New: func() any { return new([]byte) }}

// take reads one batch, which is behind its length, and gives it to put.
func take(in *bufio.Reader, put func(envelope.Batch) error) error {
	n, err := binary.ReadUvarint(in)
	if err != nil {
		return err
	}
	if n > MaxMessage {
		return ErrForeign
	}
	buf := memory.Get().(*[]byte)
	defer func() {
		if cap(*buf) <= 128<<10 {
			memory.Put(buf)
		}
	}()
	if cap(*buf) < int(n) {
		*buf = make([]byte, n+n/4)
	}
	message := (*buf)[:n]
	if _, err := io.ReadFull(in, message); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return err
	}
	b, err := envelope.ParseBatch(message)
	if err != nil {
		return ErrForeign
	}
	if err := put(b); err != nil {
		return &putError{err}
	}
	return nil
}

// putError tells an error of put from one of the stream.
type putError struct{ err error }

func (e *putError) Error() string { return e.err.Error() }
