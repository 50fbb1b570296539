package transport

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/envelope/envelopepb"
	"github.com/cloudfoundry/loggregator/internal/faultnet"
)

// Any program that writes length-delimited protobuf is a sender: here the
// protobuf library itself, with records of two sources in one batch.
func TestForeignSender(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		network := &faultnet.Network{}
		server := serve(t, network, envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
			for e := range b.All() {
				r, err := e.Route()
				if err != nil {
					t.Error(err)
				}
				got = append(got, string(r.SourceID)+" "+string(r.Payload))
			}
			return nil
		}), nil)
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		for range 3 {
			m := &envelopepb.EnvelopeBatch{}
			for _, source := range []string{"a", "b"} {
				m.Batch = append(m.Batch, &envelopepb.Envelope{
					SourceId: source, Message: &envelopepb.Envelope_Log{Log: &envelopepb.Log{Payload: []byte("hello")}},
				})
			}
			if _, err := protodelim.MarshalTo(c, m); err != nil {
				t.Fatal(err)
			}
		}
		c.(*faultnet.Conn).CloseWrite()
		if answer, err := io.ReadAll(c); err != nil || len(answer) > 0 {
			t.Errorf("answered %x, %v", answer, err)
		}
		server.Close()
		if len(got) != 6 || got[0] != "a hello" || got[5] != "b hello" {
			t.Errorf("%q", got)
		}
	})
}

// An answer is what the generated type reads.
func TestForeignReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := &faultnet.Network{}
		server := serve(t, network, discard{}, nil)
		c, _ := network.DialContext(t.Context(), "", "server:3456")
		messages, _ := numbered(3, 1000)
		c.Write(messages)
		c.(*faultnet.Conn).CloseWrite()
		answer, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		var ack envelopepb.Ack
		if err := protodelim.UnmarshalFrom(bytes.NewReader(answer), &ack); err != nil {
			t.Fatal(err)
		}
		if len(ack.Streams) != 3 || ack.Streams[2].Stream != 3 || ack.Streams[2].Next != 4 {
			t.Errorf("%v", &ack)
		}
		server.Close()
	})
}

// However many streams a sender names, few acknowledgements wait to be sent.
func TestAcksBounded(t *testing.T) {
	var messages []byte
	for i := range 20_000 {
		head := envelope.Batch{Stream: envelope.StreamID(i + 1), First: 1, Next: 5}.AppendHeader(nil)
		messages = append(append(messages, byte(len(head))), head...)
	}
	s := NewServer(discard{}, nil)
	l := &loop{data: messages, times: 3}
	c := &conn{s: s, raw: l}
	c.serve()
	if n := s.Stats().Batches; n != 60_000 || cap(c.acks) > 2*maxAcks || l.acks < 60_000*12 {
		t.Errorf("%d batches, room for %d acknowledgements, %d bytes sent", n, cap(c.acks), l.acks)
	}
}

// pieces is a connection whose reads give some bytes in pieces of random size.
type pieces struct {
	loop
	random *rand.Rand
}

func (p *pieces) Read(b []byte) (int, error) {
	if p.at == len(p.data) {
		return 0, io.EOF
	}
	n := min(len(b), len(p.data)-p.at)
	if p.random != nil {
		n = 1 + p.random.IntN(n)
	}
	copy(b[:n], p.data[p.at:])
	p.at += n
	return n, nil
}

// FuzzFrames asks that nothing but the bytes decides what a server makes of
// them: not how they are cut into reads.
func FuzzFrames(f *testing.F) {
	messages, _ := numbered(5, 3000)
	f.Add(messages, uint64(1))
	f.Add(messages[:len(messages)-5], uint64(2))
	f.Add(append(message(3), 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f), uint64(3))
	f.Add(append(message(3), "GET / HTTP/1.1\r\n\r\n"...), uint64(4))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"), uint64(5))
	f.Add(hello(), uint64(6))
	f.Add([]byte{0, 0, 0, 2, 0x1a, 0}, uint64(7))
	f.Fuzz(func(t *testing.T, data []byte, seed uint64) {
		type result struct {
			taken  []byte
			count  int
			next   uint64
			reason string
			acks   bool
		}
		run := func(random *rand.Rand) (r result) {
			s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
				r.taken = append(r.taken, b.Records...)
				r.count += b.Count
				r.next = b.Next
				return nil
			}), &ServerOptions{MaxMessage: 20_000})
			p := &pieces{loop: loop{data: bytes.Clone(data)}, random: random}
			c := &conn{s: s, raw: p}
			c.serve()
			for reason := range s.Stats().Refused {
				if reason == "text" || reason == "too_large" { // a guess, from what has been read so far
					reason = "malformed"
				}
				r.reason += reason
			}
			if n := s.buffered.Load(); n != 0 {
				t.Errorf("%d bytes never given back", n)
			}
			r.acks = p.acks > 0
			return r
		}
		whole, cut := run(nil), run(rand.New(rand.NewPCG(seed, 1)))
		if !bytes.Equal(whole.taken, cut.taken) || whole.count != cut.count || whole.next != cut.next ||
			whole.reason != cut.reason || whole.reason == "" && whole.acks != cut.acks { // some who are refused are told why, by that guess
			t.Errorf("whole: %d records, %s, %v\ncut: %d records, %s, %v",
				whole.count, whole.reason, whole.acks, cut.count, cut.reason, cut.acks)
		}
	})
}
