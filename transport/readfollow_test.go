package transport

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator/envelope"
)

// News that comes while somebody is at it is not slept over.
func TestFollowingDoesNotSleepOverNews(t *testing.T) {
	f := &following{running: true}
	f.wake()
	if f.rest(0) {
		t.Error("it rests although there is news")
	}
	if !f.rest(0) || f.running {
		t.Error("it does not rest although there is none")
	}
}

// A sequence that waits for its servers has no goroutine, and looks again when
// something is due; it ends with its context, with its Reader and with put.
func TestFollowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		refused := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
		r, err := NewReader("tcp://one:1,tcp://two:2", &ReaderOptions{DialContext: refused, TellAfter: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		stop := errors.New("stop")
		q := envelope.Query{Select: []envelope.Selector{{SourceID: "app"}}}
		var mu sync.Mutex
		var told int
		ends := make(map[string]error)
		end := func(how string) func(error) {
			return func(err error) {
				mu.Lock()
				defer mu.Unlock()
				ends[how] = err
			}
		}
		expect := func(lines int, want map[string]error) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if told != lines || !maps.Equal(ends, want) {
				t.Errorf("%d lines, ended %v; want %d, %v", told, ends, lines, want)
			}
		}
		ctx, cancel := context.WithCancel(t.Context())
		r.Follow(ctx, q, func(b envelope.Batch) error {
			mu.Lock()
			defer mu.Unlock()
			told += b.Count
			return nil
		}, end("context"))
		r.Follow(t.Context(), q, func(envelope.Batch) error { return stop }, end("put"))
		r.Follow(t.Context(), q, func(envelope.Batch) error { return nil }, end("reader"))
		want := make(map[string]error)
		expect(0, want)
		time.Sleep(time.Second)
		want["put"] = stop
		expect(2, want) // that the servers are away
		cancel()
		want["context"] = context.Canceled
		expect(2, want)
		r.Close()
		want["reader"] = ErrClosed
		expect(2, want)
		if n := r.Stats().Sequences; n != 0 {
			t.Errorf("%d sequences are left", n)
		}
	})
}
