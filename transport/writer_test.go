package transport

import (
	"context"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestServerAsWriter: what comes by another door is limited with the rest, told,
// and no longer limited after the end.
func TestServerAsWriter(t *testing.T) {
	taken, missed := 0, uint64(0)
	s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		taken += b.Count
		missed += b.Missed
		return nil
	}), &ServerOptions{SourceRate: 1, SourceBurst: 1})
	f := envelope.Identity{SourceID: "loud"}.Encode()
	record := envelope.AppendLog(nil, f, 1, envelope.Out, []byte("x"))
	for range 5 {
		if err := s.WriteBatch(t.Context(), envelope.Batch{Records: record, Count: 1}); err != nil {
			t.Fatal(err)
		}
	}
	if n := s.Stats().Limited; taken != 1 || n != 4 {
		t.Errorf("%d taken, %d limited", taken, n)
	}
	s.Close() // tells, with the newest of them
	if taken != 2 || missed != 3 {
		t.Errorf("%d taken, %d told", taken, missed)
	}
	if err := s.WriteBatch(t.Context(), envelope.Batch{Records: record, Count: 1}); err != nil || taken != 3 {
		t.Errorf("after the end: %v, %d taken", err, taken)
	}
}
