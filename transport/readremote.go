package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

// remote is one server of a Reader: one connection after the other.
type remote struct {
	r      *Reader
	target target
	log    changes

	mu      sync.Mutex
	session *readSession  // nil: away
	since   time.Time     // of either
	tried   chan struct{} // closed after the first attempt
	first   sync.Once
	lastErr error
	made    uint64 // connections
}

func newRemote(r *Reader, t target) *remote {
	return &remote{r: r, target: t, log: changes{to: r.opts.Logger}, since: time.Now(), tried: make(chan struct{})}
}

func (m *remote) run() {
	for failures := 0; ; failures++ {
		s, err := m.connect()
		if err == nil {
			began := time.Now()
			m.up(s)
			err = s.read()
			m.down(s, err)
			if time.Since(began) > maxReaderBackoff {
				failures = 0
			}
		} else {
			m.failed(err)
		}
		m.first.Do(func() { close(m.tried) })
		if m.r.ctx.Err() != nil || !pause(m.r.ctx, m.r.opts.Backoff(failures)) {
			return
		}
	}
}

// now is the connection there is, or nil.
func (m *remote) now() *readSession {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.session
}

// awaySince is since when there is no connection, or now if there is one.
func (m *remote) awaySince(now time.Time) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.session == nil {
		return m.since
	}
	return now
}

func (m *remote) up(s *readSession) {
	m.log.up(m.target)
	m.mu.Lock()
	m.session, m.since = s, time.Now()
	m.made++
	m.mu.Unlock()
	m.first.Do(func() { close(m.tried) })
	m.r.changed()
}

func (m *remote) down(s *readSession, err error) {
	m.mu.Lock()
	m.session, m.since, m.lastErr = nil, time.Now(), err
	m.mu.Unlock()
	if m.r.ctx.Err() == nil {
		m.log.down(m.target, err)
	}
	s.end(err)
	s.out.Flush() // its goroutine ends, since the connection is closed
	m.r.changed()
}

func (m *remote) failed(err error) {
	m.mu.Lock()
	m.lastErr = err
	m.mu.Unlock()
	if m.r.ctx.Err() == nil {
		m.log.down(m.target, err)
	}
}

// connect dials and exchanges greetings.
func (m *remote) connect() (*readSession, error) {
	o := &m.r.opts
	ctx, cancel := context.WithTimeout(m.r.ctx, o.DialTimeout)
	defer cancel()
	raw, err := o.DialContext(ctx, m.target.network, m.target.address)
	if err != nil {
		return nil, fmt.Errorf("dial: %w", err)
	}
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	nc := raw
	if m.target.host != "" {
		config := o.TLS
		if o.CurrentTLS != nil {
			config = only13(o.CurrentTLS())
		}
		if config.ServerName == "" {
			config = config.Clone()
			config.ServerName = m.target.host
		}
		tc := tls.Client(raw, config)
		if err := tc.HandshakeContext(ctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("tls: %w", err)
		}
		nc = tc
	}
	s := &readSession{m: m, raw: raw, nc: nc, open: make(map[uint64]*stream)}
	s.in = frames{in: bufio.NewReaderSize(nc, 64<<10), max: maxAnswer}
	if err := s.greet(); err != nil {
		raw.Close()
		return nil, err
	}
	s.out = outbuf.New(s.write)
	return s, nil
}

// readSession is one connection of a Reader. Its remote's goroutine reads it and
// puts what comes into the streams; it never waits for who takes it from there.
type readSession struct {
	m   *remote
	raw net.Conn
	nc  net.Conn
	in  frames
	out *outbuf.Writer

	pings, pongs atomic.Uint64 // sent, and answered

	mu    sync.Mutex
	last  uint64
	open  map[uint64]*stream
	ended error
}

func (s *readSession) greet() error {
	if _, err := s.nc.Write(helloFrame()); err != nil {
		return fmt.Errorf("greeting: %w", err)
	}
	in := frames{in: s.in.in, max: maxHello}
	f, err := in.next()
	switch {
	case errors.Is(err, errFrame), err == nil && (f.kind != kindHello || string(f.body) != greeting):
		return errHello
	case err != nil:
		return fmt.Errorf("the server does not greet; is the address that of its read link? %w", err)
	}
	return nil
}

