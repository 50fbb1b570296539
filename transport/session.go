package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	fillBuffer = 256 << 10 // bytes that wait for the writer before the Source must
	writeChunk = 64 << 10  // bytes that one write deadline is for
	maxAckSize = 1 << 20   // bytes of one Ack message
	entryCost  = 64        // bytes that an entry in flight counts beside its message
)

// session is one connection of a Link. Three goroutines work on it: one reads
// the Source into a buffer, one writes that buffer while the next one fills, one
// reads acknowledgements. They share the Link's lock, and hold it neither in the
// Source nor during I/O.
type session struct {
	l  *Link
	nc net.Conn

	ready sync.Cond // there is something to write
	space sync.Cond // there is room for more

	begun map[envelope.StreamID]uint64 // rings of which something was sent, now or earlier: feed's alone

	fill    []byte // not yet with the writer
	queued  uint64 // bytes put into fill, ever
	written uint64 // bytes that the connection has taken
	closed  bool

	flight   []entry // sent or about to be, in order, not yet acknowledged: flight[head:]
	head     int
	streams  map[envelope.StreamID]flow
	unacked  int       // cost of flight
	waiting  time.Time // since when nothing has been acknowledged although something was in flight
	progress bool      // something was acknowledged
}

// entry is what must be remembered of a batch until it is acknowledged.
type entry struct {
	stream   envelope.StreamID // zero: nobody will acknowledge it, it is done when written
	next     uint64
	ring     envelope.StreamID
	position uint64
	records  uint64
	missed   uint64
	end      uint64 // value of queued after it
	cost     int
}

// flow is what is in flight of one stream.
type flow struct {
	entries int
	sent    uint64 // highest number after those sent
	acked   uint64
}

func newSession(l *Link, nc net.Conn) *session {
	s := &session{l: l, nc: nc, streams: make(map[envelope.StreamID]flow)}
	s.ready.L, s.space.L = &l.mu, &l.mu
	return s
}

// run sends until something fails, ctx ends, or the Source has ended and all is
// acknowledged, for which it returns nil.
func (s *session) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(ctx, s.close)
	var wg sync.WaitGroup
	wg.Go(func() { cancel(s.write()) })
	wg.Go(func() { cancel(s.read()) })
	cancel(s.feed(ctx))
	wg.Wait()
	if stop() {
		s.close()
	}
	if err := context.Cause(ctx); !errors.Is(err, errFinished) {
		return err
	}
	return nil
}

// errFinished is why a session ends in which there is nothing more to send.
var errFinished = errors.New("transport: all sent and acknowledged")

func (s *session) close() {
	s.nc.Close()
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.closed = true
	s.ready.Broadcast()
	s.space.Broadcast()
}

