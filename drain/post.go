package drain

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

const (
	bodySize      = 512 << 10        // of one request, unless a single message is larger
	headerTimeout = 10 * time.Second // for a receiver to answer a request
	postTimeout   = 30 * time.Second // for all of it
	maxAnswer     = 64 << 10         // bytes read of a response, which nobody looks at
	maxRetryAfter = time.Hour
	batchPace     = 250 * time.Millisecond // least time between a small request and the next
)

// poster is the half of a drain that writes over HTTPS. It keeps what it was
// given until the receiver has answered for all of it.
type poster struct {
	client  *http.Client
	target  *target
	url     string
	token   string // of application/logplex-1
	limit   int    // bytes of a body; less after a 413
	trusted bool   // the receiver has accepted something

	backoff func(failures int) time.Duration
	report  func(err error) // of each failure; nil: success
}

func newPoster(t *target, o *Options) *poster {
	u := *t.url
	u.Scheme = "https"
	sum := sha256.Sum256([]byte(t.url.String()))
	config := o.TLS.Clone()
	return &poster{
		client: &http.Client{
			// A redirect would send logs and credentials where nobody said.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
			Timeout:       postTimeout,
			Transport: &http.Transport{
				DialContext:            o.DialContext,
				TLSClientConfig:        config,
				TLSHandshakeTimeout:    dialTimeout,
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
		token:   fmt.Sprintf("d.%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16]),
		limit:   bodySize,
		backoff: o.Backoff,
	}
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
	if p.target.scheme == "https-logplex" {
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
	rest = frames
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
		response, err := p.send(ctx, body, n, id)
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		var wait time.Duration
		if err == nil {
			if response.StatusCode/100 == 2 {
				p.trusted = true
				p.report(nil)
				return response.StatusCode, nil
			}
			err = fmt.Errorf("the receiver answered %d %s", response.StatusCode, http.StatusText(response.StatusCode))
			switch verdict(response.StatusCode) {
			case again:
				wait = retryAfter(response.Header.Get("Retry-After"))
			case hold:
				wait = holdTime()
			case refuse:
				if p.trusted || response.StatusCode == http.StatusRequestEntityTooLarge {
					p.report(err)
					return response.StatusCode, nil
				}
				wait = holdTime()
			}
		}
		p.report(err)
		timer := time.NewTimer(max(wait, p.backoff(failures)))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return 0, context.Cause(ctx)
		}
	}
}

const (
	again  = iota // it may do better next time
	hold          // somebody has to put something right
	refuse        // it does not want this body
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
	}
	return refuse
}

// holdTime is one to five minutes.
func holdTime() time.Duration { return time.Minute + mathrand.N(4*time.Minute) }

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
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url, bytes.NewReader(body))
	if err != nil {
		return nil, errors.New("no request can be made for the URL")
	}
	request.Header.Set("User-Agent", "loggregator")
	request.Header.Set("Content-Type", "text/plain")
	if p.target.scheme == "https-logplex" {
		request.Header.Set("Content-Type", "application/logplex-1")
		request.Header.Set("Logplex-Msg-Count", strconv.Itoa(n))
		request.Header.Set("Logplex-Frame-Id", id)
		request.Header.Set("Logplex-Drain-Token", p.token)
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
