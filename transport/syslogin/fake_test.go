package syslogin

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// conserve checks that what came in is accounted for.
func conserve(t testing.TB, s *Server) {
	t.Helper()
	st := s.Stats()
	if st.Messages+st.Parts != st.Records+st.Filtered+st.Lost || st.Messages != st.RFC5424+st.RFC3164+st.Unparsed {
		t.Errorf("not conserved: %+v", st)
	}
}

// lines keeps what is logged.
type lines struct {
	slog.Handler
	mu  sync.Mutex
	all []string
}

func (l *lines) Enabled(context.Context, slog.Level) bool { return true }

func (l *lines) Handle(_ context.Context, r slog.Record) error {
	var b strings.Builder
	b.WriteString(r.Message)
	r.Attrs(func(a slog.Attr) bool {
		fmt.Fprintf(&b, " %s=%s", a.Key, a.Value)
		return true
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, b.String())
	return nil
}

// discard is a Writer that takes everything and keeps nothing.
type discard struct{}

func (discard) WriteBatch(context.Context, envelope.Batch) error { return nil }
