//go:build unix

package ringbuf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// damageLine is the record at a position of a ring, always the same.
func damageLine(ring string, position uint64) []byte {
	size := 30 + position*37%300
	if position%100 == 50 {
		size = 5000
	}
	e := fmt.Appendf(nil, "%d of %s ", position, ring)
	return envelope.AppendRecord(nil, append(e, bytes.Repeat([]byte{'x'}, int(size))...))
}

// damageRings fills a directory and leaves it as a killed process does. It
// returns ids and next positions by key.
func damageRings(t testing.TB, dir string) (ids map[string]envelope.StreamID, nexts map[string]uint64) {
	t.Helper()
	live := filepath.Join(t.TempDir(), "live")
	s, err := New(&Options{Budget: MinBudget, Dir: live})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ids, nexts = make(map[string]envelope.StreamID), make(map[string]uint64)
	var rings []*Ring
	for k := range 6 {
		r, err := s.NewRing(fmt.Sprint("ring-", k), nil)
		if err != nil {
			t.Fatal(err)
		}
		rings = append(rings, r)
		ids[r.key] = r.id
		nexts[r.key] = 1
	}
	rng := rand.New(rand.NewPCG(1, 1))
	for range 600 {
		r := rings[rng.IntN(len(rings)-1)] // the last one stays empty
		damageAppend(r, 1+rng.IntN(10), envelope.StreamID(rng.IntN(3)))
		nexts[r.key] = r.next
	}
	damageAppend(rings[5], 1, 0)
	nexts[rings[5].key] = 2
	if err := os.CopyFS(dir, os.DirFS(live)); err != nil {
		t.Fatal(err)
	}
	return ids, nexts
}

// damageAppend appends n records. Makers number them by their positions, so that
// there are gaps.
func damageAppend(r *Ring, n int, maker envelope.StreamID) {
	b := envelope.Batch{Stream: maker, Count: n}
	for i := range n {
		b.Records = append(b.Records, damageLine(r.key, r.next+uint64(i))...)
	}
	if maker != 0 {
		b.First, b.Next = r.next, r.next+uint64(n)
	}
	r.Append(b, nil)
}

// damageCheck opens the directory and reads all. What comes out must be what went
// in, at its position, and a ring that says it is the same must be so.
func damageCheck(t testing.TB, dir string, ids map[string]envelope.StreamID, nexts map[string]uint64) {
	t.Helper()
	for round := range 2 {
		s, err := New(&Options{Budget: MinBudget, Dir: dir})
		if err != nil {
			if !strings.Contains(err.Error(), dir) {
				t.Fatalf("an error that does not name the directory: %v", err)
			}
			return
		}
		checkStore(t, s)
		if f := s.Recovery(); round == 1 && (f.Blocks > 0 || f.Cut > 0 || len(f.Unusable) > 0 || f.Missing > 0 || f.NewLives > 0) {
			t.Fatalf("found again: %+v", f)
		}
		for r := range s.Rings() {
			if r.id == ids[r.key] && round == 0 && r.next != nexts[r.key] {
				t.Fatalf("%s goes to %d, but it went to %d", r.key, r.next, nexts[r.key])
			}
			at := r.Reader(r.first)
			for {
				b := at.Read(make([]byte, 0, 3000))
				if b.Count == 0 {
					break
				}
				position := b.Position - uint64(b.Count)
				if b.Stream < 3 && b.First != position {
					t.Fatalf("%s: at %d there is number %d of %d", r.key, position, b.First, b.Stream)
				}
				for e := range b.All() {
					if !bytes.Equal(envelope.AppendRecord(nil, e), damageLine(r.key, position)) {
						t.Fatalf("%s: another record at %d", r.key, position)
					}
					position++
				}
			}
			if at.Position() != r.next {
				t.Fatalf("%s: reading ended at %d of %d", r.key, at.Position(), r.next)
			}
			damageAppend(r, 3, 0)
		}
		checkStore(t, s)
		if round == 0 || nexts["fast"] > 0 {
			abandon(s)
		} else if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func checkStore(t testing.TB, s *Store) {
	if t, ok := t.(*testing.T); ok {
		(&simulation{t: t, s: s}).verify()
	}
}

// TestDamage changes bytes, zeroes pages, cuts, removes and doubles files, and
// opens what is left.
func TestDamage(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole")
	ids, nexts := damageRings(t, whole)
	for seed := range uint64(*seeds) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			t.Parallel()
			rng := rand.New(rand.NewPCG(seed, 7))
			dir := filepath.Join(t.TempDir(), "damaged")
			if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
				t.Fatal(err)
			}
			for range 1 + rng.IntN(5) {
				damage(t, rng, dir)
			}
			damageCheck(t, dir, ids, nexts)
		})
	}
}

