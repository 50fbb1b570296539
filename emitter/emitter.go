// Package emitter is what a program imports to log: lines, measurements, a
// [slog.Handler] and an io.Writer that splits lines.
//
//	e := emitter.New(router, envelope.Identity{SourceID: "shop"}, nil)
//	e.Log(envelope.Out, "order 17 accepted")
//	slog.SetDefault(slog.New(e.Handler(nil)))
//
// An Emitter encodes a record once and hands it to an envelope.Writer at once.
// It holds nothing back, has no goroutine, and needs no flush. With a router as
// the Writer, a call appends to memory under a short lock: it does no I/O, does
// not fail while the network or a server is down, and does not allocate. What
// the router then has no room for it gives up oldest first, and counts.
//
// No method returns an error or panics because of what becomes of a record: a
// program does its work no matter what its logs do. Records that the Writer did
// not take are counted, see [Stats].
package emitter

import (
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/clock"
)

// TagSeverity is the tag by which a record of [Emitter.Handler] says its level.
const TagSeverity = "severity"

// TagPart is the tag on the parts of a line that was cut because it is longer
// than Options.MaxLine: "1", "2", … and, on the last one, its number and how many
// there are, "3/3".
const TagPart = "part"

// DefaultMaxLine leaves room in 64 KiB for the rest of an envelope, so that a
// record fits where 64 KiB is the limit.
const DefaultMaxLine = 60 << 10

// minLine is the smallest MaxLine: room for one character of any length.
const minLine = 16

// partOverhead bounds what TagPart adds to a record, in bytes.
const partOverhead = 64

// Options are what New can be told. The zero value is useful.
type Options struct {
	// MaxLine is the longest text of one log record in bytes; longer lines are
	// cut into parts, see TagPart, between characters where the text is UTF-8.
	// Zero means DefaultMaxLine. More than fits into an envelope of 1 MiB next to
	// the tags means as much as fits.
	MaxLine int
}

// Emitter makes records of one source and hands them to a Writer. It is safe for
// use by several goroutines at once; the order of one goroutine's calls is kept.
type Emitter struct {
	*core
	fixed   envelope.Fixed
	maxLine int
	totals  totals
}

// core is what an Emitter shares with its children.
type core struct {
	w      envelope.Writer
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	closed atomic.Bool
	clock  clock.Clock

	accepted atomic.Uint64
	refused  atomic.Uint64
	cut      atomic.Uint64

	wantMaxLine int
}

// New makes an Emitter of records that are id's and go to w. It starts nothing.
// A router refuses, and counts, every record without a source id.
//
// How long a call may take is w's word: a router never waits; a Writer that does
// network I/O itself holds up the program's log calls.
func New(w envelope.Writer, id envelope.Identity, o *Options) *Emitter {
	c := &core{w: w, wantMaxLine: DefaultMaxLine}
	if o != nil && o.MaxLine > 0 {
		c.wantMaxLine = o.MaxLine
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c.emitter(id.Encode())
}

func (c *core) emitter(fixed envelope.Fixed) *Emitter {
	fits := envelope.MaxSize - envelope.LogOverhead - partOverhead - len(fixed)
	return &Emitter{core: c, fixed: fixed, maxLine: max(minLine, min(c.wantMaxLine, fits))}
}

// With returns a child whose records have these tags too, encoded here, once. A
// tag that e has already is overridden. A child shares Close and Stats with its
// parent, and counts totals of its own, see Counter.
func (e *Emitter) With(tags map[string]string) *Emitter {
	fixed := slices.Clone(e.fixed)
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		fixed = fixed.AppendTag(k, tags[k])
	}
	return e.emitter(slices.Clip(fixed))
}

// Log emits one line, or a text of several lines as one record, as it is.
func (e *Emitter) Log(t envelope.LogType, line string) {
	now := e.clock.Now()
	e.log(now, now, t, view(line))
}

// log emits a line that was made at a time; now is as in send.
func (e *Emitter) log(at, now int64, t envelope.LogType, line []byte) {
	b := take()
	if len(line) > e.maxLine {
		l := lines{e: e, t: t, out: b, last: at - 1}
		l.hold(line)
		l.finish(false)
		l.flush()
		b.give()
		return
	}
	b.records = envelope.AppendLog(b.records, e.fixed, at, t, line)
	e.send(b.records, 1, now)
	b.give()
}

// Counter emits that delta more of name have happened, with the total since this
// Emitter was made; so a reader that misses records still knows the total. For
// more than 4,096 names the total of further ones is left out (it is zero).
func (e *Emitter) Counter(name string, delta uint64) {
	b := take()
	total := e.totals.add(name, delta)
	now := e.clock.Now()
	b.records = envelope.AppendCounter(b.records, e.fixed, now, name, delta, total)
	e.send(b.records, 1, now)
	b.give()
}

