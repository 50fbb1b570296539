package ringbuf

import (
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/clock"
)

// Defaults and bounds of Options.
const (
	DefaultBudget = 256 << 20
	DefaultMaxAge = time.Hour
	MinBudget     = 1 << 20
	MaxKey        = 16 << 10
)

// Options configure a Store. The zero value is useful.
type Options struct {
	// Budget in bytes for everything the Store holds, its own bookkeeping
	// included: DefaultBudget if zero. It is about resident memory, which exceeds it
	// by a few percent at most, and is asked of the system as it fills.
	Budget int64

	// MaxAge after which a record may go: DefaultMaxAge if zero. See Trim.
	MaxAge time.Duration

	// Dir, if not empty, is a directory for the rings: they are in files there that
	// are mapped into memory, so that they outlive the process. It is made if it
	// does not exist. One process at a time can use it. See the package comment.
	Dir string
}

// What is charged to the budget, in bytes, so that a flood of tiny sources runs
// into it like any other flood. Blocks are memory of our own. The rest is Go's,
// which counts twice: the collector lets garbage grow to as much as there is live
// memory (GOGC=100). TestResidency measures that it is enough.
const (
	blockCost  = blockSize + int64(metaSize) + 12 // with its place in the ring
	ringCost   = 2200                             // Ring, its first slices, and what a router keeps for a source
	runCost    = 250
	originCost = 128
)

// ErrClosed is what a closed Store answers.
var ErrClosed = errors.New("ringbuf: closed")

// Store is memory for many rings under one hard budget. When it is spent, the
// ring that holds the most gives up its oldest block: a flood eats its own past,
// and a quiet source keeps its hour.
//
// Its methods and those of its rings may be called by any number of goroutines.
// One mutex guards all bookkeeping: a batch takes it once to be appended, a read
// twice for a moment, and the copying out is done outside of it. A lock per ring
// would need a second one for the budget, taken in turn by rings that evict each
// other; measured, the one lock is held for 4 µs per batch of 100 records of
// 480 bytes, almost all of it the copy itself.
type Store struct {
	mu     mutex
	arena  arena
	clock  clock.Clock
	latest int64 // what it was last taken to say
	budget int64
	maxAge int64
	used   int64 // bytes charged: blocks, rings, runs, origins
	inUse  int   // blocks charged

	ringsUsed int64 // what of used is for rings themselves

	dir       *dir // nil: memory only
	recovered Recovery
	scratch   [64]byte
	reading   int // reads that are copying
	life      uint64
	made      uint64  // rings made in this life
	rings     []*Ring // by index; nil where removed
	spare     []uint32
	sizes     sizes
	closed    bool

	evicted uint64 // records given up for the budget
	expired uint64 // records given up for their age
	held    uint64
	bytes   int64

	released uint64 // records given up by Ring.Release
}

// New makes a Store, empty or with what its directory holds. It fails if an option
// is out of bounds, or the directory cannot be used, and says what to do.
func New(o *Options) (*Store, error) {
	if o == nil {
		o = &Options{}
	}
	s := &Store{mu: newMutex(), budget: o.Budget, maxAge: int64(o.MaxAge)}
	if s.budget == 0 {
		s.budget = DefaultBudget
	}
	if s.maxAge == 0 {
		s.maxAge = int64(DefaultMaxAge)
	}
	if s.budget < MinBudget {
		return nil, fmt.Errorf("ringbuf: budget of %d bytes is below the least possible, %d", s.budget, MinBudget)
	}
	if s.maxAge < 0 {
		return nil, fmt.Errorf("ringbuf: negative maximum age %v", o.MaxAge)
	}
	s.arena = arena{bits: chunkBitsFor(s.budget), oldest: none, newest: none}
	s.newLife()
	if o.Dir != "" {
		if err := s.open(o.Dir); err != nil {
			return nil, err
		}
	} else {
		s.arena.region.reserve(s.budget, chunkSize(s.arena.bits))
	}
	return s, nil
}

// newLife draws the upper 40 bits of the ids of rings; the lower 24 count them.
func (s *Store) newLife() {
	s.life, s.made = 0, 0
	for s.life == 0 {
		s.life = rand.Uint64() &^ (1<<24 - 1)
	}
	s.saveLife()
}

