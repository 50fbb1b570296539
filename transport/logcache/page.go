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
	missed  uint64

	json    envelope.ProtoJSON
	scratch []byte
}

// record is one of buf: its timestamp and where it lies.
type record struct {
	time     int64
	from, to int
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
	start, end, limit := r.start, r.end, r.limit
	for {
		had, hadBytes := len(p.records), len(p.buf)
		read, fits, err := p.read(ctx, pass, r, start, end, limit, size)
		switch {
		case err != nil:
			return err
		case !fits && had > 0: // a full page of names that were found before
			p.records, p.buf = p.records[:had], p.buf[:hadBytes]
		case !fits && limit > 1:
			p.clear()
			limit = max(1, limit/4)
			continue
		case fits && r.name != nil && len(p.records) < limit && read.count >= limit:
			// None of those that were left out will be asked for again, so go on.
			if start = read.newest + 1; r.descending {
				start, end = r.start, read.oldest
			}
			if start < end {
				continue
			}
		}
		break
	}
	p.s.missed.Add(p.missed)
	p.order(r.descending, limit)
	return nil
}

// extent is what was read, before names were looked at.
type extent struct {
	count          int
	oldest, newest int64
}

// read adds the first limit envelopes from start on and before end to the page, or
// the last, and those with the same timestamp. fits is false if they are more than
// size bytes, and fewer could be asked for; what is there then is a part of them.
func (p *page) read(ctx context.Context, pass *access.Pass, r *request, start, end int64, limit, size int) (x extent, fits bool, err error) {
	q := envelope.Query{Since: time.Unix(0, start), Until: time.Unix(0, end), First: limit, MaxBytes: 64 << 10}
	if r.descending {
		q.First, q.Last = 0, limit
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for b, err := range pass.Batches(ctx, q) {
		if err != nil {
			return x, false, err
		}
		if err := p.charge(len(b.Records)); err != nil {
			return x, false, err
		}
		if b.Missed > 0 {
			p.tell(b, r, start)
		}
		for rest := b.Records; len(rest) > 0; {
			e, tail, err := envelope.Next(rest)
			if err != nil {
				break
			}
			route, _ := e.Route()
			if at := route.Timestamp; at < start || at >= end {
				// What the link to a server says of itself, which is of now. Whoever
				// turns pages forwards would go on behind it, and lose the rest.
				if at < start || limit == 1 || !r.descending || !r.wantsLogs() {
					rest = tail
					continue
				}
			}
			if x.count == 0 {
				x.oldest, x.newest = route.Timestamp, route.Timestamp
			}
			x.oldest, x.newest = min(x.oldest, route.Timestamp), max(x.newest, route.Timestamp)
			x.count++
			from := len(p.buf)
			if r.name == nil {
				p.buf = append(p.buf, rest[:len(rest)-len(tail)]...)
			} else {
				p.buf = appendNamed(p.buf, rest[:len(rest)-len(tail)], e, route.Kind, r.name)
			}
			rest = tail
			switch {
			case len(p.buf) == from:
			case len(p.buf) > size && limit > 1:
				return x, false, nil
			case len(p.buf) > size: // all of one timestamp: there is no smaller page
				p.buf = p.buf[:from]
				p.s.cut.Add(1)
			default:
				p.records = append(p.records, record{route.Timestamp, from, len(p.buf)})
			}
		}
	}
	return x, true, nil
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
	p.records = append(p.records, record{at, from, len(p.buf)})
}

// order sorts the envelopes by their timestamps, those of one timestamp as they
// arrived, and leaves out what is more than limit; none that has the timestamp of
// one that stays.
func (p *page) order(descending bool, limit int) {
	byTime := func(a, b record) int { return cmp.Compare(a.time, b.time) }
	if !slices.IsSortedFunc(p.records, byTime) {
		slices.SortStableFunc(p.records, byTime)
	}
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
