package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// The program goes first. Making records of lines, sending them and, on the same
// machine, the server's part take about as long as it takes a program to print
// them, and on a machine with few processors that time is the program's. So
// while a program prints without pause its output is only taken off the pipe;
// the rest is done when it pauses, after at most burst, and when gather is three
// quarters full.
//
// Without it a program that prints 100,000 lines in 45 ms on two processors
// takes half as long again, with the server on the same ones twice as long.
const (
	burst = 100 * time.Millisecond
	pause = 5 * time.Millisecond // without a Write is a pause
	look  = time.Millisecond     // how often to look whether there is one
	much  = 32 << 10             // in one Write: the program does not wait for anything

	piece       = 256 << 10 // is given at a time
	maxGathered = 32 << 20
)

// timedLog is an emitter's LineWriter.
type timedLog interface {
	WriteTime(text []byte, at int64) (int, error)
	io.Closer
}

// gather keeps text for the logs of one program's streams, in the order in which
// it came, and gives it to them in a goroutine of its own. That one is there
// while there is something to give.
type gather struct {
	limit int // bytes of text

	mu     sync.Mutex
	room   sync.Cond // there is less than limit
	empty  sync.Cond // nothing is held, and nobody is giving
	asides asides    // what was not copied
	moved  int64     // bytes of that, ever
	memory []byte    // limit bytes, in a circle, while there is something to give: what was
	end    int       // in the circle: where the next byte goes
	held   int       // bytes before that
	pieces []gathered
	last   time.Time // of the last Write
	flood  bool      // there was no pause for too long
	giving bool
}

// gathered is text of one stream, of one moment. It lies in the circle, in one
// piece, or is what comes next out of a pipe.
type gathered struct {
	of   *gatherLog
	text []byte
	from *aside
	size int
	at   time.Time
}

func newGather(limit int) *gather {
	g := &gather{limit: limit}
	g.room.L, g.empty.L = &g.mu, &g.mu
	return g
}

// to is a log behind g.
func (g *gather) to(log timedLog) io.WriteCloser { return &gatherLog{g, log} }

type gatherLog struct {
	g   *gather
	log timedLog
}

// Write takes text. It waits only if g is full.
func (l *gatherLog) Write(text []byte) (int, error) {
	g, n, now := l.g, len(text), time.Now()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.flood = g.flood && now.Sub(g.last) < pause
	g.last = now
	if !g.giving && (n < much || g.flood) {
		return l.log.WriteTime(text, now.UnixNano())
	}
	for len(text) > 0 {
		for g.held == g.limit {
			g.room.Wait()
		}
		if !g.giving { // not yet, or no more after the wait
			g.memory, g.end = takeMemory(g.limit), 0
			g.giving = true
			go g.give()
		}
		text = text[g.add(l, text, now):]
	}
	return n, nil
}

// add takes some of text, and returns how much.
func (g *gather) add(of *gatherLog, text []byte, now time.Time) int {
	if g.end == g.limit {
		g.end = 0
	}
	text = text[:min(len(text), piece, g.limit-g.held, g.limit-g.end)]
	to := g.memory[g.end : g.end+copy(g.memory[g.end:], text)]
	g.end += len(to)
	g.held += len(to)
	if k := len(g.pieces) - 1; k >= 0 && g.end > len(to) {
		if c := &g.pieces[k]; c.of == of && c.from == nil && c.size+len(to) <= piece && now.Sub(c.at) < look {
			c.size += len(to)
			c.text = c.text[:c.size] // they lie next to each other
			return len(to)
		}
	}
	g.pieces = append(g.pieces, gathered{of: of, text: to, size: len(to), at: now})
	return len(to)
}

// give gives to the logs until there is nothing left.
func (g *gather) give() {
	var buf []byte
	g.mu.Lock()
	defer g.mu.Unlock()
	for g.held > 0 {
		if now := time.Now(); !g.due(now) {
			g.mu.Unlock()
			time.Sleep(look)
			g.mu.Lock()
			continue
		}
		c := g.pieces[0]
		g.pieces = g.pieces[1:]
		g.mu.Unlock()
		if c.from == nil {
			c.of.log.WriteTime(c.text, c.at.UnixNano())
		} else {
			if buf == nil {
				buf = make([]byte, piece)
			}
			c.read(buf)
		}
		g.mu.Lock()
		g.held -= c.size
		g.asides.took(&c)
		g.room.Broadcast()
	}
	g.asides.close()
	giveMemory(g.memory)
	g.memory, g.pieces, g.giving = nil, nil, false
	g.empty.Broadcast()
}

// due reports whether the oldest text is to be given now.
func (g *gather) due(now time.Time) bool {
	if now.Sub(g.last) >= pause {
		g.flood = false
		return true
	}
	g.flood = g.flood || g.held > g.limit*3/4 || now.Sub(g.pieces[0].at) >= burst
	return g.flood
}

// Close gives what there is and closes the log.
func (l *gatherLog) Close() error {
	g := l.g
	g.mu.Lock()
	g.flood = true
	for g.giving {
		g.empty.Wait()
	}
	g.mu.Unlock()
	return l.log.Close()
}

// errCopy means that text is to be read and copied.
var errCopy = errors.New("read it")

// asides are the pipes of a gather. Its lock is held.
type asides struct {
	open  *aside   // the one to put into
	empty []*aside // others that can be
	made  int
}

// get returns one to put into, nil if there is none.
func (s *asides) get() *aside {
	if n := len(s.empty); s.open == nil && n > 0 {
		s.open, s.empty = s.empty[n-1], s.empty[:n-1]
	}
	if s.open == nil && s.made < maxAside {
		a, err := newAside()
		if err != nil {
			s.made = maxAside // until it is all given
			return nil
		}
		s.open = a
		s.made++
	}
	return s.open
}

// took notes that a piece was given.
func (s *asides) took(c *gathered) {
	if c.from == nil {
		return
	}
	if c.from.left -= c.size; c.from.left == 0 && c.from != s.open {
		s.empty = append(s.empty, c.from)
	}
}

// close closes all of them. They are empty.
func (s *asides) close() {
	if s.open != nil {
		s.open.close()
	}
	for _, a := range s.empty {
		a.close()
	}
	*s = asides{}
}

// mayTake reports whether text is being gathered.
func (g *gather) mayTake() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.giving
}

// putAside notes that n bytes are in a now. The lock is held.
func (g *gather) putAside(l *gatherLog, a *aside, n int) {
	now := time.Now()
	g.flood = g.flood && now.Sub(g.last) < pause
	g.last = now
	g.held += n
	g.moved += int64(n)
	a.left += n
	g.pieces = append(g.pieces, gathered{of: l, from: a, size: n, at: now})
}

// read gives a piece that was put aside.
func (c *gathered) read(buf []byte) {
	for left := c.size; left > 0; {
		n, err := c.from.read(buf[:min(left, len(buf))])
		if err != nil {
			panic(fmt.Sprintf("a pipe of this process gave %d bytes less than it took: %v", left, err))
		}
		c.of.log.WriteTime(buf[:n], c.at.UnixNano())
		left -= n
	}
}
