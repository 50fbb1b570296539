// Package refusals counts what a server refused, by reason, and says so in the
// log seldom: the first of each reason in every minute is named, with how many
// have gone unnamed before. So a flood of bad input costs a counter, not a log.
package refusals

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// Counter counts refusals. Reasons are words of the server's own, never of a
// sender, so that their number is bounded. It is safe for use by several
// goroutines at once.
type Counter struct {
	log *slog.Logger

	mu     sync.Mutex
	counts map[string]uint64
	named  map[string]naming
}

// naming is when a reason was last named, and how many came since.
type naming struct {
	last    time.Time
	unnamed uint64
}

// New makes a Counter that names refusals in log; nil discards.
func New(log *slog.Logger) *Counter {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Counter{log: log, counts: make(map[string]uint64), named: make(map[string]naming)}
}

// Add counts one refusal. What it says may hold nothing of what the sender sent;
// remote is the sender's address.
func (c *Counter) Add(reason, remote, says string) {
	now := time.Now()
	c.mu.Lock()
	c.counts[reason]++
	n := c.named[reason]
	if !n.last.IsZero() && now.Sub(n.last) < time.Minute {
		n.unnamed++
		c.named[reason] = n
		c.mu.Unlock()
		return
	}
	c.named[reason] = naming{last: now}
	c.mu.Unlock()
	c.log.LogAttrs(context.Background(), slog.LevelWarn, "input refused",
		slog.String("reason", reason),
		slog.String("remote", remote),
		slog.String("error", says),
		slog.Uint64("unnamed_before", n.unnamed))
}

// Counts is how many there were of each reason that occurred.
func (c *Counter) Counts() map[string]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.counts)
}
