package grpcv2

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/refusals"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// ErrClosed means that a Server or Link was used after its Close or Shutdown.
var ErrClosed = errors.New("grpcv2: closed")

// Options are what a Server can be told. Nil and the zero value mean the
// defaults.
type Options struct {
	// TLS is used on every connection; nil means none. Stock clients insist on
	// TLS, and show a certificate: ask for it with ClientAuth, as
	// transport.TLSFiles does. They look for one of ServerNames in the server's.
	TLS *tls.Config

	// Certificates says who a client is that has shown a certificate, which TLS has
	// verified, and no token, and whether that one may read everything, as in
	// deployments of the stock server. Nil: certificates do not let anybody read.
	Certificates func(*x509.Certificate) (user string, ok bool)

	// MaxMessage bounds a message that is received, in bytes. Default 10 MiB, as
	// of the stock server.
	MaxMessage int
	// MaxRecords bounds the records of a batch that is sent. Default 100, as of
	// the stock server.
	MaxRecords int
	// MaxBytes bounds a batch that is sent, if it is not a single record, in
	// bytes: stock clients take 4 MiB. Default, and most, 64 KiB.
	MaxBytes int

	// MaxConns bounds the connections open at once; further ones are closed and
	// counted. Default 4096.
	MaxConns int
	// MaxSenders bounds the streams of senders at once; further ones are refused
	// and counted. A message that has not arrived whole takes up to MaxMessage for
	// each. Default 4096. Readers are the gate's to bound.
	MaxSenders int
	// MaxStreams bounds the streams of one connection. Default 1000.
	MaxStreams uint32

	// MinPing is how often a client may send keepalive pings, with streams or
	// without; one that does it more often is sent away with ENHANCE_YOUR_CALM.
	// Default 10 s.
	MinPing time.Duration
	// PingAfter is how long a connection may be silent before the client is asked
	// whether it is there. Default 30 s.
	PingAfter time.Duration
	// PingTimeout is how long it may take to answer. Default 20 s.
	PingTimeout time.Duration
	// HandshakeTimeout bounds the making of a connection. Default 30 s.
	HandshakeTimeout time.Duration
	// DrainTime is how long EndInput goes on reading what senders have already
	// sent. Default 200 ms.
	DrainTime time.Duration

	// Services, if not nil, adds other services to the same port. Their messages are
	// bytes, too, as those of package logcache: they have the methods MarshalBuffers
	// and UnmarshalBuffers. Nil: none.
	Services func(grpc.ServiceRegistrar)

	// Logger hears of refused input, at most once per reason and minute. Nil
	// discards.
	Logger *slog.Logger
}

// ServerNames are those that stock clients look for in a server's certificate, as
// DNS names: senders to an agent, senders to a router, and readers.
var ServerNames = []string{"metron", "doppler", "reverselogproxy"}

func (o *Options) withDefaults() Options {
	var c Options
	if o != nil {
		c = *o
	}
	c.MaxMessage = cmp.Or(max(c.MaxMessage, 0), 10<<20)
	c.MaxRecords = cmp.Or(max(c.MaxRecords, 0), 100)
	c.MaxBytes = min(cmp.Or(max(c.MaxBytes, 0), chunkSize), chunkSize)
	c.MaxConns = cmp.Or(max(c.MaxConns, 0), 4096)
	c.MaxSenders = cmp.Or(max(c.MaxSenders, 0), 4096)
	c.MaxStreams = cmp.Or(c.MaxStreams, 1000)
	c.MinPing = cmp.Or(max(c.MinPing, 0), 10*time.Second)
	c.PingAfter = cmp.Or(max(c.PingAfter, 0), 30*time.Second)
	c.PingTimeout = cmp.Or(max(c.PingTimeout, 0), 20*time.Second)
	c.HandshakeTimeout = cmp.Or(max(c.HandshakeTimeout, 0), 30*time.Second)
	c.DrainTime = cmp.Or(max(c.DrainTime, 0), 200*time.Millisecond)
	return c
}

