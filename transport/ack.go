package transport

import (
	"encoding/binary"
	"errors"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/cloudfoundry/loggregator/envelope"
)

// position is one StreamPosition of an Ack: every record of the stream that is
// numbered below next has arrived.
type position struct {
	stream envelope.StreamID
	next   uint64
}

var errMalformedAck = errors.New("transport: malformed acknowledgement")

// maxPosition bounds one position within an Ack: two keys, fixed64 and varint,
// and the key and length before them.
const maxPosition = 2 + 1 + 8 + 1 + 10

// appendAck appends one Ack message with its length in front.
func appendAck(dst []byte, acks []position) []byte {
	size := 0
	for _, a := range acks {
		size += 2 + positionSize(a)
	}
	dst = protowire.AppendVarint(dst, uint64(size))
	for _, a := range acks {
		dst = append(dst, 1<<3|2, byte(positionSize(a)))
		dst = append(dst, 1<<3|1)
		dst = binary.LittleEndian.AppendUint64(dst, uint64(a.stream))
		dst = append(dst, 2<<3)
		dst = protowire.AppendVarint(dst, a.next)
	}
	return dst
}

func positionSize(a position) int { return 1 + 8 + 1 + protowire.SizeVarint(a.next) }

// parseAck appends the positions of an Ack message to acks. As everywhere in
// protobuf, of a field given twice the last wins and fields unknown are skipped.
func parseAck(acks []position, msg []byte) ([]position, error) {
	for len(msg) > 0 {
		num, typ, n := protowire.ConsumeTag(msg)
		if n < 0 {
			return acks, errMalformedAck
		}
		l := protowire.ConsumeFieldValue(num, typ, msg[n:])
		if l < 0 {
			return acks, errMalformedAck
		}
		if num == 1 && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(msg[n:])
			a, err := parsePosition(v)
			if err != nil {
				return acks, err
			}
			acks = append(acks, a)
		}
		msg = msg[n+l:]
	}
	return acks, nil
}

func parsePosition(m []byte) (position, error) {
	var a position
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return a, errMalformedAck
		}
		l := protowire.ConsumeFieldValue(num, typ, m[n:])
		if l < 0 {
			return a, errMalformedAck
		}
		switch {
		case num == 1 && typ == protowire.Fixed64Type:
			v, _ := protowire.ConsumeFixed64(m[n:])
			a.stream = envelope.StreamID(v)
		case num == 2 && typ == protowire.VarintType:
			a.next, _ = protowire.ConsumeVarint(m[n:])
		}
		m = m[n+l:]
	}
	return a, nil
}
