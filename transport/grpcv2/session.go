package grpcv2

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"

	"github.com/cloudfoundry/loggregator/envelope"
)

// run makes one connection after the other, to one server after the other.
func (l *Link) run(ctx context.Context) {
	failures, said := 0, ""
	for i := 0; ; i++ {
		t := l.targets[i%len(l.targets)]
		progress, err := l.connect(ctx, t)
		l.mu.Lock()
		l.stats.Connected = false
		if ctx.Err() == nil && !errors.Is(err, errFinished) {
			l.stats.LastError = err.Error()
		}
		nudge := l.nudge
		l.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, errFinished):
			l.opts.Logger.Info("the source has ended, and all it gave is acknowledged", "server", t.String())
			return
		}
		if progress {
			failures, said = 0, ""
		}
		if text := err.Error(); text != said { // not each attempt
			said = text
			l.opts.Logger.Warn("no connection", "server", t.String(), "error", text)
		}
		pause := time.NewTimer(l.opts.Backoff(failures / len(l.targets)))
		failures++
		select {
		case <-pause.C:
		case <-nudge:
			failures = 0
		case <-ctx.Done():
		}
		pause.Stop()
		if progress {
			i-- // the one that was good may be back at once
		}
	}
}

// connect dials, and sends until the connection ends. It reports whether anything
// got across.
func (l *Link) connect(ctx context.Context, t target) (progress bool, err error) {
	l.mu.Lock()
	l.stats.Server = t.String()
	l.mu.Unlock()
	cc, err := grpc.NewClient("passthrough:///"+t.address,
		grpc.WithTransportCredentials(l.credentials(t)),
		grpc.WithDefaultCallOptions(grpc.ForceCodecV2(codec{})),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
			return l.opts.DialContext(ctx, "tcp", addr)
		}),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: l.opts.DialTimeout}),
		grpc.WithDisableRetry(), // which would keep copies of what is sent
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithWriteBufferSize(64<<10),
	)
	if err != nil {
		return false, fmt.Errorf("dial: %w", err)
	}
	defer cc.Close()
	sctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s := &session{l: l, cc: cc, ctx: sctx, cancel: cancel}
	s.space.L = &l.mu
	s.watchdog = time.AfterFunc(time.Hour, func() { cancel(ErrNoAck) })
	s.watchdog.Stop()

	// A stream that ends at once shows that there is an Ingress that answers.
	if err := s.acknowledge(); err != nil {
		if status.Code(err) == codes.Unimplemented {
			err = ErrNotIngress
		}
		return false, s.why(err)
	}
	l.mu.Lock()
	l.stats.Connected = true
	if l.met {
		l.stats.Reconnects++
	}
	l.met = true
	l.mu.Unlock()
	l.opts.Logger.Info("connected", "server", t.String())
	var reading, watching sync.WaitGroup
	watching.Go(func() {
		cc.WaitForStateChange(sctx, connectivity.Ready)
		l.mu.Lock()
		s.lost = true
		l.mu.Unlock()
		l.wake()
	})
	reading.Go(s.read)
	err = s.why(s.write())
	cancel(err)
	l.mu.Lock()
	s.closed = true
	s.space.Broadcast()
	l.stats.Unacked = 0
	l.mu.Unlock()
	reading.Wait()
	watching.Wait()
	return s.progress, err
}

func (l *Link) credentials(t target) credentials.TransportCredentials {
	if !t.tls {
		return insecure.NewCredentials()
	}
	var config *tls.Config
	if l.opts.CurrentTLS != nil {
		config = l.opts.CurrentTLS()
	} else {
		config = l.opts.TLS
	}
	config = config.Clone()
	if config.ServerName == "" {
		config.ServerName = t.name
	}
	return credentials.NewTLS(config)
}

// session is one connection. One goroutine reads the Source into a chunk, one
// sends what the other has filled.
type session struct {
	l        *Link
	cc       *grpc.ClientConn
	ctx      context.Context
	cancel   context.CancelCauseFunc
	watchdog *time.Timer // runs while something must not take long

	stream grpc.ClientStream // nil: the next record begins one
	out    part              // what was sent since the last acknowledgement
	since  time.Time         // when the first of that was

	// Guarded by the link's lock.
	fill     part
	data     *[]byte // memory of fill
	space    sync.Cond
	closed   bool
	lost     bool // the connection
	progress bool

	// Of the goroutine that reads.
	missed map[envelope.StreamID]uint64 // by ring, what is to be told with its next record
	begun  map[envelope.StreamID]bool   // rings of which a record was read
}

