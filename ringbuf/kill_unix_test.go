//go:build unix

package ringbuf_test

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// The process that is killed appends to killRings rings, the odd ones with
// numbers of a maker, and says on standard output how far each has come.
const (
	killRings  = 12
	killBudget = 2 * ringbuf.MinBudget
	killMaker  = 1000 // and the ring's number: the stream of its maker
	tinyKey    = "tiny"
)

func init() { children["append"] = appendUntilKilled }

// lineOf is the record at a position of a ring, always the same: mostly small,
// some longer than a few blocks.
func lineOf(ring int, position uint64) []byte {
	rng := rand.New(rand.NewPCG(uint64(ring), position))
	size := rng.IntN(400)
	if rng.IntN(50) == 0 {
		size = rng.IntN(20_000)
	}
	e := fmt.Appendf(nil, "%d of %d ", position, ring)
	return envelope.AppendRecord(nil, append(e, bytes.Repeat([]byte{byte(rng.Uint32())}, size)...))
}

func appendUntilKilled(dir string) {
	s, err := ringbuf.New(&ringbuf.Options{Budget: killBudget, Dir: dir})
	if err != nil {
		fmt.Println("error", err)
		return
	}
	var rings [killRings]*ringbuf.Ring
	var tiny []*ringbuf.Ring // that stay empty: their memory is taken from the others'
	for r := range s.Rings() {
		k := 0
		if fmt.Sscan(r.Key(), &k); r.Key() == tinyKey {
			tiny = append(tiny, r)
		} else {
			rings[k] = r
		}
	}
	for k := range rings {
		if rings[k] == nil {
			if rings[k], err = s.NewRing(fmt.Sprint(k), nil); err != nil {
				panic(err)
			}
		}
	}
	rng := rand.New(rand.NewPCG(rand.Uint64(), 1))
	for i := 1; ; i++ {
		k := rng.IntN(killRings)
		if rng.IntN(3) > 0 {
			k = 0 // a loud one
		}
		_, next := rings[k].Bounds()
		var b envelope.Batch
		for i := range 1 + rng.Uint64N(20) {
			b.Records = append(b.Records, lineOf(k, next+i)...)
			b.Count++
		}
		if k%2 == 1 {
			b.Stream, b.First, b.Next = envelope.StreamID(killMaker+k), next, next+uint64(b.Count)
		}
		rings[k].Append(b, nil)
		if i%100 == 0 {
			for range 100 {
				if !s.Full() {
					r, err := s.NewRing(tinyKey, nil)
					if err != nil {
						panic(err)
					}
					tiny = append(tiny, r)
				}
			}
		}
		if i%500 == 0 {
			for _, r := range tiny {
				if !r.Remove() {
					panic("a ring that was to stay empty is not")
				}
			}
			tiny = tiny[:0]
		}
		if i%10 > 0 {
			continue // so that it does not spend its life saying where it is
		}
		var at []byte
		for k, r := range rings {
			_, next := r.Bounds()
			at = fmt.Appendf(at, "at %d %d;\n", k, next)
		}
		os.Stdout.Write(at)
	}
}

// checkKilled opens the directory and compares what it holds with what was said.
func checkKilled(t *testing.T, dir string, said *[killRings]uint64, ids map[string]envelope.StreamID) {
	t.Helper()
	s, err := ringbuf.New(&ringbuf.Options{Budget: killBudget, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f := s.Recovery(); f.Blocks != 0 || f.Cut != 0 || f.NewLives != 0 || len(f.Unusable) != 0 {
		t.Fatalf("found %+v", f)
	}
	for r := range s.Rings() {
		k := 0
		if fmt.Sscan(r.Key(), &k); r.Key() == tinyKey {
			continue
		}
		if id, known := ids[r.Key()]; known && id != r.ID() {
			t.Fatalf("ring %d is %x, was %x", k, r.ID(), id)
		}
		ids[r.Key()] = r.ID()
		first, next := r.Bounds()
		if next < said[k] || next > said[k]+200 && said[k] > 0 {
			t.Fatalf("ring %d goes to %d, it was said to be at %d", k, next, said[k])
		}
		if k == 0 && next-first < 50 && said[k] > 5000 {
			t.Fatalf("of ring %d there are only %d records", k, next-first)
		}
		said[k] = next
		at := r.Reader(first)
		for position := first; position < next; {
			b := at.Read(make([]byte, 0, 10_000))
			if b.Count == 0 || b.Missed > 0 {
				t.Fatalf("ring %d at %d of %d: %+v", k, position, next, b)
			}
			i := uint64(0)
			for e := range b.All() {
				if !bytes.Equal(envelope.AppendRecord(nil, e), lineOf(k, position+i)) {
					t.Fatalf("ring %d: another record at %d", k, position+i)
				}
				i++
			}
			if k%2 == 1 && (b.Stream != envelope.StreamID(killMaker+k) || b.First != position) || k%2 == 0 && (b.Stream != r.ID() || b.First != position) {
				t.Fatalf("ring %d at %d: number %d of %x", k, position, b.First, b.Stream)
			}
			position += i
		}
	}
}

// TestKilled kills a process again and again while it appends, and looks each
// time at what the directory holds: all that the process said it had appended,
// and at most one batch more.
func TestKilled(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "rings")
	var said [killRings]uint64
	ids := make(map[string]envelope.StreamID)
	rounds, err := strconv.Atoi(flag.Lookup("seeds").Value.String())
	if err != nil {
		t.Fatal(err)
	}
	rounds = max(8, rounds/3)
	for round := range rounds {
		c := child(t, "append", dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		for n := 1 + rand.IntN(4000); lines.Scan(); n-- {
			if n == 0 {
				c.Process.Kill()
			}
			var k int
			var next uint64
			if got, _ := fmt.Sscanf(lines.Text(), "at %d %d;", &k, &next); got != 2 || !strings.HasSuffix(lines.Text(), ";") {
				if strings.HasPrefix(lines.Text(), "error") {
					t.Fatalf("round %d: %s", round, lines.Text())
				}
				continue // cut off
			}
			if next < said[k] {
				t.Fatalf("round %d: ring %d goes on at %d, it was at %d", round, k, next, said[k])
			}
			said[k] = next
		}
		c.Wait()
		// What is looked at is a copy, most times, so that the next process finds
		// it as it was left.
		look := dir
		if round%4 > 0 {
			look = filepath.Join(t.TempDir(), "copy")
			if err := os.CopyFS(look, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
		checkKilled(t, look, &said, ids)
	}
	if said[0] < 5000 || said[1] == 0 {
		t.Errorf("too little was appended: %v", said)
	}
}
