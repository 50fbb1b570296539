package transport

import (
	"cmp"
	"encoding/binary"
	"math"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// admit makes b the part's next batch.
func (p *part) admit(b envelope.Batch) {
	t := p.t
	if t.q.Where != nil && !t.wants(&b) {
		b.Records, b.Count, b.Missed, b.Reset = nil, 0, 0, false
	}
	p.has, p.head, p.gapSince = true, b, time.Time{}
	p.note()
}

// note reads the time of the head's first record.
func (p *part) note() {
	p.time = math.MinInt64
	if !p.t.merging || p.head.Count == 0 {
		return
	}
	if e, _, err := envelope.Next(p.head.Records); err == nil {
		if r, err := e.Route(); err == nil {
			p.time = r.Timestamp
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

// pick is the part that is to give, and up to which time. Nil means that there is
// nothing to give now.
func (t *tail) pick(now time.Time) (best *part, limit int64) {
	limit = math.MaxInt64
	past := false
	n := len(t.parts)
	for i := range n {
		p := &t.parts[(t.turn+1+i)%n]
		if !p.has {
			past = past || p.owes()
			continue
		}
		if n > 1 && t.seam(p, now) {
			continue
		}
		switch {
		case best == nil:
			best = p
		case !t.merging:
		case p.time < best.time:
			limit, best = best.time, p
		case p.time < limit:
			limit = p.time
		}
	}
	if t.merging && t.past {
		if past && (best == nil || best.time != math.MinInt64) {
			return nil, 0 // somebody may have something older
		}
		if t.past = past || t.anyPast(); !t.past && !t.q.ByTime {
			t.merging = false
		}
	}
	if best == nil {
		return nil, 0
	}
	for i := range t.parts {
		if &t.parts[i] == best {
			t.turn = i
		}
	}
	if !t.merging {
		limit = math.MaxInt64
	}
	return best, limit
}

// owes reports whether the part has something yet to give of what was held at the
// start, as far as is known.
func (p *part) owes() bool { return !p.over && !p.caught && (p.st != nil || !p.told) }

func (t *tail) anyPast() bool {
	for i := range t.parts {
		if t.parts[i].owes() {
			return true
		}
	}
	return false
}

// seam looks at a batch whose maker was read from another ring before: it may
// repeat what was given, or come too early. The latter it reports, as long as
// another server may have what is missing; then it is missed.
func (t *tail) seam(p *part, now time.Time) (early bool) {
	b := &p.head
	if b.Stream == 0 || b.Stream == b.Ring {
		return false
	}
	at, ok := t.streams[b.Stream]
	if !ok || at.ring == b.Ring {
		return false
	}
	switch {
	case b.Next <= at.next:
		t.r.repeated.Add(uint64(b.Count))
		b.Records, b.Count, b.Missed, b.Stream = nil, 0, 0, 0
		p.time = math.MinInt64
	case b.First < at.next:
		if n := int(at.next - b.First); t.exact(b) && n < b.Count {
			t.r.repeated.Add(uint64(n))
			*b = without(*b, n)
			b.Missed = 0
			p.note()
		}
	case b.First == at.next:
		b.Missed = 0 // what this server did not have, another one gave
	case b.First > at.next && t.q.Shard == "":
		gap := b.First - at.next
		gap -= min(gap, b.Told)
		if gap <= b.Missed {
			b.Missed = gap // of the rest another one gave
			return false
		}
		if p.gapSince.IsZero() {
			p.gapSince = now
		}
		if now.Sub(p.gapSince) < gapWait && t.others(p) {
			return true
		}
		b.Missed = gap
	}
	return false
}

// others reports whether another server than p may have something to give.
func (t *tail) others(p *part) bool {
	for i := range t.parts {
		if o := &t.parts[i]; o != p && (o.has || o.st != nil) {
			return true
		}
	}
	return false
}

// exact reports whether the numbers of b are those of its records, one by one.
func (t *tail) exact(b *envelope.Batch) bool {
	return b.Stream != 0 && b.Next-b.First == uint64(b.Count)
}

// give takes what the part has for its turn: up to limit by time, one record at
// least.
func (p *part) give(limit int64) envelope.Batch {
	b := p.head
	if limit == math.MaxInt64 || b.Count <= 1 {
		p.has = false
		return b
	}
	n, rest := 0, b.Records
	for len(rest) > 0 {
		e, tail, err := envelope.Next(rest)
		if err != nil {
			break
		}
		if r, err := e.Route(); n > 0 && err == nil && r.Timestamp > limit {
			p.time = r.Timestamp
			break
		}
		rest = tail
		n++
	}
	if n >= b.Count || len(rest) == 0 {
		p.has = false
		return b
	}
	head := b
	head.Records, head.Count = b.Records[:len(b.Records)-len(rest)], n
	if p.t.exact(&b) {
		head.Next = b.First + uint64(n)
		head.Position = b.Position - uint64(b.Count-n)
		p.head.First = head.Next
	} else { // where its last record stands is not known
		head.Stream, head.Ring, head.First, head.Next, head.Position, head.From, head.Begin = 0, 0, 0, 0, 0, 0, 0
	}
	p.head.Records, p.head.Count = rest, b.Count-n
	p.head.Missed, p.head.Told, p.head.From, p.head.Begin, p.head.Reset = 0, 0, 0, 0, false
	return head
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

// held takes what has come while the servers give their Last, and reports whether
// all have.
func (t *tail) held(now time.Time) bool {
	all := true
	for i := range t.parts {
		p := &t.parts[i]
		if p.st != nil && !p.counted {
			p.hold(now)
		}
		all = all && (p.counted || p.over || p.st == nil && p.told)
	}
	if !all {
		return false
	}
	var total, left uint64
	for i := range t.parts {
		total += t.parts[i].count
		left += t.parts[i].leftOut
	}
	total -= t.doubles()
	t.skip = total - min(total, uint64(t.q.Last))
	if missed := left - min(left, t.skip); missed > 0 {
		t.lines = append(t.lines, envelope.Batch{Missed: missed})
	}
	t.skip -= min(t.skip, left)
	return true
}

// doubles is how many of the records that are held are held twice: a Link sends to
// the next server what the one before may not have taken.
func (t *tail) doubles() (n uint64) {
	var all []run
	for i := range t.parts {
		all = append(all, t.parts[i].runs...)
		t.parts[i].runs = nil
	}
	slices.SortFunc(all, func(a, b run) int {
		return cmp.Or(cmp.Compare(a.stream, b.stream), cmp.Compare(a.first, b.first))
	})
	var stream envelope.StreamID
	var upTo uint64
	for _, r := range all {
		if r.stream != stream {
			stream, upTo = r.stream, r.first
		}
		if r.first < upTo {
			n += min(upTo, r.next) - r.first
		}
		upTo = max(upTo, r.next)
	}
	return n
}

// run is the numbers of records of one maker.
type run struct {
	stream      envelope.StreamID
	first, next uint64
}

// hold takes what has come of a server.
func (p *part) hold(now time.Time) {
	for {
		caught, ended, code, text := p.st.state()
		buf, size := p.st.take()
		if buf == nil {
			switch {
			case ended && code != endDone:
				p.ended(now, code, text)
			case ended || caught:
				p.counted = true
			}
			return
		}
		n, ok := p.tally(*buf, false)
		if !ok {
			freeBuffer(buf)
			p.st.s.raw.Close()
			p.away(now)
			return
		}
		p.count += n
		p.queue = append(p.queue, buf)
		p.held += len(*buf)
		p.st.grant(size)
		for p.held > p.t.r.opts.HoldBytes/len(p.t.parts) && len(p.queue) > 1 {
			oldest := p.queue[0]
			n, _ := p.tally(*oldest, true)
			p.leftOut += n
			p.held -= len(*oldest)
			freeBuffer(oldest)
			p.queue = p.queue[1:]
		}
	}
}

// tally counts the records of a buffer's batches, and notes where they end if they
// are to be left out.
func (p *part) tally(buf []byte, pass bool) (records uint64, ok bool) {
	for len(buf) > 0 {
		n, m := binary.Uvarint(buf)
		b, err := envelope.ParseBatch(buf[m : m+int(n)])
		if err != nil {
			return records, false
		}
		buf = buf[m+int(n):]
		if p.t.q.Where == nil || p.t.wants(&b) {
			records += uint64(b.Count)
			if !pass && p.t.exact(&b) && b.Stream != b.Ring && b.Count > 0 {
				if n := len(p.runs); n > 0 && p.runs[n-1].stream == b.Stream && p.runs[n-1].next == b.First {
					p.runs[n-1].next = b.Next
				} else {
					p.runs = append(p.runs, run{b.Stream, b.First, b.Next})
				}
			}
		}
		if pass && b.Ring != 0 {
			p.t.rings[b.Ring] = b.Position
		}
	}
	return records, true
}
