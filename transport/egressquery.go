package transport

import (
	"context"
	"encoding/binary"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// egressBatch bounds the records of one batch, in bytes, so that a frame fits into
// what outbuf writes at once, and no query holds up the others for long.
const egressBatch = 32 << 10

// egressQuery is one query of a reader. A goroutine runs it while there is
// something to read; in between it has the cursor alone.
type egressQuery struct {
	c    *egressConn
	id   uint64
	mode byte
	size int64

	// Of the goroutine.
	q     envelope.Query
	ring  envelope.StreamID // of the batch by which the sequence began
	began bool
	ages  ages

	busy   atomic.Bool // something came since the timer looked last
	hungry atomic.Bool // it waits for credit
	marked atomic.Bool // the sequence began with where it begins

	mu     sync.Mutex
	caught bool // the reader knows that all there was at the start has been sent
	credit int64
	asleep bool
	woken  bool
	over   error              // why it shall end
	room   chan struct{}      // capacity 1, while it runs: credit has come
	cancel context.CancelFunc // ends a run; nil: none
	stop   func()             // ends the Source's promise to wake it; nil: there is none
}

// give is called when the reader has read on.
func (q *egressQuery) give(n uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.credit += int64(min(n, 1<<40))
	q.credit = min(q.credit, 1<<40)
	if q.room != nil {
		signal(q.room)
	}
	if q.asleep && q.stop == nil && q.credit > 0 {
		q.rise()
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// wake is called by the Source, with its locks held.
func (q *egressQuery) wake() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.woken = true
	if q.asleep && q.stop != nil {
		q.rise()
	}
}

// end makes the query end soon. It may be called from anywhere but the Source.
func (q *egressQuery) end(why error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.over == nil {
		q.over = why
	}
	switch {
	case q.asleep:
		q.rise()
	case q.cancel != nil:
		q.cancel()
	}
}

// rise gives the query a goroutine again. The lock is held.
func (q *egressQuery) rise() {
	q.asleep = false
	q.c.e.asleep.Add(-1)
	q.c.wg.Add(1) // there is one more until the reader is gone: those asleep are ended first
	go q.run()
}

// run serves the query until it is over, or has nothing to do.
func (q *egressQuery) run() {
	defer q.c.wg.Done()
	ctx, cancel := context.WithCancel(q.c.ctx)
	defer cancel()
	q.mu.Lock()
	over, stop := q.over, q.stop
	q.cancel, q.stop = cancel, nil
	q.room = make(chan struct{}, 1)
	q.mu.Unlock()
	if stop != nil {
		stop()
	}
	for over == nil {
		var rest error
		switch q.mode {
		case modeRead:
			rest, over = q.read(ctx)
		case modeWake:
			rest, over = q.watch(ctx)
		case modeKnown:
			answer := byte(0)
			if q.c.e.known(q.q.Select) {
				answer = 1
			}
			q.c.out.Append(appendFrame(nil, kindKnown, q.id, answer))
			over = errAnswered
		case modeSources:
			over = q.list(ctx)
		}
		if over == nil && q.sleep(rest) {
			return
		}
		q.mu.Lock()
		if q.over != nil {
			over = q.over
		}
		q.mu.Unlock()
	}
	q.mu.Lock()
	if q.over == nil {
		q.over = over
	} else {
		over = q.over
	}
	q.cancel, q.room = nil, nil
	q.mu.Unlock()
	q.c.forget(q)
	switch code := over.(type) {
	case *endError:
		q.c.endQuery(q.id, code.code, code.text)
	default:
		if over == errLeaving {
			q.c.endQuery(q.id, endClosed, errLeaving.Error())
		}
	}
}

// errAnswered ends a query that needs no end frame.
var errAnswered = &endError{code: math.MaxUint8}

// endError is how a query ended, as the other end is told.
type endError struct {
	code byte
	text string
}

func (e *endError) Error() string { return e.text }

// sleep gives up the goroutine: until the Source has something, or, for errFed,
// until there is credit. It is false if there is reason to go on at once.
func (q *egressQuery) sleep(rest error) bool {
	var stop func()
	if rest == errIdle {
		q.mu.Lock()
		q.woken = false
		q.mu.Unlock()
		stop = q.c.e.waker.Wake(q.q, q.wake)
	}
	q.mu.Lock()
	if q.over != nil || rest == errIdle && q.woken || rest == errFed && q.credit > 0 {
		q.mu.Unlock()
		if stop != nil {
			stop()
		}
		return false
	}
	q.asleep, q.stop, q.cancel, q.room = true, stop, nil, nil
	q.c.e.asleep.Add(1)
	q.mu.Unlock()
	return true
}

// read sends batches. It returns why to rest, or why it is over.
func (q *egressQuery) read(ctx context.Context) (rest, over error) {
	ctx, leave := context.WithCancelCause(ctx)
	defer leave(nil)
	if q.q.Follow {
		defer q.watchIdle(leave).Stop()
	}
	for b, err := range q.c.e.src.Batches(ctx, q.q) {
		if err != nil {
			switch {
			case context.Cause(ctx) == errIdle:
				return errIdle, nil
			case ctx.Err() != nil:
				return nil, errGone
			}
			return nil, &endError{endClosed, err.Error()}
		}
		q.busy.Store(true)
		switch err := q.send(ctx, b); err {
		case nil:
		case errFed:
			return errFed, nil
		default:
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, errGone
	}
	return nil, &endError{endDone, ""}
}

// watchIdle ends a sequence in which nothing has come for a while and which can be
// gone on with later: not one that is still at what there was at the start. A
// Source that does not say when it is done with that is, when nothing comes.
func (q *egressQuery) watchIdle(leave context.CancelCauseFunc) *time.Timer {
	after := q.c.e.opts.RestAfter
	var mu sync.Mutex // until idle is set
	mu.Lock()
	defer mu.Unlock()
	var idle *time.Timer
	idle = time.AfterFunc(after, func() {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case q.busy.Swap(false) || q.hungry.Load():
		case q.isCaught():
			if q.q.Shard == "" && q.c.e.waker != nil {
				leave(errIdle)
			}
			return
		case !q.marked.Load():
			q.sendCaught()
		}
		idle.Reset(after)
	})
	return idle
}

func (q *egressQuery) isCaught() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.caught
}

// sendCaught tells that all there was at the start has been sent, if that has not
// been told.
func (q *egressQuery) sendCaught() {
	q.mu.Lock()
	told := q.caught
	q.caught = true
	q.mu.Unlock()
	if !told {
		q.c.out.Append(appendFrame(nil, kindCaught, q.id))
	}
}

// send sends one batch, and waits until there is credit for the next. errFed means
// that there was none for a while.
func (q *egressQuery) send(ctx context.Context, b envelope.Batch) error {
	if q.q.Follow && b.Count == 0 && b.Missed == 0 && !b.Reset && b.Ring != 0 {
		switch {
		case !q.began:
			q.ring = b.Ring
			q.ages.mark(b.Ring)
			q.marked.Store(true)
		case b.Ring == q.ring:
			q.q.Cursor.Advance(b)
			q.sendCaught()
			return nil
		case q.q.Cursor.Rings[b.Ring] == b.Position:
			return nil // it woke where it fell asleep
		}
	}
	q.began = true
	var buf [envelope.MaxBatchHeader]byte
	header := b.AppendHeader(buf[:0])
	size := len(header) + len(b.Records)
	var headBuf [24]byte
	head := appendFrameHead(headBuf[:0], kindBatch, q.id, size)
	if err := q.c.out.Append(head, header, b.Records); err != nil {
		return errGone
	}
	if q.q.Follow {
		q.q.Cursor.Advance(b)
		if len(q.q.Cursor.Rings) >= fewPositions/2 {
			q.ages.note(&q.q.Cursor, &b, time.Now())
		}
	}
	e := q.c.e
	e.batches.Add(1)
	e.records.Add(uint64(b.Count))
	e.bytes.Add(uint64(len(b.Records)))
	e.missed.Add(b.Missed)
	return q.spend(ctx, size)
}

// spend takes credit, and waits until there is some. A query that can be gone on
// with later waits for a while only.
func (q *egressQuery) spend(ctx context.Context, size int) error {
	q.mu.Lock()
	q.credit -= int64(size)
	ok, may := q.credit > 0, q.caught && q.mode == modeRead && q.q.Follow && q.q.Shard == ""
	q.mu.Unlock()
	if ok {
		return nil
	}
	q.hungry.Store(true)
	defer q.hungry.Store(false)
	var late <-chan time.Time
	if may {
		patience := time.NewTimer(q.c.e.opts.RestAfter)
		defer patience.Stop()
		late = patience.C
	}
	for {
		select {
		case <-q.room:
			q.mu.Lock()
			ok := q.credit > 0
			q.mu.Unlock()
			if ok {
				return nil
			}
		case <-late:
			return errFed
		case <-ctx.Done():
			return errGone
		}
	}
}

// watch waits until there is something beyond the cursor.
func (q *egressQuery) watch(ctx context.Context) (rest, over error) {
	q.mu.Lock()
	woken := q.woken
	q.mu.Unlock()
	q.q.Follow, q.q.Shard = true, ""
	switch {
	case woken:
	case q.c.e.waker != nil:
		return errIdle, nil
	default:
		for b, err := range q.c.e.src.Batches(ctx, q.q) {
			if err != nil && ctx.Err() != nil {
				return nil, errGone
			}
			if err != nil || b.Count > 0 || b.Missed > 0 {
				break
			}
		}
	}
	q.c.out.Append(appendFrame(nil, kindWoke, q.id))
	return nil, errAnswered
}

// list sends what sources there are.
func (q *egressQuery) list(ctx context.Context) error {
	var out, one []byte
	flush := func() error {
		if len(out) == 0 {
			return nil
		}
		if err := q.c.out.Append(appendFrameHead(nil, kindSources, q.id, len(out)), out); err != nil {
			return errGone
		}
		size := len(out)
		out = out[:0]
		return q.spend(ctx, size)
	}
	for s := range q.c.e.list(q.q.Select) {
		one = s.AppendWire(one[:0])
		out = binary.AppendUvarint(out, uint64(len(one)))
		out = append(out, one...)
		if len(out) >= egressBatch/2 {
			if err := flush(); err != nil {
				return errGone
			}
		}
	}
	if err := flush(); err != nil {
		return errGone
	}
	return &endError{endDone, ""}
}
