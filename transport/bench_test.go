package transport

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/packets"
)

// loop is a connection whose reads give the same bytes so many times.
type loop struct {
	net.Conn
	data  []byte
	times int
	at    int
	acks  int
}

func (l *loop) Read(p []byte) (int, error) {
	if l.at == len(l.data) {
		if l.times--; l.times <= 0 {
			return 0, io.EOF
		}
		l.at = 0
	}
	n := copy(p, l.data[l.at:])
	l.at += n
	return n, nil
}

func (l *loop) Write(p []byte) (int, error)      { l.acks += len(p); return len(p), nil }
func (l *loop) SetReadDeadline(time.Time) error  { return nil }
func (l *loop) SetWriteDeadline(time.Time) error { return nil }
func (l *loop) Close() error                     { return nil }
func (l *loop) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// numbered is the messages of n batches of streams in turn, each of records of
// 480 bytes that make up size.
func numbered(n, size int) (messages []byte, records int) {
	record := record480()
	for i := range n {
		b := envelope.Batch{Stream: envelope.StreamID(i%7 + 1), First: 1}
		for len(b.Records) < size {
			b.Records = append(b.Records, record...)
			b.Count++
		}
		b.Next = b.First + uint64(b.Count)
		b.Ring, b.Position = b.Stream, b.Next
		head := b.AppendHeader(nil)
		messages = binary.AppendUvarint(messages, uint64(len(head)+len(b.Records)))
		messages = append(append(messages, head...), b.Records...)
		records += b.Count
	}
	return messages, records
}

// record480 is one record of 480 bytes, with the tags of an application.
func record480() []byte {
	f := envelope.Identity{SourceID: "7f1c8a8e-0b33-4f0e-9f0e-4f1b8a8e0b33", InstanceID: "0", Tags: map[string]string{
		envelope.TagAppName: "orders", envelope.TagSpaceName: "production", envelope.TagOrgName: "shop",
		envelope.TagSourceType: "APP/PROC/WEB",
	}}.Encode()
	line := bytes.Repeat([]byte("x"), 480)
	for n := len(line); ; n-- {
		if r := envelope.AppendLog(nil, f, time.Now().UnixNano(), envelope.Out, line[:n]); len(r) <= 480 {
			return r
		}
	}
}

// A batch costs the server no allocation, once the connection has its buffers.
func TestServerAllocs(t *testing.T) {
	messages, records := numbered(100, 4<<10)
	var got int
	s := NewServer(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		got += b.Count
		return nil
	}), nil)
	run := func(times int) float64 {
		return testing.AllocsPerRun(10, func() {
			c := &conn{s: s, raw: &loop{data: messages, times: times}}
			c.serve()
		})
	}
	few, many := run(10), run(60)
	if few != many {
		t.Errorf("%v allocations for 1000 batches, %v for 6000", few, many)
	}
	if want := 11 * (10 + 60) * records; got != want {
		t.Errorf("%d records, want %d", got, want)
	}
	if s := s.Stats(); len(s.Refused) != 0 {
		t.Errorf("refused %v", s.Refused)
	}
}

