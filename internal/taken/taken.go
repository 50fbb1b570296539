// Package taken is a Writer for tests of what writes batches: it keeps records
// in a form that a test can write down, and complains of what is no good batch.
package taken

import (
	"context"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Sink is such a Writer. Each batch must be records of one source, each of which
// passes envelope.Check.
type Sink struct {
	t testing.TB

	mu      sync.Mutex
	changed *sync.Cond
	records []Record
	batches int
	missed  uint64
	err     error
}

// Record is one record.
type Record struct {
	Time     string // RFC 3339
	Source   string
	Instance string
	Stream   string // OUT or ERR; or what kind of measurement it is, and its numbers, as AppendText has them
	Text     string // of a log
	Tags     string // "k=v k=v", sorted
}

// New makes a Sink that complains to t.
func New(t testing.TB) *Sink {
	s := &Sink{t: t}
	s.changed = sync.NewCond(&s.mu)
	return s
}

// WriteBatch implements envelope.Writer.
func (s *Sink) WriteBatch(_ context.Context, b envelope.Batch) error {
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
		r := Record{
			Time: route.Time().UTC().Format(time.RFC3339Nano), Source: source, Instance: string(route.InstanceID),
			Stream: route.LogType.String(), Text: string(route.Payload), Tags: strings.Join(list, " "),
		}
		if route.Kind != envelope.KindLog {
			text := string(e.AppendText(nil, time.UTC, false))
			r.Stream = strings.TrimSuffix(text[strings.Index(text, "] ")+2:], "\n")
		}
		s.records = append(s.records, r)
		n++
	}
	if n != b.Count {
		s.t.Errorf("Count = %d, records %d", b.Count, n)
	}
	return nil
}

// Wait returns when n records are there.
func (s *Sink) Wait(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.records) < n {
		s.changed.Wait()
	}
}

// Refuse makes WriteBatch return err; nil ends that.
func (s *Sink) Refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

// Take is the records so far, which are forgotten.
func (s *Sink) Take() []Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.records
	s.records = nil
	return r
}

// Missed is how many records the Sink was told are missing.
func (s *Sink) Missed() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.missed
}

// Batches is how many there were.
func (s *Sink) Batches() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.batches
}

// BySource sorts records by source: of different sources, the order is nobody's
// concern.
func BySource(all []Record) map[string][]Record {
	m := make(map[string][]Record)
	for _, r := range all {
		m[r.Source] = append(m[r.Source], r)
	}
	return m
}

// Log is a Record, in fewer words.
func Log(time, source, instance, stream, text, tags string) Record {
	return Record{Time: time, Source: source, Instance: instance, Stream: stream, Text: text, Tags: tags}
}
