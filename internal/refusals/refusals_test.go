package refusals

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestCounter: every refusal is counted, the first of a minute is named.
func TestCounter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		c := New(slog.New(slog.NewTextHandler(&log, nil)))
		for range 5 {
			c.Add("tls", "10.0.0.1:9", "looks like a TLS hello")
		}
		c.Add("http", "10.0.0.2:9", "looks like HTTP")
		time.Sleep(time.Minute)
		c.Add("tls", "10.0.0.1:9", "looks like a TLS hello")
		if n := c.Counts(); n["tls"] != 6 || n["http"] != 1 || len(n) != 2 {
			t.Errorf("counts %v", n)
		}
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 3 || !strings.Contains(lines[0], "unnamed_before=0") || !strings.Contains(lines[2], "unnamed_before=4") {
			t.Errorf("log %q", lines)
		}
	})
}
