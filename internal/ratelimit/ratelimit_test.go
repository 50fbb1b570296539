package ratelimit_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/internal/ratelimit"
)

var shop = envelope.Identity{SourceID: "shop", InstanceID: "1", Tags: map[string]string{envelope.TagAppName: "the shop"}}.Encode()

func record(fixed envelope.Fixed, text string) []byte {
	return envelope.AppendLog(nil, fixed, time.Now().UnixNano(), envelope.Out, []byte(text))
}

// TestLimit: what is beyond the limit is refused, counted and told; another
// source has its own allowance; what was accepted is what was written less what
// was told.
func TestLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		router := loggregator.New(nil)
		defer router.Close()
		size := int64(len(record(shop, strings.Repeat("x", 100))))
		l := ratelimit.New(router, 10*size, 20*size)
		ctx := context.Background()
		written := 0
		burst := func(n int) {
			var records []byte
			for range n {
				records = append(records, record(shop, strings.Repeat("x", 100))...)
			}
			written += n
			if err := l.WriteBatch(ctx, envelope.Batch{Records: records, Count: n, Stream: 7, First: 1, Next: uint64(n) + 1}); err != nil {
				t.Fatal(err)
			}
		}
		burst(50) // 20 pass
		other := record(envelope.Identity{SourceID: "other"}.Encode(), "hello")
		if err := l.WriteBatch(ctx, envelope.Batch{Records: other, Count: 1}); err != nil {
			t.Fatal(err)
		}
		if n := l.Refused(); n != 30 {
			t.Errorf("%d refused, want 30", n)
		}
		time.Sleep(time.Second / 2)
		burst(10) // 5 pass
		time.Sleep(time.Second)
		if seen, told := read(t, router); seen != 25 || told != 35 {
			t.Errorf("%d seen, %d told, want 25 and 35", seen, told)
		}
		time.Sleep(time.Hour)
		burst(30)
		l.Close()
		l.Close()
		seen, told := read(t, router)
		if seen != 45 || seen+told != written || told != int(l.Refused()) {
			t.Errorf("%d seen, %d told of %d", seen, told, written)
		}
	})
}

// read returns the records of the shop, and how many it was told are missing.
func read(t *testing.T, router *loggregator.Router) (seen, told int) {
	t.Helper()
	for b, err := range router.Batches(context.Background(), envelope.Query{Select: []envelope.Selector{{SourceID: "shop"}}, History: true}) {
		if err != nil {
			t.Fatal(err)
		}
		for e := range b.All() {
			n, reason, ok := e.Missed()
			if !ok {
				seen++
				continue
			}
			if app, _ := e.Tag(envelope.TagAppName); reason != ratelimit.Reason.String() || string(app) != "the shop" {
				t.Errorf("told: %s", e.AppendText(nil, time.UTC, true))
			}
			told += int(n)
		}
	}
	return seen, told
}

// TestManySources: sources beyond the number that have an allowance of their own
// share one, and nobody's records are lost without being counted.
func TestManySources(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		passed := 0
		l := ratelimit.New(envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
			for e := range b.All() {
				if _, _, ok := e.Missed(); !ok {
					passed++
				}
			}
			return nil
		}), 100, 100)
		write := func(i int) {
			r := record(envelope.Identity{SourceID: fmt.Sprint("s", i)}.Encode(), "0123456789")
			if err := l.WriteBatch(context.Background(), envelope.Batch{Records: r, Count: 1}); err != nil {
				t.Fatal(err)
			}
		}
		for i := range 10_100 {
			write(i)
		}
		if passed < 10_000 || passed > 10_010 || l.Refused() != uint64(10_100-passed) {
			t.Errorf("%d passed, %d refused", passed, l.Refused())
		}
		time.Sleep(time.Minute) // now there is room again
		was := passed
		for i := range 100 {
			write(20_000 + i)
		}
		if passed-was != 100 {
			t.Errorf("%d of 100 passed", passed-was)
		}
		l.Close()
	})
}

func TestAllocs(t *testing.T) {
	l := ratelimit.New(envelope.WriterFunc(func(context.Context, envelope.Batch) error { return nil }), 1<<40, 1<<40)
	b := envelope.Batch{Records: append(record(shop, "a"), record(shop, "b")...), Count: 2}
	ctx := context.Background()
	if n := testing.AllocsPerRun(100, func() { l.WriteBatch(ctx, b) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}
