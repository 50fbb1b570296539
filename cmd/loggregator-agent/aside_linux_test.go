package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"testing"
)

// A program prints a flood, in writes of every size, on two streams. What was
// put aside comes in its place among what was copied.
func TestPutAside(t *testing.T) {
	for _, limit := range []int{asideSize / 2, 2 * asideSize, 5*asideSize + 12345, maxGathered} {
		t.Run(fmt.Sprint(limit), func(t *testing.T) {
			g := newGather(limit)
			rng := rand.New(rand.NewPCG(1, uint64(limit)))
			var programs, pumps []chan [32]byte
			var books []*book
			for range 2 {
				r, w, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				growPipe(r)
				b := &book{}
				books = append(books, b)
				p := newPump(r, g.to(b), nil, func(err error) { t.Error(err) })
				go p.run()
				printed, ended := make(chan [32]byte, 1), make(chan [32]byte, 1)
				programs, pumps = append(programs, printed), append(pumps, ended)
				seed := rng.Uint64()
				go func() {
					rng := rand.New(rand.NewPCG(seed, 2))
					sum := sha256.New()
					out := io.MultiWriter(w, sum)
					for sent := 0; sent < 12<<20; {
						size := 1 + rng.IntN(200<<10)
						if rng.IntN(3) == 0 {
							size = 1 + rng.IntN(200)
						}
						if _, err := out.Write(bytes.Repeat([]byte{byte(rng.Int())}, size)); err != nil {
							t.Error(err)
							break
						}
						sent += size
					}
					w.Close()
					printed <- [32]byte(sum.Sum(nil))
				}()
				go func() {
					<-p.done
					p.settle(false)
					ended <- sha256.Sum256(b.text.Bytes())
				}()
			}
			for i := range programs {
				if printed, got := <-programs[i], <-pumps[i]; printed != got {
					t.Errorf("stream %d: what was given is not what was printed (%d bytes)", i, books[i].text.Len())
				}
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			if g.held != 0 || g.giving || g.asides.made != 0 {
				t.Errorf("%d held, giving %v, %d pipes", g.held, g.giving, g.asides.made)
			}
			t.Logf("%d bytes were moved", g.moved)
			if moves := limit >= asideSize; moves != (g.moved > 0) {
				t.Errorf("%d bytes were moved", g.moved)
			}
		})
	}
}
