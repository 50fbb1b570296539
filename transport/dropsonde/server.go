package dropsonde

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/gather"
	"github.com/cloudfoundry/loggregator/internal/packets"
	"github.com/cloudfoundry/loggregator/internal/refusals"
)

// ErrClosed means that a Server was used after its Close or Shutdown.
var ErrClosed = errors.New("dropsonde: closed")

// maxDatagram is more than UDP can carry.
const maxDatagram = 64 << 10

// Options are what a Server can be told. Nil and the zero value mean the
// defaults.
type Options struct {
	// Deployment, Job, Index and IP are the tags of these names of records whose
	// envelope does not say another.
	Deployment, Job, Index, IP string

	// Secrets are those that sign datagrams; any of them will do, so that senders
	// can change to a new one one by one. Empty takes datagrams unsigned.
	Secrets [][]byte

	// DrainTime is how long Shutdown goes on reading what senders have already
	// sent. Default 200 ms.
	DrainTime time.Duration

	// Logger hears of refused datagrams, at most once per reason and minute. Nil
	// discards.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.Secrets = slices.Clone(c.Secrets)
	if c.DrainTime <= 0 {
		c.DrainTime = 200 * time.Millisecond
	}
	return c
}

// Server takes v1 envelopes from datagrams and hands them to a Writer.
type Server struct {
	w       envelope.Writer
	opts    Options
	totals  totals
	packets packets.Sockets
	refused *refusals.Counter

	ctx    context.Context // of WriteBatch; ends with Close
	cancel context.CancelFunc
	closed atomic.Bool

	datagrams, bytes, records, lost, dropped atomic.Uint64
}

// Stats is what a Server has counted since it was made.
type Stats struct {
	Datagrams uint64 // received
	Bytes     uint64 // in those
	Records   uint64 // taken by the Writer
	Lost      uint64 // for which the Writer returned an error
	Dropped   uint64 // datagrams that the system had no room for, where it tells

	// Refused is how many datagrams were refused, by reason: malformed, unknown
	// (kind of event), empty (no event of the kind it names), signature.
	Refused map[string]uint64
}

// The reasons why a datagram is refused.
const (
	refusedMalformed = "malformed"
	refusedUnknown   = "unknown"
	refusedEmpty     = "empty"
	refusedSignature = "signature"
)

// NewServer makes a server that hands what it receives to w, whose WriteBatch is
// called by one goroutine per socket. Nothing runs before ServePacket.
func NewServer(w envelope.Writer, o *Options) *Server {
	s := &Server{w: w, opts: o.withDefaults()}
	s.refused = refusals.New(s.opts.Logger)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// ServePacket takes datagrams until pc fails or the server is shut down, which
// makes it return ErrClosed. It closes pc. It may be called for several sockets.
func (s *Server) ServePacket(pc net.PacketConn) error {
	err := s.packets.Serve(pc, maxDatagram, newIntake(s))
	if errors.Is(err, net.ErrClosed) && s.closed.Load() {
		return ErrClosed
	}
	return err
}

// Shutdown reads for DrainTime what senders have already sent, and ends. When ctx
// ends first, it ends at once and ctx's error is returned.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closed.Store(true)
	s.packets.Stop(time.Now().Add(s.opts.DrainTime))
	done := make(chan struct{})
	go func() {
		s.packets.Wait()
		close(done)
	}()
	select {
	case <-done:
		s.cancel()
		return nil
	case <-ctx.Done():
		s.Close()
		<-done
		return ctx.Err()
	}
}

// Close closes the sockets at once and returns when nothing reads them any more.
func (s *Server) Close() error {
	s.closed.Store(true)
	s.cancel()
	s.packets.Stop(time.Now())
	s.packets.Wait()
	return nil
}

// Stats may be called at any time. The numbers are read one after the other, so
// they fit together exactly only when nothing arrives.
func (s *Server) Stats() Stats {
	return Stats{
		Datagrams: s.datagrams.Load(),
		Bytes:     s.bytes.Load(),
		Records:   s.records.Load(),
		Lost:      s.lost.Load(),
		Dropped:   s.dropped.Load(),
		Refused:   s.refused.Counts(),
	}
}

// intake takes the datagrams of one socket.
type intake struct {
	s *Server
	v *verifier
	t translator
	e event

	out *gather.Batches
}

func newIntake(s *Server) *intake {
	in := &intake{s: s, v: newVerifier(s.opts.Secrets), out: gather.New(s.w)}
	in.t = translator{opts: &s.opts, totals: &s.totals}
	return in
}

// Take implements packets.Taker.
func (in *intake) Take(r *packets.Reader, n int) {
	now := time.Now().UnixNano()
	size := 0
	for i := range n {
		b, cut := r.Datagram(i)
		size += len(b)
		if reason, says := in.datagram(b, cut, now); reason != "" {
			in.s.refused.Add(reason, remote(r.From(i)), says)
		}
	}
	in.s.datagrams.Add(uint64(n))
	in.s.bytes.Add(uint64(size))
	in.flush()
}

func remote(from netip.AddrPort) string {
	if !from.IsValid() {
		return "unknown"
	}
	return from.String()
}

// datagram takes one, or says why not.
func (in *intake) datagram(b []byte, cut bool, now int64) (reason, says string) {
	b, ok := in.v.open(b)
	switch {
	case !ok:
		return refusedSignature, "datagram not signed with a known secret"
	case cut, !in.e.decode(b):
		return refusedMalformed, "datagram is not a v1 envelope, or not all of it"
	}
	if reason, says = in.t.check(&in.e); reason != "" {
		return reason, says
	}
	g := in.out.Group(in.t.source(&in.e))
	g.Records = in.t.append(g.Records, &in.e, now)
	if in.out.Added(g) {
		in.flush()
	}
	return "", ""
}

func (in *intake) flush() {
	records, lost, _ := in.out.Flush(in.s.ctx) // there is nobody to tell but the counter
	in.s.records.Add(records)
	in.s.lost.Add(lost)
}

// Lost implements packets.Taker: whoever reads the end is told as well.
func (in *intake) Lost(n uint64) {
	in.s.dropped.Add(n)
	in.s.w.WriteBatch(in.s.ctx, envelope.Batch{Missed: n, Reason: envelope.ReasonDatagram})
}
