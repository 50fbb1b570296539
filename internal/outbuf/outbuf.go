// Package outbuf gathers many small writes into few large ones without holding
// any of them back.
//
// A log line must reach its reader at once when the stream is thin, and must not
// cost a system call when it is thick. A timer would trade one for the other.
// Here a write appends to a buffer, and a goroutine writes out what the buffer
// holds as long as it holds something: while it is busy with one buffer, the
// next fills. So the batches grow with the load by themselves. An idle Writer
// has neither buffer nor goroutine, which is what ten thousand quiet tails cost.
package outbuf

import (
	"errors"
	"sync"
)

var (
	// ErrClosed is the error of writes after Close.
	ErrClosed = errors.New("outbuf: closed")
	// ErrFull is the error of a TryAppend that would have to wait.
	ErrFull = errors.New("outbuf: full")
)

// size is the capacity of a pooled buffer, in bytes.
const size = 64 << 10

type buffer struct{ b []byte }

var pool = sync.Pool{New: func() any { return &buffer{make([]byte, 0, size)} }}

// Writer is such a buffer in front of a sink. Its methods may be called by
// several goroutines at once; what one call appends stays together.
//
// It holds at most twice 64 KiB: one buffer being filled, one being written. A
// single write that is larger than that is taken whole.
type Writer struct {
	sink func([]byte) error

	mu      sync.Mutex
	changed sync.Cond // a buffer was written, or the Writer failed
	filling *buffer   // nil or not empty
	writing bool      // the goroutine runs
	err     error     // the first failure; no write succeeds after it
	written uint64
}

// New returns a Writer to sink. Sink is called by one goroutine at a time, with
// memory that it may not keep; its first error ends the Writer.
func New(sink func([]byte) error) *Writer {
	w := &Writer{sink: sink}
	w.changed.L = &w.mu
	return w
}

// Append appends the parts, one after the other, as one piece. It blocks while
// the buffer is full, until the sink has taken some. The error is that of an
// earlier write: what was appended may not have been written when Append
// returns, see Flush.
func (w *Writer) Append(parts ...[]byte) error { return w.append(true, parts) }

// TryAppend is Append that returns ErrFull where Append would block.
func (w *Writer) TryAppend(parts ...[]byte) error { return w.append(false, parts) }

func (w *Writer) append(wait bool, parts [][]byte) error {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if n == 0 {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.err == nil && w.filling != nil && len(w.filling.b)+n > size {
		if !wait {
			return ErrFull
		}
		w.changed.Wait()
	}
	if w.err != nil {
		return w.err
	}
	if w.filling == nil {
		w.filling = pool.Get().(*buffer)
	}
	for _, p := range parts {
		w.filling.b = append(w.filling.b, p...)
	}
	if !w.writing {
		w.writing = true
		go w.write()
	}
	return nil
}

// Write is Append as an io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	if err := w.Append(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// write runs until there is nothing left to write.
func (w *Writer) write() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.filling != nil && w.err == nil {
		out := w.filling
		w.filling = nil
		w.changed.Broadcast()

		w.mu.Unlock()
		err := w.sink(out.b)
		n := len(out.b)
		put(out)
		w.mu.Lock()

		if err == nil {
			w.written += uint64(n)
		} else if w.err == nil {
			w.err = err
		}
	}
	if w.filling != nil {
		put(w.filling)
		w.filling = nil
	}
	w.writing = false
	w.changed.Broadcast()
}

func put(b *buffer) {
	if cap(b.b) > size {
		return // grown for one large record; the pool keeps none such
	}
	b.b = b.b[:0]
	pool.Put(b)
}

// Written counts the bytes that the sink has taken.
func (w *Writer) Written() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.written
}

// Flush blocks until all that was appended is written, or the Writer failed, and
// returns the failure.
func (w *Writer) Flush() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.writing {
		w.changed.Wait()
	}
	return w.err
}

// Fail lets all writes return err from now on and throws away what is not yet
// with the sink. A call of the sink that blocks is not ended by it.
func (w *Writer) Fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err == nil {
		w.err = err
	}
	w.changed.Broadcast()
}

// Close writes out what was appended and returns, when the goroutine has ended,
// the error of the sink if there was one. It can be called twice.
func (w *Writer) Close() error {
	err := w.Flush()
	w.Fail(ErrClosed)
	if errors.Is(err, ErrClosed) {
		return nil
	}
	return err
}
