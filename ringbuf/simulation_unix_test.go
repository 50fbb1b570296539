//go:build unix

package ringbuf

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

func init() { journalSlack = 4 << 10 } // so that journals are written anew often

// TestSimulationDir is TestSimulation with a directory. Now and then the Store is
// closed, or left as a killed process leaves it, and opened again, with another
// budget at times: nothing may be different then but what a smaller budget has no
// room for. Files are slow, so there is one for ten of the others.
func TestSimulationDir(t *testing.T) {
	for seed := range uint64(max(10, *seeds/10)) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			m := &simulation{t: t, rng: rand.New(rand.NewPCG(seed, 2))}
			m.reopen = m.reopenDir
			m.open(t.TempDir())
			m.run()
			abandon(m.s)
		})
	}
}

// open opens the directory, with some budget or other.
func (m *simulation) open(dir string) {
	budget := MinBudget + m.rng.Int64N(MinBudget)
	if m.rng.IntN(5) == 0 {
		budget = 16 * MinBudget // of which the chunks are larger
	}
	s, err := New(&Options{Budget: budget, Dir: dir})
	if err != nil {
		m.t.Fatal(err)
	}
	m.s, m.dir = s, dir
}

// reopenDir closes the store, or leaves it as it is, and goes on with what is found
// in a copy of its directory.
func (m *simulation) reopenDir() {
	t := m.t
	was := m.s.Stats()
	to := filepath.Join(t.TempDir(), "next")
	killed := m.rng.IntN(8) > 0 // to sync files takes long
	if !killed {
		if err := m.s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(to, os.DirFS(m.dir)); err != nil {
		t.Fatal(err)
	}
	if killed {
		abandon(m.s)
	}
	os.RemoveAll(m.dir)
	m.open(to)
	found := m.s.Recovery()
	if found.Records != was.Records || found.Rings != was.Rings || found.Blocks != 0 || found.Cut != 0 || len(found.Unusable) != 0 || found.NewLives != 0 {
		t.Fatalf("found %+v after %+v", found, was)
	}
	byID := make(map[envelope.StreamID]*Ring)
	for r := range m.s.Rings() {
		byID[r.ID()] = r
	}
	for _, r := range m.rings {
		r.ring = byID[r.ring.ID()]
		if first, next := r.ring.Bounds(); next != uint64(len(r.records))+1 || first > next || r.ring.local != r.local {
			t.Fatalf("a ring from %d to %d of %d records, own numbers to %d of %d", first, next, len(r.records), r.ring.local, r.local)
		}
		for stream, next := range r.origins {
			if i, known := r.ring.origin(stream); !known || r.ring.origins[i].next != next {
				t.Fatalf("of stream %d, %d comes next; known: %v, %+v", stream, next, known, r.ring.origins)
			}
		}
	}
	for i := range m.tiny {
		m.tiny[i] = byID[m.tiny[i].ID()]
	}
	for _, r := range m.readers {
		r.at = r.ring.ring.Reader(r.at.Position())
	}
	if m.crowded() { // the budget was larger
		m.go_()
	}
	m.verify()
}

// abandon lets go of a Store as the death of its process does.
func abandon(s *Store) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.dir.close(false)
	s.arena.close()
}
