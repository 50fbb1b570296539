package transport

import (
	"encoding/binary"
	"iter"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Wake implements envelope.Waker: f is called when any server has something to
// read, and when a server comes or goes. It costs a server as much as a reader
// that sleeps there.
func (r *Reader) Wake(q envelope.Query, f func()) (stop func()) { return r.wake(r.remotes, q, f) }

func (r *Reader) wake(remotes []*remote, q envelope.Query, f func()) (stop func()) {
	w := &sleeper{r: r, q: q, f: f, streams: make([]*stream, 0, len(remotes))}
	w.q.Where = nil
	w.changed = w.woken
	r.watch(&w.watcher)
	for _, m := range remotes {
		if s := m.now(); s != nil {
			w.streams = append(w.streams, s.begin(modeWake, &w.q, w.woken))
		}
	}
	w.q = envelope.Query{}
	if r.ctx.Err() != nil {
		f()
	}
	return w.stop
}

type sleeper struct {
	watcher
	r       *Reader
	q       envelope.Query
	f       func()
	streams []*stream

	mu      sync.Mutex
	stopped bool
}

func (w *sleeper) woken() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.stopped {
		w.f()
	}
}

func (w *sleeper) stop() {
	w.mu.Lock()
	stopped := w.stopped
	w.stopped = true
	w.mu.Unlock()
	if stopped {
		return
	}
	w.r.unwatch(&w.watcher)
	for _, st := range w.streams {
		st.cancel()
	}
}

// Known reports whether there is a source on any server that any of the selectors
// describes. If none is known and not all servers could be asked, it is true: that
// nobody knows it cannot be said. It waits up to ReaderOptions.AskTimeout.
func (r *Reader) Known(sel []envelope.Selector) bool {
	wake := make(chan struct{}, 1)
	deadline := time.NewTimer(r.opts.AskTimeout)
	defer deadline.Stop()
	unsure := false
	var asked []*stream
	for _, m := range r.remotes {
		select {
		case <-m.tried:
		case <-deadline.C:
			return true
		case <-r.ctx.Done():
			return false
		}
		s := m.now()
		if s == nil {
			unsure = true
			continue
		}
		st := s.begin(modeKnown, &envelope.Query{Select: sel}, func() { signal(wake) })
		defer st.cancel()
		asked = append(asked, st)
	}
	for {
		waiting := false
		for _, st := range asked {
			st.mu.Lock()
			switch {
			case !st.ended:
				waiting = true
			case st.code == endDone && st.known:
				st.mu.Unlock()
				return true
			case st.code != endDone:
				unsure = true
			}
			st.mu.Unlock()
		}
		if !waiting {
			return unsure
		}
		select {
		case <-wake:
		case <-deadline.C:
			return true
		case <-r.ctx.Done():
			return false
		}
	}
}

// Sources yields what is known of each source on any server that any of the
// selectors describes. One that several servers hold is described once: its figures
// are added up, and its Ring is that of the newest record. Servers that are away,
// or do not answer within ReaderOptions.AskTimeout each time, are left out.
func (r *Reader) Sources(sel []envelope.Selector) iter.Seq[envelope.SourceInfo] {
	return func(yield func(envelope.SourceInfo) bool) {
		if len(r.remotes) == 1 {
			r.sources(r.remotes[0], sel, yield)
			return
		}
		all := make(map[string]envelope.SourceInfo)
		for _, m := range r.remotes {
			r.sources(m, sel, func(s envelope.SourceInfo) bool {
				if was, ok := all[s.SourceID]; ok {
					s = joined(was, s)
				}
				all[s.SourceID] = s
				return true
			})
		}
		for _, s := range all {
			if !yield(s) {
				return
			}
		}
	}
}

// joined is what is known of a source that two servers hold.
func joined(a, b envelope.SourceInfo) envelope.SourceInfo {
	if a.Newest > b.Newest {
		a, b = b, a
	}
	b.Held += a.Held
	b.Gone += a.Gone
	b.Bytes += a.Bytes
	if a.Oldest != 0 && (b.Oldest == 0 || a.Oldest < b.Oldest) {
		b.Oldest = a.Oldest
	}
	return b
}

// sources asks one server.
func (r *Reader) sources(m *remote, sel []envelope.Selector, yield func(envelope.SourceInfo) bool) {
	wake := make(chan struct{}, 1)
	deadline := time.NewTimer(r.opts.AskTimeout)
	defer deadline.Stop()
	select {
	case <-m.tried:
	case <-deadline.C:
		return
	case <-r.ctx.Done():
		return
	}
	s := m.now()
	if s == nil {
		return
	}
	st := s.begin(modeSources, &envelope.Query{Select: sel}, func() { signal(wake) })
	defer st.cancel()
	for {
		_, ended, _, _ := st.state()
		if buf, size := st.take(); buf != nil {
			if !eachSource(*buf, yield) {
				return
			}
			st.grant(size)
			freeBuffer(buf)
			deadline.Reset(r.opts.AskTimeout)
			continue
		}
		if ended {
			return
		}
		select {
		case <-wake:
		case <-deadline.C:
			return
		case <-r.ctx.Done():
			return
		}
	}
}

// eachSource yields what the bodies of a buffer describe. It is false if the loop
// was left, or what is there describes nothing.
func eachSource(buf []byte, yield func(envelope.SourceInfo) bool) bool {
	for len(buf) > 0 {
		n, m := binary.Uvarint(buf)
		body := buf[m : m+int(n)]
		buf = buf[m+int(n):]
		for len(body) > 0 {
			n, m := binary.Uvarint(body)
			if m <= 0 || n > uint64(len(body)-m) {
				return false
			}
			info, err := envelope.ParseSourceInfo(body[m : m+int(n)])
			if err != nil || !yield(info) {
				return false
			}
			body = body[m+int(n):]
		}
	}
	return true
}
