package transport

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	fillBuffer = 256 << 10 // bytes that wait for the writer before the Source must
	writeChunk = 64 << 10  // bytes that one write deadline is for
	maxAckSize = 1 << 20   // bytes of one Ack message
	entryCost  = 64        // bytes that an entry in flight counts beside its message
)

// session is one connection of a lane. Three goroutines work on it: one reads
// the Source into a buffer, one writes that buffer while the next one fills, one
// reads acknowledgements. They share the Link's lock, and hold it neither in the
// Source nor during I/O.
type session struct {
	l    *Link
	lane *lane
	nc   net.Conn

	ready sync.Cond // there is something to write
	space sync.Cond // there is room for more

	// Of several servers: the share by which the Source was read to its end; how to
	// stop reading, and whether that was done; and whether something was left to
	// another lane. passing is when that lane has none of it any more.
	finished *share
	halt     context.CancelFunc
	halted   bool
	waits    atomic.Bool
	entered  uint64 // entries put into flight, ever
	passed   uint64 // and taken out
	passing  uint64 // value of passed at which somebody waits; 0: nobody
	probe    envelope.StreamID

	courses aged[*course] // by ring

	datagrams bool // each message is one, and nobody acknowledges
	mac       hash.Hash
	datagram  []byte // the one being made

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
	missed   uint64 // by the Source
	why      envelope.Reason
	end      uint64 // value of queued after it
	cost     int
}

// flow is what is in flight of one stream.
type flow struct {
	entries int
	sent    uint64 // highest number after those sent
	acked   uint64
}

func newSession(n *lane, nc net.Conn) *session {
	s := &session{l: n.l, lane: n, nc: nc, streams: make(map[envelope.StreamID]flow)}
	s.ready.L, s.space.L = &n.l.mu, &n.l.mu
	if n.l.several() {
		s.ask()
	}
	if s.datagrams = n.target.network == "udp"; s.datagrams {
		s.mac = newMAC(s.l.opts.Secret)
	}
	return s
}

// ask puts in line a message without records whose acknowledgement shows that
// the server takes batches. Only then sources are moved to it.
func (s *session) ask() {
	s.probe = envelope.StreamID(rand.Uint64() | 1)
	var head [envelope.MaxBatchHeader]byte
	header := envelope.Batch{Stream: s.probe, First: 1, Next: 2}.AppendHeader(head[:0])
	s.fill = append(binary.AppendUvarint(s.fill, uint64(len(header))), header...)
	s.queued = uint64(len(s.fill))
	s.waiting = time.Now()
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

func (s *session) close() {
	s.nc.Close()
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.closed = true
	s.ready.Broadcast()
	s.space.Broadcast()
	s.l.turn.Broadcast()
}

// feed reads the Source from the acknowledged cursor on: once, or again each
// time that the sources are shared out anew.
func (s *session) feed(ctx context.Context) error {
	for {
		seq, q, err := s.begin(ctx)
		if err != nil {
			return err
		}
		var ended error
		for b, err := range s.l.src.Batches(seq, q) {
			if err != nil {
				ended = fmt.Errorf("source: %w", err)
				break
			}
			if !s.send(b) {
				break
			}
		}
		again, err := s.end(ctx, ended)
		if !again {
			return err
		}
	}
}

// begin waits until it is the session's turn to read, and says what.
func (s *session) begin(ctx context.Context) (context.Context, envelope.Query, error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for !s.closed && l.several() && !s.lane.live {
		l.turn.Wait()
	}
	if s.closed {
		return nil, envelope.Query{}, closedBy(ctx)
	}
	s.finished, s.halted = nil, false
	q := everything(l.acked)
	q.Follow = true
	q.Where = l.mine(s)
	// What is in flight on this connection need not be sent on it again.
	kept := s.courses
	s.courses = aged[*course]{}
	for _, e := range s.flight[s.head:] {
		if e.ring != 0 {
			q.Cursor.Rings[e.ring] = e.position
			if c := kept.get(e.ring); c != nil {
				s.courses.set(e.ring, c)
			}
		}
	}
	ctx, s.halt = context.WithCancel(ctx)
	return ctx, q, nil
}

// stopReading ends the sequence that is being read, after which feed begins
// another one. The lock is held.
func (s *session) stopReading() {
	s.halted, s.finished = true, nil
	if s.halt != nil {
		s.halt()
	}
	s.space.Broadcast()
	s.l.turn.Broadcast()
}

// end is told that a sequence has ended, and reports whether to begin another
// one.
func (s *session) end(ctx context.Context, ended error) (again bool, err error) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	s.halt()
	if s.closed || ctx.Err() != nil {
		return false, closedBy(ctx)
	}
	if s.halted {
		return true, nil
	}
	// The Source has closed, or failed, which no other connection will change.
	// What was read is still to be acknowledged.
	l.ended = true
	if ended != nil {
		l.stats.LastError = ended.Error()
	}
	for s.head < len(s.flight) && !s.closed && !s.halted {
		s.space.Wait()
	}
	if !s.halted {
		s.finished = l.share
		l.turn.Broadcast()
	}
	for !s.closed && !s.halted && !l.finished() {
		l.turn.Wait()
	}
	switch {
	case s.closed:
		return false, closedBy(ctx)
	case s.halted:
		return true, nil
	}
	return false, errFinished
}

