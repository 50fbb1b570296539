package transport

import (
	"bytes"
	"math"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// head is a batch that a part is to give.
type head struct {
	batch  envelope.Batch
	time   int64             // of its first record, where sequences are merged by time
	early  time.Time         // since when it waits for what may have to come before it; zero: it does not
	maker  envelope.StreamID // of what it waits for
	upTo   uint64            // the numbers before this one
	source string            // whose they are
	size   int               // of its records when it was put aside

	cut   int    // so many of its records are to be given by themselves; 0: all
	extra uint64 // numbers that are missed before it, beyond what the server has told
	spare uint64 // what tail.spare is to be when it is given
}

// admit makes b the part's next batch.
func (p *part) admit(b envelope.Batch) {
	t := p.t
	if t.q.Where != nil && !t.wants(&b) {
		b.Records, b.Count, b.Missed, b.Reset = nil, 0, 0, false
	}
	if p.fresh {
		// A server's sequence begins with the ring that stands for its life. If that is
		// another than the tail has been in, and no maker's numbers tell what was lost
		// with that, it is said with the next record, even if the query has slept
		// meanwhile at the server.
		_, known := t.at.Rings[b.Ring]
		p.fresh = false
		t.ages.mark(b.Ring)
		p.reset = p.reset || p.begun && !known && b.Ring != 0 && len(t.at.Streams) == 0
	}
	if b.Count > 0 {
		b.Reset, p.reset = b.Reset || p.reset, false
	}
	p.has, p.head = true, head{batch: b}
	p.head.retime(t)
}

// retime is note where that is asked for.
func (h *head) retime(t *tail) {
	if t.merging {
		h.note()
	}
}

// note reads the time of the first record.
func (h *head) note() {
	h.time = math.MinInt64
	if h.batch.Count == 0 {
		return
	}
	if e, _, err := envelope.Next(h.batch.Records); err == nil {
		if r, err := e.Route(); err == nil {
			h.time = r.Timestamp
		}
	}
}

// wants asks Query.Where of the batch's source. Of what was missed in a ring that
// nothing was read from yet, it is not known what source it is.
func (t *tail) wants(b *envelope.Batch) bool {
	if wanted, ok := t.wanted[b.Ring]; ok {
		return wanted
	}
	if b.Count == 0 {
		return true
	}
	e, _, err := envelope.Next(b.Records)
	if err != nil {
		return true
	}
	r, _ := e.Route()
	wanted := t.q.Where(string(r.SourceID), b.Ring)
	t.wanted[b.Ring] = wanted
	return wanted
}

// ready is the first batch that the part can give now, or nil. Those that are too
// early are put aside, with what comes after them in their ring, so that other
// sources go on: two servers may each have what the other waits for. Those for which
// there is no room are postponed.
func (p *part) ready(now time.Time) *head {
	t := p.t
	if !t.several {
		if p.has {
			return &p.head
		}
		return nil
	}
	for i, h := range p.aside {
		if !behind(p.aside[:i], h) && !t.seam(p, h, now) {
			return h
		}
	}
	for p.has {
		h := &p.head
		if p.postponed(h.batch.Ring) {
			p.passOver(&h.batch)
			p.skip(now)
			continue
		}
		if !behind(p.aside, h) && !t.seam(p, h, now) {
			return h
		}
		if p.full() {
			if !t.q.Follow {
				return nil
			}
			p.postpone()
			p.skip(now)
			continue
		}
		own := *h
		own.batch.Records = bytes.Clone(h.batch.Records)
		own.size = len(own.batch.Records)
		p.aside = append(p.aside, &own)
		p.asideBytes += own.size
		p.skip(now)
	}
	return nil
}

// skip goes on to the batch after the part's head.
func (p *part) skip(now time.Time) {
	p.has = false
	if p.st != nil {
		p.fill(now)
	}
}

// maxAside bounds the batches of a part that are put aside; ReaderOptions.Window
// bounds their bytes.
const maxAside = 256

func (p *part) full() bool {
	return p.asideBytes >= p.t.r.opts.Window || len(p.aside) >= maxAside
}

// behind reports whether a batch of h's ring is in front of it.
func behind(aside []*head, h *head) bool {
	for _, a := range aside {
		if a.batch.Ring == h.batch.Ring {
			return true
		}
	}
	return false
}

// pick is the batch to be given, and up to which time. Nil means that there is
// nothing to give now.
func (t *tail) pick(now time.Time) (from *part, best *head, limit int64) {
	limit = math.MaxInt64
	owing := false // somebody may have something of the past that is not here
	stuck := true  // nobody can bring anything more
	for i := range t.parts {
		i = (t.turn + 1 + i) % len(t.parts)
		p := &t.parts[i]
		h := p.ready(now)
		blocked := p.full() && !t.q.Follow // who follows postpones what finds no room
		stuck = stuck && (p.over || blocked || p.caught)
		switch {
		case h == nil:
			owing = owing || p.owes() && !blocked
		case best == nil:
			from, best = p, h
		case !t.merging:
		case h.time < best.time:
			limit, from, best = best.time, p, h
		case h.time < limit:
			limit = h.time
		}
	}
	if best == nil && stuck {
		from, best = t.unseen()
	}
	if t.merging && t.past && owing && (best == nil || best.time != math.MinInt64) {
		return nil, nil, 0
	}
	if t.past {
		t.past = owing || t.othersOwe(nil)
		t.merging = t.merging && (t.past || t.q.ByTime)
	}
	if best == nil {
		return nil, nil, 0
	}
	for i := range t.parts {
		if &t.parts[i] == from {
			t.turn = i
		}
	}
	if !t.merging {
		limit = math.MaxInt64
	}
	return from, best, limit
}

// unseen is a batch that waits for the beginning of what its maker said, which
// nobody has; or, of batches that wait for one another, one of them.
func (t *tail) unseen() (*part, *head) {
	var tied *head
	var of *part
	for i := range t.parts {
		p := &t.parts[i]
		for k, h := range p.aside {
			if _, seen := t.at.Streams[h.batch.Stream]; seen || !h.early.IsZero() || behind(p.aside[:k], h) {
				continue
			}
			if !t.brought(p, h) {
				return p, h
			}
			tied, of = h, p
		}
	}
	for i := range t.parts {
		if len(t.parts[i].later) > 0 {
			return nil, nil // that is read again first
		}
	}
	return of, tied
}

// brought reports whether another part than p has some of what h waits for.
func (t *tail) brought(p *part, h *head) bool {
	for i := range t.parts {
		if o := &t.parts[i]; o != p && o.brings(h) {
			return true
		}
	}
	return false
}

// owes reports whether the part has something yet to give of what was held at the
// start, as far as is known.
func (p *part) owes() bool { return !p.over && !p.caught && (p.st != nil || !p.told) }

// give takes what h has for its turn: up to limit by time, and up to its cut, one
// record at least.
func (p *part) give(h *head, limit int64) envelope.Batch {
	b, cut := h.batch, h.cut
	h.cut = 0
	if limit == math.MaxInt64 && cut == 0 || b.Count <= 1 {
		p.remove(h)
		return b
	}
	n, rest := 0, b.Records
	for len(rest) > 0 {
		e, tail, err := envelope.Next(rest)
		if err != nil {
			break
		}
		if n > 0 && n == cut {
			break
		}
		if r, err := e.Route(); n > 0 && err == nil && r.Timestamp > limit {
			break
		}
		rest = tail
		n++
	}
	if n >= b.Count || len(rest) == 0 {
		p.remove(h)
		return b
	}
	first := b
	first.Records, first.Count = b.Records[:len(b.Records)-len(rest)], n
	if exact(&b) {
		first.Next = b.First + uint64(n)
		first.Position = b.Position - uint64(b.Count-n)
		h.batch.First = first.Next
	} else { // where its last record stands is not known
		first.Stream, first.Ring, first.First, first.Next, first.Position, first.From, first.Begin = 0, 0, 0, 0, 0, 0, 0
	}
	h.batch.Records, h.batch.Count = rest, b.Count-n
	h.batch.Missed, h.batch.Told, h.batch.From, h.batch.Begin, h.batch.Reset = 0, 0, 0, 0, false
	h.retime(p.t)
	return first
}

// remove takes h, which has been given, from where it is.
func (p *part) remove(h *head) {
	p.given(&h.batch)
	if len(p.t.asked) > 0 && h.maker != 0 {
		p.t.forgetInquiries(h)
	}
	if h == &p.head {
		p.has = false
		return
	}
	p.asideBytes -= h.size
	p.aside = slices.DeleteFunc(p.aside, func(a *head) bool { return a == h })
	if len(p.aside) == 0 {
		p.aside, p.asideBytes = nil, 0
	}
}

// exact reports whether the numbers of b are those of its records, one by one.
func exact(b *envelope.Batch) bool {
	return b.Stream != 0 && b.Next-b.First == uint64(b.Count)
}

// without is b without its first n records.
func without(b envelope.Batch, n int) envelope.Batch {
	for range min(n, b.Count) {
		_, b.Records, _ = envelope.Next(b.Records)
	}
	exact := b.Next-b.First == uint64(b.Count)
	b.Count -= min(n, b.Count)
	switch {
	case b.Count == 0:
		b.First = b.Next
	case exact:
		b.First += uint64(n)
	}
	b.Told = 0
	return b
}
