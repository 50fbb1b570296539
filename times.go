package loggregator

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/ringbuf"
)

// A ring is in the order of arrival, and timestamps are their makers': an agent
// that was cut off brings lines that are minutes old, and a clock may be ahead. So
// a query that wants every record of a stretch of time, or the newest thousand by
// the clock, cannot stop where arrival times end, and would have to look at the
// whole ring. A timeline knows the oldest and newest timestamp of each zone, a
// stretch of records, and reads only those that matter.
//
// It is made by the first query by time of a source, and brought up to date by
// each further one, so that every record is looked at once for all of them, and
// publishing pays nothing. It takes 32 bytes for each 32 KiB of records.

// zoneBytes is about how many bytes of records a zone describes.
const zoneBytes = 32 << 10

// zone is the records from position first to before end, and the limits of their
// timestamps.
type zone struct {
	first, end     uint64
	oldest, newest int64
}

// timeline is the zones of a source's ring.
type timeline struct {
	mu sync.Mutex
	zones
	fill int // bytes in open
}

// zones are in the order of their positions. A copy of the struct does not change:
// closed ones don't, and more of them are appended behind.
type zones struct {
	closed []zone
	open   zone   // the last one; empty if its end is zero
	first  uint64 // position from which records were held
}

func (z *zones) len() int { return len(z.closed) + 1 }

func (z *zones) at(i int) zone {
	if i < len(z.closed) {
		return z.closed[i]
	}
	return z.open
}

// next is the position behind the last record in them, or of the first to come.
func (z *zones) next() uint64 {
	if z.open.end > 0 {
		return z.open.end
	}
	return z.first
}

// now brings the timeline up to date and returns its zones.
func (t *timeline) now(ctx context.Context, ring *ringbuf.Ring) (zones, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var next uint64
	t.first, next = ring.Bounds()
	gone := 0
	for gone < len(t.closed) && t.closed[gone].end <= t.first {
		gone++
	}
	t.closed = t.closed[gone:]
	if t.open.end <= t.first {
		t.open, t.fill = zone{}, 0
	}
	at := ring.Reader(t.next())
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for at.Position() < next {
		if err := ctx.Err(); err != nil {
			return zones{}, err
		}
		b := at.Read(sized(buf, zoneBytes))
		if b.Count == 0 {
			break
		}
		t.add(&b)
	}
	return t.zones, nil
}

// add takes the records of b in, which are the next ones.
func (t *timeline) add(b *envelope.Batch) {
	if t.fill >= zoneBytes/2 {
		t.closed, t.open = append(t.closed, t.open), zone{}
	}
	z := &t.open
	if z.end == 0 {
		*z, t.fill = zone{first: b.Position - uint64(b.Count), oldest: math.MaxInt64, newest: math.MinInt64}, 0
	}
	for e := range b.All() {
		route, _ := e.Route()
		z.oldest, z.newest = min(z.oldest, route.Timestamp), max(z.newest, route.Timestamp)
	}
	z.end = b.Position
	t.fill += len(b.Records)
}

// nanos is t in nanoseconds since 1970, as near as 64 bits come to it.
func nanos(t time.Time) int64 {
	switch {
	case t.Before(time.Unix(0, math.MinInt64)):
		return math.MinInt64
	case t.After(time.Unix(0, math.MaxInt64)):
		return math.MaxInt64
	}
	return t.UnixNano()
}

// window is what a query with Until asks of timestamps: oldest to newest, both
// included.
type window struct{ oldest, newest int64 }

func (w *window) overlaps(z *zone) bool { return z.newest >= w.oldest && z.oldest <= w.newest }

func (w *window) holds(timestamp int64) bool {
	return timestamp >= w.oldest && timestamp <= w.newest
}

// byTime sets for each feed the zones to read, and the window, which Last or First
// records make narrower.
func (s *subscription) byTime(ctx context.Context, feeds []*feed) error {
	w := window{math.MinInt64, nanos(s.q.Until)}
	if !s.q.Since.IsZero() {
		w.oldest = nanos(s.q.Since)
	}
	if w.newest == math.MinInt64 || w.newest <= w.oldest {
		w = window{math.MaxInt64, math.MinInt64} // nothing
	} else {
		w.newest--
	}
	for _, f := range feeds {
		var err error
		if f.zones, err = f.src.times.now(ctx, f.src.ring); err != nil {
			return err
		}
		f.window, f.limit, f.zone = &w, f.zones.next(), 0
	}
	if !s.q.Cursor.IsZero() || s.q.Last <= 0 && s.q.First <= 0 {
		return nil
	}
	n, newest := s.q.Last, true
	if n <= 0 {
		n, newest = s.q.First, false
	}
	last, err := nth(ctx, feeds, n, newest)
	if err != nil {
		return err
	}
	if newest {
		w.oldest = max(w.oldest, last)
	} else {
		w.newest = min(w.newest, last)
	}
	return nil
}

// nth is the timestamp of the n-th newest record, or oldest, of all that the feeds
// want; the least or greatest that there can be if they are fewer. It reads zones
// from that end on, and only those that can still change the answer.
func nth(ctx context.Context, feeds []*feed, n int, newest bool) (int64, error) {
	flip := int64(0) // makes what is wanted greatest
	if !newest {
		flip = -1
	}
	var best ranks
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	for _, f := range feeds {
		for i := range f.zones.len() {
			if newest {
				i = f.zones.len() - 1 - i
			}
			z := f.zones.at(i)
			limit := z.newest
			if !newest {
				limit = ^z.oldest
			}
			if !f.window.overlaps(&z) || len(best) == n && limit <= best[0] {
				continue
			}
			if err := ctx.Err(); err != nil {
				return 0, err
			}
			for at := f.src.ring.Reader(z.first); at.Position() < z.end; {
				b := at.Read(sized(buf, zoneBytes))
				from := b.Position - uint64(b.Count)
				if b.Count == 0 || from >= z.end {
					break
				}
				b = first(b, int(min(uint64(b.Count), z.end-from)))
				for e := range b.All() {
					if route, err := e.Route(); err == nil && f.wants(e, &route) {
						best.put(route.Timestamp^flip, n)
					}
				}
			}
		}
	}
	if len(best) < n {
		return math.MinInt64 ^ flip, nil
	}
	return best[0] ^ flip, nil
}

// ranks are the greatest numbers put in, as a heap with the least of them first.
type ranks []int64

// put takes v in, if it is among the n greatest.
func (r *ranks) put(v int64, n int) {
	h := *r
	if len(h) < n {
		h = append(h, v)
		*r = h
		for i := len(h) - 1; i > 0 && h[(i-1)/2] > h[i]; i = (i - 1) / 2 {
			h[i], h[(i-1)/2] = h[(i-1)/2], h[i]
		}
		return
	}
	if v <= h[0] {
		return
	}
	h[0] = v
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < n; child++ {
			if h[child] < h[least] {
				least = child
			}
		}
		if least == i {
			return
		}
		h[i], h[least] = h[least], h[i]
		i = least
	}
}

// seek moves a feed on to the next zone to read.
func (f *feed) seek() {
	at, next := f.at.Position(), f.limit
	for ; f.zone < f.zones.len(); f.zone++ {
		if z := f.zones.at(f.zone); z.end > at && f.window.overlaps(&z) {
			next = z.first
			break
		}
	}
	if next > at {
		f.at = f.src.ring.Reader(next)
	}
}
