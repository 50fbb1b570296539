package transport

import (
	"hash/maphash"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// newcomers bounds how many new sources one connection, or one socket, brings in
// a second. It is for one goroutine.
type newcomers struct {
	rate   float64 // a second; 0: no bound
	tokens float64
	at     time.Time
	last   uint64
	stream envelope.StreamID // of the last batch that was let in
	seen   aged[bool]        // hashes of the sources that it brought last
	known  func(id string) bool
}

// maxSeen bounds each half of the sources that are remembered.
const maxSeen = 8 << 10

// newBurst is how many seconds' worth of new sources may come at once: an agent
// that connects brings all it has.
const newBurst = 10

var sourceSeed = maphash.MakeSeed()

func (s *Server) newcomers() *newcomers {
	n := &newcomers{at: time.Now(), seen: aged[bool]{half: maxSeen}}
	// A router knows more sources than are worth remembering here.
	if w, ok := s.w.(interface {
		Known([]envelope.Selector) bool
	}); ok {
		n.known = func(id string) bool { return w.Known([]envelope.Selector{{SourceID: id}}) }
	}
	if s.opts.NewSources > 0 {
		n.rate = float64(s.opts.NewSources)
		n.tokens = n.rate * newBurst
	}
	return n
}

// admit reports whether the sources of b are known, or few enough to be let in.
func (n *newcomers) admit(b *envelope.Batch) bool { return n.wait(b) == 0 }

// wait lets in the sources of b, and returns how long to wait before b may be
// handed on. A numbered batch has one source. Records without a source id at
// their beginning are for the Writer to judge.
func (n *newcomers) wait(b *envelope.Batch) time.Duration {
	if n.rate == 0 || b.Stream != 0 && b.Stream == n.stream {
		return 0
	}
	for rest := b.Records; len(rest) > 0; {
		e, tail, err := envelope.Next(rest)
		if err != nil {
			break
		}
		if d := n.one(e.PeekSourceID()); d > 0 {
			return d
		}
		if b.Stream != 0 {
			n.stream = b.Stream
			break
		}
		rest = tail
	}
	return 0
}

func (n *newcomers) one(id []byte) time.Duration {
	if len(id) == 0 || len(id) > envelope.MaxSourceID {
		return 0
	}
	h := maphash.Bytes(sourceSeed, id) | 1
	if h == n.last || n.seen.get(envelope.StreamID(h)) {
		n.last = h
		return 0
	}
	if n.known != nil && n.known(string(id)) {
		n.remember(h)
		return 0
	}
	now := time.Now()
	n.tokens = min(n.rate*newBurst, n.tokens+now.Sub(n.at).Seconds()*n.rate)
	n.at = now
	if n.tokens < 1 {
		return time.Duration((1 - n.tokens) / n.rate * float64(time.Second))
	}
	n.tokens--
	n.remember(h)
	return 0
}

func (n *newcomers) remember(h uint64) {
	n.last = h
	n.seen.set(envelope.StreamID(h), true)
}
