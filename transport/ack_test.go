package transport

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
)

func generated(acks []position) *envelopepb.Ack {
	m := &envelopepb.Ack{}
	for _, a := range acks {
		m.Streams = append(m.Streams, &envelopepb.StreamPosition{Stream: uint64(a.stream), Next: a.next})
	}
	return m
}

func TestAppendAck(t *testing.T) {
	for _, acks := range [][]position{
		nil,
		{{1, 1}},
		{{1, 0}, {1<<64 - 1, 1<<64 - 1}, {0, 127}, {5, 128}},
	} {
		b := appendAck(nil, acks)
		size, n := binary.Uvarint(b)
		if int(size) != len(b)-n {
			t.Fatalf("%v: length %d of %d", acks, size, len(b)-n)
		}
		var m envelopepb.Ack
		if err := proto.Unmarshal(b[n:], &m); err != nil || !proto.Equal(&m, generated(acks)) {
			t.Errorf("%v: read as %v, %v", acks, &m, err)
		}
		if got, err := parseAck(nil, b[n:]); err != nil || !slices.Equal(got, acks) {
			t.Errorf("%v: parsed as %v, %v", acks, got, err)
		}
	}
}

// FuzzParseAck asks for what the generated type says of the same bytes.
func FuzzParseAck(f *testing.F) {
	f.Add(appendAck(nil, []position{{1, 2}, {3, 4}})[1:])
	f.Add([]byte{0x0a, 0x00, 0x12, 0x01, 0x00, 0x0a, 0x04, 0x10, 0x01, 0x10, 0x02})
	f.Add([]byte{0x0b, 0x0c, 0x0a, 0x02, 0x0b, 0x0c})
	f.Fuzz(func(t *testing.T, msg []byte) {
		var m envelopepb.Ack
		want := proto.Unmarshal(msg, &m)
		if want != nil && strings.Contains(want.Error(), "invalid UTF-8") {
			return // the text of a refusal, which is quoted
		}
		got, err := parseAck(nil, msg)
		if (err == nil) != (want == nil) {
			t.Fatalf("%x: %v, protobuf says %v", msg, err, want)
		}
		if err != nil {
			return
		}
		if len(got) != len(m.Streams) {
			t.Fatalf("%x: %v, protobuf says %v", msg, got, &m)
		}
		for i, a := range got {
			if p := m.Streams[i]; a != (position{envelope.StreamID(p.GetStream()), p.GetNext()}) {
				t.Fatalf("%x: %v, protobuf says %v", msg, got, &m)
			}
		}
	})
}
