package envelope

import "testing"

// slowTag is Tag by the general walk.
func slowTag(e Envelope, name string) (value []byte, found bool) {
	for k, v := range e.rawTags() {
		if string(k) == name {
			value, found = v, true
		}
	}
	return value, found
}

func FuzzTag(f *testing.F) {
	for _, e := range samples() {
		f.Add([]byte(e), TagAppName)
		f.Add([]byte(e), "a")
	}
	_, e := benchRecord()
	f.Add([]byte(e), TagSourceType)
	f.Add([]byte(append(e[:len(e):len(e)], e...)), TagSourceType) // merged: the last one counts
	f.Fuzz(func(t *testing.T, b []byte, name string) {
		e := Envelope(b)
		want, found := slowTag(e, name)
		if got, ok := e.Tag(name); ok != found || string(got) != string(want) || ok && got == nil {
			t.Errorf("%q %v, want %q %v", got, ok, want, found)
		}
	})
}

func BenchmarkTag(b *testing.B) {
	_, e := benchRecord()
	b.Run("fast", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			e.Tag(TagSourceType)
		}
	})
	b.Run("slow", func(b *testing.B) {
		for b.Loop() {
			slowTag(e, TagSourceType)
		}
	})
}
