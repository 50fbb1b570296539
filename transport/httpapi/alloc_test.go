package httpapi

import (
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/outbuf"
)

func TestPutAllocates(t *testing.T) {
	b := lines(1, 100)
	out := outbuf.New(func([]byte) error { return nil })
	defer out.Close()
	puts := map[string]func(envelope.Batch) error{
		"protobuf": protobuf.putter(out.Append, time.UTC, true),
		"text":     text.putter(out.Append, time.UTC, true),
		"ndjson":   ndjson.putter(out.Append, time.UTC, true),
	}
	for name, put := range puts {
		// Per batch: a goroutine now and then. Nothing per record.
		if n := testing.AllocsPerRun(200, func() { put(b) }); n > 5 {
			t.Errorf("%s: %.0f allocations for 100 records", name, n)
		}
	}
}

func BenchmarkPut(b *testing.B) {
	batch := lines(1, 100)
	for name, f := range map[string]format{"protobuf": protobuf, "text": text, "ndjson": ndjson} {
		b.Run(name, func(b *testing.B) {
			out := outbuf.New(func([]byte) error { return nil })
			defer out.Close()
			put := f.putter(out.Append, time.UTC, true)
			b.SetBytes(int64(len(batch.Records)))
			b.ReportAllocs()
			for b.Loop() {
				put(batch)
			}
		})
	}
}
