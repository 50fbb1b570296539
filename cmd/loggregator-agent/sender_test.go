package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestFinish: the end waits for nobody if there is nothing to hand over, and a
// second for a server that was never there.
func TestFinish(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		lines   int
		timeout time.Duration
		least   time.Duration
		most    time.Duration
		says    string
	}{
		"nothing":       {timeout: time.Hour, most: unreached},
		"lines":         {lines: 3, timeout: time.Hour, least: unreached, most: 10 * unreached, says: "3 of 3 lines were not delivered"},
		"short timeout": {lines: 3, timeout: time.Millisecond, most: unreached, says: "3 of 3 lines were not delivered"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := newSender(&settings{server: "unix://" + t.TempDir() + "/nobody", budget: 1 << 20}, envelope.Identity{SourceID: "shop"}, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			for range c.lines {
				s.Log(envelope.Out, "x")
			}
			start := time.Now()
			err = s.finish(c.timeout)
			if took := time.Since(start); took < c.least || took > c.most {
				t.Errorf("took %v", took)
			}
			if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
				t.Errorf("said %v, want %q", err, c.says)
			}
		})
	}
}
