package emitter_test

import (
	"context"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/emitter"
	"github.com/cloudfoundry/loggregator/envelope"
)

func TestRecords(t *testing.T) {
	var texts []string
	batches := 0
	w := envelope.WriterFunc(func(_ context.Context, b envelope.Batch) error {
		batches++
		n := 0
		for e, err := range b.All() {
			if err != nil {
				t.Fatal(err)
			}
			n++
			part, _ := e.Tag(emitter.TagPart)
			texts = append(texts, string(part)+"|"+string(e.Payload()))
		}
		if n != b.Count {
			t.Errorf("Count %d, records %d", b.Count, n)
		}
		return nil
	})
	r := emitter.New(w, envelope.Identity{SourceID: "s"}, &emitter.Options{MaxLine: 20}).Records(envelope.Err)
	r.Flush() // nothing
	r.Append([]byte("one\n  two\r\n"))
	r.Append(nil)
	r.Append([]byte(strings.Repeat("x", 45)))
	if batches != 0 {
		t.Errorf("%d batches before Flush", batches)
	}
	r.Flush()
	r.Flush()
	want := []string{"|one\n  two\r\n", "|", "1|" + strings.Repeat("x", 20), "2|" + strings.Repeat("x", 20), "3/3|xxxxx"}
	if batches != 1 || strings.Join(texts, "#") != strings.Join(want, "#") {
		t.Errorf("%d batches: %q", batches, texts)
	}
}
