package main

import (
	"context"
	"strings"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport"
	"github.com/cloudfoundry/loggregator/transport/grpcv2"
)

// link is the way to the servers: ours, or the agents and routers of the v2 API.
type link interface {
	Stats() transport.LinkStats
	Servers() []transport.LinkServer
	Acked() envelope.Cursor
	Flush(context.Context) error
	Shutdown(context.Context) (left uint64, err error)
	Close() error
}

// overGRPC reports whether addr means servers of the v2 API.
func overGRPC(addr string) bool {
	return strings.HasPrefix(addr, "grpc://") || strings.HasPrefix(addr, "grpcs://")
}

// checkServers reports whether newLink understands addr.
func checkServers(addr string) error {
	if overGRPC(addr) {
		return grpcv2.CheckAddress(addr)
	}
	return transport.CheckAddress(addr)
}

// newLink starts sending what src holds to the servers at addr.
func newLink(addr string, src envelope.Source, o *transport.LinkOptions) (link, error) {
	if !overGRPC(addr) {
		return transport.NewLink(addr, src, o)
	}
	l, err := grpcv2.NewLink(addr, src, &grpcv2.LinkOptions{
		CurrentTLS: o.CurrentTLS, Resume: o.Resume, Reason: o.Reason, Logger: o.Logger,
	})
	if err != nil {
		return nil, err
	}
	return grpcLink{l}, nil
}

// grpcLink tells of itself as the native link does.
type grpcLink struct{ *grpcv2.Link }

func (l grpcLink) Stats() transport.LinkStats {
	s := l.Link.Stats()
	return transport.LinkStats{
		Connected: s.Connected, Server: s.Server, Sent: s.Sent, SentBytes: s.SentBytes, Acked: s.Acked,
		Missed: s.Missed, MissedFor: s.MissedFor, Unacked: s.Unacked, Reconnects: s.Reconnects, LastError: s.LastError,
	}
}

// Servers is the one in use, or tried: of the others nothing is known.
func (l grpcLink) Servers() []transport.LinkServer {
	s := l.Link.Stats()
	return []transport.LinkServer{{Address: s.Server, Connected: s.Connected, Live: s.Connected, Unacked: s.Unacked, LastError: s.LastError}}
}
