package loggregator_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
)

// TestRelease: what one reader has read makes room for what it has not, and is
// counted; what it has not read stays.
func TestRelease(t *testing.T) {
	r := loggregator.New(&loggregator.Options{Budget: 4 << 20})
	defer r.Close()
	write := func(source string, from, to int) {
		fixed := envelope.Identity{SourceID: source}.Encode()
		for i := from; i < to; i++ {
			record := envelope.AppendLog(nil, fixed, int64(i+1), envelope.Out, fmt.Appendf(nil, "%0200d", i))
			if err := r.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1}); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(c envelope.Cursor) (records, missed uint64) {
		for b, err := range r.Batches(context.Background(), envelope.Query{Select: envelope.Everything, History: true, Cursor: c}) {
			if err != nil {
				t.Fatal(err)
			}
			records += uint64(b.Count)
			missed += b.Missed
		}
		return records, missed
	}
	for i := range 20 { // nearly the whole budget, all of it read
		write(fmt.Sprintf("quiet-%d", i), 0, 700)
	}
	acked := r.End()
	if len(acked.Rings) != 20 {
		t.Fatalf("%d rings", len(acked.Rings))
	}
	r.Release(acked)
	r.Release(acked) // again: nothing more
	released := r.Stats().Released
	if released < 13_000 {
		t.Errorf("%d of 14000 records released", released)
	}
	const loud = 12_000 // would not fit beside the others
	write("loud", 0, loud)
	records, missed := read(acked)
	if records != loud || missed != 0 {
		t.Errorf("read %d, missed %d, want %d and none", records, missed, loud)
	}
	s := r.Stats()
	if s.Accepted+s.Marked != s.Evicted+s.Expired+s.Released+s.Held {
		t.Errorf("conservation: %+v", s)
	}
	if s.Evicted != 0 {
		t.Errorf("%d evicted", s.Evicted)
	}
	// Half of what is there: the other half stays.
	half := r.End()
	for id := range half.Rings {
		half.Rings[id] /= 2
	}
	r.Release(half)
	if records, missed := read(half); records < loud/2 || missed != 0 {
		t.Errorf("behind the release: read %d, missed %d", records, missed)
	}
}
