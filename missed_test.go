package loggregator

import (
	"fmt"
	"slices"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// What is missing in a numbered batch, or before it, is told where it is missing,
// with the reason, and counted by it.
func TestReasons(t *testing.T) {
	r := New(nil)
	defer r.Close()
	f := envelope.Identity{SourceID: "app"}.Encode()
	line := func(n int) []byte { return envelope.AppendLog(nil, f, 1, envelope.Out, fmt.Append(nil, n)) }
	bad := envelope.AppendRecord(nil, []byte{0xff})
	other := envelope.AppendLog(nil, envelope.Identity{SourceID: "other"}.Encode(), 1, envelope.Out, []byte("x"))
	write := func(b envelope.Batch, records ...[]byte) {
		t.Helper()
		b.Stream, b.Count, b.Records = 7, len(records), slices.Concat(records...)
		b.Next = b.First + uint64(b.Count)
		b.Ring, b.Position = 7, b.Next
		if err := r.WriteBatch(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	write(envelope.Batch{First: 1}, line(1), bad, other, line(4))
	write(envelope.Batch{First: 8, Missed: 3, Reason: envelope.ReasonEmitter}, bad, line(9)) // three, and one
	write(envelope.Batch{First: 12, Reason: envelope.ReasonDatagram}, line(12))
	write(envelope.Batch{First: 20, Missed: 2, Reason: envelope.ReasonAgent}, line(20)) // and five nobody speaks of
	var got []string
	for b := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything, History: true}) {
		for e := range b.All() {
			got = append(got, string(e.Payload()))
		}
	}
	want := []string{
		"1", "2 lines are missing here: refused", "4", "4 lines are missing here: emitter full", "9",
		"2 lines are missing here: datagram lost", "12",
		"2 lines are missing here: agent budget", "5 lines are missing here: lost on the way", "20",
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	s := r.Stats()
	var lost [envelope.Reasons]uint64
	lost[envelope.ReasonRefused], lost[envelope.ReasonEmitter], lost[envelope.ReasonDatagram] = 2, 4, 2
	lost[envelope.ReasonAgent], lost[envelope.ReasonUnknown] = 2, 5
	if s.LostFor != lost || s.Lost != 15 || s.Marked != 5 || s.Malformed != 2 || s.MixedSource != 1 {
		t.Errorf("%+v", s)
	}
}
