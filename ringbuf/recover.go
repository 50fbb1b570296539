package ringbuf

import (
	"cmp"
	"fmt"
	"hash/crc32"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Recovery is what a Store found in its directory when it was opened.
type Recovery struct {
	Rings   int
	Records uint64

	// What was not as it had been written, because the machine went down or the
	// disk has changed it. It was cut out, and is lost.
	Blocks   int      // with a wrong checksum, or of no ring that is known
	Cut      uint64   // records, as far as their positions tell
	Unusable []string // files that hold no blocks; they have the suffix .unusable now
	Missing  int      // files that are not there

	// NewLives is how many rings have another id than before, because it cannot be
	// known whether their last records are there. Their readers are told.
	NewLives int
}

// Recovery returns what was found when the Store was opened.
func (s *Store) Recovery() Recovery { return s.recovered }

// open takes over what is in the directory.
func (s *Store) open(path string) error {
	d, trusted, err := openDir(path)
	if err != nil {
		return err
	}
	s.dir = d
	if err := s.restore(trusted); err != nil {
		s.arena.close()
		d.close(false)
		return fmt.Errorf("ringbuf: %s: %w", path, err)
	}
	return nil
}

func (s *Store) restore(trusted bool) error {
	d := s.dir
	saved, whole, err := d.journal.load(d.path)
	if err != nil {
		return err
	}
	trusted = trusted && whole
	if trusted && saved.life != 0 {
		s.life, s.made = saved.life, saved.made
	}
	// From here on what is there is changed. Whoever finds it half done shall not
	// trust it.
	if err := d.mark(stateBroken); err != nil {
		return err
	}
	rc := recovering{s: s, saved: saved, found: make(map[uint32][]fragment)}
	defer rc.close()
	if err := rc.files(); err != nil {
		return err
	}
	s.arena.dir, s.arena.saved = d, s.saveChunk
	if err := rc.rings(trusted); err != nil {
		return err
	}
	rc.byAge(time.Now().UnixNano())
	rc.free()
	if s.arena.mapped == 0 { // a disk that is full shows at once
		if err := s.arena.grow(); err != nil {
			return err
		}
	}
	if err := s.rewrite(); err != nil {
		return err
	}
	if err := d.journal.sync(); err != nil {
		return err
	}
	if err := d.mark(stateOpen); err != nil {
		return err
	}
	if err := d.store.Sync(); err != nil {
		return err
	}
	rc.done = true
	s.recovered.Rings, s.recovered.Records = len(rc.made), s.held
	s.shrink()
	s.Trim(time.Now())
	return nil
}

// recovering is a Store being put together from files.
type recovering struct {
	s       *Store
	saved   saved
	found   map[uint32][]fragment // valid blocks, by the index of their ring
	adopted []int                 // chunks that stay what they are
	foreign []foreignChunk
	made    []*Ring
	done    bool
}

// fragment is a block that is what its checksum says. Its id is none if it lies
// in a foreign chunk.
type fragment struct {
	id   uint32
	meta *blockMeta
	mem  []byte
}

// foreignChunk is one that does not fit into the arena: the budget was another.
type foreignChunk struct {
	name string
	mem  []byte
}

// close removes the foreign chunks, of which everything has been copied.
func (rc *recovering) close() {
	for _, f := range rc.foreign {
		freeMemory(f.mem)
		if rc.done {
			os.Remove(f.name)
		}
	}
}

// files maps the chunks and looks at each block in them.
func (rc *recovering) files() error {
	s, d := rc.s, rc.s.dir
	names, numbers, err := d.chunkFiles()
	if err != nil {
		return err
	}
	for i, name := range names {
		path := filepath.Join(d.path, name)
		mem, usable, err := mapChunk(path)
		if err != nil {
			return fmt.Errorf("%w; if nothing else helps, move the directory away", err)
		}
		if !usable {
			if err := os.Rename(path, path+badSuffix); err != nil {
				return err
			}
			s.recovered.Unusable = append(s.recovered.Unusable, name)
			continue
		}
		self, bits, _ := readHeader(mem)
		c := over(mem, bits)
		delete(rc.saved.chunks, self)
		if number := numbers[i]; number == self && bits == s.arena.bits && number >= 0 && number < len(names)+64 {
			s.arena.set(number, c)
			rc.adopted = append(rc.adopted, number)
			rc.blocks(c, uint32(number)<<bits)
			continue
		}
		if numbers[i] >= 0 { // its name is needed
			old := filepath.Join(d.path, oldPrefix+name)
			if err := os.Rename(path, old); err != nil {
				freeMemory(mem)
				return err
			}
			path = old
		}
		rc.foreign = append(rc.foreign, foreignChunk{path, mem})
		rc.blocks(c, none)
	}
	return nil
}

// mapChunk maps a file. It is not usable if it is no chunk.
func mapChunk(path string) (mem []byte, usable bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, false, err
	}
	if info.Size() < chunkHeader || info.Size() > 2*maxChunk {
		return nil, false, nil
	}
	if mem, err = mapFile(f, int(info.Size())); err != nil {
		return nil, false, fmt.Errorf("mapping %s: %w", path, err)
	}
	if _, _, ok := readHeader(mem); !ok {
		freeMemory(mem)
		return nil, false, nil
	}
	return mem, true, nil
}

