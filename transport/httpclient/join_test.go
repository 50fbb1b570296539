package httpclient_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
	"github.com/cloudfoundry/loggregator/transport/httpclient"
)

// Join gives what each server has, once, and a cursor that is good for all of
// them; one that is away holds up nobody.
func TestJoin(t *testing.T) {
	one, two := start(t), start(t)
	away := client(t, "http://127.0.0.1:1", nil)
	src := httpclient.Join(client(t, one.url, nil), client(t, two.url, nil), away)
	q := envelope.Query{Select: envelope.Everything, History: true, Follow: true}
	var cursor envelope.Cursor
	for round := range 3 {
		one.publish(t, "web", 10*round, 10)
		two.publish(t, "db", 10*round, 10)
		var got []string
		q.Cursor = cursor.Clone()
		for b, err := range src.Batches(t.Context(), q) {
			if err != nil || b.Missed > 0 || b.Reset {
				t.Fatalf("%v, %d missed, reset %t", err, b.Missed, b.Reset)
			}
			got = append(got, payloads(b)...)
			if cursor.Advance(b); len(got) >= 20 {
				break
			}
		}
		want := append(numbered("web", 10*round, 10*round+9), numbered("db", 10*round, 10*round+9)...)
		slices.Sort(want)
		slices.Sort(got)
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("round %d: %s", round, d)
		}
	}
	// What is held, and that one could not be asked.
	q = envelope.Query{Select: envelope.Everything}
	n := 0
	var last error
	for b, err := range src.Batches(t.Context(), q) {
		n += b.Count
		last = err
	}
	if n != 60 || !httpclient.Temporary(last) {
		t.Errorf("%d records, %v", n, last)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	q.Follow = true
	for _, err := range src.Batches(ctx, q) {
		last = err
	}
	if last != context.DeadlineExceeded {
		t.Errorf("ended with %v", last)
	}
}
