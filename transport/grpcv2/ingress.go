package grpcv2

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/cloudfoundry/loggregator/envelope"
)

// send is Ingress/Send: a batch, and an answer when it has been taken.
func (s *Server) send(ctx context.Context, decode func(any) error) (any, error) {
	var in inbound
	defer in.free()
	if err := decode(&in); err != nil {
		return nil, s.unreadable(ctx, err)
	}
	if err := s.takeBatch(ctx, in.data); err != nil {
		return nil, err
	}
	return empty{}, nil
}

// receive is Ingress/Sender and Ingress/BatchSender: messages until the sender
// ends the stream, which is answered when all have been taken.
//
// Reading is a goroutine of its own, because nothing else can end a read that
// waits: it ends with the stream, when this returns.
func (s *Server) receive(stream grpc.ServerStream, take func(context.Context, []byte) error) error {
	leave, err := s.enter(&s.senders)
	if err != nil {
		return err
	}
	defer leave()
	read := make(chan error, 1)
	s.wg.Go(func() {
		var in inbound
		defer in.free()
		for {
			if err := stream.RecvMsg(&in); err != nil {
				if err != io.EOF {
					err = s.unreadable(stream.Context(), err)
				}
				read <- err
				return
			}
			err := take(stream.Context(), in.data)
			in.free()
			if err != nil {
				read <- err
				return
			}
		}
	})
	select {
	case err = <-read:
	case <-s.inputEnded:
		return status.Error(codes.Unavailable, "the server is shutting down; connect again")
	}
	if err == io.EOF {
		return stream.SendMsg(empty{})
	}
	return err
}

// unreadable counts a message that could not be read, unless it is only that the
// sender has left.
func (s *Server) unreadable(ctx context.Context, err error) error {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		s.refuse(ctx, "too_large", "a message is larger than the server takes")
	case codes.Internal, codes.Unimplemented:
		s.refuse(ctx, "malformed", "not a gRPC message of this API")
	}
	return err
}

func (s *Server) refuse(ctx context.Context, reason, says string) {
	addr := ""
	if p, ok := peer.FromContext(ctx); ok && p.Addr != nil {
		addr = p.Addr.String()
	}
	s.refusals.Add(reason, addr, says)
}

// takeOne hands an Envelope to the Writer.
func (s *Server) takeOne(ctx context.Context, msg []byte) error {
	record := records.Get().(*[]byte)
	defer keep(record)
	*record = envelope.AppendRecord((*record)[:0], msg)
	return s.hand(ctx, envelope.Batch{Records: *record, Count: 1})
}

// takeBatch hands an EnvelopeBatch to the Writer.
func (s *Server) takeBatch(ctx context.Context, msg []byte) error {
	b, err := envelope.ParseBatch(msg)
	if err != nil {
		s.refuse(ctx, "malformed", "not an EnvelopeBatch")
		return status.Error(codes.InvalidArgument, "this is not an EnvelopeBatch")
	}
	return s.hand(ctx, b)
}

func (s *Server) hand(ctx context.Context, b envelope.Batch) error {
	s.batches.Add(1)
	s.recordsIn.Add(uint64(b.Count))
	s.bytesIn.Add(uint64(len(b.Records)))
	if plain := plainRun(b.Records); plain < len(b.Records) {
		memory := records.Get().(*[]byte)
		defer keep(memory)
		*memory = s.appendTidy(append((*memory)[:0], b.Records[:plain]...), b.Records[plain:], b.Stream == 0)
		b.Records = *memory
	}
	if err := s.w.WriteBatch(ctx, b); err != nil {
		s.notTaken.Add(uint64(b.Count))
		s.refuse(ctx, "writer", err.Error())
		if ctxErr := ctx.Err(); ctxErr != nil && errors.Is(err, ctxErr) {
			return status.FromContextError(ctxErr).Err()
		}
		return status.Error(codes.Unavailable, "records cannot be taken now; connect again")
	}
	return nil
}

// plainRun is the size of the records at the beginning that can be taken as they
// are: they name a source, have no deprecated tags, and are no counters.
func plainRun(run []byte) int {
	rest := run
	for len(rest) > 0 {
		e, tail, err := envelope.Next(rest)
		if err != nil || look(e) != hasSource {
			break
		}
		rest = tail
	}
	return len(run) - len(rest)
}

// appendTidy appends records, of which those that need it are changed as agents
// do it: deprecated tags become tags, an envelope without a source is of the one
// that its tag origin names, and a counter has a total, if sum (it does already
// where the records are numbered, and may come twice). One record stays one
// record.
func (s *Server) appendTidy(dst, run []byte, sum bool) []byte {
	var memory [3]*[]byte
	for i := range memory {
		memory[i] = records.Get().(*[]byte)
		defer keep(memory[i])
	}
	for len(run) > 0 {
		e, rest, err := envelope.Next(run)
		if err != nil {
			return append(dst, run...)
		}
		run = rest
		sent, has := e, look(e)
		if has&(hasDeprecated|unusual) != 0 {
			if tidy, ok := appendPreferred((*memory[0])[:0], e, true); ok {
				*memory[0], e = tidy, tidy
			}
		}
		if r, err := e.Route(); err == nil && len(r.SourceID) == 0 {
			origin, _ := sent.Tag("origin")
			if len(origin) == 0 {
				origin, _ = e.Tag("origin")
			}
			if len(origin) > 0 {
				tidy := append((*memory[1])[:0], e...)
				tidy = append(appendLength(append(tidy, keySource), len(origin)), origin...)
				*memory[1], e = tidy, tidy
			}
		}
		if sum && has&(hasCounter|unusual) != 0 {
			tidy := s.totals.append(append((*memory[2])[:0], e...), e)
			*memory[2], e = tidy, tidy
		}
		dst = envelope.AppendRecord(dst, e)
	}
	return dst
}
