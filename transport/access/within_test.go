package access

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cloudfoundry/loggregator/envelope"
)

func TestWithin(t *testing.T) {
	type S = envelope.Selector
	for _, tt := range []struct {
		name           string
		asked, allowed []S
		want           []S // nil: denied
	}{
		{"everything of everything", envelope.Everything, envelope.Everything, envelope.Everything},
		{"everything of a part", envelope.Everything, []S{{App: "a"}, {Org: "o"}}, []S{{App: "a"}, {Org: "o"}}},
		{"a part of everything", []S{{App: "a"}}, envelope.Everything, []S{{App: "a"}}},
		{"an app within an org", []S{{App: "a"}}, []S{{Org: "o"}}, []S{{App: "a", Org: "o"}}},
		{"an org of which an app", []S{{Org: "o"}}, []S{{App: "a"}}, []S{{App: "a", Org: "o"}}},
		{"another's", []S{{App: "a"}}, []S{{App: "b"}}, nil},
		{"one's own and another's", []S{{App: "a"}, {App: "b"}}, []S{{App: "b"}}, nil},
		{"nothing allowed", []S{{App: "a"}}, nil, nil},
		{"ids stay ids", []S{{App: "a"}}, []S{{Space: "s", IDs: true}}, []S{{App: "a", Space: "s", IDs: true}}},
		{"source and app", []S{{App: "a"}}, []S{{SourceID: "g"}}, []S{{App: "a", SourceID: "g"}}},
		{"a wider type", []S{{SourceType: "APP"}}, []S{{SourceType: "APP/PROC"}}, []S{{SourceType: "APP/PROC"}}},
		{"a narrower type", []S{{SourceType: "APP/PROC"}}, []S{{SourceType: "APP"}}, []S{{SourceType: "APP/PROC"}}},
		{"another type", []S{{SourceType: "APPLE"}}, []S{{SourceType: "APP"}}, nil},
		{"kinds", []S{{Kinds: []envelope.Kind{envelope.KindLog, envelope.KindGauge}}}, []S{{Kinds: []envelope.Kind{envelope.KindLog}}}, []S{{Kinds: []envelope.Kind{envelope.KindLog}}}},
		{"no kind in common", []S{{Kinds: []envelope.Kind{envelope.KindGauge}}}, []S{{Kinds: []envelope.Kind{envelope.KindLog}}}, nil},
		{"all kinds of some", envelope.Everything, []S{{Kinds: []envelope.Kind{envelope.KindLog}}}, []S{{Kinds: []envelope.Kind{envelope.KindLog}}}},
		{"stdout of both", []S{{Stdout: true, Stderr: true}}, []S{{Stdout: true}}, []S{{Stdout: true}}},
		{"stderr of stdout", []S{{Stderr: true}}, []S{{Stdout: true}}, nil},
		{"all of stdout", envelope.Everything, []S{{Stdout: true}}, []S{{Stdout: true}}},
	} {
		got, err := Within(tt.asked, tt.allowed)
		if tt.want == nil != errors.Is(err, ErrDenied) {
			t.Errorf("%s: %v", tt.name, err)
		}
		if d := cmp.Diff(tt.want, got); err == nil && d != "" {
			t.Errorf("%s: %s", tt.name, d)
		}
	}
	if _, err := Within(make([]S, 101), make([]S, 100)); !errors.Is(err, ErrUserBusy) {
		t.Errorf("no bound: %v", err)
	}
}
