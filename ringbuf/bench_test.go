package ringbuf

import (
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cloudfoundry/loggregator/envelope"
)

// benchStore is a full Store of 64 MiB, in memory or in a directory.
func benchStore(b *testing.B, dir bool) *Store {
	b.Helper()
	o := &Options{Budget: 64 << 20}
	if dir {
		if runtime.GOOS == "windows" {
			b.Skip("no directory on this system")
		}
		o.Dir = filepath.Join(b.TempDir(), "rings")
	}
	s, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	return s
}

func benchRings(b *testing.B, s *Store, n int) []*Ring {
	b.Helper()
	rings := make([]*Ring, n)
	for i := range rings {
		r, err := s.NewRing(fmt.Sprint(i), nil)
		if err != nil {
			b.Fatal(err)
		}
		rings[i] = r
	}
	return rings
}

// benchBatch is n records of 480 bytes: a line of 200 with six tags.
func benchBatch(n int) envelope.Batch {
	var batch envelope.Batch
	for range n {
		batch.Records = envelope.AppendRecord(batch.Records, make([]byte, 477))
		batch.Count++
	}
	return batch
}

var storage = []struct {
	name string
	dir  bool
}{{"memory", false}, {"dir", true}}

// BenchmarkAppend appends to sources in turn, into a Store that is full.
func BenchmarkAppend(b *testing.B) {
	for _, in := range storage {
		for _, sources := range []int{1, 1000} {
			for _, size := range []int{1, 100} {
				b.Run(fmt.Sprintf("%s/sources=%d/batch=%d", in.name, sources, size), func(b *testing.B) {
					s := benchStore(b, in.dir)
					rings := benchRings(b, s, sources)
					batch, full := benchBatch(size), benchBatch(100)
					for i := 0; s.Stats().Evicted == 0; i++ {
						rings[i%sources].Append(full, nil)
					}
					b.SetBytes(int64(len(batch.Records)))
					b.ReportAllocs()
					i := 0
					for b.Loop() {
						if done := rings[i%sources].Append(batch, nil); done.Accepted != uint64(size) {
							b.Fatalf("%+v", done)
						}
						i++
					}
					b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(size), "ns/record")
				})
			}
		}
	}
}

// BenchmarkAppendMakers appends batches of ten records of two makers in turn, so
// that each begins a run.
func BenchmarkAppendMakers(b *testing.B) {
	for _, in := range storage {
		b.Run(in.name, func(b *testing.B) {
			s := benchStore(b, in.dir)
			r := benchRings(b, s, 1)[0]
			batch := benchBatch(10)
			b.SetBytes(int64(len(batch.Records)))
			b.ReportAllocs()
			next := [2]uint64{1, 1}
			i := 0
			for b.Loop() {
				batch.Stream, batch.First = envelope.StreamID(7+i%2), next[i%2]
				batch.Next = batch.First + 10
				next[i%2] = batch.Next
				if done := r.Append(batch, nil); done.Accepted != 10 {
					b.Fatalf("%+v", done)
				}
				i++
			}
		})
	}
}

// BenchmarkRead reads through a source again and again, 64 KiB at a time.
func BenchmarkRead(b *testing.B) {
	for _, in := range storage {
		b.Run(in.name, func(b *testing.B) {
			s := benchStore(b, in.dir)
			r := benchRings(b, s, 1)[0]
			for range 300 {
				r.Append(benchBatch(100), nil)
			}
			buf := make([]byte, 0, 64<<10)
			at := r.Reader(0)
			n, bytes := 0, 0
			b.ReportAllocs()
			for b.Loop() {
				batch := at.Read(buf)
				if batch.Count == 0 {
					at = r.Reader(0)
				}
				n += batch.Count
				bytes += len(batch.Records)
			}
			b.SetBytes(int64(bytes / b.N))
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(n), "ns/record")
		})
	}
}

// BenchmarkReaders appends batches of 100 to one source, of which each reader
// then reads what is new. It reports what they missed.
func BenchmarkReaders(b *testing.B) {
	for _, in := range storage {
		for _, readers := range []int{0, 1, 1000} {
			b.Run(fmt.Sprintf("%s/readers=%d", in.name, readers), func(b *testing.B) {
				s := benchStore(b, in.dir)
				r := benchRings(b, s, 1)[0]
				batch := benchBatch(100)
				at := make([]Reader, readers)
				for i := range at {
					at[i] = r.Reader(0)
				}
				buf := make([]byte, 0, 64<<10)
				read, missed := uint64(0), uint64(0)
				b.SetBytes(int64(len(batch.Records)))
				b.ReportAllocs()
				for b.Loop() {
					r.Append(batch, nil)
					for i := range at {
						got := at[i].Read(buf)
						read += uint64(got.Count)
						missed += got.Missed
					}
				}
				if read+missed != uint64(b.N*readers*100) {
					b.Fatalf("read %d, missed %d of %d", read, missed, b.N*readers*100)
				}
				b.ReportMetric(float64(missed)/float64(b.N), "missed/op")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(100*max(1, readers)), "ns/record")
			})
		}
	}
}

