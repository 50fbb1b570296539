//go:build unix

package loggregator

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// reopened is a router that goes on with what another one's directory holds,
// which was closed or, if killed, is in use at that moment.
func reopened(t *testing.T, was *Router, dir string, killed bool) (*Router, string) {
	t.Helper()
	if !killed {
		if err := was.Close(); err != nil {
			t.Fatal(err)
		}
	}
	to := filepath.Join(t.TempDir(), "next")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	was.Close()
	r, err := Open(&Options{Budget: ringbuf.MinBudget, Dir: to})
	if err != nil {
		t.Fatal(err)
	}
	return r, to
}

// TestRecentDir closes a router and leaves another one as a killed process does.
// Each time what it held is found by application, space and organization, and a
// reader goes on where it stood, also where records have gone meanwhile.
func TestRecentDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rings")
	r, err := Open(&Options{Budget: ringbuf.MinBudget, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { r.Close() }()
	shop, web := app("shop", "prod", "acme"), app("web", "prod", "acme")
	cursor := envelope.Cursor{}
	read := func() []string { // what is new since the last time
		var got []string
		for b, err := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything, Cursor: cursor, ByTime: true}) {
			if err != nil {
				t.Fatal(err)
			}
			cursor.Advance(b)
			got = append(got, texts(b)...)
		}
		return got
	}
	write(t, r, lines(shop, 1, "1", "2"))
	numbered := lines(web, 1, "3", "4")
	numbered.Stream, numbered.First, numbered.Next = 77, 5, 7
	write(t, r, numbered)
	read()
	for round, killed := range []bool{true, false, true, true} {
		before := fmt.Sprint("before ", round)
		write(t, r, lines(shop, 10, before))
		held := r.Stats().Held
		r, dir = reopened(t, r, dir, killed)
		if s := r.Stats(); s.Recovered != held || s.Held != held || s.Sources != 2 {
			t.Fatalf("%+v after %d were held", s, held)
		}
		after := fmt.Sprint("after ", round)
		write(t, r, lines(web, 20, after))
		if diff := cmp.Diff([]string{before, after}, read()); diff != "" {
			t.Errorf("killed: %v (-want +got):\n%s", killed, diff)
		}
		for _, sel := range []envelope.Selector{{App: "web"}, {App: "web", Space: "prod"}, {Org: "acme", SourceID: "web-guid"}} {
			if got := dump(t, r, envelope.Query{Select: []envelope.Selector{sel}}); len(got) != 3+round || got[0] != "3" || got[1] != "4" {
				t.Errorf("%+v: %q", sel, got)
			}
		}
		write(t, r, numbered) // its sender did not hear that it had arrived
		if s := r.Stats(); s.Repeated != 2 {
			t.Errorf("%+v", s)
		}
		balance(t, r)
	}
	// A flood that ends with a kill: the reader is told what it missed.
	text := strings.Repeat("x", 1000)
	for i := range 3000 {
		write(t, r, lines(shop, int64(i), text))
	}
	r, _ = reopened(t, r, dir, true)
	got := read()
	missed := 0
	if _, err := fmt.Sscanf(got[0], "missed %d", &missed); err != nil || missed+len(got)-1 != 3000 {
		t.Errorf("missed %d, read %d", missed, len(got)-1)
	}
	balance(t, r)
}

// TestRecentDirDamaged damages the end of a ring: its reader is told that it is
// not known what is lost, and gets nothing twice.
func TestRecentDirDamaged(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rings")
	r, err := Open(&Options{Budget: ringbuf.MinBudget, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { r.Close() }()
	shop := app("shop", "prod", "acme")
	text := strings.Repeat("x", 1000)
	for i := range 9 {
		write(t, r, lines(shop, int64(i), fmt.Sprint(i, text)))
	}
	cursor := envelope.Cursor{}
	for b := range r.Batches(t.Context(), everything) {
		cursor.Advance(b)
	}
	write(t, r, lines(shop, 9, "the last"))
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	chunks, err := filepath.Glob(filepath.Join(dir, "chunk-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range chunks {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(strings.Replace(string(b), "the last", "the lost", 1)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if r, err = Open(&Options{Budget: ringbuf.MinBudget, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	if f := r.Recovery(); f.Blocks != 1 || f.NewLives != 1 {
		t.Errorf("found %+v", f)
	}
	write(t, r, lines(shop, 10, "and on"))
	var got []string
	for b := range r.Batches(t.Context(), envelope.Query{Select: envelope.Everything, Cursor: cursor}) {
		got = append(got, texts(b)...)
	}
	if !slices.Equal(got, []string{"reset", "and on"}) {
		t.Errorf("got %q", got)
	}
	balance(t, r)
}

func TestOpenFails(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "something"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "store"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	used := t.TempDir()
	r, err := Open(&Options{Dir: used})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for dir, want := range map[string]string{
		file:    "not a directory",
		full:    "name a directory that is empty",
		foreign: "move the directory away",
		used:    "in use by another process",
	} {
		if _, err := Open(&Options{Dir: dir}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), dir) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
