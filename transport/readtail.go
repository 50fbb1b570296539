package transport

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Batches implements envelope.Source. The query goes to all servers. Without
// Query.ByTime their batches come in turns. With it they are merged: what is held
// at the start exactly by timestamp, what arrives later as far as it is there. Last
// counts over all servers together, if they can be reached at the start.
//
// A sequence that follows outlives connections and servers: it ends with ctx, with
// ErrClosed, or with ErrRefused. A server that comes back is read on where the
// sequence stood there. One that was not there at the start is read from what
// arrived since the start, unless the query asks for more. A source may move from
// one server to another meanwhile: what was given already is left out by its
// maker's numbers, and what is missing by them is told as Missed, after
// half a second in which the other servers may bring it, or ten, if one of them has
// just gone.
//
// A server that is away for longer than ReaderOptions.TellAfter is told by a line
// of the source type LGR, a batch of one record that nobody has numbered, and by
// another one when it is back. A sequence that does not follow goes on without it
// after that time; if it was the only one, or all are away, the sequence ends with
// ErrAway. With ReaderOptions.Quiet there are no such lines, and a sequence that
// does not follow ends with ErrAway after what the others have given.
//
// Of a query by single records, which ByTime merges, a cursor that was taken in
// the middle of what a server gave at once may give a few of its records again.
//
// Query.Where is asked here, of what the servers have sent. Of a Query.Shard with
// several members, what was under way to one whose connection broke is not read
// again, and is not counted: the sources go over to the others from where the server
// had sent them.
func (r *Reader) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return r.batches(ctx, r.remotes, q)
}