// newID is the id of one more ring.
func (s *Store) newID() envelope.StreamID {
	if s.made == 1<<24-1 {
		s.newLife()
	}
	s.made++
	return envelope.StreamID(s.life | s.made)
}

// Owns reports whether id is that of a ring made by this Store, removed or not.
func (s *Store) Owns(id envelope.StreamID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return uint64(id)&^(1<<24-1) == s.life && uint64(id)&(1<<24-1) <= s.made
}

// Mark is a place between the rings made before and after: NewerThan tells them
// apart. It looks like an id and a position, so that a cursor can hold it, and
// the id is that of no ring.
func (s *Store) Mark() (id envelope.StreamID, position uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return envelope.StreamID(s.life), s.made
}

// NewerThan reports whether r was made after the Mark of the given position.
func (r *Ring) NewerThan(position uint64) bool { return uint64(r.id)&(1<<24-1) > position }

// MaxRecord is the size in bytes of the largest record, framing included, that
// this Store takes: envelope.MaxSize, or a quarter of a small budget.
func (s *Store) MaxRecord() int {
	return int(min(envelope.MaxSize+8, s.budget/4))
}

// NewRing adds an empty ring. The key is by what its owner knows it again after
// the Store was opened anew, if it has a directory: at most MaxKey bytes. The
// owner is whatever its maker wants to be told by Empty. It fails with ErrClosed,
// and if the key is too long.
func (s *Store) NewRing(key string, owner any) (*Ring, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	if len(key) > MaxKey {
		return nil, fmt.Errorf("ringbuf: key of %d bytes is longer than %d", len(key), MaxKey)
	}
	r := &Ring{s: s, key: key, owner: owner, id: s.newID(), first: 1, next: 1, local: 1, base: blockSize, end: blockSize}
	r.salt = uint64(r.id)
	s.add(r)
	s.save(r.appendEntry)
	s.shrink()
	return r, nil
}

// add gives a ring its place.
func (s *Store) add(r *Ring) {
	if n := len(s.spare); n > 0 {
		r.index = s.spare[n-1]
		s.spare = s.spare[:n-1]
	} else {
		r.index = uint32(len(s.rings))
		s.rings = append(s.rings, nil)
	}
	s.enter(r)
}

// enter charges for a ring that has its index.
func (s *Store) enter(r *Ring) {
	s.rings[r.index] = r
	s.used += ringCost
	s.ringsUsed += ringCost
	s.sizes.put(r)
}

// Rings yields the rings there are. New ones may be made meanwhile, and are then
// yielded or not.
func (s *Store) Rings() iter.Seq[*Ring] {
	return func(yield func(*Ring) bool) {
		for i := 0; ; i++ {
			s.mu.Lock()
			if i >= len(s.rings) {
				s.mu.Unlock()
				return
			}
			r := s.rings[i]
			s.mu.Unlock()
			if r != nil && !yield(r) {
				return
			}
		}
	}
}

// Full reports whether rings themselves, empty or not, take two thirds of the
// budget: then an empty one should go before another is made.
func (s *Store) Full() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ringsUsed > s.budget/3*2
}

// Empty returns the owner of the ring that has been empty for longest. If none
// is, the oldest blocks of all are given up until one is: that of the source that
// has been silent for longest. Nil means that there is no ring.
func (s *Store) Empty() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.sizes.lists[0].head == nil && s.arena.oldest != none {
		s.evicted += s.dropHead(s.rings[s.arena.meta(s.arena.oldest).ring])
	}
	if r := s.sizes.lists[0].head; r != nil {
		return r.owner
	}
	return nil
}

// Trim gives up what is older than the maximum age. It looks only at what it
// gives up. A block goes when the last record in it is too old, so the last block
// of a source that says little, up to 2 KiB, stays as long as the source speaks
// once within that age.
func (s *Store) Trim(now time.Time) {
	cutoff := now.UnixNano() - s.maxAge
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.arena.oldest != none && !s.closed {
		m := s.arena.meta(s.arena.oldest)
		if m.time >= cutoff {
			return
		}
		// The oldest block of all is the oldest of its ring.
		s.expired += s.dropHead(s.rings[m.ring])
	}
}

// evict makes the largest ring give up its oldest block. It reports false if no
// ring holds one.
func (s *Store) evict() bool {
	r := s.sizes.largest()
	if r == nil || r.blocks.len() == 0 {
		return false
	}
	s.evicted += s.dropHead(r)
	return true
}