// part is a part of what the Source gives.
type part struct {
	records, missed uint64
	why             [envelope.Reasons]uint64 // missed, by reason
	bytes           int
	at              map[envelope.StreamID]uint64 // where to read on after it
}

func (p *part) add(q *part) {
	p.records += q.records
	p.missed += q.missed
	p.bytes += q.bytes
	for why, n := range q.why {
		p.why[why] += n
	}
	if p.at == nil {
		p.at = q.at
		return
	}
	for ring, at := range q.at {
		p.at[ring] = at
	}
}

// why is the reason for an error that came of the session's end.
func (s *session) why(err error) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	return err
}

// read puts what the Source gives in line, until it ends.
func (s *session) read() {
	l := s.l
	var ended error
	for b, err := range l.src.Batches(s.ctx, l.everything(true)) {
		if err != nil {
			ended = err
			break
		}
		if !s.put(&b) {
			return
		}
	}
	if s.ctx.Err() != nil {
		return
	}
	l.mu.Lock()
	l.ended = true
	if ended != nil {
		l.stats.LastError = fmt.Sprintf("source: %v", ended)
	}
	l.mu.Unlock()
	l.wake()
}

// put puts a batch in line, when there is room. It is false when the session has
// ended.
func (s *session) put(b *envelope.Batch) bool {
	l := s.l
	if b.Ring == 0 { // a Source that says nothing of rings means the stream itself
		b.Ring, b.Position = b.Stream, b.Next
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if b.Count == 0 {
		switch {
		case b.Missed > 0: // told with the next record, and not passed before
			if s.missed == nil {
				s.missed = make(map[envelope.StreamID]uint64)
			}
			s.missed[b.Ring] += b.Missed
		case s.begun[b.Ring] && s.missed[b.Ring] == 0:
			s.fill.pass(b)
		}
		return true
	}
	gap := s.tell(b)
	n := len(gap) + len(b.Records)
	for s.fill.bytes > 0 && s.fill.bytes+n > chunkSize && !s.closed {
		s.space.Wait()
	}
	if s.closed {
		return false
	}
	if s.data == nil {
		s.data = chunks.Get(n)
		*s.data = (*s.data)[:0]
	}
	*s.data = append(append(*s.data, gap...), b.Records...)
	s.fill.bytes += n
	s.fill.records += uint64(b.Count)
	s.fill.missed += b.Missed
	s.fill.why[min(b.Reason, envelope.Reasons-1)] += b.Missed
	s.fill.pass(b)
	l.wake()
	return true
}

func (p *part) pass(b *envelope.Batch) {
	if b.Ring == 0 {
		return
	}
	if p.at == nil {
		p.at = make(map[envelope.StreamID]uint64)
	}
	p.at[b.Ring] = b.Position
}

// tell completes what b says of missing records, and is a line that says so. The
// link's lock is held.
func (s *session) tell(b *envelope.Batch) (gap []byte) {
	first := !s.begun[b.Ring]
	if first && b.Ring != 0 {
		if s.begun == nil || len(s.begun) > 2*maxRings {
			s.begun = make(map[envelope.StreamID]bool)
		}
		s.begun[b.Ring] = true
		// A ring may have overflowed before the link came to read it. Positions begin
		// at 1, and a link is there as long as its Source.
		if before := b.Position - uint64(b.Count); s.l.acked.get(b.Ring) == 0 && b.Position > uint64(b.Count) && before > 1 {
			b.Missed = max(b.Missed, before-1)
		}
	}
	b.Missed += s.missed[b.Ring]
	delete(s.missed, b.Ring)
	if b.Missed == 0 && !b.Reset {
		return nil
	}
	e, _, err := envelope.Next(b.Records)
	if err != nil {
		return nil
	}
	route, err := e.Route()
	if err != nil {
		return nil
	}
	fixed := fixedOf(e, &route)
	if b.Missed > 0 {
		if b.Reason == envelope.ReasonUnknown {
			if b.Reason = s.l.opts.Reason; first && s.l.stats.Reconnects > 0 {
				b.Reason = envelope.ReasonLink
			}
		}
		gap = envelope.AppendMissed(gap, fixed, route.Timestamp, b.Missed, b.Reason.String())
	}
	if b.Reset {
		gap = appendReset(gap, fixed, route.Timestamp)
	}
	return gap
}

// write sends what is in line and asks for acknowledgements, until something
// fails, or all is done.
func (s *session) write() error {
	l := s.l
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		l.mu.Lock()
		var data *[]byte
		full := s.out.bytes >= l.opts.MaxUnacked
		due := s.out.bytes > 0 && (full || time.Since(s.since) >= l.opts.AckAfter ||
			s.fill.bytes == 0 && (l.flushing > 0 || l.ended || s.lost))
		lost, finished := s.lost, l.ended && s.fill.bytes == 0 && s.out.bytes == 0
		if !due && s.fill.bytes > 0 {
			if s.out.bytes == 0 {
				s.since = time.Now()
			}
			s.out.add(&s.fill)
			data, s.fill, s.data = s.data, part{}, nil
			l.stats.Unacked = s.out.bytes
			s.space.Broadcast()
		}
		l.mu.Unlock()
		switch {
		case due:
			if err := s.acknowledge(); err != nil {
				return err
			}
		case data != nil:
			if err := s.send(data); err != nil {
				return err
			}
		case finished:
			return errFinished
		case lost:
			return errors.New("connection lost")
		default:
			var age <-chan time.Time
			if s.out.bytes > 0 {
				timer.Reset(max(time.Until(s.since.Add(l.opts.AckAfter)), 0))
				age = timer.C
			}
			select {
			case <-l.ready:
			case <-age:
			case <-s.ctx.Done():
				return s.ctx.Err()
			}
		}
	}
}

