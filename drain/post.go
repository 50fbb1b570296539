package drain

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bodySize      = 512 << 10        // of one request, unless a single message is larger
	headerTimeout = 10 * time.Second // for a receiver to answer a request
	postTimeout   = 30 * time.Second // for all of it
	maxAnswer     = 64 << 10         // bytes read of a response, which nobody looks at
	maxRetryAfter = time.Hour
	leastWait     = 100 * time.Millisecond // before a request is sent again
	leastGzip     = 256                    // bytes of a body worth compressing
	batchPace     = 250 * time.Millisecond // least time between a small request and the next
)

// poster is the half of a drain that writes over HTTPS. It keeps what it was
// given until the receiver has answered for all of it.
type poster struct {
	client  *http.Client
	target  *target
	url     string
	token   string    // of application/logplex-1
	limit   int       // bytes of a body; less after a 413
	trusted bool      // the receiver has accepted something
	gzip    bool      // until it refuses that
	gone    time.Time // since when it has answered nothing but 410

	leased  func() bool   // whether it may post
	leaving *atomic.Bool  // with flush closed: what waits to be sent again is not
	flush   chan struct{} // of the drain

	until atomic.Int64 // when the connection is old, in nanoseconds since 1970; 0: never

	backoff func(failures int) time.Duration
	report  func(err error, state State) // of each failure; nil: success
}

func newPoster(t *target, o *Options, token string, connected func(expires time.Time)) *poster {
	u := *t.url
	u.Scheme = "https"
	var p *poster
	p = &poster{
		client: &http.Client{
			// A redirect would send logs and credentials where nobody said.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       postTimeout,
			Transport: &http.Transport{
				DialTLSContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
					ctx, cancel := context.WithTimeout(ctx, dialTimeout)
					defer cancel()
					raw, err := o.DialContext(ctx, network, t.addr)
					if err != nil {
						return nil, err
					}
					secure, expires, err := handshake(ctx, raw, t, o, "h2", "http/1.1")
					if err != nil {
						raw.Close()
						return nil, err
					}
					if o.MaxAge > 0 {
						p.until.Store(time.Now().Add(o.MaxAge*2/5 + mathrand.N(o.MaxAge/5+1)).UnixNano())
					}
					connected(expires)
					return secure, nil
				},
				ResponseHeaderTimeout:  headerTimeout,
				IdleConnTimeout:        50 * time.Second, // less than most receivers'
				MaxConnsPerHost:        1,
				MaxResponseHeaderBytes: maxAnswer,
				DisableCompression:     true,
				ForceAttemptHTTP2:      true,
			},
		},
		target:  t,
		url:     u.String(),
		token:   token,
		limit:   bodySize,
		gzip:    t.gzip,
		backoff: o.Backoff,
	}
	return p
}

// post sends frames, in as many requests as it takes, and waits and tries again
// until the receiver has accepted each message, or refused it for good. It fails
// only when ctx ends.
func (p *poster) post(ctx context.Context, frames []byte) (refused uint64, err error) {
	most := 1 << 30 // messages of one request
	for len(frames) > 0 {
		body, n, rest := p.body(frames, most)
		switch status, err := p.try(ctx, body, n); {
		case err != nil:
			return refused, err
		case status/100 == 2:
			frames = rest
			most = max(most, min(2*most, 1<<30))
		case n > 1 && status == http.StatusRequestEntityTooLarge:
			p.limit = max(len(body)/2, 1)
		case n > 1: // one of them is not to its taste: find it
			most = n / 2
		default:
			refused++
			frames = rest
		}
	}
	return refused, nil
}

// body takes messages off frames for one request.
func (p *poster) body(frames []byte, most int) (body []byte, n int, rest []byte) {
	if p.target.scheme == "https" {
		most = 1
	}
	if p.target.logplex() {
		rest = frames
		for n < most {
			_, next := nextFrame(rest)
			if next == nil || n > 0 && len(frames)-len(next) > p.limit {
				break
			}
			rest = next
			n++
		}
		return frames[:len(frames)-len(rest)], n, rest
	}
	// Of its own for each request: net/http may be reading it when it has given
	// the answer already.
	body, rest = make([]byte, 0, min(len(frames), p.limit)), frames
	for n < most && len(rest) > 0 {
		message, next := nextFrame(rest)
		if n > 0 && len(body)+len(message) > p.limit {
			break
		}
		body, rest = append(body, message...), next
		n++
	}
	return body, n, rest
}