// dropHead gives up the oldest block of r, and those after it in which no record
// starts, and returns how many records went.
func (s *Store) dropHead(r *Ring) uint64 {
	if s.dir != nil {
		s.saveNumbers(r, r.afterHead())
	}
	was, wasBytes := r.first, r.stored()
	for {
		id := r.blocks.pop()
		r.base += blockSize
		s.release(id)
		if r.blocks.len() == 0 {
			r.first, r.end = r.next, r.base
			break
		}
		if m := s.arena.meta(r.blocks.at(0)); m.offset != noStart {
			r.first = m.number
			break
		}
	}
	r.dropRuns()
	s.sizes.move(r)
	gone := r.first - was
	s.held -= gone
	s.bytes -= wasBytes - r.stored()
	return gone
}

func (s *Store) release(id uint32) {
	s.arena.unlink(id)
	m := s.arena.meta(id)
	atomic.StoreUint64(&m.state, 0)
	m.ring = none
	if m.pins > 0 {
		return // the last reader frees it
	}
	s.free(id)
}

func (s *Store) free(id uint32) {
	s.arena.put(id)
	s.used -= blockCost
	s.inUse--
}

// reserve makes sure that n blocks can be taken, at the expense of the largest
// rings.
func (s *Store) reserve(n int) bool {
	for s.used+int64(n)*blockCost > s.budget {
		if !s.evict() {
			return false
		}
	}
	s.giveBack(n)
	for s.arena.free < n {
		if s.arena.grow() != nil && !s.evict() {
			return false
		}
	}
	return true
}

// take hands a reserved block to r. The first record that may start in it has
// the given position.
func (s *Store) take(r *Ring, now int64, position uint64) {
	id := s.arena.get()
	s.used += blockCost
	s.inUse++
	s.touch(r, now)
	seq := uint32(r.base>>blockBits) + uint32(r.blocks.len())
	*s.arena.meta(id) = blockMeta{number: position, time: now, seq: seq, ring: r.index, offset: noStart}
	s.arena.link(id)
	r.blocks.push(id)
	s.sizes.move(r)
}

// time is now, looked up unless the caller has just done so. Then it may be a
// moment ago, but not before what was appended last: the times of a ring's
// blocks are in order.
func (s *Store) time(given int64) int64 {
	if given != 0 {
		s.latest = max(s.latest, given)
	} else {
		s.latest = s.clock.Now()
	}
	return s.latest
}

// touch keeps the list by age in the order of last appends, after one to r.
func (s *Store) touch(r *Ring, now int64) {
	n := r.blocks.len()
	if n == 0 {
		return
	}
	if last := r.blocks.at(n - 1); last != s.arena.newest && s.arena.meta(last).time == now {
		s.arena.unlink(last)
		s.arena.link(last)
	}
}

// Stats are a Store's figures at one moment.
type Stats struct {
	Budget  int64  // bytes
	Used    int64  // bytes of the budget that are taken, bookkeeping included
	Bytes   int64  // bytes of the records held
	Records uint64 // held
	Rings   int
	Evicted uint64 // records given up for the budget, ever
	Expired uint64 // records given up for their age, ever

	Released uint64 // records given up by Ring.Release, ever

	Recovered uint64 // records that were there when the Store was opened
	Failed    uint64 // writes to the directory that failed
}

// Stats returns the figures.
func (s *Store) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Stats{
		Budget: s.budget, Used: s.used, Bytes: s.bytes, Records: s.held,
		Rings: len(s.rings) - len(s.spare), Evicted: s.evicted, Expired: s.expired, Released: s.released,
		Recovered: s.recovered.Records,
	}
	if s.dir != nil {
		st.Failed = s.dir.failed
	}
	return st
}

// Close gives all memory back, as soon as reads under way have ended. Rings take
// nothing from then on. What is in a directory stays there, and is on the disk
// when Close returns; without one, everything is given up.
func (s *Store) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	var err error
	if s.dir != nil {
		s.rewrite()
		err = s.dir.close(true)
		for _, r := range s.rings {
			if r != nil {
				r.blocks = blocks{}
			}
		}
	} else {
		for _, r := range s.rings {
			for r != nil && r.blocks.len() > 0 {
				s.evicted += s.dropHead(r)
			}
		}
	}
	if s.reading == 0 {
		s.arena.close() // otherwise the last reader does
	}
	return err
}
