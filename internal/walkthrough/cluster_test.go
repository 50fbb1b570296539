package walkthrough

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/internal/cluster"
)

// writeWorld writes what the stand-in for a Cloud Foundry knows: an organization
// with two spaces, and apps in them that users see.
func writeWorld(t testing.TB, dir string, spaces map[string][]string, seenBy map[string][]string) string {
	t.Helper()
	type resource struct {
		Kind   string   `json:"kind"`
		Name   string   `json:"name"`
		GUID   string   `json:"guid"`
		Space  string   `json:"space,omitempty"`
		Org    string   `json:"org,omitempty"`
		SeenBy []string `json:"seen_by"`
	}
	users := make(map[string]map[string]string)
	var all []string
	for _, names := range seenBy {
		for _, name := range names {
			if users[name] == nil {
				users[name] = map[string]string{"password": "secret of " + name}
				all = append(all, name)
			}
		}
	}
	resources := []resource{{Kind: "organizations", Name: "acme", GUID: guid("acme"), SeenBy: all}}
	for space, apps := range spaces {
		resources = append(resources, resource{Kind: "spaces", Name: space, GUID: guid(space), Org: guid("acme"), SeenBy: seenBy[space]})
		for _, app := range apps {
			resources = append(resources, resource{Kind: "apps", Name: app, GUID: guid(app), Space: guid(space), Org: guid("acme"), SeenBy: seenBy[space]})
		}
	}
	text, err := json.Marshal(map[string]any{"users": users, "resources": resources})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "world.json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func startCluster(t *testing.T, o *cluster.Options) *cluster.Cluster {
	t.Helper()
	c, err := cluster.Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Stop()
		for _, d := range c.All() {
			if said, _ := os.ReadFile(d.Log); t.Failed() {
				t.Logf("%s said:\n%.3000s", d.Name, said)
			}
		}
	})
	return c
}

func token(t testing.TB, c *cluster.Cluster, user string) string {
	t.Helper()
	token, err := c.Token(user, "secret of "+user)
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestEveryLineThroughTheCluster is the main job over two of each daemon, with
// certificates between them and a user who may read.
func TestEveryLineThroughTheCluster(t *testing.T) {
	w := newWorld(t)
	var c *cluster.Cluster
	var secret string
	everyLineEverywhere(t, w, func() {
		c = startCluster(t, &cluster.Options{Bin: w.bin, Dir: w.dir, Drains: w.drains,
			World: writeWorld(t, w.dir, map[string][]string{"prod": {"web", "printer"}, "staging": {"odd"}}, map[string][]string{"prod": {"ann"}, "staging": {"ann"}})})
		bare := func(url string) string { _, addr, _ := strings.Cut(url, "://"); return addr }
		w.ingest, w.second = bare(c.Programs[0]), bare(c.Programs[1])
		w.people, w.dumps, w.ops = bare(c.People[0]), bare(c.People[1]), c.Sinks[0].Ops()
		secret = token(t, c, "ann")
		w.env = []string{"LOGGREGATOR_TOKEN=" + secret}
	})
	if err := c.Stop(); err != nil {
		t.Error(err)
	}
	for _, d := range c.All() {
		said, err := os.ReadFile(d.Log)
		if err != nil {
			t.Error(err)
		}
		checkNoSecretsOrPanics(t, d.Name, string(said), secret)
	}
}
