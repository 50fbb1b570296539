package loggregator

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// The first news comes at once, what follows within Gather comes together, and
// neither Shutdown nor the reader's end waits for it.
func TestGather(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		start := time.Now()
		from := app("shop", "dev", "acme")
		log := func(n int) {
			for range n {
				write(t, r, lines(from, time.Now().UnixNano(), "line"))
			}
		}
		type news struct {
			after time.Duration
			count int
		}
		var got []news
		ended := make(chan error, 1)
		go func() {
			for b, err := range r.Batches(context.Background(), envelope.Query{Select: envelope.Everything, Follow: true, Gather: 10 * time.Millisecond}) {
				if err != nil {
					ended <- err
					return
				}
				if b.Count > 0 {
					got = append(got, news{time.Since(start), b.Count})
				}
			}
		}()
		synctest.Wait()
		time.Sleep(20 * time.Millisecond)
		log(1) // 20 ms
		time.Sleep(time.Millisecond)
		log(2) // 21 ms
		time.Sleep(time.Millisecond)
		log(3) // 22 ms: with the two before
		time.Sleep(20 * time.Millisecond)
		log(4) // 42 ms: after a silence
		synctest.Wait()
		log(5) // with the end, which comes at once
		if err := r.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != ErrClosed {
			t.Error(err)
		}
		ms := time.Millisecond
		want := []news{{20 * ms, 1}, {30 * ms, 5}, {42 * ms, 4}, {42 * ms, 5}}
		if len(got) != len(want) {
			t.Fatalf("%v, want %v", got, want)
		}
		for i := range want {
			if got[i] != want[i] {
				t.Errorf("%v, want %v", got, want)
			}
		}
		balance(t, r)
	})
}

// Who is behind by more than a batch reads on at once.
func TestGatherNotWhenBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		ctx, cancel := context.WithCancel(t.Context())
		count, busy, done := 0, make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for b := range r.Batches(ctx, envelope.Query{Select: envelope.Everything, Follow: true, Gather: time.Second, MaxBytes: 1 << 10}) {
				count += b.Count
				<-busy
			}
		}()
		synctest.Wait()
		write(t, r, lines(app("shop", "dev", "acme"), time.Now().UnixNano(), "first"))
		// It may have looked while the source was being made, which is a look, too.
		time.Sleep(time.Second)
		synctest.Wait() // and it is busy with that one
		var batch envelope.Batch
		for range 1000 {
			one := lines(app("shop", "dev", "acme"), time.Now().UnixNano(), "line")
			batch.Records, batch.Count = append(batch.Records, one.Records...), batch.Count+one.Count
		}
		write(t, r, batch)
		close(busy)
		synctest.Wait()
		// What is left at the end, less than a batch, is news that may gather again.
		if want := 1 + batch.Count; count < want-50 {
			t.Errorf("%d of %d came at once", count, want)
		}
		cancel()
		<-done
	})
}