// begin opens a stream, if there is none.
func (s *session) begin() (err error) {
	if s.stream == nil {
		s.stream, err = s.cc.NewStream(s.ctx, &grpc.StreamDesc{ClientStreams: true}, "/loggregator.v2.Ingress/BatchSender")
	}
	return err
}

// send sends a chunk in messages.
func (s *session) send(chunk *[]byte) error {
	s.watchdog.Reset(s.l.opts.AckTimeout)
	defer s.watchdog.Stop()
	data := *chunk
	buf := mem.NewBuffer(chunk, &chunks)
	defer buf.Free()
	if err := s.begin(); err != nil {
		return err
	}
	o := outbox{records: s.l.opts.MaxRecords, bytes: chunkSize}
	records := uint64(0)
	for at := 0; at < len(data); {
		size, count := o.cut(data[at:])
		if err := s.stream.SendMsg(&outbound{buf.Slice(at, at+size)}); err != nil {
			if err == io.EOF { // the stream has ended; that says why
				err = s.verdict()
			}
			return fmt.Errorf("send: %w", err)
		}
		s.watchdog.Reset(s.l.opts.AckTimeout)
		at += size
		records += uint64(count)
	}
	s.l.mu.Lock()
	s.l.stats.Sent += records
	s.l.stats.SentBytes += uint64(len(data))
	s.l.mu.Unlock()
	return nil
}

var errStreamEnded = errors.New("the server has ended the stream")

// verdict is why the server has ended a stream that is not to end.
func (s *session) verdict() error {
	if err := s.stream.RecvMsg(&empty{}); err != nil && err != io.EOF {
		return err
	}
	return errStreamEnded
}

// acknowledge ends the stream, and waits for the server to say that it has read
// all of it: stock servers do so with status UNKNOWN "EOF", for which they mean the
// end of what they read.
func (s *session) acknowledge() error {
	s.watchdog.Reset(s.l.opts.AckTimeout)
	defer s.watchdog.Stop()
	if err := s.begin(); err != nil {
		return err
	}
	stream := s.stream
	s.stream = nil
	if err := stream.CloseSend(); err != nil {
		return err
	}
	err := stream.RecvMsg(&empty{})
	if st := status.Convert(err); err != nil && err != io.EOF && (st.Code() != codes.Unknown || st.Message() != io.EOF.Error()) {
		return err
	}
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	for ring, at := range s.out.at {
		l.acked.set(ring, at)
	}
	l.stats.Acked += s.out.records
	l.stats.Missed += s.out.missed
	for why, n := range s.out.why {
		l.stats.MissedFor[why] += n
	}
	l.stats.Unacked = 0
	s.progress = s.progress || s.out.records > 0
	s.out = part{}
	if l.moved != nil {
		close(l.moved)
		l.moved = nil
	}
	return nil
}
