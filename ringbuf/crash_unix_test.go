//go:build unix

package ringbuf

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// anotherBoot makes a directory look as if the machine had been started since.
func anotherBoot(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, "store")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	copy(b[20:], "another-boot-than-this-one")
	binary.NativeEndian.PutUint32(b[storeSize-4:], crc32.Checksum(b[:storeSize-4], castagnoli))
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMachineDown opens what a machine that lost power leaves: some pages as they
// were last, others as they were a while before. All that comes out is what went
// in, every ring has a new id, and readers with the old one go on behind what
// they have seen.
func TestMachineDown(t *testing.T) {
	tmp := t.TempDir()
	live := filepath.Join(tmp, "live")
	s, err := New(&Options{Budget: MinBudget, Dir: live})
	if err != nil {
		t.Fatal(err)
	}
	defer abandon(s)
	var rings []*Ring
	ids, nexts := make(map[string]envelope.StreamID), make(map[string]uint64)
	for k := range 8 {
		r, err := s.NewRing(fmt.Sprint("ring-", k), nil)
		if err != nil {
			t.Fatal(err)
		}
		rings = append(rings, r)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	some := func(n int) {
		for range n {
			damageAppend(rings[rng.IntN(len(rings))], 1+rng.IntN(10), envelope.StreamID(rng.IntN(3)))
		}
	}
	snapshot := func(name string) string {
		dir := filepath.Join(tmp, name)
		if err := os.CopyFS(dir, os.DirFS(live)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	some(500)
	before := snapshot("before")
	some(100)
	after := snapshot("after")
	for _, r := range rings {
		ids[r.key], nexts[r.key] = r.id, r.next
	}
	files, err := os.ReadDir(after)
	if err != nil {
		t.Fatal(err)
	}
	recovered := uint64(0)
	for seed := range uint64(max(20, *seeds/10)) {
		rng := rand.New(rand.NewPCG(seed, 3))
		dir := filepath.Join(t.TempDir(), "down")
		if err := os.CopyFS(dir, os.DirFS(after)); err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			old, err := os.ReadFile(filepath.Join(before, file.Name()))
			if err != nil {
				continue // a file of which nothing was written, or all
			}
			name := filepath.Join(dir, file.Name())
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			for at := 0; at < min(len(b), len(old)); at += 4096 {
				if rng.IntN(4) == 0 {
					copy(b[at:min(at+4096, len(b))], old[at:])
				}
			}
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		anotherBoot(t, dir)
		copied := filepath.Join(t.TempDir(), "copied")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		damageCheck(t, copied, ids, nexts)

		s, err := New(&Options{Budget: MinBudget, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		recovered += s.Recovery().Records
		for r := range s.Rings() {
			if r.id == ids[r.key] || s.Owns(ids[r.key]) {
				t.Fatalf("%s is what it was", r.key)
			}
			cursor := map[envelope.StreamID]uint64{ids[r.key]: nexts[r.key]} // of a reader that had seen all
			if at, exact, ok := r.Resume(cursor); !ok || exact || at != r.next {
				t.Fatalf("%s resumes at %d, exact %v, %v; next is %d", r.key, at, exact, ok, r.next)
			}
			if r.next > r.first {
				cursor[ids[r.key]] = r.first
				if at, _, _ := r.Resume(cursor); at != r.first {
					t.Fatalf("%s resumes at %d, not %d", r.key, at, r.first)
				}
			}
		}
		abandon(s)
	}
	if recovered == 0 {
		t.Error("nothing was ever recovered")
	}
}

// TestDiskFull goes on appending when there are no more files to be had, and
// counts what is not in the journal.
func TestDiskFull(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rings")
	s, err := New(&Options{Budget: MinBudget, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	r, err := s.NewRing("ring-0", nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		damageAppend(r, 10, 0)
	}
	chunks := s.arena.mapped
	s.dir.path = filepath.Join(dir, "nowhere")
	for range 500 {
		damageAppend(r, 10, 0)
	}
	(&simulation{t: t, s: s}).verify()
	if st := s.Stats(); st.Failed == 0 || st.Evicted == 0 || s.arena.mapped != chunks || r.next != 5501 {
		t.Errorf("%+v, next %d", st, r.next)
	}
	// The journal cannot be written either: no ring is sure to be what it was.
	failed := s.Stats().Failed
	s.dir.journal.file.Close()
	if _, err := s.NewRing("ring-1", nil); err != nil {
		t.Fatal(err)
	}
	if st := s.Stats(); st.Failed == failed {
		t.Errorf("%+v", st)
	}
	id := r.id
	abandon(s)
	if s, err = New(&Options{Budget: MinBudget, Dir: dir}); err != nil {
		t.Fatal(err)
	}
	defer abandon(s)
	if f := s.Recovery(); f.Rings != 1 || f.NewLives != 1 || f.Records == 0 {
		t.Errorf("found %+v", f)
	}
	for r := range s.Rings() {
		if r.id == id || r.next != 5501 {
			t.Errorf("%+v", r)
		}
	}
}
