package loggregator_test

import (
	"context"
	"testing"

	"github.com/cloudfoundry/loggregator"
	"github.com/cloudfoundry/loggregator/envelope"
)

func TestBehind(t *testing.T) {
	r := loggregator.New(nil)
	defer r.Close()
	put := func(app, space string, n int) {
		fixed := envelope.Identity{SourceID: app, Tags: map[string]string{envelope.TagSpaceName: space}}.Encode()
		var records []byte
		for range n {
			records = envelope.AppendLog(records, fixed, 1, envelope.Out, []byte("x"))
		}
		if err := r.WriteBatch(context.Background(), envelope.Batch{Records: records, Count: n}); err != nil {
			t.Fatal(err)
		}
	}
	put("a", "dev", 10)
	put("b", "dev", 5)
	put("c", "prod", 1)
	var read envelope.Cursor
	for b := range r.Batches(t.Context(), envelope.Query{Select: []envelope.Selector{{SourceID: "a"}}}) {
		read.Advance(b)
	}
	put("a", "dev", 3)
	for _, tc := range []struct {
		sel  []envelope.Selector
		at   map[envelope.StreamID]uint64
		want uint64
	}{
		{[]envelope.Selector{{SourceID: "a"}}, nil, 13},
		{[]envelope.Selector{{SourceID: "a"}}, read.Rings, 3},
		{[]envelope.Selector{{SourceID: "a", Space: "prod"}}, nil, 0},
		{[]envelope.Selector{{Space: "dev"}}, read.Rings, 8},
		{[]envelope.Selector{{Space: "dev"}, {SourceID: "a"}}, read.Rings, 8},
		{envelope.Everything, nil, 19},
		{[]envelope.Selector{{SourceID: "nobody"}}, nil, 0},
	} {
		if got := r.Behind(tc.sel, tc.at); got != tc.want {
			t.Errorf("%+v: %d, want %d", tc.sel, got, tc.want)
		}
	}
}