// Gauge emits a value as it is now. The unit is free text, "bytes", "ms".
func (e *Emitter) Gauge(name string, value float64, unit string) {
	b := take()
	m := envelope.Metric{Name: view(name), Unit: view(unit), Value: value}
	now := e.clock.Now()
	b.records = envelope.AppendGauge(b.records, e.fixed, now, m)
	e.send(b.records, 1, now)
	b.give()
}

// Timer emits how long something took.
func (e *Emitter) Timer(name string, start, stop time.Time) {
	b := take()
	now := e.clock.Now()
	b.records = envelope.AppendTimer(b.records, e.fixed, now, name, start.UnixNano(), stop.UnixNano())
	e.send(b.records, 1, now)
	b.give()
}

// Event emits that something happened.
func (e *Emitter) Event(title, body string) {
	b := take()
	now := e.clock.Now()
	b.records = envelope.AppendEvent(b.records, e.fixed, now, title, body)
	e.send(b.records, 1, now)
	b.give()
}

// Flush asks the Writer to hand over what it holds, if the Writer knows how (it
// has a method Flush(context.Context) error), and returns its answer. The
// Emitter itself holds nothing; unfinished lines of a Writer(…) wait for their
// end or Close.
func (e *Emitter) Flush(ctx context.Context) error {
	if f, ok := e.w.(interface{ Flush(context.Context) error }); ok {
		return f.Flush(ctx)
	}
	return nil
}

// Close ends the Emitter and its children, and calls that wait in the Writer.
// Whatever is emitted later is counted as refused. The Writer stays open: it is
// the caller's.
func (e *Emitter) Close() error {
	e.closed.Store(true)
	e.cancel()
	return nil
}

// Stats are numbers of records since New, an Emitter and all its children
// together. Each record is either accepted or refused.
type Stats struct {
	Accepted uint64 // the Writer took them
	Refused  uint64 // the Writer returned an error, or the Emitter was closed
	Cut      uint64 // lines longer than MaxLine; each is two records or more
}

// Stats reads the numbers.
func (e *Emitter) Stats() Stats {
	return Stats{Accepted: e.accepted.Load(), Refused: e.refused.Load(), Cut: e.cut.Load()}
}

// send hands n records over. now is the time if it was just looked up, or zero.
func (c *core) send(records []byte, n int, now int64) {
	if !c.closed.Load() && c.w.WriteBatch(c.ctx, envelope.Batch{Records: records, Count: n, Now: now}) == nil {
		c.accepted.Add(uint64(n))
		return
	}
	c.refused.Add(uint64(n))
}

// view is s as bytes without a copy, for functions that only read them.
func view(s string) []byte { return unsafe.Slice(unsafe.StringData(s), len(s)) }

// buffer is memory in which records are encoded before the Writer takes them.
type buffer struct {
	records []byte
	tags    envelope.Fixed // of one record, where they are made anew for each
	text    []byte         // of one record, where it is made here
	groups  []string       // that an attribute of a record stands in
}

// maxKept bounds a buffer that goes back to the pool: one huge line must not
// pin its size for good.
const maxKept = 512 << 10

var pool = sync.Pool{New: func() any { return new(buffer) }}

func take() *buffer { return pool.Get().(*buffer) }

func (b *buffer) give() {
	if cap(b.records)+cap(b.tags)+cap(b.text) > maxKept {
		return
	}
	clear(b.groups[:cap(b.groups)])
	b.records, b.tags, b.text, b.groups = b.records[:0], b.tags[:0], b.text[:0], b.groups[:0]
	pool.Put(b)
}

// totals are the sums of an Emitter's counters.
type totals struct {
	mu     sync.RWMutex
	byName map[string]*atomic.Uint64
}

// maxTotals bounds the names, which a program may make of anything.
const maxTotals = 4096

func (t *totals) add(name string, delta uint64) uint64 {
	t.mu.RLock()
	sum := t.byName[name]
	t.mu.RUnlock()
	if sum == nil {
		if sum = t.insert(name); sum == nil {
			return 0
		}
	}
	return sum.Add(delta)
}

func (t *totals) insert(name string) *atomic.Uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	if sum := t.byName[name]; sum != nil {
		return sum
	}
	if len(t.byName) >= maxTotals {
		return nil
	}
	if t.byName == nil {
		t.byName = make(map[string]*atomic.Uint64)
	}
	sum := new(atomic.Uint64)
	t.byName[name] = sum
	return sum
}
