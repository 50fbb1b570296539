package drain

import (
	"bytes"
	"strconv"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const priLoss = "<172>1 " // local5.warning, as Heroku's

// gap is records that a drain could not read: the source had given them up.
type gap struct {
	records uint64
	unknown bool  // and an unknown number
	from    int64 // timestamp of the last record before it, or the time the drain was opened
	until   int64 // timestamp of the first record after it, or now
	reason  string
}

func (g *gap) any() bool { return g.records > 0 || g.unknown }

// appendGap appends the message that stands for g: Heroku's L10, which receivers
// know, with the host name of the header h of the record that follows. In Cloud
// Foundry's layout an element says the same for machines:
//
//	[gap@47450 missed="12345" from="…" until="…" reason="the receiver was away"]
func (f *Formatter) appendGap(dst []byte, h *header, g *gap) []byte {
	dst, start := openFrame(dst)
	dst = append(f.appendTime(append(dst, priLoss...), g.until), ' ')
	switch {
	case f.layout != cloudFoundry:
		dst = append(dst, f.token...)
	case h != nil:
		dst = append(dst, h.host()...)
	default:
		dst = append(dst, '-')
	}
	dst = append(dst, " heroku logplex - "...)
	switch f.layout {
	case cloudFoundry:
		dst = append(dst, `[gap@47450 missed="`...)
		if g.unknown {
			dst = append(dst, "unknown"...)
		} else {
			dst = strconv.AppendUint(dst, g.records, 10)
		}
		dst = f.appendTime(append(dst, `" from="`...), g.from)
		dst = f.appendTime(append(dst, `" until="`...), g.until)
		dst = appendValue(append(dst, `" reason="`...), []byte(g.reason), 256)
		dst = append(dst, `"] `...)
	case herokuFull:
		dst = append(dst, "- "...)
	}
	dst = append(dst, "Error L10 (output buffer overflow): "...)
	if g.unknown {
		dst = append(dst, "an unknown number of"...)
		if g.records > 0 {
			dst = strconv.AppendUint(append(dst, " messages and "...), g.records, 10)
		}
	} else {
		dst = strconv.AppendUint(dst, g.records, 10)
	}
	dst = append(dst, " messages dropped since "...)
	dst = time.Unix(0, g.from).UTC().AppendFormat(dst, "2006-01-02T15:04:05+00:00")
	return f.closeFrame(append(dst, ".\n"...), start)
}

// noticeInterval is the least time between two messages of missing records, to
// the receiver or to an application. What is missed meanwhile is added up.
const noticeInterval = 30 * time.Second

// awayAfter is for how long after its return a gap is put down to the receiver's
// absence.
const awayAfter = time.Minute

// loss is a gap and the application it is in.
type loss struct {
	gap
	source, tags []byte // of the record after it; nil: not known
}

func (g *gap) add(o *gap) {
	if !g.any() {
		*g = *o
		return
	}
	g.records += o.records
	g.unknown = g.unknown || o.unknown
	g.from, g.until = min(g.from, o.from), max(g.until, o.until)
	g.reason = o.reason
}

// sub takes off what was told of g.
func (g *gap) sub(o *gap) {
	g.records -= min(g.records, o.records)
	g.unknown = g.unknown && !o.unknown
	if !g.any() {
		*g = gap{}
	}
}

// lose notes a gap at the run e. why is the source's reason, if it gives one; r is the record after it, or nil.
func (f *feed) lose(e *entry, n uint64, unknown bool, why envelope.Reason, r *envelope.Route) {
	g := gap{records: n, unknown: unknown, from: f.previous, until: time.Now().UnixNano(), reason: "they came faster than the receiver takes them"}
	if f.away || time.Since(f.backAt) < awayAfter {
		g.reason = "the receiver was away"
	}
	if why != envelope.ReasonUnknown {
		g.reason = why.String()
	}
	if g.unknown {
		g.reason = "the server was started anew"
	}
	if r != nil {
		g.until = r.Timestamp
	}
	if g.from == 0 {
		g.from = f.opened.UnixNano()
	}
	g.from = min(g.from, g.until)
	f.untold.add(&g)
	if e.lost == nil {
		e.lost = new(loss)
	}
	e.lost.gap.add(&g)
	if r != nil && f.tell && !r.Scattered && len(r.Tags) <= maxHeader {
		e.lost.source, e.lost.tags = bytes.Clone(r.SourceID), bytes.Clone(r.Tags)
	}
}

// tellGap appends the message that tells of what is missed, unless there was one
// a moment ago, and puts it on the run's account.
func (f *feed) tellGap(dst []byte, e *entry, h *header) []byte {
	now := time.Now()
	if now.Sub(f.toldAt) < noticeInterval {
		return dst
	}
	f.toldAt = now
	g := f.untold
	f.untold = gap{}
	if e.told == nil {
		e.told = new(gap)
	}
	e.told.add(&g)
	return f.format.appendGap(dst, h, &g)
}

// tellLate tells of what is missed though nothing followed it; at once if that
// is the end. It reports whether it did, or else how long until it may, 0 if
// there is nothing to tell.
func (f *feed) tellLate(end bool) (wait time.Duration, told bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.untold.any() {
		return 0, false
	}
	if wait = noticeInterval - time.Since(f.toldAt); wait > 0 && !end {
		return wait, false
	}
	f.toldAt = time.Time{}
	if f.cur == nil {
		f.cur = chunks.Get().(*chunk)
	}
	var e entry
	before := len(f.cur.buf)
	f.cur.buf = f.tellGap(f.cur.buf, &e, nil)
	e.bytes = len(f.cur.buf) - before
	f.cur.add(e)
	return 0, true
}

// owes takes in what a run missed and told, when it need not be sent again.
func (f *feed) owes(e *entry) {
	if e.lost != nil {
		f.owe.add(&e.lost.gap)
	}
	if e.told != nil {
		f.owe.sub(e.told)
	}
}

// untell takes back what was told by, or missed before, runs that are going to
// be sent again.
func (f *feed) untell(settled, unsettled []entry) {
	for _, list := range [][]entry{settled, unsettled} {
		for i := range list {
			if g := list[i].told; g != nil {
				f.untold.add(g)
				f.toldAt = time.Time{}
			}
		}
	}
	if f.lease != nil {
		for i := range settled {
			if g := settled[i].told; g != nil {
				f.owe.add(g)
			}
		}
	}
	for i := range unsettled {
		if l := unsettled[i].lost; l != nil { // it will be missed again
			f.untold.records -= min(f.untold.records, l.records)
		}
	}
}
