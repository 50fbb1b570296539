package transport

import (
	"context"
	"hash/maphash"
	"sync"
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

// rates bounds the bytes of each source.
type rates struct {
	mu      sync.Mutex
	buckets map[string]*bucket
	swept   time.Time // when those of silent sources were last looked for
}

// bucket is what one source may still bring.
type bucket struct {
	bytes  float64
	at     time.Time
	missed map[envelope.StreamID]uint64 // not taken and not told, by the ring that they were read from
}

// maxBuckets bounds the sources that are told apart; further ones share a
// bucket, until others have been silent for long enough.
const maxBuckets = 10_000

// maxMissed bounds the rings of one source that are told apart. What is not
// told of others is found by the numbers.
const maxMissed = 256

// hand gives a batch to the Writer, as far as its sources are within their rate.
func (s *Server) hand(ctx context.Context, b envelope.Batch) error {
	if s.opts.SourceRate == 0 {
		return s.w.WriteBatch(ctx, b)
	}
	if b.Stream != 0 {
		return s.handOne(ctx, b)
	}
	// Records without numbers may be of several sources.
	for len(b.Records) > 0 {
		part := b
		part.Count = 0
		var id []byte
		rest := b.Records
		for len(rest) > 0 {
			e, tail, err := envelope.Next(rest)
			if err != nil {
				return s.w.WriteBatch(ctx, b) // it counts that
			}
			if next := sourceOf(e); part.Count == 0 {
				id = next
			} else if string(next) != string(id) {
				break
			}
			rest = tail
			part.Count++
		}
		part.Records = b.Records[:len(b.Records)-len(rest)]
		if err := s.handOne(ctx, part); err != nil {
			return err
		}
		b.Records, b.Count, b.Missed = rest, b.Count-part.Count, 0
	}
	return nil
}

// sourceOf is the source id of e, or nil.
func sourceOf(e envelope.Envelope) []byte {
	if id := e.PeekSourceID(); id != nil {
		return id
	}
	r, _ := e.Route()
	return r.SourceID
}

// handOne gives a batch of one source to the Writer, or drops it. A batch goes as
// a whole, as long as its source has any bytes left.
func (s *Server) handOne(ctx context.Context, b envelope.Batch) error {
	e, _, err := envelope.Next(b.Records)
	if err != nil {
		return s.w.WriteBatch(ctx, b)
	}
	untold, ok := s.rates.take(sourceOf(e), &b, float64(s.opts.SourceRate), float64(s.opts.SourceBurst))
	if !ok {
		s.limited.Add(uint64(b.Count))
		return nil
	}
	if untold > 0 {
		b.Missed += untold
		b.Reason = envelope.ReasonRate
	}
	if err := s.w.WriteBatch(ctx, b); err != nil {
		s.rates.untold(sourceOf(e), b.Ring, untold) // it comes again
		return err
	}
	return nil
}

// take takes b's bytes from its source's. It returns how many records were
// dropped before it.
func (r *rates) take(id []byte, b *envelope.Batch, rate, burst float64) (untold uint64, ok bool) {
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	u := r.bucket(id, now, rate, burst)
	u.bytes = min(burst, u.bytes+now.Sub(u.at).Seconds()*rate)
	u.at = now
	untold = u.missed[b.Ring]
	if u.bytes <= 0 {
		if u.missed == nil {
			u.missed = make(map[envelope.StreamID]uint64)
		}
		if untold > 0 || len(u.missed) < maxMissed {
			u.missed[b.Ring] = untold + uint64(b.Count) + b.Missed
		}
		return 0, false
	}
	u.bytes -= float64(len(b.Records))
	delete(u.missed, b.Ring)
	return untold, true
}

func (r *rates) untold(id []byte, ring envelope.StreamID, n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.buckets[string(id)]; u != nil && n > 0 {
		if u.missed == nil {
			u.missed = make(map[envelope.StreamID]uint64)
		}
		u.missed[ring] += n
	}
}

// bucket is that of a source; a new one is full. The lock is held.
func (r *rates) bucket(id []byte, now time.Time, rate, burst float64) *bucket {
	if u := r.buckets[string(id)]; u != nil {
		return u
	}
	if len(r.buckets) >= maxBuckets && now.Sub(r.swept) >= time.Second {
		r.swept = now
		for id, u := range r.buckets {
			if len(u.missed) == 0 && u.bytes+now.Sub(u.at).Seconds()*rate >= burst {
				delete(r.buckets, id)
			}
		}
	}
	if len(r.buckets) >= maxBuckets {
		if id = nil; r.buckets[""] != nil {
			return r.buckets[""]
		}
	}
	if r.buckets == nil {
		r.buckets = make(map[string]*bucket)
	}
	u := &bucket{bytes: burst, at: now}
	r.buckets[string(id)] = u
	return u
}