// try sends one body until there is an answer that trying again will not change,
// and gives its status: 2xx, or the body is refused. While the receiver has
// never accepted anything a refusal is rather taken for a wrong URL, and tried
// again, slowly.
func (p *poster) try(ctx context.Context, body []byte, n int) (status int, err error) {
	id := frameID()
	for failures := 0; ; failures++ {
		for !p.leased() {
			if err := p.pause(ctx, leasePoll); err != nil {
				return 0, err
			}
		}
		response, err := p.send(ctx, body, n, id)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		wait, state := leastWait, Waiting
		if err == nil {
			status := response.StatusCode
			if status != http.StatusGone {
				p.gone = time.Time{}
			}
			if status/100 == 2 {
				p.trusted = true
				p.report(nil, Connected)
				return status, nil
			}
			err = &answerError{status}
			switch verdict(status) {
			case again:
				wait = max(wait, retryAfter(response.Header.Get("Retry-After")))
			case unpacked:
				if p.gzip {
					p.gzip = false
					continue
				}
				fallthrough
			case refuse:
				if p.trusted || status == http.StatusRequestEntityTooLarge {
					p.report(err, Connected)
					return status, nil
				}
				fallthrough
			case hold:
				wait, state = p.hold(status)
			}
		}
		p.report(err, state)
		if err := p.pause(ctx, max(wait, p.backoff(failures))); err != nil {
			return 0, err
		}
	}
}

// pause waits, unless the drain ends or leaves.
func (p *poster) pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	flush := p.flush
	for {
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-flush:
			if p.leaving.Load() {
				return errLeaving
			}
			flush = nil // it is to send all there is
		}
	}
}

// hold is how long to wait until somebody may have put something right: one to
// five minutes, and an hour when the receiver has been gone for a day.
func (p *poster) hold(status int) (time.Duration, State) {
	if status == http.StatusGone {
		if p.gone.IsZero() {
			p.gone = time.Now()
		}
		if time.Since(p.gone) >= 24*time.Hour {
			return time.Hour, Disabled
		}
	}
	return time.Minute + mathrand.N(4*time.Minute), Held
}

// answerError is an answer other than 2xx.
type answerError struct{ status int }

func (e *answerError) Error() string {
	text := fmt.Sprintf("the receiver answered %d %s", e.status, http.StatusText(e.status))
	switch {
	case e.status == http.StatusUnauthorized, e.status == http.StatusForbidden:
		text += ": it refuses the credentials"
	case e.status/100 == 3:
		text += ": redirects are not followed"
	}
	return text
}

const (
	again    = iota // it may do better next time
	hold            // somebody has to put something right
	unpacked        // it does not take compressed bodies, or this one
	refuse          // it does not want this body
)

func verdict(status int) int {
	switch {
	case status >= 500,
		status == http.StatusRequestTimeout,
		status == http.StatusTooEarly,
		status == http.StatusTooManyRequests:
		return again
	case status < 400, // a redirect, which is not followed
		status == http.StatusUnauthorized,
		status == http.StatusForbidden,
		status == http.StatusNotFound,
		status == http.StatusMethodNotAllowed,
		status == http.StatusProxyAuthRequired,
		status == http.StatusGone:
		return hold
	case status == http.StatusUnsupportedMediaType:
		return unpacked
	}
	return refuse
}

// retryAfter reads the header of that name, seconds or a date; 0 if it says
// nothing.
func retryAfter(v string) time.Duration {
	if n, err := strconv.Atoi(v); err == nil {
		return min(max(0, time.Duration(min(n, 1<<20))*time.Second), maxRetryAfter)
	}
	if at, err := http.ParseTime(v); err == nil {
		return min(max(0, time.Until(at)), maxRetryAfter)
	}
	return 0
}

func (p *poster) send(ctx context.Context, body []byte, n int, id string) (*http.Response, error) {
	packed := false
	if p.gzip && len(body) >= leastGzip {
		body, packed = compress(body), true
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("no request can be made for the URL")
	}
	if packed {
		request.Header.Set("Content-Encoding", "gzip")
	}
	// The same at each attempt; besides, net/http itself tries again where a
	// connection that was kept open turns out to be closed.
	request.Header.Set("Idempotency-Key", id)
	request.Header.Set("User-Agent", "loggregator")
	request.Header.Set("Content-Type", "text/plain")
	if p.target.logplex() {
		request.Header.Set("Content-Type", "application/logplex-1")
		request.Header.Set("Logplex-Msg-Count", strconv.Itoa(n))
		request.Header.Set("Logplex-Frame-Id", id)
		request.Header.Set("Logplex-Drain-Token", p.token)
	}
	if until := p.until.Load(); until != 0 && time.Now().UnixNano() > until {
		p.until.Store(0)
		p.client.CloseIdleConnections() // the next one resolves the name
	}
	response, err := p.client.Do(request)
	if err != nil {
		if e, ok := errors.AsType[*url.Error](err); ok { // its text holds the URL
			err = e.Err
		}
		return nil, err
	}
	io.CopyN(io.Discard, response.Body, maxAnswer) // so that the connection can be used again
	response.Body.Close()
	return response, nil
}

func (p *poster) close() { p.client.CloseIdleConnections() }

func frameID() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

var packers = sync.Pool{New: func() any {
	w, _ := gzip.NewWriterLevel(nil, gzip.BestSpeed) // the level is a good one
	return w
}}

func compress(body []byte) []byte {
	var out bytes.Buffer
	out.Grow(len(body)/4 + 64)
	w := packers.Get().(*gzip.Writer)
	defer packers.Put(w)
	w.Reset(&out)
	w.Write(body)
	w.Close()
	return out.Bytes()
}
