package main

import (
	"io"
	"sync"
	"time"
)

// The program goes first. Making records of lines, sending them and, on the same
// machine, the server's part take about as long as it takes a program to print
// them, and on a machine with few processors that time is the program's. So
// while a program prints without pause its output is only taken off the pipe;
// the rest is done when it pauses, after at most burst, and when there is more
// than half of what gather may hold.
//
// Without it a program that prints 100,000 lines in 45 ms on two processors
// takes half as long again, with the server on the same ones twice as long.
const (
	burst = 100 * time.Millisecond
	pause = time.Millisecond // without a Write is a pause
	much  = 32 << 10         // in one Write: the program does not wait for anything

	chunkSize   = 256 << 10
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
	chunks []gathered
	held   int
	last   time.Time // of the last Write
	flood  bool      // there was no pause for too long
	giving bool
	spare  []byte
}

// gathered is text of one stream, of one moment.
type gathered struct {
	of   *gatherLog
	text []byte
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
	if len(g.chunks) == 0 && !g.giving && (n < much || g.flood) {
		return l.log.WriteTime(text, now.UnixNano())
	}
	for len(text) > 0 {
		for g.held >= g.limit {
			g.room.Wait()
		}
		text = text[g.add(l, text, now):]
	}
	if !g.giving {
		g.giving = true
		go g.give()
	}
	return n, nil
}

// add takes some of text, and returns how much.
func (g *gather) add(of *gatherLog, text []byte, now time.Time) int {
	if k := len(g.chunks) - 1; k >= 0 {
		if c := &g.chunks[k]; c.of == of && len(c.text) < chunkSize && now.Sub(c.at) < pause {
			text = text[:min(len(text), chunkSize-len(c.text))]
			c.text = append(c.text, text...)
			g.held += len(text)
			return len(text)
		}
	}
	buf := g.spare
	if g.spare = nil; buf == nil {
		buf = make([]byte, 0, chunkSize)
	}
	text = text[:min(len(text), chunkSize)]
	g.chunks = append(g.chunks, gathered{of, append(buf, text...), now})
	g.held += len(text)
	return len(text)
}

// give gives to the logs until there is nothing left.
func (g *gather) give() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.chunks) > 0 {
		if now := time.Now(); !g.due(now) {
			g.mu.Unlock()
			time.Sleep(pause)
			g.mu.Lock()
			continue
		}
		c := g.chunks[0]
		g.chunks[0] = gathered{}
		g.chunks = g.chunks[1:]
		g.mu.Unlock()
		c.of.log.WriteTime(c.text, c.at.UnixNano())
		g.mu.Lock()
		g.held -= len(c.text)
		g.spare = c.text[:0]
		g.room.Broadcast()
	}
	g.chunks, g.spare, g.giving = nil, nil, false
	g.empty.Broadcast()
}

// due reports whether the oldest text is to be given now.
func (g *gather) due(now time.Time) bool {
	if now.Sub(g.last) >= pause {
		g.flood = false
		return true
	}
	g.flood = g.flood || g.held > g.limit/2 || now.Sub(g.chunks[0].at) >= burst
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
