package loggregator

import (
	"fmt"
	"testing"
	"testing/synctest"

	"github.com/cloudfoundry/loggregator/envelope"
)

// Nobody is read by an id because he has named himself like it.
func TestIDsAreNotNames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(nil)
		defer r.Close()
		at := int64(0)
		say := func(source string, tags map[string]string) {
			at++
			write(t, r, lines(envelope.Identity{SourceID: source, Tags: tags}.Encode(), at, source))
		}
		tags := func(app, appID, space, spaceID, org, orgID string) map[string]string {
			m := map[string]string{}
			for k, v := range map[string]string{
				envelope.TagAppName: app, envelope.TagAppID: appID, envelope.TagSpaceName: space,
				envelope.TagSpaceID: spaceID, envelope.TagOrgName: org, envelope.TagOrgID: orgID,
			} {
				if v != "" {
					m[k] = v
				}
			}
			return m
		}
		for _, tt := range []struct {
			sel  envelope.Selector
			want string
		}{
			{envelope.Selector{Space: "space-1"}, "[mine twin]"}, // by name or id
			{envelope.Selector{Space: "space-1", IDs: true}, "[mine]"},
			{envelope.Selector{Org: "org-1", IDs: true}, "[mine]"},
			{envelope.Selector{App: "app-1", IDs: true}, "[mine]"},
			{envelope.Selector{App: "bare"}, "[bare]"},
			{envelope.Selector{App: "bare", IDs: true}, "[bare]"},
			{envelope.Selector{App: "twin"}, "[]"},            // its name is app-1
			{envelope.Selector{App: "twin", IDs: true}, "[]"}, // and its id app-2
			{envelope.Selector{App: "app-2", IDs: true}, "[twin]"},
			{envelope.Selector{SourceID: "mine", Space: "space-1", IDs: true}, "[mine]"},
			{envelope.Selector{SourceID: "twin", Space: "space-1", IDs: true}, "[]"},
			{envelope.Selector{IDs: true}, "[bare mine twin]"},
		} {
			// What is held, and what arrives.
			live := follow(t, r, envelope.Query{Select: []envelope.Selector{tt.sel}})
			say("bare", nil)
			say("mine", tags("web", "app-1", "dev", "space-1", "acme", "org-1"))
			say("twin", tags("app-1", "app-2", "space-1", "space-2", "org-1", "org-2"))
			synctest.Wait()
			seen := map[string]int{}
			for b, err := range r.Batches(t.Context(), envelope.Query{Select: []envelope.Selector{tt.sel}}) {
				if err != nil {
					t.Fatal(err)
				}
				for e := range b.All() {
					route, _ := e.Route()
					seen[string(route.SourceID)]++
				}
			}
			var ids []string
			for _, id := range []string{"bare", "mine", "twin"} {
				if seen[id] > 0 {
					ids = append(ids, id)
				}
			}
			if got := fmt.Sprint(ids); got != tt.want {
				t.Errorf("%+v: held %s, want %s", tt.sel, got, tt.want)
			}
			live.want(ids...)
			if known := r.Known([]envelope.Selector{tt.sel}); known != (len(ids) > 0) {
				t.Errorf("%+v: known %t", tt.sel, known)
			}
		}
	})
}
