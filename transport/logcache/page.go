package logcache

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// page is the envelopes of one answer. Pages are used again; a large one is not
// kept.
type page struct {
	s       *Server
	charged int64 // bytes of Options.Memory

	buf     []byte // records, in the order in which they were read
	records []record
	times   []int64 // see read
	missed  uint64

	json    envelope.ProtoJSON
	scratch []byte
}

// record is one of buf: its timestamp, where it lies, and where it was read.
type record struct {
	time     int64
	from, to int
	ring     envelope.StreamID // it was read from
}

// Memory is charged in steps of this many bytes.
const memoryStep = 1 << 20

func (s *Server) newPage() *page {
	p := s.pages.Get().(*page)
	p.s = s
	return p
}

// free gives the page back, and what it was charged.
func (p *page) free() {
	p.s.memory.Add(-p.charged)
	p.charged = 0
	if cap(p.buf) <= memoryStep && cap(p.records) <= 4*maxLimit {
		p.clear()
		p.s.pages.Put(p)
	}
}

func (p *page) clear() { p.buf, p.records, p.missed = p.buf[:0], p.records[:0], 0 }

// charge makes sure that the memory for n more bytes is the page's.
func (p *page) charge(n int) error {
	for p.charged < int64(len(p.buf)+n) {
		if p.s.memory.Add(memoryStep) > p.s.opt.Memory {
			p.s.memory.Add(-memoryStep)
			p.s.busy.Add(1)
			return errMemory
		}
		p.charged += memoryStep
	}
	return nil
}

func (p *page) record(i int) []byte { return p.buf[p.records[i].from:p.records[i].to] }

// fill reads what the request asks for, at most size bytes of it, and puts it in
// order.
func (p *page) fill(ctx context.Context, pass *access.Pass, r *request, size int) error {
	if r.nothing {
		return nil
	}
	start, end, n := r.start, r.end, r.limit
	if r.name != nil {
		n = maxLimit // most of them are left out
	}
	for {
		had, hadBytes := len(p.records), len(p.buf)
		edge, fits, err := p.read(ctx, pass, r, start, end, n, size)
		if err != nil {
			return err
		}
		if !fits {
			if had == 0 {
				p.clear()
				n = max(1, n/4)
				continue
			}
			p.records, p.buf = p.records[:had], p.buf[:hadBytes] // the rest comes with the next answer
			break
		}
		if r.name == nil || len(p.records) >= r.limit || len(p.times) < n {
			break
		}
		if end = edge; !r.descending {
			start, end = edge+1, r.end
		}
		if start >= end {
			break
		}
	}
	p.s.missed.Add(p.missed)
	if r.name != nil {
		n = r.limit
	}
	p.order(r.descending, n)
	return nil
}

// read adds the first n envelopes from start on and before end to the page, or the
// last, and those with the same timestamp as any of them. fits is false if that is
// more than size bytes, and fewer can be asked for; then a part of them is there.
//
// Where names are asked for, p.times are the timestamps of all that was read, and
// edge is the one up to which that is everything there is. Several servers give n
// each, of which some are behind it: those are not added.
func (p *page) read(ctx context.Context, pass *access.Pass, r *request, start, end int64, n, size int) (edge int64, fits bool, err error) {
	q := envelope.Query{Since: time.Unix(0, start), Until: time.Unix(0, end), First: n, MaxBytes: 64 << 10}
	if r.descending {
		q.First, q.Last = 0, n
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	had := len(p.records)
	p.times = p.times[:0]
	for b, err := range pass.Batches(ctx, q) {
		if err != nil {
			return 0, false, err
		}
		if err := p.charge(len(b.Records)); err != nil {
			return 0, false, err
		}
		if b.Missed > 0 {
			p.tell(b, r, start)
		}
		for rest := b.Records; len(rest) > 0; {
			e, tail, err := envelope.Next(rest)
			if err != nil {
				break
			}
			one := rest[:len(rest)-len(tail)]
			rest = tail
			route, _ := e.Route()
			at := route.Timestamp
			if (at < start || at >= end) && (at < start || n == 1 || !r.descending || !r.wantsLogs()) {
				// What the link to a server says of itself, which is of now. Whoever
				// turns pages forwards would go on behind it, and lose the rest.
				continue
			}
			from := len(p.buf)
			if r.name == nil {
				p.buf = append(p.buf, one...)
			} else {
				p.times = append(p.times, at)
				if p.buf = appendNamed(p.buf, one, e, route.Kind, r.name); len(p.buf) == from {
					continue
				}
			}
			switch {
			case len(p.buf) <= size:
				p.records = append(p.records, record{at, from, len(p.buf), b.Ring})
			case n > 1:
				return 0, false, nil
			default: // all of one timestamp: there is no smaller page
				p.buf = p.buf[:from]
				p.s.cut.Add(1)
			}
		}
	}
	if len(p.times) < n {
		return 0, true, nil
	}
	slices.Sort(p.times)
	edge = p.times[n-1]
	behind := func(r record) bool { return r.time > edge }
	if r.descending {
		edge = p.times[len(p.times)-n]
		behind = func(r record) bool { return r.time < edge }
	}
	p.records = append(p.records[:had], slices.DeleteFunc(p.records[had:], behind)...)
	return edge, true, nil
}

// tell adds a line that says what was given up just before the batch.
func (p *page) tell(b envelope.Batch, r *request, at int64) {
	p.missed += b.Missed
	if !r.wantsLogs() {
		return
	}
	if e, _, err := envelope.Next(b.Records); err == nil {
		route, _ := e.Route()
		at = route.Timestamp
	}
	b.Reset = false
	from := len(p.buf)
	p.buf, _ = b.AppendGapRecords(p.buf, r.source, at)
	p.records = append(p.records, record{at, from, len(p.buf), b.Ring})
}

// order sorts the envelopes by their timestamps, those of one timestamp as they
// arrived, and leaves out what is more than limit; none that has the timestamp of
// one that stays.
func (p *page) order(descending bool, limit int) {
	byTime := func(a, b record) int { return cmp.Compare(a.time, b.time) }
	if !slices.IsSortedFunc(p.records, byTime) {
		slices.SortStableFunc(p.records, byTime)
	}
	p.once()
	if descending {
		slices.Reverse(p.records)
	}
	n := min(limit, len(p.records))
	for n > 0 && n < len(p.records) && p.records[n].time == p.records[n-1].time {
		n++
	}
	p.records = p.records[:n]
	size := 0
	for _, r := range p.records {
		size += r.to - r.from
	}
	p.s.records.Add(uint64(n))
	p.s.bytes.Add(uint64(size))
}

// once leaves out what lies in two rings: an agent that lost its server sends to the
// next one what the first may have taken. Equal records of one ring stay.
func (p *page) once() {
	several := false
	for _, r := range p.records {
		several = several || r.ring != p.records[0].ring
	}
	if !several {
		return
	}
	type of struct {
		ring envelope.StreamID
		text string
	}
	seen, times := make(map[of]int), make(map[string]int) // in a ring, and kept
	kept := p.records[:0]
	for i, r := range p.records {
		if i > 0 && p.records[i-1].time != r.time { // kept is behind i
			clear(seen)
			clear(times)
		}
		text := string(p.buf[r.from:r.to])
		if seen[of{r.ring, text}]++; seen[of{r.ring, text}] > times[text] {
			times[text]++
			kept = append(kept, r)
		}
	}
	p.records = kept
}