// blocks looks at each block of a chunk whose first one has the id base.
func (rc *recovering) blocks(c chunk, base uint32) {
	for k := range c.metas {
		m := &c.metas[k]
		m.pins = 0
		if m.state == 0 {
			if m.ring != none && m.number == 0 { // no block was ever so
				rc.s.recovered.Blocks++
			}
			m.ring = none
			continue
		}
		f := fragment{id: none, meta: m, mem: c.data[k<<blockBits : (k+1)<<blockBits]}
		if base != none {
			f.id = base + uint32(k)
		}
		ring := rc.saved.rings[m.ring]
		if ring == nil || !checkBlock(rc.s.scratch[:], m, f.mem, ring.salt) {
			rc.s.recovered.Blocks++
			f.drop()
			continue
		}
		m.offset = offsetOf(m.state)
		rc.found[m.ring] = append(rc.found[m.ring], f)
	}
}

// drop makes a block one that does not count.
func (f *fragment) drop() { f.meta.state, f.meta.ring = 0, none }

// rings makes the rings of the journal, with what was found of each. They keep
// their indexes, so that nothing is wrong if the process dies meanwhile.
func (rc *recovering) rings(trusted bool) error {
	s := rc.s
	all := slices.SortedFunc(maps.Values(rc.saved.rings), func(a, b *savedRing) int { // as they were made
		return cmp.Or(cmp.Compare(a.id, b.id), cmp.Compare(a.index, b.index))
	})
	for _, v := range all {
		for int(v.index) >= len(s.rings) {
			s.rings = append(s.rings, nil)
		}
	}
	s.recovered.Missing = len(rc.saved.chunks)
	damaged := s.recovered.Blocks > 0 || len(s.recovered.Unusable) > 0 || s.recovered.Missing > 0
	for _, v := range all {
		r := &Ring{s: s, index: v.index, key: v.key, id: v.id, salt: v.salt, was: v.was, wasEnd: v.wasEnd, local: v.local, base: blockSize, end: blockSize}
		st := rc.best(rc.found[v.index])
		complete := st.complete && trusted
		if len(st.pieces) == 0 {
			r.first, r.next = v.next, v.next
			complete = complete && !damaged // nobody knows whose such a block was
		} else {
			r.first, r.next = st.first, st.next
			complete = complete && r.next >= v.next
		}
		if !complete {
			r.was, r.wasEnd, r.local = r.id, r.next, 1
			r.id = s.newID()
			s.recovered.NewLives++
		}
		r.restore(v.origins, &st)
		if err := rc.take(r, &st); err != nil {
			return err
		}
		rc.made = append(rc.made, r)
	}
	for i := len(s.rings) - 1; i >= 0; i-- {
		if s.rings[i] == nil {
			s.spare = append(s.spare, uint32(i))
		}
	}
	return nil
}

// restore gives a ring its runs and makers.
func (r *Ring) restore(origins map[envelope.StreamID]origin, st *stretch) {
	for i := range st.runs {
		u := &st.runs[i]
		end := st.next
		if i+1 < len(st.runs) {
			end = st.runs[i+1].position
		}
		next := u.number + (end - u.position)
		if u.stream == r.id {
			r.local, r.localAt = max(r.local, next), end
			continue
		}
		o, known := origins[u.stream]
		if !known {
			o = origin{stream: u.stream, begin: u.number}
			if u.stream == r.was {
				o.begin = 1
			}
		}
		o.next, o.at = max(o.next, next), end
		origins[u.stream] = o
	}
	r.runs = st.runs
	r.origins = slices.SortedFunc(maps.Values(origins), func(a, b origin) int { return cmp.Compare(b.at, a.at) })
	r.origins = slices.Clip(r.origins[:min(len(r.origins), maxOrigins)])
	slices.SortFunc(r.origins, func(a, b origin) int { return cmp.Compare(a.stream, b.stream) })
}

