package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"hash"
	"net"
	"net/netip"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/packets"
)

const (
	// maxDatagram is more than UDP can carry.
	maxDatagram = 64 << 10
	// keepJoined bounds the memory that a socket holds on to for datagrams that are
	// handed on together, in bytes.
	keepJoined = 256 << 10
)

// ServePacket takes datagrams until pc fails or the server is shut down, which
// makes it return ErrClosed. It closes pc. One datagram is one EnvelopeBatch;
// nothing is answered. A datagram that does not parse, or that the Writer does
// not take, is counted and dropped, as is one that is not signed where
// ServerOptions.Secrets asks for that.
//
// Where records are numbered, lost datagrams are gaps that the Writer sees; it is
// told envelope.ReasonDatagram. How many the system had no room for is in
// ServerStats.Dropped, on Linux. There, datagrams are read up to 32 at a time, and
// up to 2 MiB of memory are used for each socket.
func (s *Server) ServePacket(pc net.PacketConn) error {
	err := s.packets.Serve(pc, maxDatagram, &intake{s: s, v: newVerifier(s.opts.Secrets), known: s.newcomers()})
	if errors.Is(err, net.ErrClosed) && s.conns.Stopped() {
		return ErrClosed
	}
	return err
}

// intake takes the datagrams of one socket. Those that come together and go on
// where the one before ended are handed to the Writer as one batch.
type intake struct {
	s     *Server
	v     *verifier
	known *newcomers

	batch     envelope.Batch // what is joined; its records are in memory
	memory    []byte
	datagrams uint64 // of them
	from      netip.AddrPort
}

// Take implements packets.Taker.
func (in *intake) Take(r *packets.Reader, n int) {
	size := 0
	for i := range n {
		msg, _ := r.Datagram(i) // none is cut: there are none so long
		size += len(msg)
		if f := in.take(msg, r.From(i)); f != nil {
			in.refuse(f, r.From(i))
		}
	}
	if f := in.flush(); f != nil {
		in.refuse(f, in.from)
	}
	if cap(in.memory) > keepJoined {
		in.memory = nil
	}
	in.s.datagrams.Add(uint64(n))
	in.s.bytes.Add(uint64(size))
}

func (in *intake) refuse(f *fault, from netip.AddrPort) {
	var addr net.Addr
	if from.IsValid() {
		addr = net.UDPAddrFromAddrPort(from)
	}
	in.s.complaints.add(f, addr)
}

// Lost implements packets.Taker.
func (in *intake) Lost(n uint64) {
	in.s.dropped.Add(n)
	in.s.complaints.addMany(n, &fault{reason: reasonOverflow, says: "the system had no room for datagrams"}, nil)
}

// take joins a datagram to those before it.
func (in *intake) take(msg []byte, from netip.AddrPort) *fault {
	msg, f := in.v.open(msg)
	if f != nil {
		return f
	}
	b, err := envelope.ParseBatch(msg)
	if err != nil {
		f := suspect(msg)
		f.says = "datagram " + f.says
		return f
	}
	if b.Count == 0 && b.Missed == 0 {
		return &fault{reason: reasonMalformed, says: "datagram without records"}
	}
	if !in.known.admit(&b) {
		return &fault{reason: reasonSources, says: "datagram of one more new source"}
	}
	if b.Stream != 0 && b.Missed == 0 {
		b.Reason = envelope.ReasonDatagram
	}
	if !in.continues(&b) {
		f = in.flush()
		if f != nil {
			in.refuse(f, in.from)
		}
		in.batch, in.from = b, from
		in.memory = in.memory[:0]
	} else {
		in.batch.Count += b.Count
		in.batch.Next, in.batch.Position = b.Next, b.Position
	}
	in.memory = append(in.memory, b.Records...)
	in.datagrams++
	return nil
}

// continues reports whether b goes on where what is joined ends.
func (in *intake) continues(b *envelope.Batch) bool {
	j := &in.batch
	if j.Count == 0 || b.Count == 0 || b.Missed > 0 || b.Reset || b.Stream != j.Stream {
		return false
	}
	if b.Stream == 0 {
		return true
	}
	return b.First == j.Next && j.Next == j.First+uint64(j.Count) && b.Next == b.First+uint64(b.Count) && b.From|b.Told == 0 &&
		b.Ring == j.Ring && b.Position == j.Position+uint64(b.Count)
}

// flush hands over what is joined.
func (in *intake) flush() *fault {
	b, n := in.batch, in.datagrams
	in.batch, in.datagrams = envelope.Batch{}, 0
	if n == 0 {
		return nil
	}
	b.Records = in.memory
	if err := in.s.hand(in.s.ctx, b); err != nil {
		return &fault{reason: reasonWriter, says: "datagram not taken", err: err}
	}
	in.s.batches.Add(n)
	in.s.records.Add(uint64(b.Count))
	in.s.missed.Add(b.Missed)
	return nil
}

// verifier checks signatures, for one goroutine.
type verifier struct {
	macs []hash.Hash // one for each secret
	sum  []byte
}

func newVerifier(secrets [][]byte) *verifier {
	v := &verifier{}
	for _, secret := range secrets {
		v.macs = append(v.macs, hmac.New(sha256.New, secret))
	}
	return v
}

// open takes the signature off a datagram.
func (v *verifier) open(msg []byte) ([]byte, *fault) {
	if len(v.macs) == 0 {
		return msg, nil
	}
	if len(msg) < sha256.Size {
		return nil, &fault{reason: reasonSignature, says: "datagram not signed"}
	}
	for _, mac := range v.macs {
		mac.Reset()
		mac.Write(msg[sha256.Size:])
		v.sum = mac.Sum(v.sum[:0])
		if hmac.Equal(v.sum, msg[:sha256.Size]) {
			return msg[sha256.Size:], nil
		}
	}
	return nil, &fault{reason: reasonSignature, says: "datagram not signed with a known secret"}
}
