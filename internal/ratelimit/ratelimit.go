// Package ratelimit bounds what each source may write, in bytes a second.
package ratelimit

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Reason is why records are missing, as it is told in their source's stream.
const Reason = envelope.ReasonRate

// TellAfter is how long refused records of a source are gathered before their
// number is told.
const TellAfter = time.Second

// maxSources bounds the sources that have a bucket of their own; further ones
// share one, until others have been silent for long enough.
const maxSources = 10_000

// Writer hands on what is within the limit of each source, and refuses the rest
// record by record. What it refuses is counted, and told by a record in the
// source's own stream within TellAfter.
//
// What it hands on is not numbered: a record that is sent again counts again.
type Writer struct {
	w           envelope.Writer
	rate, burst float64 // bytes a second, bytes
	refused     atomic.Uint64
	telling     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	buckets map[string]*bucket
}

// bucket is one source's allowance.
type bucket struct {
	bytes float64 // that may be written now
	at    time.Time

	untold uint64 // refused, and not told of
	fixed  envelope.Fixed
	timer  *time.Timer
}

// New makes a Writer to w with a limit for each source of rate bytes a second,
// and burst bytes at once, both of encoded records. A burst below the size of a
// record refuses it for ever; zero means one second's worth, at least 64 KiB.
func New(w envelope.Writer, rate, burst int64) *Writer {
	if burst <= 0 {
		burst = max(rate, 64<<10)
	}
	return &Writer{w: w, rate: float64(rate), burst: float64(burst), buckets: make(map[string]*bucket)}
}

// Refused is how many records there was no allowance for.
func (l *Writer) Refused() uint64 { return l.refused.Load() }

// WriteBatch hands on what is within the limit. An error is that of the Writer
// behind; then nothing that follows is handed on.
func (l *Writer) WriteBatch(ctx context.Context, b envelope.Batch) error {
	// The records that are let through are mostly all of them: they go on in runs.
	start, count := 0, 0
	flush := func(end int) error {
		if count == 0 {
			return nil
		}
		run := envelope.Batch{Records: b.Records[start:end], Count: count}
		count = 0
		return l.w.WriteBatch(ctx, run)
	}
	if b.Missed > 0 { // told by a Writer that knows no numbers, all the same
		if err := l.w.WriteBatch(ctx, envelope.Batch{Missed: b.Missed}); err != nil {
			return err
		}
	}
	for at := 0; at < len(b.Records); {
		e, rest, err := envelope.Next(b.Records[at:])
		if err != nil {
			return l.w.WriteBatch(ctx, envelope.Batch{Records: b.Records[at:], Count: 1}) // the door counts it
		}
		end := len(b.Records) - len(rest)
		switch {
		case !l.allow(e, end-at):
			if err := flush(at); err != nil {
				return err
			}
			start = end
		default:
			count++
		}
		at = end
	}
	return flush(len(b.Records))
}

// allow takes size bytes from the allowance of e's source, if they are there.
func (l *Writer) allow(e envelope.Envelope, size int) bool {
	id := e.PeekSourceID()
	if id == nil {
		r, err := e.Route()
		if err != nil {
			return true // the door refuses it
		}
		id = r.SourceID
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	b := l.bucket(id, now)
	b.bytes = min(l.burst, b.bytes+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.bytes >= float64(size) {
		b.bytes -= float64(size)
		return true
	}
	l.refused.Add(1)
	b.untold++
	if b.timer == nil && !l.closed {
		b.fixed = fixedOf(e)
		l.telling.Add(1)
		b.timer = time.AfterFunc(TellAfter, func() {
			defer l.telling.Done()
			l.tell(b)
		})
	}
	return false
}

// bucket is that of a source, a new one is full. The lock is held.
func (l *Writer) bucket(id []byte, now time.Time) *bucket {
	b := l.buckets[string(id)]
	if b != nil {
		return b
	}
	if len(l.buckets) >= maxSources {
		for id, b := range l.buckets {
			if b.timer == nil && now.Sub(b.at).Seconds()*l.rate >= l.burst {
				delete(l.buckets, id)
			}
		}
	}
	if len(l.buckets) >= maxSources {
		id = nil
		if b = l.buckets[""]; b != nil {
			return b
		}
	}
	b = &bucket{bytes: l.burst, at: now}
	l.buckets[string(id)] = b
	return b
}

// tell writes how many records of a source were refused.
func (l *Writer) tell(b *bucket) {
	l.mu.Lock()
	n, fixed := b.untold, b.fixed
	b.untold, b.fixed, b.timer = 0, nil, nil
	l.mu.Unlock()
	if n == 0 {
		return
	}
	record := envelope.AppendMissed(nil, fixed, time.Now().UnixNano(), n, Reason.String())
	l.w.WriteBatch(context.Background(), envelope.Batch{Records: record, Count: 1})
}

// fixedOf is what e says of its source.
func fixedOf(e envelope.Envelope) envelope.Fixed {
	r, err := e.Route()
	if err != nil {
		return nil
	}
	if fixed := envelope.FixedOf(e, &r); fixed != nil {
		return envelope.Fixed(bytes.Clone(fixed))
	}
	id := envelope.Identity{SourceID: string(r.SourceID), InstanceID: string(r.InstanceID), Tags: make(map[string]string)}
	for k, v := range e.Tags() {
		id.Tags[string(k)] = string(v)
	}
	return id.Encode()
}

// Close tells what has been refused and not told of yet. The Writer behind stays
// open.
func (l *Writer) Close() error {
	l.mu.Lock()
	l.closed = true
	var now []*bucket
	for _, b := range l.buckets {
		if b.timer != nil && b.timer.Stop() {
			now = append(now, b)
		}
	}
	l.mu.Unlock()
	for _, b := range now {
		l.tell(b)
		l.telling.Done()
	}
	l.telling.Wait()
	return nil
}
