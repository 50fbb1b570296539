package access

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
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

// record is one that is described by what a selector can ask for.
type record struct {
	source, app, space, org, instance, typ string
	kind                                   envelope.Kind
	stderr                                 bool
}

// describes is what a selector means, said another way.
func describes(s *envelope.Selector, r *record) bool {
	is := func(asked, has string) bool { return asked == "" || asked == has }
	logs := !s.Stdout && !s.Stderr || r.kind == envelope.KindLog && (r.stderr && s.Stderr || !r.stderr && s.Stdout)
	kinds := len(s.Kinds) == 0 || slices.Contains(s.Kinds, r.kind)
	typ := s.SourceType == "" || r.typ == s.SourceType || strings.HasPrefix(r.typ, s.SourceType+"/")
	return is(s.SourceID, r.source) && is(s.App, r.app) && is(s.Space, r.space) && is(s.Org, r.org) && is(s.Instance, r.instance) && logs && kinds && typ
}

// What is granted is what was asked for and is allowed, record by record.
func TestWithinIsBoth(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	one := func(values ...string) string { return values[rng.IntN(len(values))] }
	maybe := func(values ...string) string { return one(append(values, "", "")...) }
	kinds := []envelope.Kind{envelope.KindLog, envelope.KindCounter, envelope.KindGauge}
	selector := func() envelope.Selector {
		s := envelope.Selector{
			SourceID: maybe("1", "2"), App: maybe("a", "b"), Space: maybe("s", "t"), Org: maybe("o", "p"), Instance: maybe("0", "1"),
			SourceType: maybe("APP", "APP/PROC", "APP/PROC/WEB", "RTR"),
			Stdout:     rng.IntN(4) == 0, Stderr: rng.IntN(4) == 0,
		}
		for range rng.IntN(3) {
			s.Kinds = append(s.Kinds, kinds[rng.IntN(len(kinds))])
		}
		return s
	}
	selectors := func() (list []envelope.Selector) {
		for range 1 + rng.IntN(3) {
			list = append(list, selector())
		}
		return list
	}
	any := func(list []envelope.Selector, r *record) bool {
		return slices.ContainsFunc(list, func(s envelope.Selector) bool { return describes(&s, r) })
	}
	granted, seen := 0, 0
	for range 20_000 {
		asked, allowed := selectors(), selectors()
		got, err := Within(asked, allowed)
		if err != nil {
			if len(got) > 0 || !errors.Is(err, ErrDenied) {
				t.Fatalf("%v %v", got, err)
			}
			continue
		}
		granted++
		for range 20 {
			r := &record{one("1", "2"), one("a", "b"), one("s", "t"), one("o", "p"), one("0", "1"), one("APP/PROC/WEB", "APP", "RTR"), kinds[rng.IntN(3)], rng.IntN(2) == 0}
			want := any(asked, r) && any(allowed, r)
			if any(got, r) != want {
				t.Fatalf("asked %+v\nallowed %+v\ngranted %+v\nrecord %+v: want %t", asked, allowed, got, r, want)
			}
			if want {
				seen++
			}
		}
	}
	if granted < 1000 || seen < 100 {
		t.Errorf("only %d grants and %d records were looked at", granted, seen)
	}
}
