package envelope

import (
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sameQuery compares what travels: times as instants, and empty as nil.
func sameQuery(a, b Query) string {
	for _, q := range []*Query{&a, &b} {
		q.Where = nil
		for _, p := range []*map[StreamID]uint64{&q.Cursor.Rings, &q.Cursor.Streams} {
			if len(*p) == 0 {
				*p = nil
			}
		}
		for _, t := range []*time.Time{&q.Since, &q.Until} {
			if !t.IsZero() {
				*t = t.UTC()
			}
		}
	}
	return cmp.Diff(a, b, cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "Where" }, cmp.Ignore()))
}

func fullQuery() Query {
	return Query{
		Select: []Selector{
			{},
			{SourceID: "id", App: "app", Space: "space", Org: "org", IDs: true, Kinds: []Kind{KindLog, KindGauge}, Stdout: true, Stderr: true, Instance: "0", SourceType: "APP"},
		},
		Cursor: Cursor{Rings: map[StreamID]uint64{1: 0, math.MaxUint64: math.MaxUint64}, Streams: map[StreamID]uint64{7: 8}},
		Last:   10, Since: time.Unix(12, 34), History: true, Until: time.Unix(1<<40, 999_999_999), First: 3, Follow: true,
		Shard: "shard", Member: "member", ByTime: true, MaxBytes: 4096, Gather: time.Millisecond,
	}
}

func TestQueryThereAndBack(t *testing.T) {
	for name, q := range map[string]Query{
		"zero":     {},
		"full":     fullQuery(),
		"negative": {Last: -1, MaxBytes: math.MinInt, Since: time.Unix(-1, 1)},
		"1970":     {Since: time.Unix(0, 0)},
		"ancient":  {Until: time.Date(1000, 1, 1, 0, 0, 0, 0, time.UTC)},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := ParseQuery(AppendQuery(nil, &q))
			if err != nil {
				t.Fatal(err)
			}
			if d := sameQuery(q, got); d != "" {
				t.Error(d)
			}
		})
	}
}

// A query that is not understood in full must not be answered as if it was.
func TestQueryOfALaterVersion(t *testing.T) {
	full := fullQuery()
	m := AppendQuery(nil, &full)
	for name, b := range map[string][]byte{
		"unknown field":          appendNumber(slices.Clone(m), 99, 1),
		"unknown in a selector":  {1<<3 | 2, 3, 99<<3&0x7f | 0x80, 6, 1},
		"flag that is no flag":   appendNumber(slices.Clone(m), queryFollow, 2),
		"text where a number is": appendText(slices.Clone(m), queryLast, "x"),
		"cut off":                m[:len(m)-1],
		"kind too large":         {1<<3 | 2, 3, 6 << 3, 0x80, 2},
		"ring nobody":            {2<<3 | 2, 2, 2 << 3, 1},
		"too many selectors":     slices.Repeat([]byte{1<<3 | 2, 0}, MaxSelectors+1),
		"nanoseconds":            {5<<3 | 2, 6, 2 << 3, 0x80, 0x94, 0xeb, 0xdc, 0x7f},
	} {
		if q, err := ParseQuery(b); err != ErrQuery {
			t.Errorf("%s: %+v, %v", name, q, err)
		}
	}
	if q, err := ParseQuery(slices.Repeat([]byte{1<<3 | 2, 0}, MaxSelectors)); err != nil || len(q.Select) != MaxSelectors {
		t.Errorf("as many selectors as may be: %d, %v", len(q.Select), err)
	}
	seed := rand.Uint64()
	r := rand.New(rand.NewPCG(seed, 0))
	for range 2000 { // never a panic
		b := slices.Clone(m)
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
		ParseQuery(b)
	}
}

func FuzzParseQuery(f *testing.F) {
	full := fullQuery()
	f.Add(AppendQuery(nil, &full))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := ParseQuery(b)
		if err != nil {
			return
		}
		if len(q.Select) > MaxSelectors || len(q.Cursor.Rings)+len(q.Cursor.Streams) > MaxPositions {
			t.Fatal("bounds")
		}
		again, err := ParseQuery(AppendQuery(nil, &q))
		if err != nil {
			t.Fatal(err)
		}
		if d := sameQuery(q, again); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzSourceInfo(f *testing.F) {
	full := SourceInfo{SourceID: "id", Ring: 1, App: "a", AppID: "b", Space: "c", SpaceID: "d", Org: "e", OrgID: "f", Held: 1, Gone: 2, Bytes: 3, Oldest: -4, Newest: 5}
	f.Add(full.AppendWire(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseSourceInfo(b)
		if err != nil {
			return
		}
		again, err := ParseSourceInfo(s.AppendWire(nil))
		if err != nil || s != again {
			t.Fatalf("%+v, %+v, %v", s, again, err)
		}
	})
}

func TestSourceInfoThereAndBack(t *testing.T) {
	for _, s := range []SourceInfo{{}, {SourceID: "id", Ring: math.MaxUint64, App: "a", AppID: "b", Space: "c", SpaceID: "d", Org: "e", OrgID: "f", Held: 1, Gone: 2, Bytes: math.MaxInt64, Oldest: -4, Newest: math.MinInt64}} {
		got, err := ParseSourceInfo(s.AppendWire(nil))
		if err != nil || got != s {
			t.Errorf("%+v, %v", got, err)
		}
	}
	// Of a later version there may be more, which does no harm.
	if s, err := ParseSourceInfo(appendNumber((&SourceInfo{SourceID: "id"}).AppendWire(nil), 99, 1)); err != nil || s.SourceID != "id" {
		t.Errorf("%+v, %v", s, err)
	}
	if _, err := ParseSourceInfo([]byte{0x0a, 200}); err == nil {
		t.Error("cut off")
	}
}

func TestCursorTextRoundTrip(t *testing.T) {
	c := fullQuery().Cursor
	got, err := ParseCursor(c.String())
	if err != nil || !maps.Equal(got.Rings, c.Rings) || !maps.Equal(got.Streams, c.Streams) {
		t.Errorf("%v, %v", got, err)
	}
}
