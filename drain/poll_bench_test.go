package drain

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

// BenchmarkAnswer is one answer of the Cloud Controller with 50,000 bindings, none
// of which is new: what a poll costs after something has changed. One that is the
// same as before costs its hash.
func BenchmarkAnswer(b *testing.B) {
	const n = 50_000
	entries := make([]string, n)
	for i := range entries {
		entries[i] = urlEntry(fmt.Sprintf("syslog-tls://drain-%d.example.com:6514?drain-data=all", i), fmt.Sprintf("0d1e2f30-1111-4222-8333-%012d", i))
	}
	text := []byte(`{"results":[` + strings.Join(entries, ",") + `],"next_id":null}`)
	a, err := newAsker("https://cloud", "/", nil)
	if err != nil {
		b.Fatal(err)
	}
	s := &Set{opts: (&SetOptions{NoTest: true}).withDefaults(), log: slog.New(slog.DiscardHandler)}
	g := &group{Provider: &Provider{careful: true, tenants: true}, opts: s.opts.Tenants, known: make(map[Binding]bool)}
	var first bindingList
	if _, err := a.parsePage(text, &first); err != nil {
		b.Fatal(err)
	}
	for _, e := range first.entries {
		g.drains = append(g.drains, &bound{listed: e})
		g.known[e.Binding] = true
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		list := bindingList{opts: g.opts, known: g.known}
		if _, err := a.parsePage(text, &list); err != nil {
			b.Fatal(err)
		}
		s.apply(g, list.entries)
	}
	if len(g.drains) != n || s.layout != 0 {
		b.Fatalf("%d drains, layout %d", len(g.drains), s.layout)
	}
}
