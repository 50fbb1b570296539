package ringbuf

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// told is a Marker that keeps what was told.
type told []string

func (m *told) MarkMissed(n uint64, why envelope.Reason, _ envelope.Numbers) []byte {
	*m = append(*m, fmt.Sprintf("%d %s", n, why))
	return envelope.AppendRecord(nil, []byte{0x08, byte(n)})
}

// What is missing before a batch is counted once, whoever says so first: the
// batch itself, or the numbers; and what its giver accounts for is no loss.
func TestMissedOnce(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	batch := func(first, next uint64, b envelope.Batch) envelope.Batch {
		b.Stream, b.First, b.Next = 7, first, next
		for range next - first {
			b.Records = append(b.Records, record(rng, 10)...)
			b.Count++
		}
		return b
	}
	for name, test := range map[string]struct {
		before, then envelope.Batch
		lost         uint64
		told         string
	}{
		"nothing":                  {batch(1, 5, envelope.Batch{}), batch(5, 9, envelope.Batch{}), 0, "[]"},
		"by the numbers":           {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{}), 3, "[3 lost on the way]"},
		"datagrams":                {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{Reason: envelope.ReasonDatagram}), 3, "[3 datagram lost]"},
		"said, and by the numbers": {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{Missed: 3, Reason: envelope.ReasonEmitter}), 3, "[3 emitter full]"},
		"more by the numbers":      {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{Missed: 2, Reason: envelope.ReasonEmitter}), 3, "[2 emitter full 1 lost on the way]"},
		"another maker's":          {batch(1, 5, envelope.Batch{}), batch(5, 9, envelope.Batch{Missed: 2, Reason: envelope.ReasonAgent}), 2, "[2 agent budget]"},
		"accounted for":            {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{From: 8}), 0, "[]"},
		"accounted for, and said":  {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{From: 6, Missed: 2, Reason: envelope.ReasonLink}), 2, "[2 link down too long]"},
		"accounted for in part":    {batch(1, 5, envelope.Batch{}), batch(18, 19, envelope.Batch{From: 12}), 6, "[6 lost on the way]"},
		"accounted for too far":    {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{From: 12}), 0, "[]"},
		"told before":              {batch(1, 5, envelope.Batch{}), batch(8, 9, envelope.Batch{Told: 2}), 1, "[1 lost on the way]"},
		"repeated":                 {batch(1, 5, envelope.Batch{}), batch(3, 5, envelope.Batch{Missed: 2}), 0, "[]"},
		"repeated in part":         {batch(1, 5, envelope.Batch{}), batch(3, 9, envelope.Batch{Missed: 2}), 0, "[]"},
		"unknown maker":            {batch(1, 1, envelope.Batch{}), batch(8, 9, envelope.Batch{Missed: 2}), 2, "[2 lost on the way]"},
		"unknown maker's begin":    {batch(1, 1, envelope.Batch{}), batch(8, 9, envelope.Batch{Begin: 3}), 5, "[5 lost on the way]"},
		"unknown maker's from":     {batch(1, 1, envelope.Batch{}), batch(8, 9, envelope.Batch{From: 6, Begin: 3}), 2, "[2 lost on the way]"},
		"of several makers":        {batch(1, 5, envelope.Batch{Ring: 9, Position: 25}), batch(8, 9, envelope.Batch{Missed: 7, Ring: 9, Position: 33}), 7, "[7 lost on the way]"},
		"fewer than by numbers":    {batch(1, 5, envelope.Batch{Ring: 9, Position: 25}), batch(18, 19, envelope.Batch{Missed: 7, Ring: 9, Position: 33}), 13, "[7 lost on the way 6 lost on the way]"},
		"said before":              {batch(1, 5, envelope.Batch{Ring: 9, Position: 25}), batch(8, 9, envelope.Batch{Missed: 7, Ring: 9, Position: 31}), 5, "[5 lost on the way]"},
		"said before, of one":      {batch(1, 5, envelope.Batch{Ring: 7, Position: 5}), batch(8, 9, envelope.Batch{Missed: 7, Ring: 7, Position: 9}), 3, "[3 lost on the way]"},
		"of one, and it is there":  {batch(1, 5, envelope.Batch{Ring: 7, Position: 5}), batch(5, 9, envelope.Batch{Missed: 7, Ring: 7, Position: 9}), 0, "[]"},
		"numbers that cannot be":   {batch(1, 5, envelope.Batch{Ring: 9, Position: 1 << 63}), batch(8, 9, envelope.Batch{Missed: 1 << 63, Told: 1 << 63, Ring: 9, Position: 0}), 0, "[]"},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := New(&Options{Budget: MinBudget})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			ring, err := s.NewRing("", nil)
			if err != nil {
				t.Fatal(err)
			}
			var marks told
			if test.before.Count > 0 {
				ring.Append(test.before, &marks)
			}
			done := ring.Append(test.then, &marks)
			if done.Lost != test.lost || fmt.Sprint([]string(marks)) != test.told || done.Marked != uint64(len(marks)) {
				t.Errorf("%+v, told %v", done, marks)
			}
			if test.before.Count == 0 {
				return
			}
			// Who reads on from there is told the same once more: by a record, not by
			// the numbers.
			at := ring.Reader(uint64(test.before.Count) + 1)
			if len(marks) > 0 { // records of one maker come together
				if b := at.Read(make([]byte, 0, 4096)); b.Stream != ring.ID() || b.Told != 0 {
					t.Fatalf("%+v", b)
				}
			}
			if b := at.Read(make([]byte, 0, 4096)); b.Count > 0 && (b.Told != done.Lost || b.Begin != 1 || b.Missed != 0) {
				t.Errorf("%+v", b)
			}
		})
	}
}
