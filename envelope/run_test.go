package envelope

import (
	"bytes"
	"strings"
	"testing"
)

func TestRun(t *testing.T) {
	web := Identity{SourceID: "shop", InstanceID: "0", Tags: map[string]string{TagAppName: "shop"}}.Encode()
	db := Identity{SourceID: "db"}.Encode()
	const now = 1_700_000_000_000_000_000
	var records []byte
	records = AppendLog(records, web, now, Out, []byte("one"))
	records = AppendLog(records, web, now+1, Err, []byte(strings.Repeat("long ", 100)))
	records = AppendLog(records, web, now+2, Out, nil)
	same := len(records)
	e, _, _ := Next(records)
	r, err := e.Check(nil)
	if err != nil {
		t.Fatal(err)
	}
	f := FixedOf(e, &r)
	if !bytes.Equal(f, web) {
		t.Fatalf("FixedOf = %q, want %q", f, web)
	}
	for name, other := range map[string][]byte{
		"nothing":         nil,
		"another source":  AppendLog(nil, db, now, Out, []byte("x")),
		"another message": AppendCounter(nil, web, now, "requests", 1, 1),
		"a tag more":      AppendLog(nil, web.WithTag("k", "v"), now, Out, []byte("x")),
		"another order":   append([]byte{KeyRecord, byte(len(web) + 5)}, append(web[:len(web):len(web)], keyLog, 3, 1<<3|2, 1, 'x')...),
		"too large":       AppendLog(nil, web, now, Out, make([]byte, MaxSize)),
		"torn":            AppendLog(nil, web, now, Out, []byte("torn"))[:len(web)+12],
		"rubbish":         []byte("\x0a\x7frubbish"),
	} {
		size, count := f.Run(append(records[:same:same], other...))
		if size != same || count != 3 {
			t.Errorf("%s: Run = %d bytes, %d records; want %d and 3", name, size, count, same)
		}
	}
	late := append(Envelope(nil), e...)
	late = append(late, db...) // the last source id wins
	if r, err = late.Check(nil); err != nil || FixedOf(late, &r) != nil {
		t.Errorf("FixedOf an envelope with a field after its message = %q, %v", FixedOf(late, &r), err)
	}
	if size, count := Fixed(nil).Run(records); size+count != 0 {
		t.Errorf("Run of nothing fixed = %d, %d", size, count)
	}
}

// FuzzRun looks for a record that Run would let pass and Check would not, after
// any record that Check let pass, and for one that is not of the same source
// and tags.
func FuzzRun(f *testing.F) {
	fixed, e := benchRecord()
	for _, second := range [][]byte{
		AppendLog(nil, fixed, 1_700_000_000_000_000_001, Err, []byte("x")),
		AppendCounter(nil, fixed, 1_700_000_000_000_000_001, "n", 1, 1),
	} {
		f.Add([]byte(e), second)
	}
	f.Fuzz(func(t *testing.T, first, records []byte) {
		r, err := Envelope(first).Check(nil)
		if err != nil {
			return
		}
		fixed := FixedOf(first, &r)
		// Whatever the first record says, one that is made from what it says must pass.
		made := AppendLog(nil, fixed, 1_700_000_000_000_000_000, Out, []byte("made"))
		if size, count := fixed.Run(made); fixed != nil && (size != len(made) || count != 1) {
			t.Fatalf("Run of a record made from what FixedOf returned = %d bytes, %d records", size, count)
		}
		for _, records := range [][]byte{records, made} {
			size, count := fixed.Run(records)
			n := 0
			for rest := records[:size]; len(rest) > 0; n++ {
				var e Envelope
				if e, rest, err = Next(rest); err != nil {
					t.Fatalf("Run let pass what is no record: %v", err)
				}
				got, err := e.Check(nil)
				if err != nil {
					t.Fatalf("Run let pass what Check refuses: %v", err)
				}
				if !bytes.Equal(got.SourceID, r.SourceID) || !bytes.Equal(got.InstanceID, r.InstanceID) ||
					!bytes.Equal(got.Tags, r.Tags) || got.Scattered != r.Scattered || got.Kind != KindLog {
					t.Fatalf("Run let pass\n%+v after\n%+v", got, r)
				}
			}
			if n != count {
				t.Fatalf("Run counted %d records, there are %d", count, n)
			}
		}
	})
}

func BenchmarkRun(b *testing.B) {
	f, e := benchRecord()
	record := AppendRecord(nil, e)
	b.SetBytes(int64(len(record)))
	b.ReportAllocs()
	for b.Loop() {
		if _, n := f.Run(record); n != 1 {
			b.Fatal("not of the run")
		}
	}
}
