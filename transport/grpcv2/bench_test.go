package grpcv2

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"google.golang.org/grpc/mem"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
)

// run100 is a batch of a stock size: lines of 200 bytes with six tags.
func run100() []byte {
	f := envelope.Identity{SourceID: "5f6c7a1e-3a3b-4c1d-9e2f-000000000000", InstanceID: "0", Tags: map[string]string{
		"app_id": "5f6c7a1e-3a3b-4c1d-9e2f-000000000000", "app_name": "shop-frontend-0", "space_name": "production",
		"organization_name": "acme", "source_type": "APP/PROC/WEB", "process_type": "web",
	}}.Encode()
	var run []byte
	for i := range 100 {
		run = envelope.AppendLog(run, f, 1_700_000_000_000_000_000+int64(i), envelope.Out, []byte(strings.Repeat("x", 200)))
	}
	return run
}

// forgetful is a Server whose Writer forgets.
func forgetful() *Server {
	return NewServer(envelope.WriterFunc(func(context.Context, envelope.Batch) error { return nil }), nil, nil)
}

// TestAllocs: nothing is allocated for a record, either way.
func TestAllocs(t *testing.T) {
	run := run100()
	s := forgetful()
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		if err := s.takeBatch(ctx, run); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("a batch that comes in: %v allocations", n)
	}
	r := newReader(s, "")
	b := envelope.Batch{Records: run, Count: 100, Ring: 1}
	if n := testing.AllocsPerRun(100, func() { r.put(&b) }); n > 10 { // of chunks and messages, for 100 records
		t.Errorf("a batch that goes out: %v allocations", n)
	}
	r.out.flush()
}

// newReader is one whose messages go nowhere.
func newReader(s *Server, name string) *reader {
	names := []string{name}
	if name == "" {
		names = nil
	}
	req, err := parseRequest(ask{sel: append(logs(), sel("", ofCounter, names...))}.bytes())
	if err != nil {
		panic(err)
	}
	r := &reader{s: s, req: &req, byName: req.byName()}
	r.out = outbox{
		records: 100, bytes: chunkSize,
		send: func(b mem.Buffer) error { b.Free(); return nil },
		sent: func(int, int) {},
	}
	r.out.init()
	return r
}

// BenchmarkIngress is what a batch of 100 costs between its frames and the Writer.
func BenchmarkIngress(b *testing.B) {
	s, run := forgetful(), run100()
	old := append(append([]byte(nil), run...), envelope.AppendRecord(nil, []byte{0x12, 1, 'a', 0x1a, 8, 0x0a, 1, 'k', 0x12, 3, 0x0a, 1, 'v'})...)
	for name, run := range map[string][]byte{"plain": run, "one with deprecated tags": old} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(run)))
			b.ReportAllocs()
			for b.Loop() {
				if err := s.takeBatch(b.Context(), run); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkEgress is what a batch of 100 costs between the Source and gRPC.
func BenchmarkEgress(b *testing.B) {
	batch := envelope.Batch{Records: run100(), Count: 100, Ring: 1}
	for _, kind := range []string{"preferred", "by name", "deprecated"} {
		b.Run(fmt.Sprint("tags=", kind), func(b *testing.B) {
			name := ""
			if kind == "by name" {
				name = "c"
			}
			r := newReader(forgetful(), name)
			r.req.preferred = kind != "deprecated"
			b.SetBytes(int64(len(batch.Records)))
			b.ReportAllocs()
			for b.Loop() {
				r.put(&batch)
			}
			r.out.flush()
		})
	}
}

// BenchmarkLink is a line of 200 bytes with six tags from one router to another,
// acknowledged.
func BenchmarkLink(b *testing.B) {
	to := newBench(b, nil, nil, nil)
	from := loggregator.New(&loggregator.Options{Budget: 256 << 20})
	defer from.Close()
	l := newLink(b, "grpc://"+to.addr, from, nil)
	run := run100()
	b.SetBytes(int64(len(run)))
	b.ReportAllocs()
	for b.Loop() {
		from.WriteBatch(b.Context(), envelope.Batch{Records: run, Count: 100})
		for s := l.Stats(); from.Stats().Accepted > s.Acked+200_000; s = l.Stats() {
			runtime.Gosched()
		}
	}
	flush(b, l)
	if s := l.Stats(); s.Missed > 0 || s.Acked != uint64(b.N)*100 {
		b.Errorf("%+v", s)
	}
}
