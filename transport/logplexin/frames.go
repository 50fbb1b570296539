package logplexin

import "sync"

// maxFrameID bounds the ids that are remembered, in bytes. Logplex's have 32.
const maxFrameID = 128

// frames remembers the last so many frames, so that what a sender sends again is
// not taken twice.
type frames struct {
	mu    sync.Mutex
	by    map[frameKey]*frame
	order []*frame // ring, oldest at next
	next  int
}

type frameKey struct{ sender, id string }

// frame is one of them. Its fields are the goroutine's that began it, until it
// has ended it.
type frame struct {
	key   frameKey
	busy  bool // being taken
	seen  bool // taken before
	count int  // messages that were
}

func newFrames(n int) *frames {
	return &frames{by: make(map[frameKey]*frame), order: make([]*frame, n)}
}

// begin says what is known of a frame, as a copy: busy means that another
// request has it; otherwise it is the caller's until end. Without an id nothing
// is known.
func (f *frames) begin(sender, id string) frame {
	if id == "" || len(id)+len(sender) > 2*maxFrameID {
		return frame{}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	key := frameKey{sender, id}
	known := f.by[key]
	if known == nil {
		known = &frame{key: key}
		f.by[key] = known
		if old := f.order[f.next]; old != nil {
			delete(f.by, old.key)
		}
		f.order[f.next] = known
		f.next = (f.next + 1) % len(f.order)
	}
	was := *known
	known.busy = true
	return was
}

// end says what became of a frame: count messages of it are taken, if taken.
func (f *frames) end(was frame, count int, taken bool) {
	if was.key.id == "" {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.by[was.key]
	if known == nil {
		return // so many others have come meanwhile that it is forgotten
	}
	known.busy = false
	if taken {
		known.seen, known.count = true, max(known.count, count)
	}
}
