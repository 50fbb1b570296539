package follow

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
)

// seen counts numbered lines.
type seen struct {
	mu    sync.Mutex
	times map[int]int
	max   int
	late  int // came after a line with a higher number
}

func (s *seen) WriteBatch(_ context.Context, b envelope.Batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for e, err := range b.All() {
		if err != nil {
			return err
		}
		number, _, _ := bytes.Cut(e.Payload(), []byte{' '})
		n, err := strconv.Atoi(string(number))
		if err != nil {
			n = -1 // a piece of a line
		}
		s.times[n]++
		if n < s.max {
			s.late++
		}
		s.max = max(s.max, n)
	}
	return nil
}

func (s *seen) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.times)
}

// TestThousandRotations: a file that is written line by line and rotated a
// thousand times loses nothing, in either way of rotating, whether changes are
// told or looked for. With copytruncate the writer pauses between the copy and
// the cut, as what it writes then would be lost by that way of rotating.
func TestThousandRotations(t *testing.T) {
	for _, way := range []string{"rename", "copytruncate"} {
		for _, notify := range []bool{true, false} {
			rotations, lines := 1000, 20
			if !notify || raceEnabled || testing.Short() {
				rotations, lines = 100, 500
			}
			t.Run(fmt.Sprintf("%s/notify=%v", way, notify), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				path := filepath.Join(dir, "app.log")
				p, err := ParsePattern(path)
				if err != nil {
					t.Fatal(err)
				}
				got := &seen{times: make(map[int]int)}
				f, err := New([]*Group{{
					Paths:  []*Pattern{p},
					Writer: got,
					Identify: func(string, map[string]string) (envelope.Identity, envelope.LogType, error) {
						return envelope.Identity{SourceID: "s"}, envelope.Out, nil
					},
				}}, &Options{NoNotify: !notify, Poll: 20 * time.Millisecond, Positions: filepath.Join(dir, "positions")})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				var running sync.WaitGroup
				running.Go(func() { f.Run(ctx) })
				for looked := false; !looked; { // what is rotated before is not ours
					f.mu.Lock()
					looked = !f.looked.IsZero()
					f.mu.Unlock()
				}
				writeRotating(t, path, way, rotations, lines)
				want := rotations * lines
				// As long as it takes, if there is any progress.
				for had, since := 0, time.Now(); had < want && time.Since(since) < 30*time.Second; {
					time.Sleep(10 * time.Millisecond)
					if has := got.count(); has > had {
						had, since = has, time.Now()
					}
				}
				cancel()
				running.Wait()
				lost, twice := 0, 0
				for i := range want {
					switch got.times[i] {
					case 0:
						if lost++; i%lines == 0 {
							t.Logf("lost: rotation %d", i/lines)
						}
					case 1:
					default:
						twice++
					}
				}
				if lost > 0 || twice > 0 || len(got.times) != want {
					t.Errorf("%d of %d lines lost, %d twice, %d torn: %+v", lost, want, twice, got.times[-1], f.Stats())
				}
				t.Logf("%d came after later ones; %+v", got.late, f.Stats())
			})
		}
	}
}

// TestNoMoreWatches: where nothing tells of changes, though it could, files are
// looked at as often as without.
func TestNoMoreWatches(t *testing.T) {
	n, err := newNotifier()
	if err != nil {
		t.Skip(err)
	}
	defer n.close()
	b := newBench(t).start(nil)
	b.f.notifier, b.f.tree.watch = n, func(string) bool { return false }
	n.take()
	look := func(kind int) {
		b.now = b.now.Add(time.Second)
		b.f.pass(b.now, kind)
	}
	look(lookAll)
	b.append("app.log", "1\n")
	look(lookTold)
	b.want()
	look(lookUnwatched)
	b.want("1")
	b.append("app.log", "2\n").rename("app.log", "app.log.1").append("app.log", "3\n")
	look(lookUnwatched)
	b.want("2", "3")
}

func writeRotating(t *testing.T, path, way string, rotations, lines int) {
	open := func() *os.File {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open()
	var buf []byte
	for n := range rotations * lines {
		buf = fmt.Appendf(buf[:0], "%d %0*d\n", n, n%150, 0)
		if _, err := f.Write(buf); err != nil {
			t.Fatal(err)
		}
		if n%lines != lines-1 {
			continue
		}
		rotated := fmt.Sprintf("%s.%d", path, n/lines)
		if way == "rename" {
			f.Close()
			if err := os.Rename(path, rotated); err != nil {
				t.Fatal(err)
			}
			f = open()
			continue
		}
		data, err := os.ReadFile(path)
		if err == nil {
			err = os.WriteFile(rotated, data, 0o644)
		}
		if err == nil {
			err = f.Truncate(0)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f.Close()
}

// BenchmarkFollow reads lines of 200 bytes into a router, each a record, or ten
// of them one.
func BenchmarkFollow(b *testing.B) {
	for _, join := range []*Join{nil, {Indent: true}} {
		b.Run(fmt.Sprintf("joined=%v", join != nil), func(b *testing.B) { benchmarkFollow(b, join) })
	}
}

func benchmarkFollow(b *testing.B, join *Join) {
	const lines = 200_000
	path := filepath.Join(b.TempDir(), "app.log")
	ten := bytes.Repeat(append(bytes.Repeat([]byte("x"), 199), '\n'), 10)
	records := uint64(lines)
	if join != nil {
		for i := 200; i < len(ten); i += 200 {
			ten[i] = ' '
		}
		records = lines/10 - 1 // the last one waits for more
	}
	if err := os.WriteFile(path, bytes.Repeat(ten, lines/10), 0o644); err != nil {
		b.Fatal(err)
	}
	p, err := ParsePattern(path)
	if err != nil {
		b.Fatal(err)
	}
	router := loggregator.New(nil)
	defer router.Close()
	b.SetBytes(lines * 200)
	b.ReportAllocs()
	for b.Loop() {
		f, err := New([]*Group{{
			Paths:  []*Pattern{p},
			Join:   join,
			Writer: router,
			Identify: func(string, map[string]string) (envelope.Identity, envelope.LogType, error) {
				return envelope.Identity{SourceID: "s", InstanceID: "0", Tags: map[string]string{"app_name": "shop", "source_type": "APP"}}, envelope.Out, nil
			},
		}}, &Options{NoNotify: true})
		if err != nil {
			b.Fatal(err)
		}
		for f.pass(time.Now(), lookAll) == passMore {
		}
		if s := f.Stats(); s.Records != records || s.Refused != 0 {
			b.Fatalf("%+v", s)
		}
		for _, fl := range f.files {
			f.closeFile(fl)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/lines, "ns/line")
}
