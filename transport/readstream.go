package transport

import (
	"encoding/binary"
	"sync"
)

// stream is one query on one connection, as its reader sees it: what has come and
// was not taken yet.
type stream struct {
	s      *readSession
	id     uint64
	notify func()
	window int64

	mu      sync.Mutex
	buf     *[]byte // bodies, each behind its length; nil: nothing has come
	size    int     // of the bodies in buf, without their lengths
	granted int64   // bytes of bodies that the server was allowed, ever
	came    int64   // that came, ever
	owed    int64   // that were taken, and not yet allowed anew
	caught  bool
	known   bool
	ended   bool // nothing comes after what is in buf
	code    byte // how it ended
	text    string
}

// streamBuffers are lent to streams while they have something.
var streamBuffers = sync.Pool{New: func() any { return new([]byte) }}

// keptBuffer is the capacity up to which a buffer is lent again.
const keptBuffer = 1 << 20

// put is called with what the server has sent, which it may only as long as it has
// credit.
func (st *stream) put(body []byte) error {
	st.mu.Lock()
	if st.came >= st.granted {
		st.mu.Unlock()
		return errFrame
	}
	st.came += int64(len(body))
	st.size += len(body)
	first := st.buf == nil
	if first {
		st.buf = streamBuffers.Get().(*[]byte)
		*st.buf = (*st.buf)[:0]
	}
	*st.buf = binary.AppendUvarint(*st.buf, uint64(len(body)))
	*st.buf = append(*st.buf, body...)
	st.mu.Unlock()
	if first {
		st.notify()
	}
	return nil
}

// tell notes something that whoever reads shall look at.
func (st *stream) tell(change func()) {
	st.mu.Lock()
	change()
	st.mu.Unlock()
	st.notify()
}

func (st *stream) finish(code byte, text string) {
	st.tell(func() {
		if !st.ended {
			st.ended, st.code, st.text = true, code, text
		}
	})
}

// take takes what has come, and how many bytes to grant for it; nil is nothing.
// It belongs to the caller, who gives it back with freeBuffer.
func (st *stream) take() (buf *[]byte, size int) {
	st.mu.Lock()
	defer st.mu.Unlock()
	buf, size = st.buf, st.size
	st.buf, st.size = nil, 0
	return buf, size
}

func freeBuffer(buf *[]byte) {
	if buf != nil && cap(*buf) <= keptBuffer {
		streamBuffers.Put(buf)
	}
}

// grant allows the server to send n bytes more, in place of those that were taken.
func (st *stream) grant(n int) {
	st.mu.Lock()
	st.owed += int64(n)
	more := st.owed
	if more < st.window/2 || st.ended {
		st.mu.Unlock()
		return
	}
	if st.buf == nil && st.s.m.r.reserve(st.window, st.window) { // it keeps up
		more += st.window
		st.window *= 2
	}
	st.owed = 0
	st.granted += more
	st.mu.Unlock()
	var body [binary.MaxVarintLen64]byte
	n = binary.PutUvarint(body[:], uint64(more))
	st.s.out.Append(appendFrame(nil, kindCredit, st.id, body[:n]...))
}

// drop forgets the stream: what still comes of it is thrown away.
func (st *stream) drop() {
	st.s.mu.Lock()
	delete(st.s.open, st.id)
	st.s.mu.Unlock()
	st.mu.Lock()
	defer st.mu.Unlock()
	freeBuffer(st.buf)
	st.buf = nil
	st.s.m.r.reserved.Add(-st.window)
	st.window = 0
}

// cancel ends the query, if it has not ended.
func (st *stream) cancel() {
	st.mu.Lock()
	over := st.ended
	st.ended = true
	st.mu.Unlock()
	st.drop()
	if !over {
		st.s.out.Append(appendFrame(nil, kindCancel, st.id))
	}
}

// state is what has been told of the stream. What came before the end is in front
// of it: ended is to be heeded when take gives nothing after it.
func (st *stream) state() (caught, ended bool, code byte, text string) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.caught, st.ended, st.code, st.text
}
