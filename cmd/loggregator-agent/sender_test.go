package main

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestFinish: the end waits for nobody if there is nothing to hand over, and a
// second for a server that was never there.
func TestFinish(t *testing.T) {
	for name, c := range map[string]struct {
		lines   int
		timeout time.Duration
		took    time.Duration
		says    string
	}{
		"nothing":       {timeout: time.Hour, took: 0},
		"lines":         {lines: 3, timeout: time.Hour, took: unreached, says: "3 of 3 lines were not delivered"},
		"short timeout": {lines: 3, timeout: time.Millisecond, took: time.Millisecond, says: "3 of 3 lines were not delivered"},
	} {
		t.Run(name, func(t *testing.T) {
			nobody := "unix://" + t.TempDir() + "/nobody"
			synctest.Test(t, func(t *testing.T) {
				s, err := newSender(&settings{server: nobody, budget: 1 << 20}, envelope.Identity{SourceID: "shop"}, slog.New(slog.DiscardHandler))
				if err != nil {
					t.Fatal(err)
				}
				for range c.lines {
					s.Log(envelope.Out, "x")
				}
				start := time.Now()
				err = s.finish(c.timeout)
				if took := time.Since(start); took != c.took {
					t.Errorf("took %v, want %v", took, c.took)
				}
				if (err != nil) != (c.says != "") || err != nil && !strings.Contains(err.Error(), c.says) {
					t.Errorf("said %v, want %q", err, c.says)
				}
			})
		})
	}
}
