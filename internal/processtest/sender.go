package processtest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
)

// Sender is a program that logs numbered lines, and the link that brings them to
// servers.
type Sender struct {
	Link *transport.Link
	Emit *emitter.Emitter

	t    testing.TB
	sent atomic.Int64
}

// NewSender makes a Sender that ends with the test.
func NewSender(t testing.TB, address, source string, o *transport.LinkOptions) *Sender {
	t.Helper()
	router := loggregator.New(&loggregator.Options{Budget: 32 << 20})
	t.Cleanup(func() { router.Close() })
	link, err := transport.NewLink(address, router, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { link.Close() })
	return &Sender{t: t, Link: link, Emit: emitter.New(router, envelope.Identity{SourceID: source}, nil)}
}

// Send logs n lines. It is for one goroutine.
func (s *Sender) Send(n int) {
	for range n {
		s.Emit.Log(envelope.Out, "line "+strconv.FormatInt(s.sent.Load(), 10))
		s.sent.Add(1)
	}
}

// Sent is how many lines there have been.
func (s *Sender) Sent() int { return int(s.sent.Load()) }

// Flush waits until all is acknowledged.
func (s *Sender) Flush() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Limit)
	defer cancel()
	if err := s.Link.Flush(ctx); err != nil {
		s.t.Fatalf("%v: %+v", err, s.Link.Stats())
	}
}

// Tally counts what a reader gets of a Sender, whose lines must come in order,
// once, or be told as missed.
type Tally struct {
	Seen, Missed int
	Wrong        string // the first line that should not have come there
	next         int
}

// Add counts a batch.
func (c *Tally) Add(b envelope.Batch) {
	c.Missed += int(b.Missed)
	for e := range b.All() {
		if n, _, ok := e.Missed(); ok {
			c.Missed += int(n)
			continue
		}
		text, numbered := strings.CutPrefix(string(e.Payload()), "line ")
		if !numbered {
			continue // what a reader is told of servers that are away
		}
		n, err := strconv.Atoi(text)
		if (err != nil || n < c.next) && c.Wrong == "" {
			c.Wrong = fmt.Sprintf("%q where line %d or a later one should be", e.Payload(), c.next)
		}
		c.next = n + 1
		c.Seen++
	}
}