func (s *readSession) write(b []byte) error {
	s.raw.SetWriteDeadline(time.Now().Add(s.m.r.opts.SilenceTimeout))
	_, err := s.nc.Write(b)
	if err != nil {
		s.raw.Close()
	}
	return err
}

// read takes frames until the connection ends. It pings from a timer: a goroutine
// that only waits would cost more.
func (s *readSession) read() error {
	silence := s.m.r.opts.SilenceTimeout
	defer s.raw.Close()
	defer context.AfterFunc(s.m.r.ctx, func() { s.raw.Close() })()
	var mu sync.Mutex
	mu.Lock()
	var ping *time.Timer
	ping = time.AfterFunc(silence/3, func() {
		mu.Lock()
		defer mu.Unlock()
		if s.ping() {
			ping.Reset(silence / 3)
		}
	})
	mu.Unlock()
	defer ping.Stop()
	var set time.Time
	for {
		if now := time.Now(); now.Sub(set) >= silence/16 {
			set = now
			s.raw.SetReadDeadline(now.Add(silence))
		}
		f, err := s.in.next()
		if err == nil {
			err = s.take(f)
		}
		switch {
		case err == nil:
		case errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("the server says nothing for %v", silence)
		case err == errFrame:
			return err
		default:
			return fmt.Errorf("connection lost: %w", err)
		}
	}
}

// ping asks for a word, and reports whether there is still a connection. It does
// not wait: one that is full of what is to be sent is busy anyway.
func (s *readSession) ping() bool {
	err := s.out.TryAppend(appendFrame(nil, kindPing, 0))
	if err == nil {
		s.pings.Add(1)
	}
	return err == nil || err == outbuf.ErrFull
}

func (s *readSession) take(f frame) error {
	if f.kind == kindPong {
		s.pongs.Add(1)
		return nil
	}
	s.mu.Lock()
	st := s.open[f.id]
	switch f.kind {
	case kindEnd, kindWoke, kindKnown:
		delete(s.open, f.id)
	}
	s.mu.Unlock()
	if st == nil {
		return nil // it was cancelled
	}
	switch f.kind {
	case kindBatch, kindSources:
		return st.put(f.body)
	case kindCaught:
		st.tell(func() { st.caught = true })
	case kindWoke:
		st.finish(endDone, "")
	case kindKnown:
		if len(f.body) != 1 {
			return errFrame
		}
		yes := f.body[0] == 1
		st.tell(func() { st.known, st.ended, st.code = yes, true, endDone })
	case kindEnd:
		if len(f.body) < 1 {
			return errFrame
		}
		st.finish(f.body[0], string(f.body[1:min(len(f.body), 1+maxText)]))
	default:
		return errFrame
	}
	return nil
}

// end tells all streams that the connection is no more.
func (s *readSession) end(err error) {
	s.out.Fail(err)
	s.mu.Lock()
	s.ended = err
	open := s.open
	s.open = nil
	s.mu.Unlock()
	for _, st := range open {
		st.finish(endLost, err.Error())
	}
}

// endLost is how a stream ends whose connection broke. It is not on the wire.
const endLost = 255

func (s *readSession) queries() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// begin opens a query. Notify is called, and must not block, when there is
// something to take. Of a connection that is lost, the stream is over at once.
func (s *readSession) begin(mode byte, q *envelope.Query, notify func()) *stream {
	st := &stream{s: s, notify: notify, window: int64(min(s.m.r.opts.Window, firstWindow))}
	st.granted = st.window
	s.m.r.reserved.Add(st.window)
	s.mu.Lock()
	if s.ended != nil {
		s.mu.Unlock()
		st.ended, st.code, st.text = true, endLost, s.ended.Error()
		return st
	}
	s.last++
	st.id = s.last
	s.open[st.id] = st
	s.mu.Unlock()
	s.m.r.opened.Add(1)
	body := binary.AppendUvarint([]byte{mode}, uint64(st.window))
	body = envelope.AppendQuery(body, q)
	if len(body)+2*binary.MaxVarintLen64 > maxRequest {
		st.drop()
		st.finish(endRefused, "the query is too large")
		return st
	}
	s.out.Append(appendFrameHead(nil, kindOpen, st.id, len(body)), body) // when that fails, the session ends
	return st
}

// pause waits for d, and reports whether ctx was still alive then.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