func (r *Reader) batches(ctx context.Context, remotes []*remote, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		wake := make(chan struct{}, 1)
		t := newTail(r, remotes, q, func() {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
		defer t.close()
		err := t.run(ctx, wake, func(b envelope.Batch) error {
			if !yield(b, nil) {
				return errLeft
			}
			return nil
		})
		if err != nil && err != errLeft {
			yield(envelope.Batch{}, err)
		}
	}
}

// errLeft means that the loop over a sequence was left.
var errLeft = errors.New("left")

// tail is one sequence over all servers. It belongs to one goroutine at a time.
type tail struct {
	r      *Reader
	q      envelope.Query
	opened time.Time
	watch  watcher // whom there is news for
	parts  []part

	at      envelope.Cursor
	several bool // sources may have been at other servers, read here or not
	resumed bool // it began with a cursor
	holes   holes
	ages    ages
	asked   map[inquiryKey]*inquiry
	asking  int                          // of them, without an answer
	spare   map[envelope.StreamID]uint64 // missed in a ring, and of which maker is not known yet
	wanted  map[envelope.StreamID]bool   // by Query.Where
	skip    uint64                       // records to leave out, of more than Last
	holding bool                         // until all servers have given their Last
	merging bool                         // by time
	past    bool                         // what was held at the start is still being given
	turn    int                          // of the part that gave last
	lines   []envelope.Batch             // to be yielded next
}

// newTail makes a tail, which must be closed. Wake is called by others when there may
// be something to do, and must not block.
func newTail(r *Reader, remotes []*remote, q envelope.Query, wake func()) *tail {
	t := &tail{
		r: r, q: q, opened: time.Now(), watch: watcher{wake}, parts: make([]part, len(remotes)),
		at: q.Cursor.Clone(), several: len(r.remotes) > 1, resumed: !q.Cursor.IsZero(), past: true,
	}
	for i := range t.parts {
		t.parts[i] = part{t: t, m: remotes[i], since: t.opened}
		if !q.Follow { // whoever turns pages has waited for the server with the first
			t.parts[i].since = remotes[i].awaySince(t.opened)
		}
	}
	t.q.Where, t.q.Cursor = nil, envelope.Cursor{}
	if q.Where != nil {
		t.q.Where = q.Where
		t.wanted = make(map[envelope.StreamID]bool)
	}
	r.watch(&t.watch)
	r.sequence.Add(1)
	return t
}

func (t *tail) close() {
	t.r.unwatch(&t.watch)
	t.r.sequence.Add(-1)
	for _, q := range t.asked {
		t.forget(q)
	}
	for i := range t.parts {
		t.parts[i].close()
	}
}

func (t *tail) run(ctx context.Context, wake <-chan struct{}, put func(envelope.Batch) error) error {
	if err := t.settle(ctx); err != nil {
		return err
	}
	t.start()
	for {
		idle, over, err := t.proceed(ctx, put)
		if over || err != nil {
			return err
		}
		if err := t.wait(ctx, wake, idle); err != nil {
			return err
		}
	}
}

func (t *tail) start() {
	several := len(t.parts) > 1
	// Of a query by time each server gives its Last, of which the reader takes those
	// it needs: what is left out here could be some of one timestamp.
	t.holding = several && t.q.Last > 0 && t.q.Until.IsZero() && t.at.IsZero()
	t.merging = several && (t.q.ByTime || t.holding)
}

// proceed gives what there is to give, until nothing is left at the time idle, or
// the sequence is over.
func (t *tail) proceed(ctx context.Context, put func(envelope.Batch) error) (idle time.Time, over bool, err error) {
	for {
		if err := ctx.Err(); err != nil {
			return idle, false, err
		}
		if t.r.ctx.Err() != nil {
			return idle, false, ErrClosed
		}
		now := time.Now()
		for i := range t.parts {
			p := &t.parts[i]
			p.serve(now)
			if errors.Is(p.lost, ErrRefused) {
				return now, false, p.lost
			}
			p.late = p.late || p.opens == 0
		}
		if t.holding && t.held(now) {
			t.holding = false
			continue
		}
		b, ok := t.next(now)
		if !ok {
			over, err := t.over()
			return now, over, err
		}
		t.r.records.Add(uint64(b.Count))
		t.r.bytes.Add(uint64(len(b.Records)))
		t.r.missed.Add(b.Missed)
		if err := put(b); err != nil {
			return now, false, err
		}
	}
}

// settle waits until each server was tried once, since the Reader was made.
func (t *tail) settle(ctx context.Context) error {
	patience := time.NewTimer(t.r.opts.DialTimeout)
	defer patience.Stop()
	for i := range t.parts {
		select {
		case <-t.parts[i].m.tried:
		case <-patience.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-t.r.ctx.Done():
			return ErrClosed
		}
	}
	return nil
}

// over reports whether a sequence that does not follow has come to its end.
func (t *tail) over() (bool, error) {
	failed := 0
	for i := range t.parts {
		p := &t.parts[i]
		if !p.over || p.has || len(p.aside) > 0 {
			return false, nil
		}
		if p.lost != nil {
			failed++
		}
	}
	switch {
	case failed == 0:
		return true, nil
	case failed < len(t.parts) && !t.r.opts.Quiet:
		return true, nil // there was a line
	}
	for i := range t.parts {
		if lost := t.parts[i].lost; lost != nil && !errors.Is(lost, errAwayNow) {
			return true, fmt.Errorf("%w (%s: %w)", ErrAway, t.parts[i].m.target, lost)
		}
	}
	return true, t.r.away()
}

// wait returns when there may be something to do.
func (t *tail) wait(ctx context.Context, wake <-chan struct{}, now time.Time) error {
	var timer <-chan time.Time
	if d := t.due(now); d > 0 {
		clock := time.NewTimer(d)
		defer clock.Stop()
		timer = clock.C
	}
	select {
	case <-wake:
	case <-timer:
	case <-ctx.Done():
		return ctx.Err()
	case <-t.r.ctx.Done():
		return ErrClosed
	}
	return nil
}

// due is how long until something is to be done without news; 0: never.
func (t *tail) due(now time.Time) (d time.Duration) {
	for i := range t.parts {
		if at := t.parts[i].due(now); !at.IsZero() {
			if until := max(at.Sub(now), time.Millisecond); d == 0 || until < d {
				d = until
			}
		}
	}
	return d
}

// next is the batch to be given now.
func (t *tail) next(now time.Time) (envelope.Batch, bool) {
	if n := len(t.lines); n > 0 {
		b := t.lines[0]
		t.lines = t.lines[1:]
		return b, true
	}
	if t.holding {
		return envelope.Batch{}, false
	}
	p, h, limit := t.pick(now)
	if p == nil {
		return envelope.Batch{}, false
	}
	b := p.give(h, limit)
	if t.several {
		t.pass(h, &b)
	}
	t.advance(b, p, now)
	if t.skip > 0 && b.Count > 0 { // more than the Last
		n := min(t.skip, uint64(b.Count))
		t.skip -= n
		b = without(b, int(n))
		b.Missed = 0
	}
	return b, true
}

// advance notes that b is given.
func (t *tail) advance(b envelope.Batch, p *part, now time.Time) {
	next := t.at.Streams[b.Stream]
	t.at.Advance(b)
	if b.Stream != 0 && b.Next < next {
		t.at.Streams[b.Stream] = next
	}
	t.ages.note(&t.at, &b, now)
	if b.Count > 0 || b.Missed > 0 {
		p.begun = true
	}
}

// line queues a line about a server.
func (t *tail) line(text string) {
	if t.r.opts.Quiet {
		return
	}
	id := envelope.Identity{SourceID: "loggregator", Tags: map[string]string{envelope.TagSourceType: envelope.SourceTypeLGR}}
	if len(t.q.Select) == 1 {
		s := &t.q.Select[0]
		switch {
		case s.SourceID != "":
			id.SourceID = s.SourceID
		case s.App != "":
			id.Tags[envelope.TagAppName] = s.App
		}
	}
	record := envelope.AppendLog(nil, id.Encode(), time.Now().UnixNano(), envelope.Err, []byte(text))
	t.lines = append(t.lines, envelope.Batch{Records: record, Count: 1})
}
