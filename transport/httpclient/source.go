package httpclient

import (
	"context"
	"errors"
	"iter"
	"maps"
	"math/rand/v2"
	"net/url"
	"strconv"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// ErrQuery means a query that the server's HTTP API has no words for.
var ErrQuery = errors.New("httpclient: a query over HTTP has one selector, with a source id or an application, and not by ids alone")

// backoff doubles from 100 ms to 10 s, each half to one and a half of it, so
// that a server that comes back is not met by all its readers at once.
func backoff(failures int) time.Duration {
	d := min(100*time.Millisecond<<min(failures, 10), 10*time.Second)
	return d/2 + rand.N(d)
}

var errStopped = errors.New("stopped")

// Batches implements envelope.Source. A sequence that follows ends only with
// ctx, or with an answer that will not change by itself, such as a refused
// token. One that does not follow ends with the first failure.
//
// While the loop's body works, the server waits; where that takes it a minute, it
// cuts the connection off, and the sequence goes on with another one.
//
// A query has one selector, with SourceID or App but not both. MaxBytes is the
// server's choice.
func (c *Client) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		params, err := paramsOf(q)
		if err != nil {
			yield(envelope.Batch{}, err)
			return
		}
		endpoint := "recent"
		if q.Follow {
			endpoint = "tail"
		}
		opened := time.Now()
		cursor := q.Cursor.Clone()
		for failures := 0; ; failures++ {
			now := maps.Clone(params)
			switch {
			case !cursor.IsZero():
				now.Del("since")
				now.Del("lines")
				now.Set("cursor", cursor.String())
			case failures > 0 && q.Follow && q.Last == 0 && q.Since.IsZero() && !q.History:
				now.Set("since", opened.UTC().Format(time.RFC3339Nano)) // "now" was then
			}
			err := c.Stream(ctx, endpoint, now, c.reached, func(b envelope.Batch) error {
				if !yield(b, nil) {
					return errStopped
				}
				cursor.Advance(b)
				failures = 0
				return nil
			})
			switch {
			case err == errStopped:
				return
			case ctx.Err() != nil:
				yield(envelope.Batch{}, ctx.Err())
				return
			case err == nil:
				return
			case !q.Follow || !Temporary(err):
				yield(envelope.Batch{}, c.named(err))
				return
			}
			c.failed(err)
			pause := time.NewTimer(c.opt.Backoff(failures))
			select {
			case <-pause.C:
			case <-ctx.Done():
				pause.Stop()
				yield(envelope.Batch{}, ctx.Err())
				return
			}
		}
	}
}

// paramsOf is the query as the parameters of a request, but for the cursor.
func paramsOf(q envelope.Query) (url.Values, error) {
	if len(q.Select) != 1 || q.Select[0].IDs || q.Select[0].SourceID != "" && q.Select[0].App != "" {
		return nil, ErrQuery
	}
	s := q.Select[0]
	p := url.Values{"wait": {"true"}, "order": {"source"}} // who has not logged yet is waited for
	for key, value := range map[string]string{
		"source_id": s.SourceID, "app": s.App, "space": s.Space, "org": s.Org,
		"instance": s.Instance, "source_type": s.SourceType, "shard": q.Shard,
	} {
		if value != "" {
			p.Set(key, value)
		}
	}
	for _, k := range s.Kinds {
		p.Add("kind", k.String())
	}
	if s.Stdout != s.Stderr {
		p.Set("stream", map[bool]string{true: "out", false: "err"}[s.Stdout])
	} else if s.Stdout && len(s.Kinds) == 0 {
		p.Set("kind", "log")
	}
	if q.ByTime {
		p.Set("order", "time")
	}
	switch {
	case q.Last > 0:
		p.Set("lines", strconv.Itoa(q.Last))
	case !q.Since.IsZero():
		p.Set("since", q.Since.UTC().Format(time.RFC3339Nano))
	case q.History && q.Follow:
		p.Set("since", time.Unix(0, 0).UTC().Format(time.RFC3339)) // everything held
	}
	return p, nil
}

// named says in the error which server it was.
func (c *Client) named(err error) error { return &serverError{c.String(), err} }

type serverError struct {
	server string
	err    error
}

func (e *serverError) Error() string { return e.server + ": " + e.err.Error() }
func (e *serverError) Unwrap() error { return e.err }

// failed and reached tell the log once how it is with the server. Streams end in
// their thousands when it is started anew, which is nothing yet.
func (c *Client) failed(err error) {
	if _, ok := errors.AsType[*BrokenError](err); ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.away
	c.away = c.named(err)
	if before == nil {
		c.opt.Logger.Warn("server not reached; trying again", "server", c.String(), "error", err.Error())
	}
}

func (c *Client) reached() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.away != nil {
		c.away = nil
		c.opt.Logger.Info("server reached again", "server", c.String())
	}
}

// Err is why the server was not reached the last time that a sequence tried, or
// nil.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.away
}