func damage(t *testing.T, rng *rand.Rand, dir string) {
	files, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, files[rng.IntN(len(files))].Name())
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) == 0 {
		return
	}
	switch rng.IntN(11) {
	case 10:
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		return
	case 0:
		b = b[:rng.IntN(len(b))]
	case 1:
		os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s%06d", chunkPrefix, rng.IntN(100))), b, 0o600)
	case 2:
		from := rng.IntN(len(b)) &^ 4095
		clear(b[from:min(len(b), from+4096)])
	case 3:
		if strings.HasPrefix(filepath.Base(name), chunkPrefix) {
			from, to := blockSize*rng.IntN(len(b)/blockSize), blockSize*rng.IntN(len(b)/blockSize)
			copy(b[from:from+blockSize], b[to:]) // an older page
			break
		}
		fallthrough
	default:
		for range 1 + rng.IntN(3) {
			b[rng.IntN(len(b))] ^= 1 << rng.IntN(8)
		}
	}
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// FuzzOpen writes anything over some place of some file.
func FuzzOpen(f *testing.F) {
	whole := filepath.Join(f.TempDir(), "whole")
	ids, nexts := damageRings(f, whole)
	nexts["fast"] = 1 // nothing is synced
	files, err := os.ReadDir(whole)
	if err != nil {
		f.Fatal(err)
	}
	for i := range files {
		f.Add(uint8(i), uint32(0), []byte("x"), false)
		f.Add(uint8(i), uint32(70), []byte("\xff\xff\xff\xff"), false)
		f.Add(uint8(i), uint32(20), []byte{}, true)
	}
	f.Fuzz(func(t *testing.T, file uint8, at uint32, patch []byte, cut bool) {
		dir := filepath.Join(t.TempDir(), "fuzzed")
		if err := os.CopyFS(dir, os.DirFS(whole)); err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(dir, files[int(file)%len(files)].Name())
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		from := int(at) % len(b)
		end := from + copy(b[from:], patch)
		if cut {
			b = b[:end]
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		damageCheck(t, dir, ids, nexts)
	})
}

// FuzzBlocks puts anything into blocks whose checksums are right, and reads it:
// it must not matter what is in them.
func FuzzBlocks(f *testing.F) {
	line := damageLine("ring", 1)
	u := run{stream: 7, number: 5, told: 1}
	f.Add(uint16(0), uint64(1), uint64(9), uint64(1), append(u.append(bytes.Clone(line)), line...))
	f.Add(uint16(0), uint64(1), uint64(9), uint64(1), bytes.Repeat(line, 40))
	f.Add(uint16(3), uint64(1<<61), uint64(9), uint64(1<<63), append([]byte{1, 2, 3}, bytes.Repeat(line, 90)...))
	f.Fuzz(func(t *testing.T, offset uint16, number, stream, first uint64, data []byte) {
		s, err := New(&Options{Budget: MinBudget})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		data = data[:min(len(data), 20*blockSize)]
		var pieces []fragment
		for seq := uint32(number); len(data) > 0; seq++ {
			m := &blockMeta{number: number, stream: stream, first: first, seq: seq, offset: offset}
			if offset >= blockSize {
				m.offset = noStart
			}
			mem := make([]byte, blockSize)
			n := copy(mem, data)
			if len(data) >= 8 { // the next one may fit, if the data says so
				number, offset = binary.LittleEndian.Uint64(data), binary.LittleEndian.Uint16(data[2:])
			}
			data = data[n:]
			m.state = stateUsed | uint64(n)<<stateFill
			pieces = append(pieces, fragment{none, m, mem})
		}
		rc := recovering{s: s}
		st := rc.best(pieces)
		r := &Ring{s: s, id: 77, first: 1, next: 1, local: 1, base: blockSize, end: blockSize}
		if len(st.pieces) > 0 {
			r.first, r.next = st.first, st.next
		}
		s.rings = append(s.rings, nil)
		r.restore(make(map[envelope.StreamID]origin), &st)
		if err := rc.take(r, &st); err != nil {
			t.Fatal(err)
		}
		rc.made = append(rc.made, r)
		rc.byAge(1)
		checkStore(t, s)
		reader := r.Reader(0)
		for b := reader.Read(nil); b.Count > 0; b = reader.Read(nil) {
			n := 0
			for _, err := range b.All() {
				if err != nil {
					t.Fatal(err)
				}
				n++
			}
			if n != b.Count {
				t.Fatalf("%d records, not %d", n, b.Count)
			}
		}
		if reader.Position() != r.next {
			t.Fatalf("reading ended at %d of %d", reader.Position(), r.next)
		}
		damageAppend(r, 20, 3)
		checkStore(t, s)
	})
}