// BenchmarkServer is what one connection costs without a network.
func BenchmarkServer(b *testing.B) {
	for _, size := range []int{480, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			messages, records := numbered(max(1, 1<<20/size), size)
			s := NewServer(discard{}, nil)
			b.SetBytes(int64(64 * len(messages)))
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				c := &conn{s: s, raw: &loop{data: messages, times: 64}}
				c.serve()
				n += 64 * records
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

type discard struct{}

func (discard) WriteBatch(context.Context, envelope.Batch) error { return nil }

// endless is a Source of one ring that yields the same records under ever new
// numbers, one batch for each token, and knows no loss.
type endless struct {
	records []byte
	count   int
	tokens  chan struct{}
}

func (e *endless) Batches(ctx context.Context, q envelope.Query) iter.Seq2[envelope.Batch, error] {
	return func(yield func(envelope.Batch, error) bool) {
		if !q.Follow {
			return
		}
		next := max(q.Cursor.Rings[1], 1)
		for {
			select {
			case <-e.tokens:
			case <-ctx.Done():
				yield(envelope.Batch{}, ctx.Err())
				return
			}
			b := envelope.Batch{Records: e.records, Count: e.count, Stream: 1, First: next, Next: next + uint64(e.count), Ring: 1}
			b.Position, next = b.Next, b.Next
			if !yield(b, nil) {
				return
			}
		}
	}
}

// BenchmarkLink sends records of 480 bytes over loopback TCP, from a Source that
// always has more to a Writer that throws everything away: both ends in one
// process. One operation is one batch.
func BenchmarkLink(b *testing.B) {
	for _, size := range []int{480, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			src := &endless{tokens: make(chan struct{}, 64)}
			for record := record480(); len(src.records) < size; src.count++ {
				src.records = append(src.records, record...)
			}
			var got atomic.Uint64
			server, addr := start(b, "tcp", "127.0.0.1:0", envelope.WriterFunc(func(_ context.Context, batch envelope.Batch) error {
				got.Add(uint64(batch.Count))
				return nil
			}), nil)
			link, err := NewLink("tcp://"+addr.String(), src, nil)
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(src.records)))
			b.ReportAllocs()
			sent, begun := uint64(0), time.Now()
			for b.Loop() {
				src.tokens <- struct{}{}
				sent += uint64(src.count)
			}
			for link.Stats().Acked < sent && time.Since(begun) < time.Minute {
				time.Sleep(100 * time.Microsecond)
			}
			elapsed := time.Since(begun)
			link.Close()
			b.ReportMetric(float64(got.Load())/elapsed.Seconds(), "records/s")
			b.ReportMetric(float64(sent-got.Load()), "lost")
			if s := link.Stats(); s.Acked != sent || s.Reconnects != 0 {
				b.Errorf("sent %d, %+v, server %+v", sent, s, server.Stats())
			}
		})
	}
}

// BenchmarkDatagrams sends datagrams of 300 bytes over loopback as fast as one
// goroutine can: to a socket that is only read (limit), and to a Server. What the
// receiver had no room for is reported.
func BenchmarkDatagrams(b *testing.B) {
	f := envelope.Identity{SourceID: "7f1c8a8e-0b33-4f0e-9f0e-4f1b8a8e0b33", InstanceID: "0"}.Encode()
	record := envelope.AppendLog(nil, f, time.Now().UnixNano(), envelope.Out, bytes.Repeat([]byte("x"), 300-len(f)-19))
	for _, kind := range []string{"limit", "server"} {
		b.Run(kind, func(b *testing.B) {
			pc, err := net.ListenPacket("udp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			var got atomic.Uint64
			var done sync.WaitGroup
			s := NewServer(envelope.WriterFunc(func(_ context.Context, batch envelope.Batch) error {
				got.Add(uint64(batch.Count))
				return nil
			}), nil)
			if kind == "server" {
				done.Go(func() { s.ServePacket(pc) })
			} else {
				done.Go(func() {
					r := packets.NewReader(pc, maxDatagram)
					for {
						n, err := r.Read()
						if err != nil {
							return
						}
						got.Add(uint64(n))
					}
				})
			}
			c, err := net.Dial("udp", pc.LocalAddr().String())
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(int64(len(record)))
			b.ReportAllocs()
			begun, n := time.Now(), uint64(0)
			for b.Loop() {
				c.Write(record)
				n++
			}
			elapsed := time.Since(begun)
			time.Sleep(50 * time.Millisecond)
			b.ReportMetric(float64(got.Load())/elapsed.Seconds(), "datagrams/s")
			b.ReportMetric(float64(n-got.Load())/float64(n)*100, "%lost")
			c.Close()
			s.Close()
			pc.Close()
			done.Wait()
		})
	}
}
