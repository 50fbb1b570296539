package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// book writes down what it is given, and may take its time.
type book struct {
	mu     sync.Mutex
	text   bytes.Buffer
	pieces []entry
	slow   time.Duration
	closed bool
}

type entry struct {
	size  int
	at    int64
	given time.Time
}

func (b *book) WriteTime(text []byte, at int64) (int, error) {
	time.Sleep(b.slow)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		panic("written to after its end")
	}
	b.text.Write(text)
	b.pieces = append(b.pieces, entry{len(text), at, time.Now()})
	return len(text), nil
}

func (b *book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// TestGather prints in several ways, and looks at when what was printed is
// given to the log.
func TestGather(t *testing.T) {
	const big = 64 << 10
	for name, c := range map[string]struct {
		sizes    []int
		every    time.Duration
		first    time.Duration // after the first Write, something is given
		last     time.Duration // after the last Write, everything is
		directly bool          // Writes are not split or joined
	}{
		"lines now and then":   {sizes: repeat(100, 20), every: 10 * time.Millisecond, directly: true},
		"lines in a row":       {sizes: repeat(100, 20), every: look / 10, directly: true},
		"a burst":              {sizes: repeat(big, 40), every: look / 4, first: 40*look/4 + 2*pause, last: 2 * pause},
		"a line after a burst": {sizes: append(repeat(big, 40), 100), every: look / 4, first: 41*look/4 + 2*pause, last: 2 * pause},
		"much, with pauses":    {sizes: repeat(big, 10), every: 2 * pause, first: 2 * pause, last: 2 * pause},
		"without end":          {sizes: repeat(1000, 8000), every: look / 4, directly: true},
		"a flood":              {sizes: repeat(big, 1000), every: look / 4, first: burst + pause, last: 2 * pause},
		"at once":              {sizes: repeat(big, 40), every: 0, first: 2 * pause, last: 2 * pause},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &book{}
				g := newGather(8 << 20)
				log := g.to(b)
				var want bytes.Buffer
				var times []int64 // of each byte's Write, by the Write
				start := time.Now()
				for i, size := range c.sizes {
					if i > 0 {
						time.Sleep(c.every)
					}
					text := bytes.Repeat([]byte{byte('a' + i%26)}, size)
					want.Write(text)
					times = append(times, time.Now().UnixNano())
					before := time.Now()
					log.Write(text)
					if took := time.Since(before); took > 0 {
						t.Fatalf("Write %d waited %v", i, took)
					}
					clear(text) // it is the caller's
				}
				end := time.Now()
				time.Sleep(c.last)
				synctest.Wait()
				if !bytes.Equal(b.text.Bytes(), want.Bytes()) {
					t.Fatalf("%d bytes were given %v after the last of %d", b.text.Len(), c.last, want.Len())
				}
				if took := b.pieces[0].given.Sub(start); took > c.first {
					t.Errorf("nothing was given for %v", took)
				}
				if took := b.pieces[len(b.pieces)-1].given.Sub(end); took > c.last {
					t.Errorf("the last was given after %v", took)
				}
				if c.directly && len(b.pieces) != len(c.sizes) {
					t.Errorf("%d pieces of %d Writes", len(b.pieces), len(c.sizes))
				}
				// Each piece is as old as a Write in it, to a pause.
				at, write, written := 0, 0, c.sizes[0]
				for _, p := range b.pieces {
					for at >= written {
						write++
						written += c.sizes[write]
					}
					if d := times[write] - p.at; d < 0 || d > int64(look) {
						t.Fatalf("a piece is said to be %d ns older than it is", d)
					}
					at += p.size
				}
				log.Close()
				if !b.closed || g.held != 0 || g.giving {
					t.Errorf("after Close: closed %v, %d held, giving %v", b.closed, g.held, g.giving)
				}
			})
		})
	}
}

func repeat(size, n int) []int {
	sizes := make([]int, n)
	for i := range sizes {
		sizes[i] = size
	}
	return sizes
}

// TestGatherIsBounded prints faster than the log takes it.
func TestGatherIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = 2 << 20
		b := &book{slow: 5 * time.Millisecond}
		g := newGather(limit)
		log := g.to(b)
		text := make([]byte, 300<<10)
		for range 100 {
			log.Write(text)
			g.mu.Lock()
			if g.held > limit {
				t.Errorf("%d bytes are held", g.held)
			}
			g.mu.Unlock()
		}
		log.Close()
		if b.text.Len() != 100*len(text) {
			t.Errorf("%d bytes of %d", b.text.Len(), 100*len(text))
		}
	})
}

// TestGatherKeepsOrder has two streams, of which the second says its word after
// a burst of the first.
func TestGatherKeepsOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var order []string
		named := func(name string) timedLog {
			return logFunc(func(text []byte) {
				mu.Lock()
				defer mu.Unlock()
				if k := len(order) - 1; k < 0 || !strings.HasPrefix(order[k], name) {
					order = append(order, name)
				}
			})
		}
		g := newGather(maxGathered)
		out, errs := g.to(named("out")), g.to(named("err"))
		for range 30 {
			out.Write(make([]byte, 64<<10))
		}
		io.WriteString(errs, "panic\n")
		out.Close()
		errs.Close()
		if got := fmt.Sprint(order); got != "[out err]" {
			t.Errorf("given in the order %s", got)
		}
	})
}

type logFunc func(text []byte)

func (f logFunc) WriteTime(text []byte, _ int64) (int, error) { f(text); return len(text), nil }
func (f logFunc) Close() error                                { return nil }
