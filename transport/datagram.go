package transport

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"hash"

	"github.com/cloudfoundry/loggregator/envelope"
)

// AppendDatagram appends a datagram that carries b: where there is a secret, the
// HMAC-SHA-256 of the message, 32 bytes, and then the message.
func AppendDatagram(dst []byte, b envelope.Batch, secret []byte) []byte {
	return appendDatagram(dst, b, newMAC(secret))
}

// newMAC is what signs with the secret, nil if there is none.
func newMAC(secret []byte) hash.Hash {
	if len(secret) == 0 {
		return nil
	}
	return hmac.New(sha256.New, secret)
}

func appendDatagram(dst []byte, b envelope.Batch, mac hash.Hash) []byte {
	at := len(dst)
	if mac != nil {
		dst = append(dst, make([]byte, sha256.Size)...)
	}
	message := len(dst)
	dst = b.AppendHeader(dst)
	dst = append(dst, b.Records...)
	if mac != nil {
		mac.Reset()
		mac.Write(dst[message:])
		mac.Sum(dst[at:at])
	}
	return dst
}

// beginning is how many numbers of a maker go with the word where they begin, so
// that the loss of the first ones shows. Later it would make a server that was
// started anew count all that went before.
const beginning = 1000

// largestDatagram is what UDP over IPv4 carries, in bytes.
const largestDatagram = 65507

// pack puts the records of b in line as datagrams, each after its length: as many
// as fit into one, or one that does not. Nobody acknowledges them, so the cursor
// passes them when they have been written, and the server's numbers tell of those
// that do not arrive. A record that no datagram can carry is missing there.
func (s *session) pack(b envelope.Batch) {
	room := s.l.opts.MaxDatagram - envelope.MaxBatchHeader
	if s.mac != nil {
		room -= sha256.Size
	}
	next, position := b.Next, b.Position
	filtered := b.Next - b.First - uint64(b.Count) // numbers of records that are not there, at the end
	for first := true; first || len(b.Records) > 0; first = false {
		part := b
		part.Count = 0
		rest := b.Records
		for len(rest) > 0 {
			_, tail, err := envelope.Next(rest)
			if err != nil {
				tail = nil // the Source's fault: it goes as it is
			}
			if size := len(b.Records) - len(tail); part.Count > 0 && size > room {
				break
			}
			rest = tail
			part.Count++
		}
		part.Records = b.Records[:len(b.Records)-len(rest)]
		part.Next = part.First + uint64(part.Count)
		part.Position = position - (next - part.Next)
		if len(rest) == 0 {
			part.Next, part.Position = part.Next+filtered, position
		}
		if b.Stream == 0 {
			part.Next, part.Position = 0, b.Position
		}
		if part.First-part.Begin >= beginning {
			part.Begin = 0
		}
		s.datagram = appendDatagram(s.datagram[:0], part, s.mac)
		if len(s.datagram) <= largestDatagram {
			s.fill = binary.AppendUvarint(s.fill, uint64(len(s.datagram)))
			s.fill = append(s.fill, s.datagram...)
		}
		b.Records, b.First, b.Count = rest, part.First+uint64(part.Count), b.Count-part.Count
		b.Missed, b.Reason, b.Told, b.Reset = 0, 0, 0, false
	}
}

// writeDatagrams writes what pack put in line.
func (s *session) writeDatagrams(out []byte) error {
	for len(out) > 0 {
		size, n := binary.Uvarint(out)
		if _, err := s.nc.Write(out[n : n+int(size)]); err != nil {
			return err
		}
		out = out[n+int(size):]
	}
	return nil
}