// Server is the services loggregator.v2.Ingress and loggregator.v2.Egress.
type Server struct {
	w    envelope.Writer
	gate *access.Gate
	opt  Options
	grpc *grpc.Server

	ctx    context.Context // of readers; ends with Shutdown
	cancel context.CancelFunc
	wg     sync.WaitGroup // goroutines that read messages

	endInput   sync.Once
	inputEnded chan struct{} // closed when senders are sent away
	drained    chan struct{} // closed when the last one has gone after that
	stopping   atomic.Bool

	totals   totals
	groups   groups
	refusals *refusals.Counter

	conns, senders, readers                   slots
	batches, recordsIn, bytesIn, notTaken     atomic.Uint64
	messages, recordsOut, bytesOut            atomic.Uint64
	missed, told, marked, untold              atomic.Uint64
	filtered, unsent, handedOver, connections atomic.Uint64
}

// Stats is what a Server has counted since it was made.
type Stats struct {
	Connections int    // open now
	Accepted    uint64 // connections taken
	Senders     int    // streams of Ingress open now
	Readers     int    // streams of Egress open now

	Batches  uint64 // messages received, those of a single envelope included
	Records  uint64 // in those
	Bytes    uint64 // of those records
	NotTaken uint64 // of those, which the Writer did not take: their stream was ended

	// What readers were sent. For all of them together, what the gate yielded is
	// Filtered, Unsent, or sent: RecordsSent less the Marked lines. (What is handed
	// over is sent by another stream.)
	Messages    uint64 // sent
	RecordsSent uint64 // in those
	BytesSent   uint64 // of those
	Filtered    uint64 // records that were left out because of the name of a counter or gauge
	Unsent      uint64 // records read for a client that left before they could be sent
	HandedOver  uint64 // times that what a client left unsent went to another one of its group

	Missed uint64 // records that readers lost, by being slow, or before they came here
	Told   uint64 // of those, which they were told of, by a line in the source's stream
	Marked uint64 // such lines
	Untold uint64 // of those, which they were not told of, because they read no logs there

	// Refused is how many connections, streams and messages were given up, by
	// reason: full, request, malformed, too_large, writer, closing.
	Refused map[string]uint64
}

// NewServer makes a server that hands what it receives to w, and lets those that
// g admits read. Without w there is no Ingress, without g no Egress: calls of
// their methods are answered with UNIMPLEMENTED. Nothing runs before Serve.
func NewServer(w envelope.Writer, g *access.Gate, o *Options) *Server {
	s := &Server{w: w, gate: g, opt: o.withDefaults(), inputEnded: make(chan struct{}), drained: make(chan struct{})}
	s.refusals = refusals.New(s.opt.Logger)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.conns.most, s.senders.most = s.opt.MaxConns, s.opt.MaxSenders
	opts := []grpc.ServerOption{
		grpc.ForceServerCodecV2(codec{}),
		grpc.MaxRecvMsgSize(s.opt.MaxMessage),
		grpc.MaxConcurrentStreams(s.opt.MaxStreams),
		grpc.MaxHeaderListSize(64 << 10),
		grpc.ConnectionTimeout(s.opt.HandshakeTimeout),
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(2 * streamWindow),
		grpc.WriteBufferSize(64 << 10),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: s.opt.MinPing, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: s.opt.PingAfter, Timeout: s.opt.PingTimeout}),
		grpc.WaitForHandlers(true),
	}
	if s.opt.TLS != nil {
		opts = append(opts, grpc.Creds(gathered{credentials.NewTLS(s.opt.TLS)}))
	}
	s.grpc = grpc.NewServer(opts...)
	if w != nil {
		s.grpc.RegisterService(ingressService(s), nil)
	}
	if g != nil {
		s.grpc.RegisterService(egressService(s), nil)
	}
	if s.opt.Services != nil {
		s.opt.Services(s.grpc)
	}
	return s
}

// streamWindow is how many bytes a sender may be ahead of the Writer. A window
// that does not change spares the pings by which a better one is looked for.
const streamWindow = 512 << 10

// ingressService is what protoc-gen-go-grpc would make, without the messages.
func ingressService(s *Server) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "loggregator.v2.Ingress",
		Methods: []grpc.MethodDesc{{MethodName: "Send", Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			return s.send(ctx, decode)
		}}},
		Streams: []grpc.StreamDesc{
			{StreamName: "Sender", ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
				return s.receive(stream, s.takeOne)
			}},
			{StreamName: "BatchSender", ClientStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
				return s.receive(stream, s.takeBatch)
			}},
		},
	}
}

func egressService(s *Server) *grpc.ServiceDesc {
	return &grpc.ServiceDesc{
		ServiceName: "loggregator.v2.Egress",
		Streams: []grpc.StreamDesc{
			{StreamName: "Receiver", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
				return s.serve(stream, true)
			}},
			{StreamName: "BatchedReceiver", ServerStreams: true, Handler: func(_ any, stream grpc.ServerStream) error {
				return s.serve(stream, false)
			}},
		},
	}
}

