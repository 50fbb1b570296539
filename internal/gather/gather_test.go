package gather

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

func add(b *Batches, source string, size int) {
	g := b.Group(source)
	g.Records = envelope.AppendLog(g.Records, envelope.Identity{SourceID: source}.Encode(), 1, envelope.Out, make([]byte, size))
	b.Added(g)
}

// TestFlush: each source's records come in one batch, in order, and what the
// Writer does not take is told: gathered = taken + lost.
func TestFlush(t *testing.T) {
	var got []string
	refuse := ""
	b := New(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		var source string
		n := 0
		for e, err := range b.All() {
			if err != nil {
				t.Error(err)
			}
			r, _ := e.Route()
			if source = string(r.SourceID); source == refuse {
				return errors.New("no")
			}
			n++
		}
		if n != b.Count {
			t.Errorf("%d records, Count %d", n, b.Count)
		}
		got = append(got, fmt.Sprint(source, n, b.Missed))
		return nil
	}))
	for range 3 { // memory is used again
		got, refuse = nil, ""
		for i := range 300 {
			add(b, fmt.Sprint("s", i%100), 10)
		}
		b.Group("s7").Missed += 5
		taken, lost, err := b.Flush(t.Context())
		if taken != 300 || lost != 0 || err != nil || len(got) != 100 || got[0] != "s03 0" || got[7] != "s73 5" {
			t.Fatalf("taken %d lost %d %v, %q", taken, lost, err, got)
		}
		if len(b.used) != 0 || len(b.by) > keepSources || b.kept > keep {
			t.Fatalf("%d in use, %d names, %d bytes left", len(b.used), len(b.by), b.kept)
		}
		refuse = "b"
		add(b, "a", 10)
		add(b, "b", keep+1)
		add(b, "b", 10)
		if taken, lost, err := b.Flush(t.Context()); taken != 1 || lost != 2 || err == nil {
			t.Fatalf("taken %d lost %d %v", taken, lost, err)
		}
		if b.kept > keep {
			t.Errorf("holds on to %d bytes", b.kept)
		}
		for i := range 1000 {
			add(b, fmt.Sprint("many", i), 1)
		}
		if b.Flush(t.Context()); len(b.by) != 0 || len(b.spare) > 1000 || b.kept > keep {
			t.Errorf("holds on to %d names, %d bytes", len(b.by), b.kept)
		}
	}
}

// TestMissed: what is missed before a record is told once.
func TestMissed(t *testing.T) {
	var got []string
	b := New(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		got = append(got, fmt.Sprint(b.Count, b.Missed, b.Reason))
		return nil
	}))
	for i := range 3 {
		add(b, "s", 1)
		if i == 1 {
			g := b.Group("s")
			g.Missed, g.Reason = 7, envelope.ReasonAgent
		}
		b.Flush(t.Context())
	}
	want := []string{fmt.Sprint(1, 0, envelope.ReasonUnknown), fmt.Sprint(1, 7, envelope.ReasonAgent), fmt.Sprint(1, 0, envelope.ReasonUnknown)}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestFull: it is time to flush when all records together are too many.
func TestFull(t *testing.T) {
	b := New(envelope.WriterFunc(func(context.Context, envelope.Batch) error { return nil }))
	for range 2 {
		size := 0
		for i := 0; ; i++ {
			g := b.Group(fmt.Sprint(i % 10))
			before := len(g.Records)
			g.Records = envelope.AppendLog(g.Records, nil, 1, envelope.Out, make([]byte, 1000))
			size += len(g.Records) - before
			if full := b.Added(g); full != (size >= limit) {
				t.Fatalf("full = %v at %d bytes", full, size)
			} else if full {
				break
			}
		}
		b.Flush(t.Context())
	}
}

func TestAllocs(t *testing.T) {
	b := New(envelope.WriterFunc(func(context.Context, envelope.Batch) error { return nil }))
	fixed := envelope.Identity{SourceID: "s"}.Encode()
	line := make([]byte, 100)
	if n := testing.AllocsPerRun(100, func() {
		for _, s := range []string{"a", "b", "a"} {
			g := b.Group(s)
			g.Records = envelope.AppendLog(g.Records, fixed, 1, envelope.Out, line)
			b.Added(g)
		}
		b.Flush(t.Context())
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestCache(t *testing.T) {
	c := NewCache[string, int](3)
	for i, k := range []string{"a", "b", "c", "a"} {
		c.Put(k, i)
		if v, ok := c.Get(k); !ok || v != i {
			t.Errorf("%s = %d, %v", k, v, ok)
		}
	}
	c.Put("d", 4)
	if v, ok := c.Get("d"); !ok || v != 4 || len(c.by) > 3 {
		t.Errorf("d = %d, %v of %d", v, ok, len(c.by))
	}
}
