package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/coder/websocket"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

const (
	dialTimeout = 15 * time.Second
	// quiet is how long a connection may say nothing. The server pings every
	// half a minute.
	quiet = 100 * time.Second
	// maxCursor bounds the cursor in an address, in bytes; the server takes
	// addresses of 256 KiB.
	maxCursor = 250 << 10
)

// follower follows the logs over as many connections as it takes.
type follower struct {
	*server
	print   func(envelope.Batch) error
	stderr  io.Writer
	backoff func(attempt int) time.Duration

	cursor    envelope.Cursor // past what was printed
	received  time.Time       // when that was
	connected bool            // once
	lost      bool            // the user has been told so
	attempt   int
	message   []byte
}

// backoff doubles from 100 ms to 10 s, each half to one and a half of it, so
// that a server that comes back is not met by all its readers at once.
func backoff(attempt int) time.Duration {
	d := min(100*time.Millisecond<<min(attempt, 10), 10*time.Second)
	return d/2 + rand.N(d)
}

// run returns when ctx ends, when the output fails, or when the server refuses;
// at the start also when it cannot be reached.
func (f *follower) run(ctx context.Context) error {
	for {
		err := f.session(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, ok := errors.AsType[*lostError](err); !ok || !f.connected {
			return err
		}
		if !f.lost {
			f.lost = true
			fmt.Fprintln(f.stderr, "cf-logs: connection lost, reconnecting")
		}
		wait := time.NewTimer(f.backoff(f.attempt))
		f.attempt++
		select {
		case <-wait.C:
		case <-ctx.Done():
			wait.Stop()
			return ctx.Err()
		}
	}
}

// lostError is a failure that another connection may not have.
type lostError struct{ err error }

func (e *lostError) Error() string { return e.err.Error() }
func (e *lostError) Unwrap() error { return e.err }

// start is where the next connection takes up.
func (f *follower) start() url.Values {
	if !f.connected {
		return f.server.start()
	}
	q := url.Values{}
	if f.cursor.IsZero() {
		q = f.server.start() // nothing was printed
		if q == nil {
			q = url.Values{}
		}
	} else if c := f.cursor.String(); len(c) <= maxCursor {
		q.Set("cursor", c)
	} else {
		q.Set("since", f.received.UTC().Format(time.RFC3339Nano))
		fmt.Fprintln(f.stderr, "cf-logs: too many applications to take up exactly; some lines may come twice")
	}
	q.Set("wait", "true") // the app may not have logged since the server was started anew
	return q
}

// session is one connection, from its start to its end.
func (f *follower) session(ctx context.Context) error {
	watch := time.AfterFunc(time.Hour, func() {})
	conn, err := f.dial(ctx, func() { watch.Reset(quiet) })
	if err != nil {
		return err
	}
	defer conn.CloseNow()
	defer context.AfterFunc(ctx, func() { conn.CloseNow() })()
	watch.Stop()
	watch = time.AfterFunc(quiet, func() { conn.CloseNow() })
	defer watch.Stop()
	if f.lost {
		f.lost = false
		fmt.Fprintln(f.stderr, "cf-logs: connected again")
	}
	f.connected = true

	for {
		_, r, err := conn.Reader(context.Background())
		if err == nil {
			f.message, err = readAll(f.message[:0], r)
		}
		if end, ok := errors.AsType[websocket.CloseError](err); ok && end.Code == websocket.StatusPolicyViolation { // the token has expired
			if f.renew() {
				return &lostError{err}
			}
			return &refusal{sentence: fmt.Sprintf("%s: %s", f.server, end.Reason)}
		}
		if err != nil {
			return &lostError{err}
		}
		b, err := envelope.ParseBatch(f.message)
		if err != nil {
			return f.foreign()
		}
		watch.Stop() // printing may take as long as it likes
		if err := f.print(b); err != nil {
			return err
		}
		f.cursor.Advance(b)
		f.received = time.Now()
		f.attempt = 0
		watch.Reset(quiet)
	}
}

// dial opens the connection. onPing is called for each ping of the server.
func (f *follower) dial(ctx context.Context, onPing func()) (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, resp, err := websocket.Dial(ctx, f.logs.URL("tail", f.params(f.start())), &websocket.DialOptions{
		HTTPClient: &f.client,
		HTTPHeader: f.header(),
		OnPingReceived: func(context.Context, []byte) bool {
			onPing()
			return true
		},
	})
	switch {
	case err == nil:
		conn.SetReadLimit(httpclient.MaxMessage)
		return conn, nil
	case resp == nil:
		return nil, &lostError{f.unreachable(httpclient.Unreachable(err))}
	case resp.StatusCode >= http.StatusInternalServerError || resp.StatusCode == http.StatusTooManyRequests:
		return nil, &lostError{f.refused(httpclient.Refused(resp))}
	case resp.StatusCode == http.StatusUnauthorized && f.connected && f.renew():
		return nil, &lostError{f.refused(httpclient.Refused(resp))}
	}
	return nil, f.refused(httpclient.Refused(resp))
}

// readAll is io.ReadAll into memory that is there.
func readAll(dst []byte, r io.Reader) ([]byte, error) {
	for {
		if len(dst) == cap(dst) {
			dst = append(dst, make([]byte, max(64<<10, len(dst)))...)[:len(dst)]
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}