// feed reads the Source from the acknowledged cursor on.
func (s *session) feed(ctx context.Context) error {
	s.l.mu.Lock()
	q := everything(s.l.acked)
	s.begun = s.l.acked.all()
	s.l.mu.Unlock()
	q.Follow = true
	var ended error
	for b, err := range s.l.src.Batches(ctx, q) {
		if err != nil {
			ended = fmt.Errorf("source: %w", err)
			break
		}
		if !s.send(s.fromBirth(b)) {
			return net.ErrClosed
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	// The Source has closed, or failed, which no other connection will change.
	// What was read is still to be acknowledged.
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.l.ended = true
	if ended != nil {
		s.l.stats.LastError = ended.Error()
	}
	for s.head < len(s.flight) && !s.closed {
		s.space.Wait()
	}
	if s.closed {
		return net.ErrClosed
	}
	return errFinished
}

// fromBirth makes the first batch of a ring say how many records the ring gave up
// before the link came to read it: a ring may overflow, or be made and overflow,
// while there is no connection. Positions begin at 1, and a link is there as long
// as its Source, so what lies before the first one read was lost to it.
func (s *session) fromBirth(b envelope.Batch) envelope.Batch {
	if b.Ring == 0 { // a Source that says nothing of rings means the stream itself
		b.Ring, b.Position = b.Stream, b.Next
	}
	if _, ok := s.begun[b.Ring]; ok || b.Ring == 0 {
		return b
	}
	if b.Count == 0 && b.Missed == 0 { // where it would begin, which is not yet to be passed
		b.Ring = 0
		return b
	}
	s.begun[b.Ring] = 0
	if before := b.Position - uint64(b.Count); before > 1 && b.Position > uint64(b.Count) {
		b.Missed = max(b.Missed, before-1)
	}
	return b
}

// send puts a batch in line for the writer, when there is room, and reports
// whether the session still lives. A batch that is a position only travels in
// the line of those in flight, so that the cursor passes it in its turn.
func (s *session) send(b envelope.Batch) bool {
	e := entry{ring: b.Ring, position: b.Position, records: uint64(b.Count), missed: b.Missed}
	silent := b.Count == 0 && b.Missed == 0 && !b.Reset
	var head [envelope.MaxBatchHeader]byte
	header := head[:0]
	if !silent {
		e.stream, e.next = b.Stream, b.Next
		wire := b
		wire.Ring, wire.Position = b.Stream, b.Next // where we read it is no matter of the server's
		header = wire.AppendHeader(header)
	}

	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for (s.unacked >= s.l.opts.MaxUnacked || len(s.fill) >= fillBuffer) && !s.closed {
		s.space.Wait()
	}
	if s.closed {
		return false
	}
	if !silent {
		size := len(header) + len(b.Records)
		if len(s.fill) == 0 {
			s.ready.Signal()
		}
		before := len(s.fill)
		s.fill = binary.AppendUvarint(s.fill, uint64(size))
		s.fill = append(s.fill, header...)
		s.fill = append(s.fill, b.Records...)
		e.cost = len(s.fill) - before
		s.queued += uint64(e.cost)
		s.l.torn = 0 // the Source still has what an earlier connection left
		s.l.stats.Sent += e.records
		s.l.stats.SentBytes += uint64(e.cost)
		if e.stream != 0 {
			f := s.streams[e.stream]
			f.entries++
			f.sent = max(f.sent, e.next)
			s.streams[e.stream] = f
		}
	}
	e.end = s.queued
	e.cost += entryCost
	if s.head == len(s.flight) {
		s.flight, s.head = s.flight[:0], 0
		s.waiting = time.Now()
	}
	s.flight = append(s.flight, e)
	s.unacked += e.cost
	s.l.stats.Unacked = s.unacked
	if silent {
		s.settle()
	}
	return true
}

// pending is how many records are in flight. The lock is held.
func (s *session) pending() (records uint64) {
	for _, e := range s.flight[s.head:] {
		records += e.records
	}
	return records
}

// settle passes the cursor over what is done at the head of the line. The lock
// is held.
func (s *session) settle() {
	head := s.head
	for ; s.head < len(s.flight); s.head++ {
		e := &s.flight[s.head]
		if e.stream == 0 {
			if s.written < e.end {
				break
			}
		} else {
			f := s.streams[e.stream]
			if f.acked < e.next {
				break
			}
			if f.entries--; f.entries > 0 {
				s.streams[e.stream] = f
			} else {
				delete(s.streams, e.stream)
			}
			s.progress = true
		}
		s.l.advance(e.ring, e.position)
		s.l.stats.Acked += e.records
		s.l.stats.Missed += e.missed
		s.unacked -= e.cost
	}
	if s.head == head {
		return
	}
	if s.head > len(s.flight)/2 { // each entry is moved at most once on average
		s.flight = s.flight[:copy(s.flight, s.flight[s.head:])]
		s.head = 0
	}
	s.waiting = time.Now()
	s.l.stats.Unacked = s.unacked
	s.space.Broadcast()
}

// write sends what feed has put in line.
func (s *session) write() error {
	var out []byte
	for {
		s.l.mu.Lock()
		for len(s.fill) == 0 && !s.closed {
			s.ready.Wait()
		}
		if s.closed {
			s.l.mu.Unlock()
			return net.ErrClosed
		}
		if cap(out) > 2*fillBuffer { // a long message passed
			out = nil
		}
		out, s.fill = s.fill, out[:0]
		s.space.Broadcast()
		s.l.mu.Unlock()

		for rest := out; len(rest) > 0; {
			s.nc.SetWriteDeadline(time.Now().Add(s.l.opts.AckTimeout))
			n, err := s.nc.Write(rest[:min(len(rest), writeChunk)])
			if err != nil {
				return fmt.Errorf("write: %w", err)
			}
			rest = rest[n:]
		}

		s.l.mu.Lock()
		s.written += uint64(len(out))
		s.settle()
		s.l.mu.Unlock()
	}
}

// read takes acknowledgements, and notices when they do not come.
func (s *session) read() error {
	buf := make([]byte, 4<<10)
	var acks []position
	for end := 0; ; {
		s.nc.SetReadDeadline(s.patience())
		n, err := s.nc.Read(buf[end:])
		end += n
		start := 0
		for start < end {
			size, n := binary.Uvarint(buf[start:end])
			if n < 0 || size > maxAckSize {
				return errMalformedAck
			}
			if n == 0 || size > uint64(end-start-n) {
				break
			}
			var perr error
			if acks, perr = parseAck(acks[:0], buf[start+n:start+n+int(size)]); perr != nil {
				return perr
			}
			s.acknowledged(acks)
			start += n + int(size)
		}
		end = copy(buf, buf[start:end])
		if end == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			if s.overdue() {
				return ErrNoAck
			}
		case errors.Is(err, io.EOF):
			return errHungUp
		default:
			return fmt.Errorf("read: %w", err)
		}
	}
}

func (s *session) acknowledged(acks []position) {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	for _, a := range acks {
		if f, ok := s.streams[a.stream]; ok {
			f.acked = max(f.acked, min(a.next, f.sent)) // nothing can have arrived that was not sent
			s.streams[a.stream] = f
		}
	}
	s.settle()
}

// patience is until when the next acknowledgement must be there, or when to look
// again if none is due.
func (s *session) patience() time.Time {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	since := time.Now()
	if s.head < len(s.flight) {
		since = s.waiting
	}
	return since.Add(s.l.opts.AckTimeout)
}

func (s *session) overdue() bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return s.head < len(s.flight) && time.Since(s.waiting) >= s.l.opts.AckTimeout
}
