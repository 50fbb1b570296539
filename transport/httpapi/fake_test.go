package httpapi

import (
	"context"
	"errors"
	"iter"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// script is a Source that yields given batches, whatever is asked, and then
// waits or ends as the query says. What is sent on more comes after that.
type script struct {
	batches []envelope.Batch
	known   []string // apps, source ids, spaces and orgs
	more    chan envelope.Batch
	err     error // ends the sequence

	mu    sync.Mutex
	query envelope.Query // the last one asked
}

func (s *script) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	s.mu.Lock()
	s.query = q
	s.mu.Unlock()
	return func(yield func(envelope.Batch, error) bool) {
		for _, b := range s.batches {
			if !yield(b, nil) {
				return
			}
		}
		for s.err == nil && q.Follow {
			select {
			case b := <-s.more:
				if !yield(b, nil) {
					return
				}
			case <-ctx.Done():
				yield(envelope.Batch{}, ctx.Err())
				return
			}
		}
		if s.err != nil {
			yield(envelope.Batch{}, s.err)
		}
	}
}

func (s *script) Known(sel []envelope.Selector) bool {
	return slices.ContainsFunc(sel, func(x envelope.Selector) bool {
		for _, name := range []string{x.App, x.SourceID, x.Space, x.Org} {
			if name != "" && !slices.Contains(s.known, name) {
				return false
			}
		}
		return true
	})
}

// open is a gate that lets everybody read everything.
func open(src access.Source) *access.Gate { return access.NewGate(src, nil, nil) }

var webID = envelope.Identity{SourceID: "guid", InstanceID: "0", Tags: map[string]string{
	envelope.TagAppName: "web", envelope.TagSourceType: "APP/PROC/WEB",
}}.Encode()

var testTime = time.Date(2013, 4, 5, 20, 14, 58, 123456789, time.UTC)

// lines makes a batch of n lines that say their number.
func lines(first uint64, n int) envelope.Batch {
	b := envelope.Batch{Count: n, Stream: 7, First: first, Next: first + uint64(n), Ring: 7, Position: first + uint64(n)}
	for i := range uint64(n) {
		typ := envelope.Out
		if (first+i)%3 == 0 {
			typ = envelope.Err
		}
		b.Records = envelope.AppendLog(b.Records, webID, testTime.UnixNano(), typ, []byte("line "+strconv.FormatUint(first+i, 10)))
	}
	return b
}

// pipes is a network of net.Pipe, which a synctest bubble understands.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.closed); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "pipe"} }

func (p *pipes) dial(context.Context, string, string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.conns <- server:
		return client, nil
	case <-p.closed:
		return nil, errors.New("nobody listens")
	}
}

// serve serves h on pipes until the test ends.
func serve(t *testing.T, h http.Handler) (*http.Client, *pipes) {
	t.Helper()
	p := newPipes()
	srv := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(p) }()
	transport := &http.Transport{DialContext: p.dial}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		srv.Close()
		<-done
	})
	return &http.Client{Transport: transport}, p
}
