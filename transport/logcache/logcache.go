// Package logcache answers what clients ask of Cloud Foundry's Log Cache, out of
// the rings: `cf logs` and `cf logs --recent`, the tail plugin, exporters.
//
//	GET /api/v1/read/SOURCE_ID   envelopes of a stretch of time
//	GET /api/v1/meta             what is held of which source
//	GET /api/v1/info             version and age of the server
//
// The same by gRPC: logcache.v1.Egress, Read and Meta. PromQL is not here: the
// answer is 501, and UNIMPLEMENTED.
//
// Parameters of a read are those of Log Cache: start_time (may be negative) and
// end_time in nanoseconds since 1970, limit, envelope_types, descending and
// name_filter. What it promises is, too: envelopes come in the order of their
// timestamps, and those with the same timestamp are never split, even if the
// answer has more than limit then, so that a client who goes on at the last one's
// timestamp plus one loses none of what is held.
//
// # Who reads what
//
// Every read goes through the Gate, like the native API's. By gRPC the token is the
// metadata "authorization". Over HTTP a token that is no good, and a source that
// may not be read, are 404 without a body, as Cloud Foundry's proxy answers: cf
// does not expect anything else. Meta lists what the bearer may read.
//
// # Delivery
//
// An answer holds what the rings hold. Records that are given up while it is put
// together are told by a log of source type LGR, and counted. A client who turns
// pages more slowly than records are given up cannot be told by this protocol:
// the native API does.
//
// # Memory
//
// An answer is gathered before it is sent, because it must be sorted: at most
// MaxReply bytes of records, by gRPC MaxReplyGRPC. A page that would be larger gets
// shorter: fewer envelopes than limit, from which clients go on as from any other.
// All answers together take about Options.Memory at most.
package logcache

import (
	"context"
	"crypto/x509"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// Lister lists sources, as loggregator.Router does.
type Lister interface {
	Sources(sel []envelope.Selector) iter.Seq[envelope.SourceInfo]
}

// Bounds of an answer, in bytes of records. Stock clients of gRPC take 4 MiB.
const (
	MaxReply     = 32 << 20
	MaxReplyGRPC = 4<<20 - 4<<10
)

// Defaults of Options.
const (
	DefaultVersion      = "3.2.2"
	DefaultMemory       = 256 << 20
	DefaultWriteTimeout = time.Minute
)

// Options of a Server. The zero value is useful.
type Options struct {
	// Sources answers meta. Without it, meta is not implemented.
	Sources Lister

	// Version is what info says: the version of Log Cache that is spoken, from
	// which clients conclude which paths there are. Default DefaultVersion.
	Version string

	// Memory bounds what answers that are being put together or sent take, in
	// bytes. Who comes when it is spent is told to come again. Default 256 MiB.
	Memory int64

	// WriteTimeout is how long a client over HTTP may take nothing before it is cut
	// off. Default one minute.
	WriteTimeout time.Duration

	// Certificates says who a client of gRPC is that has shown a certificate, which
	// TLS has verified, and no token, and whether that one may read everything, as in
	// deployments of Log Cache. Nil: certificates do not let anybody read.
	Certificates func(*x509.Certificate) (user string, ok bool)

	// Logger gets what happens to the Server as a whole. Default none.
	Logger *slog.Logger
}

func (o *Options) withDefaults() Options {
	var opt Options
	if o != nil {
		opt = *o
	}
	if opt.Version == "" {
		opt.Version = DefaultVersion
	}
	if opt.Memory <= 0 {
		opt.Memory = DefaultMemory
	}
	if opt.WriteTimeout <= 0 {
		opt.WriteTimeout = DefaultWriteTimeout
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	return opt
}

// Server answers over HTTP (it is an http.Handler) and by gRPC (Register).
type Server struct {
	gate  *access.Gate
	opt   Options
	since time.Time
	pages sync.Pool // of *page
	reply int       // MaxReply
	metas chan struct{}

	ctx    context.Context // ends when answers are cut off
	cancel context.CancelFunc

	mu      sync.Mutex
	closing bool
	running sync.WaitGroup

	memory atomic.Int64
	active atomic.Int64

	reads, listed, records, bytes, missed        atomic.Uint64
	malformed, unimplemented, busy, cut, stalled atomic.Uint64
}

// New makes a Server that reads through gate. It starts nothing.
func New(gate *access.Gate, o *Options) *Server {
	s := &Server{gate: gate, opt: o.withDefaults(), since: time.Now(), reply: MaxReply, metas: make(chan struct{}, maxMetas)}
	s.pages.New = func() any { return new(page) }
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Stats are a Server's figures. All but the first two only grow. Who was refused
// by the Gate is in its Stats.
type Stats struct {
	Active int   // requests being answered
	Memory int64 // bytes that their answers take

	Reads   uint64 // answers to read
	Metas   uint64 // answers to meta
	Records uint64 // envelopes in answers to read
	Bytes   uint64 // bytes of these, as they are held
	Missed  uint64 // envelopes that were given up while an answer was put together, told in it

	Malformed     uint64 // requests refused for what is wrong with them
	Unimplemented uint64 // requests for what is not here, PromQL above all
	Busy          uint64 // requests refused because Options.Memory was spent, or at shutdown
	Cut           uint64 // envelopes left out because those of one timestamp are more than fits into an answer
	Stalled       uint64 // clients cut off because they took nothing for WriteTimeout
}

// Stats returns the figures.
func (s *Server) Stats() Stats {
	return Stats{
		Active: int(s.active.Load()), Memory: s.memory.Load(),
		Reads: s.reads.Load(), Metas: s.listed.Load(), Records: s.records.Load(), Bytes: s.bytes.Load(), Missed: s.missed.Load(),
		Malformed: s.malformed.Load(), Unimplemented: s.unimplemented.Load(), Busy: s.busy.Load(),
		Cut: s.cut.Load(), Stalled: s.stalled.Load(),
	}
}

var (
	errClosing = errors.New("the server is shutting down; try again later")
	errMemory  = errors.New("too many answers are being put together; try again later")
)

// enter lets a request in, which must leave. The context ends with ctx, and when
// the Server cuts answers off.
func (s *Server) enter(ctx context.Context) (_ context.Context, leave func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		s.busy.Add(1)
		return nil, nil, errClosing
	}
	s.running.Add(1)
	s.active.Add(1)
	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() {
		stop()
		cancel()
		s.active.Add(-1)
		s.running.Done()
	}, nil
}

// Shutdown takes no more requests, lets those there are finish, and returns when
// they have; those that have not when ctx ends are cut off, and the error is ctx's.
// It may be called more than once.
func (s *Server) Shutdown(ctx context.Context) error {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	gone := make(chan struct{})
	go func() {
		s.running.Wait()
		close(gone)
	}()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		err = ctx.Err()
		s.opt.Logger.Warn("cutting answers off", "answers", s.active.Load())
	}
	s.cancel()
	<-gone
	return err
}

// Close is Shutdown without patience.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
	return nil
}
