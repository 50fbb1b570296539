package follow

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestPattern(t *testing.T) {
	tests := []struct{ pattern, path, vars string }{
		{"/var/log/syslog", "/var/log/syslog", ""},
		{"/var/log/{app}/{instance}.log", "/var/log/shop/0.log", "app=shop instance=0"},
		{"/var/log/{app}-{instance}.log", "/var/log/my-shop-12.log", "app=my-shop instance=12"},
		{"/var/log/{app}/{instance}.log", "/var/log/shop/x/0.log", "no"},
		{"/var/log/*.log", "/var/log/.hidden.log", "no"},
		{"/var/log/.*.log", "/var/log/.hidden.log", ""},
		{"/var/**/*.log", "/var/a.log", ""},
		{"/var/**/*.log", "/var/x/y/a.log", ""},
		{"/var/**/{app}/out", "/var/x/y/shop/out", "app=shop"},
		{"/a/[0-9][!x]?", "/a/1yz", ""},
		{"/a/[0-9][!x]?", "/a/1xz", "no"},
		{"/a/*.log", "/a/b.log.gz", "no"},
		{"/a/*", "/a/b.gz", "no"},
		{"/a/(b)+.c", "/a/(b)+.c", ""},
	}
	for _, test := range tests {
		p, err := ParsePattern(test.pattern)
		if err != nil {
			t.Errorf("%s: %v", test.pattern, err)
			continue
		}
		g := &Group{Paths: []*Pattern{p}}
		got := "no"
		if vars, ok := g.MatchPath(test.path); ok {
			var all []string
			for _, name := range p.Names() {
				all = append(all, name+"="+vars[name])
			}
			got = strings.Join(all, " ")
		}
		if got != test.vars {
			t.Errorf("%s, %s: %q, want %q", test.pattern, test.path, got, test.vars)
		}
	}
	for _, bad := range []string{"", "/", "/a/**", "/a**/b", "/{App}/x", "/{a}/{a}", "/[a", "/{a", "/a/../b", "/a\x00"} {
		if p, err := ParsePattern(bad); err == nil {
			t.Errorf("%q is a pattern: %+v", bad, p)
		}
	}
}

func TestFind(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a/0.log", "a/1.log", "b/0.log", "b/0.log.gz", "b/skip.log", "c"} {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(filepath.Join(dir, "c"), filepath.Join(dir, "b", "link.log")); err != nil {
		t.Skip(err)
	}
	p, err := ParsePattern(dir + "/{app}/*.log")
	if err != nil {
		t.Fatal(err)
	}
	all, err := ParsePattern(dir + "/**/*")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range Find(&Group{Paths: []*Pattern{p, all}, Exclude: []string{"skip*"}}) {
		rel, _ := filepath.Rel(dir, m.Path)
		got = append(got, fmt.Sprintf("%s %s", filepath.ToSlash(rel), m.Vars["app"]))
	}
	want := "a/0.log a,a/1.log a,b/0.log b,b/link.log b"
	if strings.Join(got, ",") != want {
		t.Errorf("%q, want %s", got, want)
	}
}

func TestIsRotated(t *testing.T) {
	for _, name := range []string{"app.log.1", "app.log-20260102", "app.log.2026-01-02", "app.log.old", "app-2026-01-02.log", "app.1.log"} {
		if !isRotated(name, "app.log") {
			t.Errorf("%s is not app.log, rotated", name)
		}
		if !slices.Contains(originals(name), "app.log") {
			t.Errorf("%s was %q", name, originals(name))
		}
	}
	for _, name := range []string{"app.log", "app.log.swp", "app.log~", "apple.log", "app.log.lock", "app2.log", "b.log.1"} {
		if isRotated(name, "app.log") {
			t.Errorf("%s is app.log, rotated", name)
		}
	}
}