func closedBy(ctx context.Context) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return net.ErrClosed
}

// send puts a batch in line for the writer, when there is room, and reports
// whether to go on reading. A batch that is a position only travels in the line
// of those in flight, so that the cursor passes it in its turn.
func (s *session) send(b envelope.Batch) bool {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for (s.unacked >= l.opts.MaxUnacked || len(s.fill) >= fillBuffer) && !s.closed && !s.halted {
		s.space.Wait()
	}
	if s.closed || s.halted {
		return false
	}
	if l.torn { // the Source still has what earlier connections left
		l.torn = false
		for _, n := range l.lanes {
			n.torn = 0
		}
	}
	e := entry{records: uint64(b.Count)}
	s.follow(&b, &e)
	e.ring, e.position = b.Ring, b.Position
	silent := b.Count == 0 && b.Missed == 0 && !b.Reset
	if !silent {
		if len(s.fill) == 0 {
			s.ready.Signal()
		}
		before := len(s.fill)
		if s.datagrams {
			s.pack(b)
		} else {
			var head [envelope.MaxBatchHeader]byte
			e.stream, e.next = b.Stream, b.Next
			header := b.AppendHeader(head[:0])
			s.fill = binary.AppendUvarint(s.fill, uint64(len(header)+len(b.Records)))
			s.fill = append(s.fill, header...)
			s.fill = append(s.fill, b.Records...)
		}
		e.cost = len(s.fill) - before
		s.queued += uint64(e.cost)
		l.stats.Sent += e.records
		l.stats.SentBytes += uint64(e.cost)
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
	s.entered++
	s.unacked += e.cost
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
			if e.stream != e.ring || e.next != e.position {
				s.l.numbers.set(e.stream, e.next)
			}
		}
		// What begins a sequence says nothing new, and by now another lane may have
		// sent more of that ring.
		if e.records > 0 || e.missed > 0 || e.position > s.l.acked.get(e.ring) {
			s.l.advance(e.ring, e.position)
		}
		if e.records > 0 && len(s.l.resumed) > 0 {
			delete(s.l.resumed, e.ring)
		}
		s.l.stats.Acked += e.records
		s.l.stats.Missed += e.missed
		s.l.stats.MissedFor[e.why] += e.missed
		s.unacked -= e.cost
		s.passed++
	}
	if s.head == head {
		return
	}
	if s.head > len(s.flight)/2 { // each entry is moved at most once on average
		s.flight = s.flight[:copy(s.flight, s.flight[s.head:])]
		s.head = 0
	}
	s.waiting = time.Now()
	s.space.Broadcast()
	if s.passing > 0 && s.passed >= s.passing {
		s.passing = 0
		s.l.release()
	}
}

// write sends what feed has put in line.
func (s *session) write() error {
	transmit := s.writeStream
	if s.datagrams {
		transmit = s.writeDatagrams
	}
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

		if err := transmit(out); err != nil {
			return fmt.Errorf("write: %w", err)
		}

		s.l.mu.Lock()
		s.written += uint64(len(out))
		s.settle()
		s.l.mu.Unlock()
	}
}

func (s *session) writeStream(out []byte) error {
	for len(out) > 0 {
		s.nc.SetWriteDeadline(time.Now().Add(s.l.opts.AckTimeout))
		n, err := s.nc.Write(out[:min(len(out), writeChunk)])
		if err != nil {
			return err
		}
		out = out[n:]
	}
	return nil
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
			msg := buf[start+n : start+n+int(size)]
			if acks, perr = parseAck(acks[:0], msg); perr != nil {
				return perr
			}
			if why := refusedFor(msg); why != "" {
				return fmt.Errorf("the server refuses: %s", why)
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
		if a.stream == s.probe && s.probe != 0 {
			s.probe = 0
			s.lane.rise()
		}
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
	if s.head < len(s.flight) || s.probe != 0 {
		since = s.waiting
	}
	return since.Add(s.l.opts.AckTimeout)
}

func (s *session) overdue() bool {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	return (s.head < len(s.flight) || s.probe != 0) && time.Since(s.waiting) >= s.l.opts.AckTimeout
}