// slots are how many of something there are, and may be.
type slots struct {
	mu   sync.Mutex
	n    int
	most int // 0: any number
}

func (l *slots) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.most > 0 && l.n >= l.most {
		return false
	}
	l.n++
	return true
}

func (l *slots) give() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.n--
}

func (l *slots) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.n
}

// enter admits a stream, which must leave.
func (s *Server) enter(of *slots) (leave func(), err error) {
	if s.stopping.Load() {
		return nil, status.Error(codes.Unavailable, "the server is shutting down; connect again")
	}
	if !of.take() {
		s.refusals.Add("full", "", "too many streams of senders")
		return nil, status.Errorf(codes.ResourceExhausted, "%d senders are being served, which is the limit; try again later", of.most)
	}
	return of.give, nil
}

// Serve accepts connections until ln fails or the server is shut down, which
// closes ln and makes Serve return ErrClosed. It starts goroutines for each
// connection. It may be called for several listeners.
func (s *Server) Serve(ln net.Listener) error {
	err := s.grpc.Serve(&listener{ln, s})
	if err == nil || errors.Is(err, grpc.ErrServerStopped) || s.stopping.Load() {
		ln.Close()
		return ErrClosed
	}
	return err
}

// listener takes no more connections than there may be.
type listener struct {
	net.Listener
	s *Server
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		nc, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.s.conns.take() {
			l.s.connections.Add(1)
			return &conn{Conn: nc, s: l.s}, nil
		}
		nc.Close()
		l.s.refusals.Add("full", nc.RemoteAddr().String(), "too many connections")
	}
}

type conn struct {
	net.Conn
	s    *Server
	once sync.Once
}

func (c *conn) Close() error {
	c.once.Do(c.s.conns.give)
	return c.Conn.Close()
}

// EndInput is the first part of a Shutdown: it takes no more connections and
// streams, reads for DrainTime what senders have already sent, and sends them
// away. Readers go on, so that they get what has been taken. When ctx ends first,
// senders are sent away at once and ctx's error is returned.
func (s *Server) EndInput(ctx context.Context) error {
	s.endInput.Do(func() {
		s.stopping.Store(true)
		go s.grpc.GracefulStop() // returns with the last stream, or Stop
		go func() {
			if s.senders.count() > 0 {
				pause := time.NewTimer(s.opt.DrainTime)
				defer pause.Stop()
				select {
				case <-pause.C:
				case <-ctx.Done():
				}
			}
			close(s.inputEnded)
			s.wg.Wait()
			close(s.drained)
		}()
	})
	select {
	case <-s.drained:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Shutdown is EndInput, and then sends every reader what was read for it already
// and ends its stream, with OK. Where readers shall get all that there is, end
// their Source first. It returns when all are gone; those that are not when ctx
// ends are cut off, and the error is ctx's.
func (s *Server) Shutdown(ctx context.Context) error {
	err := s.EndInput(ctx)
	s.cancel()
	done := make(chan struct{})
	go func() {
		s.grpc.GracefulStop()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		err = ctx.Err()
		s.grpc.Stop()
		<-done
	}
	<-s.drained
	return err
}

// Close closes listeners and connections at once and returns when their
// goroutines are gone. It may be called more than once.
func (s *Server) Close() error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	s.Shutdown(ctx)
	return nil
}

// Stats may be called at any time. The numbers are read one after the other, so
// they fit together exactly only when nothing arrives.
func (s *Server) Stats() Stats {
	return Stats{
		Connections: s.conns.count(), Accepted: s.connections.Load(),
		Senders: s.senders.count(), Readers: s.readers.count(),
		Batches: s.batches.Load(), Records: s.recordsIn.Load(), Bytes: s.bytesIn.Load(), NotTaken: s.notTaken.Load(),
		Messages: s.messages.Load(), RecordsSent: s.recordsOut.Load(), BytesSent: s.bytesOut.Load(),
		Filtered: s.filtered.Load(), Unsent: s.unsent.Load(), HandedOver: s.handedOver.Load(),
		Missed: s.missed.Load(), Told: s.told.Load(), Marked: s.marked.Load(), Untold: s.untold.Load(),
		Refused: s.refusals.Counts(),
	}
}
