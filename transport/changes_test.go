package transport

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

// The link's log speaks of changes, and of a link that flaps not without end.
func TestFlappingLog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		ln, _ := network.Listen("server:3456")
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				c.(*faultnet.Conn).Reset()
			}
		}()
		var log lines
		link := dial(t, network, newRings(1), LinkOptions{Logger: slog.New(&log), Backoff: func(int) time.Duration { return 100 * time.Millisecond }})
		time.Sleep(10 * time.Minute)
		link.Close()
		ln.Close()
		if n := len(strings.Split(log.messages(), ",")); n > 11*linesPerMinute || n < linesPerMinute {
			t.Errorf("%d lines", n)
		}
	})
}

// lines is a slog.Handler that keeps messages and attributes.
type lines struct {
	mu   sync.Mutex
	text []string
	all  []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }
func (l *lines) WithAttrs([]slog.Attr) slog.Handler       { return l }
func (l *lines) WithGroup(string) slog.Handler            { return l }
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := r.Message
	r.Attrs(func(a slog.Attr) bool { s += " " + a.String(); return true })
	l.text, l.all = append(l.text, r.Message), append(l.all, s)
	return nil
}

func (l *lines) messages() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.text, ",")
}
