package logcache

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// message is one of this API's, as the bytes that it is. No generated type is
// registered anywhere, so that a program may link a stock client besides.
type message struct{ b []byte }

// MarshalBuffers and UnmarshalBuffers are what a codec needs to know of it.
func (m *message) MarshalBuffers() mem.BufferSlice { return mem.BufferSlice{mem.SliceBuffer(m.b)} }

func (m *message) UnmarshalBuffers(data mem.BufferSlice) { m.b = data.Materialize() }

// codec carries messages.
type codec struct{}

// Name goes over the wire.
func (codec) Name() string { return "proto" }

var errType = errors.New("not a message of this API")

func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if m, ok := v.(*message); ok {
		return m.MarshalBuffers(), nil
	}
	return nil, errType
}

func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if m, ok := v.(*message); ok {
		m.UnmarshalBuffers(data)
		return nil
	}
	return errType
}

// ServerOption is what a grpc.Server needs that serves nothing but this API. One
// that serves more has a codec that hands on the messages that have methods
// MarshalBuffers and UnmarshalBuffers, as package grpcv2 does.
func ServerOption() grpc.ServerOption { return grpc.ForceServerCodecV2(codec{}) }

// maxRequest bounds a request by gRPC, in bytes.
const maxRequest = 64 << 10

// Register adds the API's services to a server, which is its owner's to shut down:
// after the Server.
func (s *Server) Register(r grpc.ServiceRegistrar) {
	r.RegisterService(&grpc.ServiceDesc{ServiceName: "logcache.v1.Egress", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		method("Read", s.grpcRead), method("Meta", s.grpcMeta),
	}}, s)
	unimplemented := func(context.Context, []byte) ([]byte, error) {
		s.unimplemented.Add(1)
		return nil, status.Error(codes.Unimplemented, noPromQL)
	}
	r.RegisterService(&grpc.ServiceDesc{ServiceName: "logcache.v1.PromQLQuerier", HandlerType: (*any)(nil), Methods: []grpc.MethodDesc{
		method("InstantQuery", unimplemented), method("RangeQuery", unimplemented),
	}}, s)
}

func method(name string, answer func(context.Context, []byte) ([]byte, error)) grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: name, Handler: func(_ any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in message
		if err := decode(&in); err != nil {
			return nil, err
		}
		out, err := answer(ctx, in.b)
		if err != nil {
			return nil, err
		}
		return &message{out}, nil
	}}
}

// admit asks the Gate, for whoever a certificate says or the bearer of a token.
func (s *Server) admit(ctx context.Context, sel []envelope.Selector) (*access.Pass, error) {
	p, _ := peer.FromContext(ctx)
	if p != nil && p.Addr != nil {
		ctx = access.WithPeer(ctx, p.Addr.String())
	}
	r := http.Request{Header: http.Header{"Authorization": metadata.ValueFromIncomingContext(ctx, "authorization")}}
	token := access.BearerToken(&r)
	if token == "" && p != nil && s.opt.Certificates != nil {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
			if user, ok := s.opt.Certificates(info.State.VerifiedChains[0][0]); ok {
				return s.gate.AdmitAs(ctx, access.Grant{User: user, Select: sel})
			}
		}
	}
	return s.gate.Admit(ctx, token, sel)
}

// statusFor is the status of what Admit, or putting an answer together, failed
// with.
func statusFor(err error) error {
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	case errors.Is(err, errMemory), errors.Is(err, errClosing):
		return status.Error(codes.Unavailable, err.Error())
	}
	code, sentence := access.Explain(err)
	switch code {
	case http.StatusUnauthorized:
		return status.Error(codes.Unauthenticated, sentence)
	case http.StatusNotFound:
		return status.Error(codes.NotFound, sentence)
	case http.StatusTooManyRequests:
		return status.Error(codes.ResourceExhausted, sentence)
	}
	return status.Error(codes.Unavailable, sentence)
}

func (s *Server) grpcRead(ctx context.Context, in []byte) ([]byte, error) {
	if len(in) > maxRequest {
		s.malformed.Add(1)
		return nil, status.Errorf(codes.InvalidArgument, "a request takes at most %d bytes", maxRequest)
	}
	raw, err := parseRequest(in)
	if err != nil {
		s.malformed.Add(1)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	req, err := raw.check(time.Now())
	if err != nil {
		s.malformed.Add(1)
		return nil, status.Error(codes.Unknown, err.Error())
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, statusFor(err)
	}
	defer leave()
	pass, err := s.admit(ctx, req.sel())
	if err != nil {
		return nil, statusFor(err)
	}
	defer pass.Close()
	p := s.newPage()
	defer p.free()
	if err := p.fill(ctx, pass, req, MaxReplyGRPC); err != nil {
		return nil, statusFor(err)
	}
	size := 0
	for _, r := range p.records {
		size += r.to - r.from
	}
	if err := p.charge(size); err != nil {
		return nil, statusFor(err)
	}
	// A ReadResponse whose only field is an EnvelopeBatch, and that is the records.
	out := make([]byte, 0, size+16)
	out = protowire.AppendTag(out, 1, protowire.BytesType)
	out = protowire.AppendVarint(out, uint64(size))
	for i := range p.records {
		out = append(out, p.record(i)...)
	}
	s.reads.Add(1)
	return out, nil
}

func (s *Server) grpcMeta(ctx context.Context, _ []byte) ([]byte, error) {
	if s.opt.Sources == nil {
		s.unimplemented.Add(1)
		return nil, status.Error(codes.Unimplemented, noMeta)
	}
	ctx, leave, err := s.enter(ctx)
	if err != nil {
		return nil, statusFor(err)
	}
	defer leave()
	pass, err := s.admit(ctx, envelope.Everything)
	if err != nil {
		return nil, statusFor(err)
	}
	defer pass.Close()
	all, err := s.meta(ctx, pass)
	if err != nil {
		return nil, statusFor(err)
	}
	var out, info, entry []byte
	for id, m := range all {
		info = info[:0]
		for i, v := range [...]uint64{m.count, m.expired, uint64(m.oldest), uint64(m.newest)} {
			info = protowire.AppendTag(info, protowire.Number(i+1), protowire.VarintType)
			info = protowire.AppendVarint(info, v)
		}
		entry = protowire.AppendTag(entry[:0], 1, protowire.BytesType)
		entry = protowire.AppendString(entry, strings.ToValidUTF8(id, "\ufffd"))
		entry = protowire.AppendTag(entry, 2, protowire.BytesType)
		entry = protowire.AppendBytes(entry, info)
		out = protowire.AppendTag(out, 1, protowire.BytesType)
		out = protowire.AppendBytes(out, entry)
	}
	return slices.Clip(out), nil
}
