package drain

import (
	"io"
	"net"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// BenchmarkDrainTCP sends lines of 200 bytes with six tags over loopback to a
// receiver that throws them away.
func BenchmarkDrainTCP(b *testing.B) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(io.Discard, c); c.Close() }()
		}
	}()
	const lines = 100_000
	src := newMemory()
	src.batch = 100
	record := envelope.AppendLog(nil, sixTags.Encode(), stamp, envelope.Out, []byte(strings.Repeat("x", 200)))
	records := make([][]byte, lines)
	for i := range records {
		records[i] = record
	}
	src.append(1, records...)
	var f Formatter
	b.SetBytes(int64(lines * len(f.AppendFrames(nil, one(record)))))
	b.ReportAllocs()
	for b.Loop() {
		d, err := Open("syslog://"+ln.Addr().String(), src, everything, nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := d.Shutdown(b.Context()); err != nil {
			b.Fatal(err)
		}
		if s := d.Stats(); s.Delivered != lines || s.Resent != 0 {
			b.Fatalf("%+v", s)
		}
	}
	b.ReportMetric(float64(lines*b.N)/b.Elapsed().Seconds(), "lines/s")
}
