package follow

import (
	"bytes"
	"regexp"
	"strings"
	"testing"
)

var joins = []*Join{
	nil,
	{Indent: true, MaxBytes: 50, MaxLines: 5},
	{Start: regexp.MustCompile(`^\d`), MaxBytes: 20, MaxLines: 1000},
	{Continue: regexp.MustCompile(`^[a-z]`), MaxBytes: maxJoinBytes, MaxLines: 3},
}

// split is next applied until the end.
func split(j *Join, data []byte, end ending) (texts []string, taken int) {
	for {
		text, used, ok := next(j, data[taken:], end)
		if !ok {
			return texts, taken
		}
		if used <= 0 {
			panic("nothing taken")
		}
		texts = append(texts, string(text))
		taken += used
	}
}

// FuzzSplit: text is split the same in whatever pieces it arrives, nothing of it
// is left out but line ends, and the bounds hold. Without joining, it is what
// strings.Split makes of it.
func FuzzSplit(f *testing.F) {
	f.Add([]byte("a\n b\nc\r\n\n"), uint8(1), uint8(1))
	f.Add([]byte("1\n2\nx\n\ty"), uint8(2), uint8(3))
	f.Add(bytes.Repeat([]byte("xyz"), 100), uint8(0), uint8(200))
	f.Fuzz(func(t *testing.T, data []byte, kind, piece uint8) {
		j, err := joins[int(kind)%len(joins)].withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		whole, taken := split(j, data, more)
		rest, n := split(j, data[taken:], complete)
		if taken+n != len(data) {
			t.Fatalf("%d of %d bytes taken at the end", taken+n, len(data))
		}
		whole = append(whole, rest...)

		var pieces []string
		start := 0
		for end := 0; end < len(data); {
			end = min(len(data), end+1+int(piece))
			texts, n := split(j, data[start:end], more)
			pieces = append(pieces, texts...)
			start += n
		}
		texts, _ := split(j, data[start:], complete)
		pieces = append(pieces, texts...)
		if strings.Join(pieces, "\x00") != strings.Join(whole, "\x00") || len(pieces) != len(whole) {
			t.Fatalf("in pieces %q, at once %q", pieces, whole)
		}

		strip := func(s string) string { return strings.NewReplacer("\r", "", "\n", "").Replace(s) }
		if got := strip(strings.Join(whole, "")); got != strip(string(data)) {
			t.Fatalf("%q became %q", data, whole)
		}
		for _, text := range whole {
			if j == nil {
				continue
			}
			lines := strings.Count(text, "\n") + 1
			if lines > j.MaxLines || lines > 1 && len(text) > j.MaxBytes {
				t.Fatalf("%d lines, %d bytes in a record", lines, len(text))
			}
		}
		if j == nil && len(data) <= maxText {
			lines := strings.Split(string(data), "\n")
			if last := len(lines) - 1; lines[last] == "" {
				lines = lines[:last]
			}
			for i := range lines {
				lines[i] = strings.TrimSuffix(lines[i], "\r")
			}
			if strings.Join(lines, "\x00") != strings.Join(whole, "\x00") {
				t.Fatalf("%q, want %q", whole, lines)
			}
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("/var/log/{app}/**/[a-c]*.log", "/var/log/shop/x/y/abc.log")
	f.Add("/{a}{b}", "/xy")
	f.Add("/[!]]", "/a")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		p, err := ParsePattern(pattern)
		if err != nil {
			return
		}
		g := &Group{Paths: []*Pattern{p}}
		vars, ok := g.MatchPath(path)
		if !ok {
			return
		}
		for _, name := range p.Names() {
			if vars[name] == "" {
				t.Fatalf("%q describes %q, and %s is empty", pattern, path, name)
			}
		}
	})
}
