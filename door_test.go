package loggregator

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// TestDoor publishes batches of every mix of records, and wants in each ring
// what a door would let in that checks every record by itself.
func TestDoor(t *testing.T) {
	const now = 1_700_000_000_000_000_000
	var makers []envelope.Fixed
	for _, id := range []string{"shop", "shop", "db", "worker"} {
		makers = append(makers, envelope.Identity{SourceID: id, InstanceID: fmt.Sprint(len(makers)),
			Tags: map[string]string{envelope.TagAppName: id, envelope.TagSpaceName: "prod"}}.Encode())
	}
	tagAfter := func(f envelope.Fixed) []byte { // a tag behind the message: legal, and of no encoder
		e, _, _ := envelope.Next(envelope.AppendLog(nil, f, now, envelope.Out, []byte("late tag")))
		return envelope.AppendRecord(nil, append(bytes.Clone(e), envelope.Fixed(nil).AppendTag("k", "v")...))
	}
	sourceAfter := func(f envelope.Fixed) []byte { // the last one wins
		e, _, _ := envelope.Next(envelope.AppendLog(nil, f, now, envelope.Out, []byte("late source")))
		return envelope.AppendRecord(nil, append(bytes.Clone(e), envelope.Identity{SourceID: "worker"}.Encode()...))
	}
	kinds := []func(rng *rand.Rand, f envelope.Fixed) []byte{
		func(rng *rand.Rand, f envelope.Fixed) []byte {
			return envelope.AppendLog(nil, f, now, envelope.LogType(rng.IntN(3)), make([]byte, rng.IntN(300)))
		},
		func(_ *rand.Rand, f envelope.Fixed) []byte { return envelope.AppendCounter(nil, f, now, "n", 1, 2) },
		func(_ *rand.Rand, f envelope.Fixed) []byte {
			return envelope.AppendLog(nil, f.WithTag("k", "v"), now, envelope.Err, nil)
		},
		func(_ *rand.Rand, f envelope.Fixed) []byte { return tagAfter(f) },
		func(_ *rand.Rand, f envelope.Fixed) []byte { return sourceAfter(f) },
		func(_ *rand.Rand, f envelope.Fixed) []byte { // no UTF-8
			return envelope.AppendLog(nil, append(bytes.Clone(f), 9<<3|2, 3, 1<<3|2, 1, 0xff), now, envelope.Out, nil)
		},
		func(_ *rand.Rand, f envelope.Fixed) []byte { return []byte{envelope.KeyRecord, 2, 0xff, 0xff} },
		func(_ *rand.Rand, f envelope.Fixed) []byte { // of nobody
			return envelope.AppendLog(nil, nil, now, envelope.Out, []byte("whose?"))
		},
	}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		r := New(nil)
		want := make(map[string][]byte)
		var accepted, refused, mixed uint64
		for stream := range 1 + rng.IntN(20) {
			var b envelope.Batch
			owner, numbered := "", rng.IntN(2) == 0
			for range 1 + rng.IntN(30) {
				f := makers[rng.IntN(len(makers))]
				kind := 0
				if rng.IntN(3) == 0 {
					kind = rng.IntN(len(kinds))
				}
				for range 1 + rng.IntN(5) {
					record := kinds[kind](rng, f)
					b.Records = append(b.Records, record...)
					b.Count++
					e, _, _ := envelope.Next(record)
					route, err := e.Check(nil)
					switch id := string(route.SourceID); {
					case err != nil:
						refused++
					case numbered && owner != "" && owner != id:
						mixed++
					default:
						owner = id
						accepted++
						want[id] = append(want[id], record...)
					}
				}
			}
			if numbered {
				b.Stream, b.First, b.Next = envelope.StreamID(stream+1), 1, uint64(b.Count)+1
			}
			write(t, r, b)
		}
		for id, records := range want {
			var got []byte
			for b, err := range r.Batches(t.Context(), envelope.Query{Select: []envelope.Selector{{SourceID: id}}, History: true}) {
				if err != nil {
					t.Fatal(err)
				}
				for e, err := range b.All() {
					if err != nil {
						t.Fatal(err)
					}
					if _, _, told := e.Missed(); !told { // a refused record leaves a gap in the numbers
						got = envelope.AppendRecord(got, e)
					}
				}
			}
			if !bytes.Equal(got, records) {
				t.Fatalf("seed %d: source %s holds %d bytes, want %d", seed, id, len(got), len(records))
			}
		}
		if st := r.Stats(); st.Accepted != accepted || st.Malformed+st.BadSourceID != refused || st.MixedSource != mixed {
			t.Fatalf("seed %d: accepted %d, refused %d, mixed %d; want %d, %d, %d",
				seed, st.Accepted, st.Malformed+st.BadSourceID, st.MixedSource, accepted, refused, mixed)
		}
		balance(t, r)
		r.Close()
	}
}
