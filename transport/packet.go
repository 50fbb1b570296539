package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"hash"
	"net"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

const (
	// maxDatagram is more than UDP can carry.
	maxDatagram = 64 << 10
	// socketBuffer is what is asked of the system for datagrams that wait. Those
	// that find no room are lost, and nobody can count them.
	socketBuffer = 4 << 20
)

// ServePacket takes datagrams until pc fails or the server is shut down, which
// makes it return ErrClosed. It closes pc. One datagram is one EnvelopeBatch;
// nothing is answered. A datagram that does not parse, or that the Writer does
// not take, is counted and dropped, as is one that is not signed where
// ServerOptions.Secrets asks for that.
func (s *Server) ServePacket(pc net.PacketConn) error {
	s.mu.Lock()
	if s.closing {
		s.mu.Unlock()
		pc.Close()
		return ErrClosed
	}
	s.packets[pc] = struct{}{}
	s.wg.Add(1)
	s.mu.Unlock()
	defer s.wg.Done()
	defer pc.Close()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.packets, pc)
	}()
	if udp, ok := pc.(*net.UDPConn); ok {
		udp.SetReadBuffer(socketBuffer) // as much of it as the system allows
	}

	v := newVerifier(s.opts.Secrets)
	buf := make([]byte, maxDatagram)
	for delay := time.Duration(0); ; {
		n, from, err := pc.ReadFrom(buf)
		switch {
		case err == nil:
			delay = 0
			s.datagrams.Add(1)
			s.bytes.Add(uint64(n))
			if f := s.datagram(v, buf[:n]); f != nil {
				s.complaints.add(f, from)
			}
		case s.isClosing():
			return ErrClosed
		case scarce(err):
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			if !pause(s.ctx, delay) {
				return ErrClosed
			}
		default:
			return err
		}
	}
}

func (s *Server) datagram(v *verifier, msg []byte) *fault {
	msg, f := v.open(msg)
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
	if err := s.w.WriteBatch(s.ctx, b); err != nil {
		return &fault{reason: reasonWriter, says: "datagram not taken", err: err}
	}
	s.batches.Add(1)
	s.records.Add(uint64(b.Count))
	s.missed.Add(b.Missed)
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

// AppendDatagram appends a datagram that carries b: where there is a secret, the
// HMAC-SHA-256 of the message, 32 bytes, and then the message.
func AppendDatagram(dst []byte, b envelope.Batch, secret []byte) []byte {
	at := len(dst)
	if len(secret) > 0 {
		dst = append(dst, make([]byte, sha256.Size)...)
	}
	message := len(dst)
	dst = b.AppendHeader(dst)
	dst = append(dst, b.Records...)
	if len(secret) > 0 {
		mac := hmac.New(sha256.New, secret)
		mac.Write(dst[message:])
		mac.Sum(dst[at:at])
	}
	return dst
}
