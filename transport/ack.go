package transport

import (
	"encoding/binary"
	"errors"
	"strconv"

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

// maxRefusal bounds the text of a refusal, in bytes.
const maxRefusal = 200

// appendRefusal appends an Ack message, with its length in front, that says why the
// server closes the connection: field 2. Who does not know the field skips it.
func appendRefusal(dst []byte, why string) []byte {
	msg := protowire.AppendTag(nil, 2, protowire.BytesType)
	msg = protowire.AppendString(msg, why[:min(len(why), maxRefusal)])
	return protowire.AppendBytes(dst, msg)
}

// refusedFor is why the server closes the connection, if an Ack message says so.
func refusedFor(msg []byte) (why string) {
	for len(msg) > 0 {
		num, typ, v, rest := field(msg)
		if num == 0 {
			return ""
		}
		if num == 2 && typ == protowire.BytesType {
			text, _ := protowire.ConsumeBytes(v)
			why = strconv.QuoteToGraphic(string(text[:min(len(text), maxRefusal)]))
		}
		msg = rest
	}
	return why
}

// parseAck appends the positions of an Ack message to acks. As everywhere in
// protobuf, of a field given twice the last wins and fields unknown are skipped.
func parseAck(acks []position, msg []byte) ([]position, error) {
	for len(msg) > 0 {
		num, typ, v, rest := field(msg)
		if num == 0 {
			return acks, errMalformedAck
		}
		if num == 1 && typ == protowire.BytesType {
			v, _ := protowire.ConsumeBytes(v)
			a, err := parsePosition(v)
			if err != nil {
				return acks, err
			}
			acks = append(acks, a)
		}
		msg = rest
	}
	return acks, nil
}

// field takes one field off a message; its value keeps its length in front. The
// number is 0 if the message is malformed. protowire lets numbers pass that the
// protobuf decoder refuses.
func field(m []byte) (num protowire.Number, typ protowire.Type, value, rest []byte) {
	num, typ, n := protowire.ConsumeTag(m)
	if n < 0 || num > protowire.MaxValidNumber {
		return 0, 0, nil, nil
	}
	l := protowire.ConsumeFieldValue(num, typ, m[n:])
	if l < 0 {
		return 0, 0, nil, nil
	}
	return num, typ, m[n : n+l], m[n+l:]
}

func parsePosition(m []byte) (position, error) {
	var a position
	for len(m) > 0 {
		num, typ, v, rest := field(m)
		switch {
		case num == 0:
			return a, errMalformedAck
		case num == 1 && typ == protowire.Fixed64Type:
			a.stream = envelope.StreamID(binary.LittleEndian.Uint64(v))
		case num == 2 && typ == protowire.VarintType:
			a.next, _ = protowire.ConsumeVarint(v)
		}
		m = rest
	}
	return a, nil
}