// take adds a ring to the Store, with its blocks. Those of foreign chunks are
// copied.
func (rc *recovering) take(r *Ring, st *stretch) error {
	s := rc.s
	s.enter(r)
	s.used += int64(len(r.runs))*runCost + int64(len(r.origins))*originCost
	if len(st.pieces) == 0 {
		return nil
	}
	for i := range st.pieces {
		f := &st.pieces[i]
		if f.id == none {
			if s.arena.free == 0 {
				if err := s.arena.grow(); err != nil {
					return err
				}
			}
			f.id = s.arena.get()
			m := s.arena.meta(f.id)
			copy(s.arena.block(f.id), f.mem)
			*m = *f.meta
		}
		r.blocks.push(f.id)
		s.used += blockCost
		s.inUse++
	}
	r.base = uint64(st.pieces[0].meta.seq) << blockBits
	r.end = r.base + st.size
	next := r.next
	for i := r.blocks.len() - 1; i >= 0; i-- {
		if m := s.arena.meta(r.blocks.at(i)); m.offset != noStart {
			next = m.number
		} else {
			m.number = next
		}
		s.reseal(r, i, false)
	}
	last := r.blocks.len() - 1
	r.crc = crc32.Checksum(s.arena.block(r.blocks.at(last))[:blockSize-r.room()], castagnoli)
	s.sizes.move(r)
	s.held += r.next - r.first
	s.bytes += r.stored()
	return nil
}

// reseal makes the state of a ring's block i say what is the case, if it does not
// or always is set.
func (s *Store) reseal(r *Ring, i int, always bool) {
	id := r.blocks.at(i)
	m := s.arena.meta(id)
	fill, sealed := blockSize, m.state&stateSealed != 0
	if i == r.blocks.len()-1 {
		fill, sealed = blockSize-r.room(), false
	}
	if always || fill != fillOf(m.state) || m.offset != offsetOf(m.state) || sealed != (m.state&stateSealed != 0) {
		s.seal(r, id, crc32.Checksum(s.arena.block(id)[:fill], castagnoli), fill, sealed)
	}
}

// byAge puts all blocks in the order in which they were last appended to. Times
// that cannot be are put right: a ring's never go back, and none is in the
// future.
func (rc *recovering) byAge(now int64) {
	a := &rc.s.arena
	var ids []uint32
	for _, r := range rc.made {
		limit := now
		for i := r.blocks.len() - 1; i >= 0; i-- {
			m := a.meta(r.blocks.at(i))
			if m.time > limit {
				m.time = limit
				rc.s.reseal(r, i, true)
			}
			limit = m.time
			ids = append(ids, r.blocks.at(i))
		}
	}
	slices.Reverse(ids)
	slices.SortStableFunc(ids, func(x, y uint32) int { return cmp.Compare(a.meta(x).time, a.meta(y).time) })
	for _, id := range ids {
		a.link(id)
	}
}

// free makes the blocks that no ring has free.
func (rc *recovering) free() {
	a := &rc.s.arena
	for _, i := range rc.adopted {
		metas := a.chunks[i].metas
		for k := len(metas) - 1; k >= 0; k-- {
			if metas[k].ring == none {
				a.put(uint32(i)<<a.bits + uint32(k))
			}
		}
	}
}

// stretch is blocks of one ring that follow each other, and what is in them.
type stretch struct {
	pieces      []fragment
	first, next uint64 // positions
	size        uint64 // bytes from the first block to the end
	runs        []run
	complete    bool // it ends where the ring did
}

// best finds what of a ring's blocks can be kept: the longest stretch without a
// break. The rest is dropped, and counted as far as positions tell.
func (rc *recovering) best(pieces []fragment) (best stretch) {
	if len(pieces) == 0 {
		return stretch{complete: true}
	}
	ref := pieces[0].meta.seq
	slices.SortStableFunc(pieces, func(a, b fragment) int {
		return cmp.Compare(int32(a.meta.seq-ref), int32(b.meta.seq-ref))
	})
	n := 1
	for _, f := range pieces[1:] {
		if f.meta.seq == pieces[n-1].meta.seq {
			f.drop() // it was being moved, and is there twice
			continue
		}
		pieces[n] = f
		n++
	}
	pieces = pieces[:n]
	oldest, newest := uint64(math.MaxUint64), uint64(0)
	for len(pieces) > 0 {
		n := 1
		for n < len(pieces) && fillOf(pieces[n-1].meta.state) == blockSize && pieces[n].meta.seq == pieces[n-1].meta.seq+1 {
			n++
		}
		last := pieces[n-1].meta.state
		if fillOf(last) < blockSize { // what follows is of a record that was not written to its end
			for i := range pieces[n:] {
				pieces[n+i].drop()
			}
			pieces = pieces[:n]
		}
		st := walk(pieces[:n:n])
		st.complete = st.complete && n == len(pieces) && last&stateSealed == 0
		if st.next > st.first {
			oldest, newest = min(oldest, st.first), max(newest, st.next)
		}
		if st.next-st.first > best.next-best.first {
			st, best = best, st
		}
		for i := range st.pieces {
			st.pieces[i].drop()
		}
		pieces = pieces[n:]
	}
	if newest > oldest {
		rc.s.recovered.Cut += newest - oldest - (best.next - best.first)
	}
	return best
}
