package transport

import (
	"cmp"
	"encoding/binary"
	"slices"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

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
			if !pass && exact(&b) && b.Stream != b.Ring && b.Count > 0 {
				if n := len(p.runs); n > 0 && p.runs[n-1].stream == b.Stream && p.runs[n-1].next == b.First {
					p.runs[n-1].next = b.Next
				} else {
					p.runs = append(p.runs, run{b.Stream, b.First, b.Next})
				}
			}
		}
		if pass && b.Ring != 0 {
			p.t.at.Advance(envelope.Batch{Ring: b.Ring, Position: b.Position})
		}
	}
	return records, true
}
