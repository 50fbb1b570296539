package transport

import (
	"context"
	"errors"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Flush waits until everything that the Source held when Flush was called has
// been acknowledged, or was lost in the Source meanwhile. It returns ctx's error
// if that does not happen in time, ErrClosed if the link is closed first. Where
// there is no connection, it is tried to make one at once. Of a
// Source that is closed, it waits for what has been read; without a connection
// it returns the Source's error.
//
// It knows what there is by asking the Source for it once more, from the
// acknowledged cursor to the end, and taking note of the positions alone. That
// costs about as much as reading what is yet to be sent. When it takes long it
// asks again, in case the Source has given up what Flush waits for.
func (l *Link) Flush(ctx context.Context) error {
	l.hurry()
	end, _, err := l.held(ctx)
	closed := err != nil // then what is being read now is all there will be
	if closed && !l.reading() {
		return err
	}
	interval := time.Second
	again := time.NewTimer(interval)
	defer again.Stop()
	for {
		l.mu.Lock()
		if !l.ended && !closed && l.covers(end) {
			l.mu.Unlock()
			return nil
		}
		if l.moved == nil {
			l.moved = make(chan struct{})
		}
		moved := l.moved
		l.mu.Unlock()
		select {
		case <-moved:
		case <-again.C:
			now, _, err := l.held(ctx)
			if err == nil {
				keepBelow(end, now)
			}
			interval *= 2
			again.Reset(interval)
		case <-ctx.Done():
			return ctx.Err()
		case <-l.done:
			l.mu.Lock()
			defer l.mu.Unlock()
			if l.ended && l.left() == 0 || !l.ended && !closed && l.covers(end) {
				return nil
			}
			return ErrClosed
		}
	}
}

// reading reports whether the Source is being read, or was to its end.
func (l *Link) reading() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return true
	}
	for _, n := range l.lanes {
		if n.connected {
			return true
		}
	}
	return false
}

func (l *Link) hasEnded() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ended
}

// held is where a reader would stand, ring by ring, after all records that the
// Source holds beyond the acknowledged cursor, and how many there are.
func (l *Link) held(ctx context.Context) (end map[envelope.StreamID]uint64, records uint64, err error) {
	end = make(map[envelope.StreamID]uint64)
	l.mu.Lock()
	q := everything(l.acked)
	l.mu.Unlock()
	for b, err := range l.src.Batches(ctx, q) {
		if err != nil {
			return end, records, err
		}
		if b.Count == 0 {
			continue // what is lost at the end of a ring is told with its next record
		}
		if b.Ring == 0 {
			b.Ring, b.Position = b.Stream, b.Next
		}
		if b.Ring != 0 { // or nobody numbered it, and nothing can be waited for
			end[b.Ring] = b.Position
		}
		records += uint64(b.Count)
	}
	return end, records, nil
}

// keepBelow forgets the rings of end that hold no records any more.
func keepBelow(end, now map[envelope.StreamID]uint64) {
	for ring := range end {
		if _, ok := now[ring]; !ok {
			delete(end, ring)
		}
	}
}

// Shutdown flushes, closes, and returns how many records that the Source holds
// have not been acknowledged: those for which ctx left no time, and those that
// arrived since. They are not lost as long as the Source lives. Of a Source that
// has ended, it is those that were under way when the last connection broke, and
// they are lost.
func (l *Link) Shutdown(ctx context.Context) (left uint64, err error) {
	err = l.Flush(ctx)
	l.Close()
	if l.hasEnded() {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.left(), err
	}
	_, left, heldErr := l.held(context.WithoutCancel(ctx))
	return left, errors.Join(err, heldErr)
}

// covers reports whether the acknowledged cursor has passed all of end, from
// which it takes what it has passed. The lock is held.
func (l *Link) covers(end map[envelope.StreamID]uint64) bool {
	for ring, position := range end {
		if l.acked.get(ring) < position {
			return false
		}
		delete(end, ring)
	}
	return true
}