// BenchmarkOpen opens a directory of 64 MiB.
func BenchmarkOpen(b *testing.B) {
	if runtime.GOOS == "windows" {
		b.Skip("no directory on this system")
	}
	o := &Options{Budget: 64 << 20, Dir: filepath.Join(b.TempDir(), "rings")}
	s, err := New(o)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range benchRings(b, s, 1000) {
		r.Append(benchBatch(100), nil)
	}
	records := s.Stats().Records
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if s, err = New(o); err != nil {
			b.Fatal(err)
		}
		if got := s.Stats().Records; got != records {
			b.Fatalf("%d records, not %d", got, records)
		}
		s.Close()
	}
}

// TestAppendAllocates appends and reads without allocating.
func TestAppendAllocates(t *testing.T) {
	for _, dir := range []string{"", filepath.Join(t.TempDir(), "rings")} {
		if dir != "" && runtime.GOOS == "windows" {
			continue
		}
		s, err := New(&Options{Budget: MinBudget, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r, err := s.NewRing("", nil)
		if err != nil {
			t.Fatal(err)
		}
		batch := benchBatch(10)
		for s.Stats().Evicted == 0 {
			r.Append(batch, nil)
		}
		at := r.Reader(0)
		buf := make([]byte, 0, 64<<10)
		if n := testing.AllocsPerRun(100, func() {
			r.Append(batch, nil)
			at.Read(buf)
		}); n != 0 {
			t.Errorf("directory %q: %v allocations", dir, n)
		}
	}
}

// BenchmarkHandOver hands records from one goroutine to another, a hundred at a
// time, through a ring that holds a megabyte, and waits where it would lose one.
// Bare is what the machine takes for it: as many bytes are copied into as much memory
// and out of it by another goroutine, which is told by a number. It takes three times as
// long in a quarter of the memory, all of which the other one's cache then holds.
func BenchmarkHandOver(b *testing.B) {
	b.Run("ring", handOver)
	b.Run("bare", handOverBare)
}

const (
	handOverLag    = 2000 // by how many records the reader may be behind
	handOverBudget = 4 << 20
)

// spin waits for the other goroutine, which has a processor of its own: one that gives
// up its own at each look shares that of the other in the end, and they take turns.
func spin(turn int) {
	if turn%1000 == 999 {
		runtime.Gosched()
	}
}

func handOverBare(b *testing.B) {
	batch := benchBatch(100)
	size := len(batch.Records)
	mem := make([]byte, handOverBudget/size*size)
	at := func(batches uint64) []byte { return mem[int(batches)*size%len(mem):][:size] }
	var written, read atomic.Uint64
	var ended atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		buf := make([]byte, size)
		for turn := 0; !ended.Load(); turn++ {
			if n := read.Load(); n < written.Load() {
				copy(buf, at(n))
				read.Store(n + 1)
			} else {
				spin(turn)
			}
		}
	})
	b.SetBytes(int64(size))
	n := uint64(0)
	for b.Loop() {
		copy(at(n), batch.Records)
		n++
		written.Store(n)
		for turn := 0; n-read.Load() >= handOverLag/100; turn++ {
			spin(turn)
		}
	}
	for turn := 0; read.Load() < n; turn++ {
		spin(turn)
	}
	b.StopTimer()
	ended.Store(true)
	reader.Wait()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(100*n), "ns/record")
}

func handOver(b *testing.B) {
	s, err := New(&Options{Budget: handOverBudget})
	if err != nil {
		b.Fatal(err)
	}
	defer s.Close()
	r, err := s.NewRing("shop", nil)
	if err != nil {
		b.Fatal(err)
	}
	batch := benchBatch(100)
	var news, read, missed atomic.Uint64
	var ended atomic.Bool
	var reader sync.WaitGroup
	reader.Go(func() {
		at, buf := r.Reader(1), make([]byte, 0, 64<<10)
		for turn := 0; !ended.Load(); turn++ {
			if news.Load() < at.Position() { // nobody looks into a ring who is told of news
				spin(turn)
				continue
			}
			got := at.Read(buf)
			read.Add(uint64(got.Count))
			missed.Add(got.Missed)
		}
	})
	b.SetBytes(int64(len(batch.Records)))
	b.ReportAllocs()
	written := uint64(0)
	for b.Loop() {
		r.Append(batch, nil)
		written += 100
		news.Store(written)
		for turn := 0; written-read.Load() > handOverLag; turn++ {
			spin(turn)
		}
	}
	for turn := 0; read.Load()+missed.Load() < written; turn++ {
		spin(turn)
	}
	b.StopTimer()
	ended.Store(true)
	reader.Wait()
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(written), "ns/record")
	b.ReportMetric(float64(missed.Load()), "missed")
}
