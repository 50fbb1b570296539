package syslogin

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// sink is a Writer that keeps records as text, and refuses what is not a run of
// good records of one source.
type sink struct {
	t testing.TB

	mu      sync.Mutex
	changed *sync.Cond
	records []record
	batches int
	missed  uint64
	err     error
}

type record struct {
	Time     string
	Source   string
	Instance string
	Stream   string
	Text     string
	Tags     string // "k=v k=v", sorted
}

func newSink(t testing.TB) *sink {
	s := &sink{t: t}
	s.changed = sync.NewCond(&s.mu)
	return s
}

func (s *sink) WriteBatch(_ context.Context, b envelope.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.changed.Broadcast()
	if s.err != nil {
		return s.err
	}
	s.batches++
	s.missed += b.Missed
	n, source := 0, ""
	for e, err := range b.All() {
		if err != nil {
			s.t.Errorf("batch: %v", err)
			return err
		}
		route, err := e.Check(nil)
		if err != nil {
			s.t.Errorf("record: %v", err)
		}
		if n > 0 && source != string(route.SourceID) {
			s.t.Errorf("a batch of %s and %s", source, route.SourceID)
		}
		source = string(route.SourceID)
		tags := make(map[string]string)
		for k, v := range e.Tags() {
			tags[string(k)] = string(v)
		}
		var list []string
		for _, k := range slices.Sorted(maps.Keys(tags)) {
			list = append(list, k+"="+tags[k])
		}
		s.records = append(s.records, record{
			Time: route.Time().UTC().Format(time.RFC3339Nano), Source: source, Instance: string(route.InstanceID),
			Stream: route.LogType.String(), Text: string(route.Payload), Tags: strings.Join(list, " "),
		})
		n++
	}
	if n != b.Count {
		s.t.Errorf("Count = %d, records %d", b.Count, n)
	}
	return nil
}

// wait returns when n records are there.
func (s *sink) wait(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.records) < n {
		s.changed.Wait()
	}
}

func (s *sink) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *sink) take() []record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records
	s.records = nil
	return r
}

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
