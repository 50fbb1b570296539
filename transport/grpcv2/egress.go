package grpcv2

import (
	"context"
	"errors"
	"strconv"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/access"
)

// serve is Egress/Receiver (single) and Egress/BatchedReceiver: what arrives from
// now on, until the client leaves.
func (s *Server) serve(stream grpc.ServerStream, single bool) error {
	var in inbound
	err := stream.RecvMsg(&in)
	if err != nil {
		return s.unreadable(stream.Context(), err)
	}
	req, err := parseRequest(in.data)
	in.free()
	if err != nil {
		s.refuse(stream.Context(), "request", status.Convert(err).Message())
		return err
	}
	leave, err := s.enter(&s.readers)
	if err != nil {
		return err
	}
	defer leave()
	ctx, cancel := context.WithCancel(stream.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	pass, err := s.admit(ctx, req.sel())
	if err != nil {
		return refusal(err)
	}
	defer pass.Close()

	r := &reader{s: s, stream: stream, req: &req, byName: req.byName()}
	r.out = outbox{
		single: single, records: s.opt.MaxRecords, bytes: s.opt.MaxBytes,
		send: func(b mem.Buffer) error { return stream.SendMsg(&outbound{b}) },
		sent: func(records, bytes int) {
			s.messages.Add(1)
			s.recordsOut.Add(uint64(records))
			s.bytesOut.Add(uint64(bytes))
		},
	}
	r.out.init()
	q := envelope.Query{Follow: true, Shard: req.shard, Member: req.member}
	if q.Shard != "" {
		r.group = s.groups.join(groupKey(pass.User(), &req), r)
	}
	err = r.run(pass.Batches(ctx, q))
	switch {
	case errors.Is(err, access.ErrExpired):
		return refusal(err)
	case stream.Context().Err() != nil:
		return status.FromContextError(stream.Context().Err()).Err()
	}
	return nil // the Source has ended, or the server does: as stock servers say it
}

// admit asks the gate, as whoever a certificate says or as the bearer of a token.
func (s *Server) admit(ctx context.Context, sel []envelope.Selector) (*access.Pass, error) {
	p, _ := peer.FromContext(ctx)
	if p != nil && p.Addr != nil {
		ctx = access.WithPeer(ctx, p.Addr.String())
	}
	token := bearerToken(ctx)
	if token == "" && p != nil && s.opt.Certificates != nil {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok && len(info.State.VerifiedChains) > 0 {
			if user, ok := s.opt.Certificates(info.State.VerifiedChains[0][0]); ok {
				return s.gate.AdmitAs(ctx, access.Grant{User: user, Select: sel})
			}
		}
	}
	return s.gate.Admit(ctx, token, sel)
}

// bearerToken is the token of the metadata "authorization", or empty. A request
// with two of them has none.
func bearerToken(ctx context.Context) string {
	md, _ := metadata.FromIncomingContext(ctx)
	values := md.Get("authorization")
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// refusal is an error of the gate as a status.
func refusal(err error) error {
	switch {
	case errors.Is(err, access.ErrToken), errors.Is(err, access.ErrExpired):
		return status.Error(codes.Unauthenticated, err.Error())
	case errors.Is(err, access.ErrDenied):
		return status.Error(codes.NotFound, access.ErrDenied.Error())
	case errors.Is(err, access.ErrBusy):
		return status.Error(codes.ResourceExhausted, "unable to create stream, max egress streams reached: "+err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return status.FromContextError(err).Err()
	}
	return status.Error(codes.Unavailable, access.ErrUnavailable.Error())
}

// reader is one stream of Egress.
type reader struct {
	s      *Server
	stream grpc.ServerStream
	req    *request
	byName bool
	out    outbox
	group  *group // that shares its sources; nil: none

	missed  map[envelope.StreamID]uint64 // by ring, what is to be told with its next record
	scratch []byte
}

// run sends what a sequence yields. When it returns, all has been sent, or has
// been left to another member of the group, or is counted.
func (r *reader) run(batches func(func(envelope.Batch, error) bool)) (err error) {
	begun := false
	for b, e := range batches {
		if !begun { // the client sees that from now on it gets everything
			begun = true
			r.stream.SendHeader(nil)
		}
		if e != nil {
			err = e
		} else if r.put(&b) {
			continue
		}
		// The group's sources go over to its other members as the loop is left. What
		// they get then must come after what is left here.
		r.end()
		return err
	}
	r.end()
	return nil
}

// end sends what is left, or leaves it to others.
func (r *reader) end() {
	if r.group != nil {
		r.s.groups.leave(r.group, r) // nobody leaves anything to this one from now on
	}
	unsent, _ := r.out.flush()
	if r.group != nil && len(unsent) > 0 && r.s.groups.give(r.group, unsent) {
		r.s.handedOver.Add(1)
		unsent = nil
	}
	for len(unsent) > 0 {
		_, rest, err := envelope.Next(unsent)
		if err != nil {
			break
		}
		r.s.unsent.Add(1)
		unsent = rest
	}
	for _, n := range r.missed {
		r.s.untold.Add(n)
	}
}

// put puts a batch in line. It is false when sending has failed: then all of the
// batch is among what is unsent.
func (r *reader) put(b *envelope.Batch) bool {
	if b.Missed > 0 {
		r.s.missed.Add(b.Missed)
	}
	if b.Count == 0 {
		if b.Missed > 0 { // of which source is said by the next record
			if r.missed == nil {
				r.missed = make(map[envelope.StreamID]uint64)
			}
			r.missed[b.Ring] += b.Missed
		}
		return true
	}
	var gap []byte
	if b.Missed > 0 || b.Reset || r.missed != nil {
		gap = r.tell(b)
	}
	run := b.Records
	if r.byName || !r.asIs(run) {
		run = r.rewrite(run)
	}
	if r.out.append(gap, run) {
		return true
	}
	r.out.mu.Lock()
	r.out.unsent = append(append(r.out.unsent, gap...), run...)
	r.out.mu.Unlock()
	return false
}

// asIs reports whether the records can go out as they are.
func (r *reader) asIs(run []byte) bool {
	if !r.req.preferred {
		return false
	}
	for len(run) > 0 {
		e, rest, err := envelope.Next(run)
		if err != nil || look(e)&(hasDeprecated|unusual) != 0 {
			return false
		}
		run = rest
	}
	return true
}

// rewrite is what the request wants of the records, with their tags in the field
// that it wants. The result is valid until the next call.
func (r *reader) rewrite(run []byte) []byte {
	memory := records.Get().(*[]byte)
	defer keep(memory)
	r.scratch = r.scratch[:0]
	for len(run) > 0 {
		e, rest, err := envelope.Next(run)
		if err != nil {
			break
		}
		run = rest
		if r.byName && !r.req.wants(e) {
			r.s.filtered.Add(1)
			continue
		}
		ok := true
		if !r.req.preferred {
			*memory, ok = appendDeprecated((*memory)[:0], e)
		} else if look(e)&(hasDeprecated|unusual) == 0 {
			r.scratch = envelope.AppendRecord(r.scratch, e)
			continue
		} else {
			*memory, ok = appendPreferred((*memory)[:0], e, false)
		}
		if ok { // all that a router holds does parse
			r.scratch = envelope.AppendRecord(r.scratch, *memory)
		}
	}
	return r.scratch
}

// tell is a line in the source's own stream that says what is missing before b;
// nothing if the reader wants no logs of it.
func (r *reader) tell(b *envelope.Batch) []byte {
	n := b.Missed + r.missed[b.Ring]
	delete(r.missed, b.Ring)
	if len(r.missed) == 0 {
		r.missed = nil
	}
	if n == 0 && !b.Reset {
		return nil
	}
	e, _, err := envelope.Next(b.Records)
	if err != nil {
		return nil
	}
	route, err := e.Route()
	if err != nil || !r.req.wantsLogs(route.SourceID) {
		r.s.untold.Add(n)
		return nil
	}
	fixed := fixedOf(e, &route)
	var gap []byte
	if n > 0 {
		why := "this reader was too slow"
		if b.Reason != envelope.ReasonUnknown {
			why = b.Reason.String()
		}
		gap = envelope.AppendMissed(gap, fixed, route.Timestamp, n, why)
		r.s.told.Add(n)
		r.s.marked.Add(1)
	}
	if b.Reset {
		gap = appendReset(gap, fixed, route.Timestamp)
		r.s.marked.Add(1)
	}
	if !r.req.preferred {
		memory := gap
		gap = nil
		for len(memory) > 0 {
			e, rest, _ := envelope.Next(memory)
			old, _ := appendDeprecated(nil, e)
			gap = envelope.AppendRecord(gap, old)
			memory = rest
		}
	}
	return gap
}

// groupKey names what shares a shard name here: one user's requests for the same.
func groupKey(user string, req *request) string {
	var b strings.Builder
	b.WriteString(strconv.Quote(user))
	b.WriteString(strconv.Quote(req.shard))
	b.WriteString(strconv.FormatBool(req.preferred))
	for _, s := range req.selectors {
		b.WriteString(strconv.Quote(s.source))
		b.WriteByte('0' + byte(s.kind))
		for _, name := range s.names {
			b.WriteString(strconv.Quote(name))
		}
	}
	return b.String()
}
