package transport

import (
	"bytes"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// maxBuckets bounds the sources that are told apart; further ones share a
	// bucket, until others have been silent for long enough.
	maxBuckets = 10_000
	// maxRefusals bounds the rings of one source that are told apart. What is not
	// told of others is found by the numbers.
	maxRefusals = 256
	// tellAfter is how long a source that says no more waits to be told what was
	// not taken. For that the newest record is kept, if it and all others kept are
	// no more bytes than these.
	tellAfter   = time.Second
	maxKept     = 8 << 10
	maxKeptEver = 16 << 20
)

// rates bounds the bytes of each source, see ServerOptions.SourceRate.
type rates struct {
	telling sync.WaitGroup // timers

	mu      sync.Mutex
	buckets map[string]*bucket
	swept   time.Time // when those of silent sources were last looked for
	kept    int       // bytes of records
}

// bucket is what one source may still bring. Its lock is held while a batch is
// handed on, so that what is told comes in its place.
type bucket struct {
	shared bool // by sources that are too many

	mu      sync.Mutex
	bytes   float64
	at      time.Time
	refused map[envelope.StreamID]*refusal // by the ring that the records were read from
}

// refusal is what was not taken of one ring, and not yet told.
type refusal struct {
	records uint64
	newest  envelope.Batch // the last one of them; it is handed on if nothing else comes. Empty: it is too long
	timer   *time.Timer
}

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
	rate, burst := float64(s.opts.SourceRate), float64(s.opts.SourceBurst)
	u := s.rates.bucket(sourceOf(e), rate, burst)
	u.mu.Lock()
	defer u.mu.Unlock()
	now := time.Now()
	u.bytes = min(burst, u.bytes+now.Sub(u.at).Seconds()*rate)
	u.at = now
	if u.bytes <= 0 {
		s.limited.Add(uint64(b.Count))
		s.refuse(u, &b)
		return nil
	}
	f := u.refused[b.Ring]
	if f != nil {
		b.Missed += f.records
		b.Reason = envelope.ReasonRate
	}
	if err := s.w.WriteBatch(ctx, b); err != nil {
		return err // it comes again
	}
	u.bytes -= float64(len(b.Records))
	if f != nil {
		s.told(u, b.Ring, f)
	}
	return nil
}

// refuse notes what is not taken, to be told with what is taken next, or after a
// while. The bucket's lock is held.
func (s *Server) refuse(u *bucket, b *envelope.Batch) {
	f, ring := u.refused[b.Ring], b.Ring
	if f == nil {
		if len(u.refused) >= maxRefusals || u.shared && ring == 0 { // whose it was cannot be told
			return
		}
		if u.refused == nil {
			u.refused = make(map[envelope.StreamID]*refusal)
		}
		f = &refusal{}
		u.refused[ring] = f
		s.rates.telling.Add(1)
		f.timer = time.AfterFunc(tellAfter, func() {
			defer s.rates.telling.Done()
			s.tell(u, ring, f)
		})
	}
	f.records += uint64(b.Count) + b.Missed
	var last []byte
	for rest := b.Records; len(rest) > 0; {
		_, tail, err := envelope.Next(rest)
		if err != nil {
			break
		}
		last, rest = rest[:len(rest)-len(tail)], tail
	}
	was := len(f.newest.Records)
	f.newest = envelope.Batch{}
	if size := len(last); size <= maxKept && s.rates.keep(size-was) {
		f.newest = envelope.Batch{Records: bytes.Clone(last), Count: 1, Stream: b.Stream, Ring: b.Ring, Position: b.Position}
		if b.Stream != 0 {
			f.newest.First, f.newest.Next = b.First+uint64(b.Count)-1, b.Next
		}
	} else {
		s.rates.keep(-was)
	}
}

// tell hands on the newest record that was not taken, with how many went before
// it. What cannot be told so is told with the next one that is taken.
func (s *Server) tell(u *bucket, ring envelope.StreamID, f *refusal) {
	u.mu.Lock()
	defer u.mu.Unlock()
	b := f.newest
	if u.refused[ring] != f || b.Count == 0 {
		return
	}
	b.Missed, b.Reason = f.records-1, envelope.ReasonRate
	if s.w.WriteBatch(s.ctx, b) == nil {
		u.bytes -= float64(len(b.Records))
		s.limited.Add(^uint64(0))
		s.told(u, ring, f)
	}
}

// told is called when a refusal has been told. The bucket's lock is held.
func (s *Server) told(u *bucket, ring envelope.StreamID, f *refusal) {
	if f.timer.Stop() {
		s.rates.telling.Done()
	}
	s.rates.keep(-len(f.newest.Records))
	delete(u.refused, ring)
}

// tellAll tells at the end what has not been told.
func (s *Server) tellAll() {
	s.rates.mu.Lock()
	buckets := slices.Collect(maps.Values(s.rates.buckets))
	s.rates.mu.Unlock()
	var now []func()
	for _, u := range buckets {
		u.mu.Lock()
		for ring, f := range u.refused {
			if f.timer.Stop() {
				now = append(now, func() {
					defer s.rates.telling.Done()
					s.tell(u, ring, f)
				})
			}
		}
		u.mu.Unlock()
	}
	for _, tell := range now {
		tell()
	}
	s.rates.telling.Wait()
}

// keep takes so many more bytes for records, if there are as many.
func (r *rates) keep(size int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if size > 0 && r.kept+size > maxKeptEver {
		return false
	}
	r.kept += size
	return true
}

// bucket is that of a source; a new one is full.
func (r *rates) bucket(id []byte, rate, burst float64) *bucket {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u := r.buckets[string(id)]; u != nil {
		return u
	}
	now := time.Now()
	if len(r.buckets) >= maxBuckets && now.Sub(r.swept) >= time.Second {
		r.swept = now
		for id, u := range r.buckets {
			if !u.mu.TryLock() {
				continue
			}
			if len(u.refused) == 0 && u.bytes+now.Sub(u.at).Seconds()*rate >= burst {
				delete(r.buckets, id)
			}
			u.mu.Unlock()
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
	u := &bucket{shared: id == nil, bytes: burst, at: now}
	r.buckets[string(id)] = u
	return u
}
