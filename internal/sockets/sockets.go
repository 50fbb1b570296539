// Package sockets reads what instances of applications print from unix stream
// sockets, as container managers offer them: one socket for standard output and
// one for standard error, which come and go with the instances.
package sockets

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

// Target is one socket, and whose lines come from it.
type Target struct {
	Path     string
	Identity envelope.Identity
	Type     envelope.LogType
}

// The names of sockets in the directory of an instance.
const (
	Stdout = "stdout.sock"
	Stderr = "stderr.sock"
)

// Find returns the sockets that there are in the directory of an instance.
func Find(dir string, id envelope.Identity) []Target {
	var targets []Target
	for _, t := range Dir(dir, id) {
		if info, err := os.Stat(t.Path); err == nil && info.Mode()&fs.ModeSocket != 0 {
			targets = append(targets, t)
		}
	}
	return targets
}

// Dir are the sockets of an instance, whether they are there or not.
func Dir(dir string, id envelope.Identity) []Target {
	return []Target{{filepath.Join(dir, Stdout), id, envelope.Out}, {filepath.Join(dir, Stderr), id, envelope.Err}}
}

// Options are what New can be told. The zero value is useful.
type Options struct {
	// Poll is how often it is asked which sockets there are, and how long after
	// its end or a failure one is dialled again. Default 1 s.
	Poll time.Duration
	// MaxSockets bounds those that are read at once; each takes a buffer of 16
	// KiB, and one line. Default 2,048.
	MaxSockets int
	// MaxLine is the longest text of one record, see emitter.Options.
	MaxLine int
	// DrainTime is how long what has been written already is read at the end.
	// Default 200 ms.
	DrainTime time.Duration
	// Logger hears of sockets that cannot be read, each once. Nil discards.
	Logger *slog.Logger
}

// Stats are what a Reader has counted since it was made.
type Stats struct {
	Sockets  int    // there
	Open     int    // being read
	Skipped  int    // there, and beyond MaxSockets
	Connects uint64 // connections made
	Failures uint64 // that could not be made, or broke
	Bytes    uint64 // read
}

// Reader reads all sockets that there are. It dials them: whoever runs the
// instances listens.
//
// A line goes on at once and nothing waits for a server, because the instance
// would wait then. Lines that are written while nobody reads, as between two
// runs of this process, wait in the socket, if at all.
type Reader struct {
	find func() ([]Target, error)
	w    envelope.Writer
	opts Options

	connects, failures, bytes atomic.Uint64
	open                      atomic.Int64

	streams sync.WaitGroup // also those that are no longer running, and come to their end
	mu      sync.Mutex
	running map[string]*stream
	skipped int
}

// stream is one socket being read.
type stream struct {
	target Target
	cancel context.CancelFunc
}

const bufferSize = 16 << 10

// New makes a Reader of what find finds. It starts nothing. If find fails, the
// sockets stay those that it found last.
func New(find func() ([]Target, error), w envelope.Writer, o *Options) *Reader {
	var c Options
	if o != nil {
		c = *o
	}
	c.Poll = cmp.Or(max(c.Poll, 0), time.Second)
	c.MaxSockets = cmp.Or(max(c.MaxSockets, 0), 2048)
	c.DrainTime = cmp.Or(max(c.DrainTime, 0), 200*time.Millisecond)
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reader{find: find, w: w, opts: c, running: make(map[string]*stream)}
}

// Run reads until ctx ends, and then what has been written already. It returns
// when its goroutines are gone, and may be called once.
func (r *Reader) Run(ctx context.Context) {
	tick := time.NewTicker(r.opts.Poll)
	defer tick.Stop()
	said := ""
	for {
		targets, err := r.find()
		switch {
		case err == nil:
			said = ""
			r.update(ctx, targets)
		case err.Error() != said:
			said = err.Error()
			r.opts.Logger.Warn("which sockets there are cannot be told; going on with those known", "error", said)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.mu.Lock()
			r.running = make(map[string]*stream)
			r.mu.Unlock()
			r.streams.Wait() // their contexts end with ctx
			return
		}
	}
}

// update starts reading sockets that are new, and leaves those that are gone to
// their end.
func (r *Reader) update(ctx context.Context, targets []Target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	there := make(map[string]bool, len(targets))
	r.skipped = 0
	for _, t := range targets {
		if there[t.Path] {
			continue
		}
		there[t.Path] = true
		if r.running[t.Path] != nil {
			continue
		}
		if len(r.running) >= r.opts.MaxSockets {
			r.skipped++
			continue
		}
		s := &stream{target: t}
		var streaming context.Context
		streaming, s.cancel = context.WithCancel(ctx)
		r.running[t.Path] = s
		r.streams.Go(func() { r.stream(streaming, s) })
	}
	for path, s := range r.running {
		if !there[path] {
			s.cancel()
			delete(r.running, path)
		}
	}
}

// stream reads one socket, connection after connection, until ctx ends.
func (r *Reader) stream(ctx context.Context, s *stream) {
	defer s.cancel()
	dialer := net.Dialer{Timeout: 10 * time.Second}
	var o *emitter.Options
	if r.opts.MaxLine > 0 {
		o = &emitter.Options{MaxLine: r.opts.MaxLine}
	}
	lines := emitter.New(r.w, s.target.Identity, o)
	defer lines.Close()
	said := false
	for ctx.Err() == nil {
		conn, err := dialer.DialContext(ctx, "unix", s.target.Path)
		if err == nil {
			said = false
			r.connects.Add(1)
			err = r.copy(ctx, lines.Writer(s.target.Type), conn)
		}
		if err != nil && ctx.Err() == nil {
			r.failures.Add(1)
			if !said {
				said = true
				r.opts.Logger.Warn("a socket cannot be read; trying again", "path", s.target.Path, "error", err.Error())
			}
		}
		t := time.NewTimer(r.opts.Poll)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
	}
}

// copy reads one connection to its end. When ctx ends it reads what is there.
func (r *Reader) copy(ctx context.Context, to io.WriteCloser, conn net.Conn) error {
	r.open.Add(1)
	defer r.open.Add(-1)
	defer to.Close()
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.SetReadDeadline(time.Now().Add(r.opts.DrainTime)) })
	defer stop()
	buf := make([]byte, bufferSize)
	for {
		n, err := conn.Read(buf)
		if n > 0 {
			r.bytes.Add(uint64(n))
			to.Write(buf[:n])
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// Stats may be called at any time.
func (r *Reader) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	return Stats{
		Sockets: len(r.running) + r.skipped, Open: int(r.open.Load()), Skipped: r.skipped,
		Connects: r.connects.Load(), Failures: r.failures.Load(), Bytes: r.bytes.Load(),
	}
}
