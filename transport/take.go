package transport

import (
	"encoding/binary"
	"errors"
	"os"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// take consumes the whole messages in the buffer and acknowledges them. full
// says that the last read filled the buffer. If it left a message half read, more
// is about to come, and the acknowledgements of both can go together.
func (c *conn) take(full bool) *fault {
	var done tally
	f := c.consume(&done)
	c.s.batches.Add(done.batches)
	c.s.records.Add(done.records)
	c.s.missed.Add(done.missed)
	if f != nil || !full || !c.partial {
		// What the Writer has taken counts also when the next message is rubbish.
		if g := c.acknowledge(); f == nil {
			f = g
		}
	}
	return f
}

type tally struct{ batches, records, missed uint64 }

func (c *conn) consume(done *tally) *fault {
	if !c.greeted {
		if f := sniff(c.buf[c.start:c.end]); f != nil {
			return f
		}
	}
	fresh := !c.partial // whether what remains at the end began in this read
	for c.start < c.end {
		rest := c.buf[c.start:c.end]
		size, n := binary.Uvarint(rest)
		switch {
		case n < 0:
			return suspect(rest)
		case n > 0 && size > uint64(c.s.opts.MaxMessage):
			f := suspect(rest)
			if f.reason == reasonMalformed {
				f = &fault{reason: reasonTooLarge, says: "announces a message above the limit"}
			}
			return f
		}
		if n == 0 || size > uint64(len(rest)-n) {
			break
		}
		b, err := envelope.ParseBatch(rest[n : n+int(size)])
		if err != nil {
			return suspect(rest)
		}
		if f := c.hand(b, done); f != nil {
			return f
		}
		c.greeted, fresh = true, true
		c.start += n + int(size)
		c.unsent += n + int(size)
		if c.unsent >= ackEvery || len(c.acks) >= maxAcks {
			if f := c.acknowledge(); f != nil {
				return f
			}
		}
	}
	switch {
	case c.start == c.end:
		c.start, c.end = 0, 0
		if c.partial {
			c.partial = false
			c.deadline(time.Time{})
		}
	case fresh:
		c.partial = true
		c.deadline(time.Now().Add(c.s.opts.MessageTimeout))
	}
	return nil
}

// hand gives one batch to the Writer. A message that says nothing is none.
func (c *conn) hand(b envelope.Batch, done *tally) *fault {
	if b.Count == 0 && b.Missed == 0 && !b.Reset && b.Next == b.First {
		return nil
	}
	if f := c.wait(&b); f != nil {
		return f
	}
	if err := c.s.hand(c.s.ctx, b); err != nil {
		return &fault{reason: reasonWriter, says: "batch not taken", err: err}
	}
	done.batches++
	done.records += uint64(b.Count)
	done.missed += b.Missed
	switch last := len(c.acks) - 1; {
	case b.Stream == 0:
	case last >= 0 && c.acks[last].stream == b.Stream:
		c.acks[last].next = max(c.acks[last].next, b.Next)
	default:
		c.acks = append(c.acks, position{b.Stream, b.Next})
	}
	return nil
}

// wait holds the connection back while it brings more new sources than it may.
func (c *conn) wait(b *envelope.Batch) *fault {
	for d := c.known.wait(b); d > 0; d = c.known.wait(b) {
		if f := c.acknowledge(); f != nil { // so that the sender does not wait for what has been taken
			return f
		}
		if c.isDraining() || !pause(c.s.ctx, d) {
			return nil
		}
	}
	return nil
}

// maxAcks bounds the acknowledgements that wait to be sent.
const maxAcks = 1024

// acknowledge sends what has been taken since the last time. A peer that cannot
// be reached any more is only not told: what it sent before may still arrive.
func (c *conn) acknowledge() *fault {
	c.unsent = 0
	if len(c.acks) == 0 {
		return nil
	}
	c.out = appendAck(c.out[:0], c.acks)
	c.acks = c.acks[:0]
	if c.deaf {
		return nil
	}
	c.raw.SetWriteDeadline(time.Now().Add(c.s.opts.AckTimeout))
	_, err := c.nc.Write(c.out)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &fault{reason: reasonAcks, says: "acknowledgements not read for " + c.s.opts.AckTimeout.String()}
	}
	c.deaf = err != nil
	return nil
}

// resize makes room for the next read, after one of n bytes. Memory follows the
// bytes that have arrived: a length that was announced allocates nothing.
func (c *conn) resize(n int, full bool) *fault {
	if c.start > 0 {
		c.end = copy(c.buf, c.buf[c.start:c.end])
		c.start = 0
	}
	size := len(c.buf)
	switch {
	case c.end == size: // a message longer than the buffer
		if !c.setBuffer(min(2*size, c.s.opts.MaxMessage+binary.MaxVarintLen64)) {
			return &fault{reason: reasonMemory, says: "no memory left for a message of this length"}
		}
	case full && size < readBuffer: // a busy connection, if there is memory for it
		c.setBuffer(2 * size)
	case size > readBuffer && c.end < readBuffer: // after a long message
		c.setBuffer(readBuffer)
	case size > baseBuffer && n < size/8 && c.end < size/2:
		if c.slack++; c.slack >= patience {
			c.setBuffer(size / 2)
		}
		return nil
	}
	c.slack = 0
	return nil
}

// setBuffer moves what is unconsumed to a buffer of another size, and fails if
// that would take more memory than all connections may.
func (c *conn) setBuffer(size int) bool {
	more := int64(size - len(c.buf))
	if c.s.buffered.Add(more) > c.s.opts.MaxBuffered && more > 0 {
		c.s.buffered.Add(-more)
		return false
	}
	buf := make([]byte, size)
	copy(buf, c.buf[:c.end])
	c.buf, c.slack = buf, 0
	return true
}
