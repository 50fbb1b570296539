package main

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

// readSize is how much is read at once: as much as a pipe is made to hold, so
// that one Read empties it.
const readSize = 256 << 10

// pump reads one stream of a program to its end, and gives each piece first to
// log, which never waits, and then to out, which is the user's own standard
// output and takes the time it takes.
type pump struct {
	in  io.ReadCloser
	log io.WriteCloser // an emitter's Writer
	out io.Writer      // nil: not passed through
	say func(error)    // told once if out fails

	done chan struct{} // closed when run has returned

	mu      sync.Mutex
	busy    bool      // between a Read's return and the end of what came of it
	since   time.Time // when busy last became false
	emptied bool      // the stream was read empty since settle began
	amount  int       // bytes read since then
	broken  bool      // out's reader has gone
}

func newPump(in io.ReadCloser, log io.WriteCloser, out io.Writer, say func(error)) *pump {
	return &pump{in: in, log: log, out: out, say: say, done: make(chan struct{}), since: time.Now()}
}

// run copies until the stream ends.
func (p *pump) run() {
	defer close(p.done)
	buf := make([]byte, readSize)
	for {
		if p.take() {
			continue
		}
		n, err := p.in.Read(buf)
		p.read(n, n < readSize)
		if n > 0 {
			p.log.Write(buf[:n])
			p.pass(buf[:n])
		}
		p.idle()
		if err != nil || p.brokenPipe() {
			// Closing this end is how the program learns that nobody reads on: it
			// gets SIGPIPE, as it would if it wrote there itself.
			p.in.Close()
			return
		}
	}
}

// taker is a log that may take what there is by itself.
type taker interface {
	Take(in io.Reader) (n int, all bool, err error)
}

func (p *pump) take() bool {
	log, ok := p.log.(taker)
	if !ok || p.out != nil {
		return false
	}
	n, all, err := log.Take(p.in)
	if err != nil {
		return false
	}
	p.read(n, all)
	p.idle()
	return true
}

func (p *pump) pass(b []byte) {
	if p.out == nil {
		return
	}
	_, err := p.out.Write(b)
	switch {
	case err == nil:
	case errors.Is(err, syscall.EPIPE), errors.Is(err, io.ErrClosedPipe):
		p.mu.Lock()
		p.broken = true
		p.mu.Unlock()
	default: // a full disk, a closed descriptor: the lines go on to the server
		p.out = nil
		p.say(fmt.Errorf("passing output through stopped: %w", err))
	}
}

// read notes that n bytes were, and whether that was all there was.
func (p *pump) read(n int, all bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy = true
	p.amount += n
	p.emptied = p.emptied || all || p.amount >= maxPipe
}

func (p *pump) idle() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy, p.since = false, time.Now()
}

func (p *pump) brokenPipe() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

// maxPipe is more than any pipe holds: whoever has read so much has read all
// that was in it at the start.
const maxPipe = 2 << 20

// How long settle waits. A child that a program left behind may hold its pipe
// open for ever; what the program itself wrote before it ended is read in any
// case.
const (
	silence = 250 * time.Millisecond // nothing comes any more
	longest = 2 * time.Second        // what comes is somebody else's
)

// settle waits, after the program has ended, for the end of its stream or for
// silence, and then finishes the log: no line is taken afterwards. If hurry,
// because the user wants an end, it waits no longer than longest even if out
// takes nothing.
func (p *pump) settle(hurry bool) {
	p.mu.Lock()
	p.emptied, p.amount = false, 0
	p.mu.Unlock()
	end := time.Now().Add(longest)
	t := time.NewTimer(silence)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			p.log.Close()
			return
		case <-t.C:
		}
		p.mu.Lock()
		quiet := time.Since(p.since)
		if p.busy {
			quiet = 0
		}
		late := !time.Now().Before(end)
		// On a machine that is overloaded, silence may be that of this process.
		leave := quiet >= silence && !unread(p.in) || late && (hurry || p.emptied && !p.busy)
		p.mu.Unlock()
		if leave {
			p.log.Close()
			return
		}
		t.Reset(max(silence-quiet, 10*time.Millisecond))
	}
}
