package outbuf

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
)

func TestGathersWhileTheSinkIsBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got bytes.Buffer
		calls, gate := 0, make(chan struct{})
		w := New(func(p []byte) error {
			calls++
			<-gate
			got.Write(p)
			return nil
		})
		var want bytes.Buffer
		for i := range 100 {
			fmt.Fprintf(w, "line %d\n", i)
			fmt.Fprintf(&want, "line %d\n", i)
			if i == 0 {
				synctest.Wait() // the goroutine has taken the first line
			}
		}
		close(gate)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if calls != 2 || got.String() != want.String() {
			t.Fatalf("%d calls of the sink, want 2; got %d bytes, want %d", calls, got.Len(), want.Len())
		}
		if w.Written() != uint64(want.Len()) {
			t.Errorf("Written = %d, want %d", w.Written(), want.Len())
		}
		if err := w.Append([]byte("late")); !errors.Is(err, ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
		if err := w.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestNothingIsHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		w := New(func(p []byte) error { got = append(got, string(p)); return nil })
		for _, line := range []string{"a", "b", "c"} {
			w.Append([]byte(line))
			synctest.Wait()
			if n := len(got); n == 0 || got[n-1] != line {
				t.Fatalf("%q has not been written: %q", line, got)
			}
			if w.filling != nil || w.writing {
				t.Fatal("an idle Writer keeps a buffer or a goroutine")
			}
		}
	})
}

func TestFullBufferBlocksUntilTheSinkTakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gate, largest := make(chan struct{}), 0
		w := New(func(p []byte) error {
			<-gate
			largest = max(largest, len(p))
			return nil
		})
		w.Append(make([]byte, 30<<10))
		synctest.Wait()
		appended, done := 1, make(chan struct{})
		go func() {
			defer close(done)
			for range 9 {
				w.Append(make([]byte, 30<<10))
				appended++
			}
		}()
		synctest.Wait()
		if appended != 3 { // one with the sink, two in the buffer
			t.Fatalf("%d pieces of 30 KiB were taken while the sink blocked, want 3", appended)
		}
		if err := w.TryAppend(make([]byte, 30<<10)); err != ErrFull {
			t.Errorf("TryAppend: %v", err)
		}
		close(gate)
		<-done
		w.Close()
		if largest > size {
			t.Errorf("a buffer of %d bytes", largest)
		}
		if w.Written() != 300<<10 {
			t.Errorf("written %d", w.Written())
		}
	})
}

func TestFailureReachesBlockedWriters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		gate := make(chan struct{})
		w := New(func([]byte) error { <-gate; return broken })
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for w.Append(make([]byte, 60<<10)) == nil {
				}
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if err := w.Append([]byte("x")); err != broken {
			t.Errorf("Append: %v", err)
		}
		if err := w.Close(); err != broken {
			t.Errorf("Close: %v", err)
		}
		if w.Written() != 0 {
			t.Errorf("written %d", w.Written())
		}
	})
}

func TestFailWakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := errors.New("gone")
		gate := make(chan struct{})
		w := New(func([]byte) error { <-gate; return nil })
		w.Append([]byte("with the sink"))
		synctest.Wait()
		w.Append(make([]byte, size))
		ended := make(chan error)
		go func() { ended <- w.Append([]byte("waits")) }()
		synctest.Wait()
		w.Fail(gone)
		if err := <-ended; err != gone {
			t.Errorf("blocked Append: %v", err)
		}
		close(gate)
		if err := w.Flush(); err != gone {
			t.Errorf("Flush: %v", err)
		}
		if w.Written() != uint64(len("with the sink")) {
			t.Errorf("what was thrown away counts as written: %d", w.Written())
		}
	})
}

func TestLargeWriteIsTakenWhole(t *testing.T) {
	var got int
	w := New(func(p []byte) error { got += len(p); return nil })
	w.Append(make([]byte, 1<<20), []byte("tail"))
	w.Append([]byte("more"))
	w.Close()
	if got != 1<<20+8 {
		t.Fatalf("got %d bytes", got)
	}
}

func TestAppendAllocates(t *testing.T) {
	w := New(func(p []byte) error { return nil })
	a, b := []byte("head"), make([]byte, 200)
	allocs := testing.AllocsPerRun(1000, func() {
		w.Append(a, b)
	})
	w.Close()
	if allocs > 0.5 { // a goroutine now and then
		t.Errorf("%.1f allocations per Append", allocs)
	}
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{200, 32 << 10} {
		b.Run(fmt.Sprintf("size=%d", n), func(b *testing.B) {
			w := New(func(p []byte) error { return nil })
			p := make([]byte, n)
			b.SetBytes(int64(n))
			b.ReportAllocs()
			for b.Loop() {
				w.Append(p)
			}
			w.Close()
		})
	}
}
