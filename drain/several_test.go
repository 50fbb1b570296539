package drain

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"testing/synctest"

	"github.com/cloudfoundry/loggregator/envelope"
)

// made gives n records of one maker, numbered from first, in a ring.
func made(ring envelope.StreamID, position, first uint64, n int) envelope.Batch {
	b := envelope.Batch{Stream: 7, Ring: ring, First: first, Next: first + uint64(n), Count: n, Position: position + uint64(n)}
	for i := range n {
		b.Records = envelope.AppendLog(b.Records, shop.Encode(), stamp, envelope.Out, fmt.Append(nil, first+uint64(i)))
	}
	return b
}

// What a maker sends to a second server again comes once, wherever it is cut.
func TestMakersOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		second envelope.Batch
		want   string
	}{
		"all":     {made(2, 1, 5, 5), "0 from 0"},
		"part":    {made(2, 1, 5, 10), "5 from 10"},
		"next":    {made(2, 1, 10, 3), "3 from 10"},
		"later":   {made(2, 1, 20, 3), "3 from 20"},
		"same":    {made(1, 11, 5, 5), "5 from 5"}, // this ring says so itself
		"strange": {envelope.Batch{Stream: 7, Ring: 2, First: 5, Next: 30, Count: 3, Position: 9, Records: made(2, 1, 5, 3).Records}, "3 from 5"},
	} {
		m := &makers{read: make(map[envelope.StreamID]madeRead)}
		if b := m.once(made(1, 1, 0, 10)); b.Count != 10 {
			t.Fatalf("%+v", b)
		}
		b := m.once(tc.second)
		if got := fmt.Sprintf("%d from %d", b.Count, b.First); got != tc.want || b.Position != tc.second.Position || b.Ring != tc.second.Ring {
			t.Errorf("%s: %s, %+v", name, got, b)
		}
		n := uint64(0)
		for e, err := range b.All() {
			r, _ := e.Route()
			if want := fmt.Sprint(b.First + n); err != nil || string(r.Payload) != want {
				t.Errorf("%s: %q where %s should be, %v", name, r.Payload, want, err)
			}
			n++
		}
		if n != uint64(b.Count) {
			t.Errorf("%s: %d records, and it says %d", name, n, b.Count)
		}
	}
}

// failing gives one batch, and then an error or nothing.
type failing struct{ err error }

func (f failing) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		if !yield(made(3, 1, 0, 1), nil) {
			return
		}
		if f.err != nil {
			yield(envelope.Batch{}, f.err)
			return
		}
		<-ctx.Done()
		yield(envelope.Batch{}, ctx.Err())
	}
}

// A sequence over several ends with its context, at any moment, with the loop's
// body, and with the error of one; no goroutine is left.
func TestSeveralEnds(t *testing.T) {
	for leave := range 6 {
		synctest.Test(t, func(t *testing.T) {
			src, other := newMemory(), newMemory()
			src.lines(1, 0, 300)
			other.lines(2, 0, 300)
			parts := []part{{Source: src}, {Source: other, server: 1}}
			broken := errors.New("broken")
			if leave == 5 {
				parts = append(parts, part{Source: failing{broken}, server: 2})
			}
			s, _ := newSeveral(parts, make(map[envelope.StreamID]int))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			q := everything
			q.Follow = true
			n := 0
			var last error
			for b, err := range s.Batches(ctx, q) {
				if last = err; err != nil {
					break
				}
				if n += b.Count; leave < 2 && n >= 100*leave {
					break
				}
				if n >= 300 {
					cancel()
				}
			}
			if leave == 5 && last != broken && last != context.Canceled || leave >= 2 && leave < 5 && last != context.Canceled {
				t.Errorf("%d: %v", leave, last)
			}
			s.note(1, 0)
			s.note(2, 1)
			c := s.at(envelope.Cursor{Rings: map[envelope.StreamID]uint64{1: 1, 2: 2, 9: 9}}, 0)
			if c.Rings[1] != 1 || c.Rings[9] != 9 || len(c.Rings) != 2 { // of 9 it is not known where it is
				t.Errorf("a server has %v", c.Rings)
			}
		})
	}
}
