package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestExample: the file that shows everything is in order, and shows everything.
func TestExample(t *testing.T) {
	c, err := loadConfig("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Files) != 2 || c.Memory != 64<<20 || c.Grace != duration(10*time.Second) || c.Files[1].Limit.Burst != 4<<20 {
		t.Errorf("%+v", c)
	}
	data, err := os.ReadFile("example.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range configTypes {
		for _, key := range keysOf(typ) {
			if !strings.Contains(string(data), key+":") && !strings.Contains(string(data), key+",") && key != "job" && key != "index" && key != "ip" && key != "org_id" {
				t.Errorf("example.yaml does not show %s", key)
			}
		}
	}
}

func TestConfigErrors(t *testing.T) {
	tests := []struct{ yaml, want string }{
		{"", ":1: nothing is collected"},
		{"files: [", ":1: did not find"},
		{"servers: http://x", ":1: address must be tcp://"},
		{"fils: []", `:1: unknown key "fils"; there are dropsonde, files,`},
		{"files:\n  - path: x", `:2: unknown key "path"; there are app, app_id,`},
		{"state: s\nfiles:\n  - paths: /a/*.log", `:3: whose lines are these?`},
		{"state: s\nfiles:\n  - paths: /a/{app}.log\n    instance: '{x}'", `:3: "{x}": nothing is known as {x} here; there are {app}, {hostname}`},
		{"state: s\nfiles:\n  - paths: ['/a/{app}.log', /b.log]", `:3: whose lines are these?`},
		{"files:\n  - paths: /a/{app}.log", ":1: files need a directory"},
		{"state: s\nfiles:\n  - app: x", ":3: say which files"},
		{"state: s\nfiles:\n  - {paths: /a, app: x, join: {start: '('}}", ":3: \"(\" is no regular expression"},
		{"state: s\nfiles:\n  - {paths: /a, app: x, join: {start: a, indent: true}}", ":3: joining lines takes one rule"},
		{"state: s\nfiles:\n  - {paths: /a, app: x, join: {wait: 1s}}", ":3: join: say by which rule"},
		{"state: s\nfiles:\n  - {paths: /a, app: x, limit: {burst: 1}}", ":3: limit: say a rate"},
		{"state: s\nfiles:\n  - {paths: /a, app: x, start: middle}", ":3: start: \"middle\"; it is beginning or end"},
		{"state: s\nfiles:\n  - paths: [/a/{app}.log]", ":2: did not find expected ',' or ']'; a text with braces in it wants quotes"},
		{"state: s\nfiles:\n  - {paths: '/a/{', app: x}", ":3: path \"/a/{\": { without its }"},
		{"memory: 7 apples", ":1: \"7 apples\" is no number of bytes"},
		{"memory: 7k", ":1: memory: at least 1 MiB"},
		{"grace: -1s", ":1: \"-1s\" is no duration"},
		{"insecure: perhaps", ":1: true or false is wanted here, not \"perhaps\""},
		{"servers: {a: b}", ":1: a text, or a list of texts, is wanted here"},
		{"memory: 1MiB\nmemory: 2MiB", ":2: memory is there twice, in line 1 too"},
		{"native:\n  - listen: 127.0.0.1:1", ":2: \"127.0.0.1:1\" is no address"},
		{"native:\n  - listen: tcp://0.0.0.0:1", ":2: 0.0.0.0:1 can be reached from other machines"},
		{"native:\n  - listen: tls://127.0.0.1:1", ":2: tls: a listener needs cert and key"},
		{"native:\n  - {listen: 'tcp://127.0.0.1:1', tls: {cert: a, key: b}}", ":2: tcp://127.0.0.1:1 has no TLS"},
		{"native:\n  - listen: tcp://127.0.0.1:1\nsyslog:\n  - listen: tcp://127.0.0.1:1", ":4: tcp://127.0.0.1:1 is listened at already"},
		{"syslog:\n  - listen: http://127.0.0.1:1", ":2: http://127.0.0.1:1: the address must begin with tcp://"},
		{"sockets:\n  - app: x", ":2: say where the sockets are"},
		{"dropsonde:\n  - {}", ":2: say where to listen"},
		{"state: s\n---\nstate: s", ": one document is wanted"},
	}
	for _, test := range tests {
		path := filepath.Join(t.TempDir(), "agent.yaml")
		if err := os.WriteFile(path, []byte(test.yaml), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := loadConfig(path)
		if err == nil || !strings.Contains(err.Error(), path+test.want) {
			t.Errorf("%q: %v", test.yaml, err)
		}
		if err != nil && (strings.Contains(err.Error(), "main.") || strings.Contains(err.Error(), "!!")) {
			t.Errorf("%q: in the words of Go: %v", test.yaml, err)
		}
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]size{"0": 0, "17": 17, "64KiB": 65536, "1.5 MB": 1_500_000, "2G": 2_000_000_000, "1Ki": 1024, "3B": 3} {
		if got, err := parseSize(text); err != nil || got != want {
			t.Errorf("%s: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "-1", "1X", "KiB", "1e9", "99999T"} {
		if got, err := parseSize(text); err == nil {
			t.Errorf("%s: %d", text, got)
		}
	}
}

func TestRule(t *testing.T) {
	tests := []struct {
		rule ruleConfig
		vars map[string]string
		want string
	}{
		{ruleConfig{}, map[string]string{"app": "shop", "instance": "2"}, "source id shop, instance 2, app_name=shop"},
		{ruleConfig{App: "a-{app}", Space: "s"}, map[string]string{"app": "shop", "instance": "2"}, "source id a-shop, instance 2, app_name=a-shop, space_name=s"},
		{ruleConfig{Tags: map[string]string{"k": "{x}", "none": "{y}"}}, map[string]string{"app_id": "1-2", "app": "n", "x": "v", "instance": "0"}, "source id 1-2, instance 0, app_id=1-2, app_name=n, k=v, zone=z"},
		{ruleConfig{SourceID: "fixed"}, nil, "source id fixed, instance " + machine},
	}
	for _, test := range tests {
		r := rule{test.rule, nil}
		if test.rule.Tags != nil {
			r.tags = map[string]string{"zone": "z"}
		}
		id, err := r.identity(test.vars)
		if got := describe(id); err != nil || got != test.want {
			t.Errorf("%+v: %q, %v", test.rule, got, err)
		}
	}
	for _, vars := range []map[string]string{nil, {"app": strings.Repeat("x", 257)}, {"app": "a\nb"}} {
		if id, err := (&rule{}).identity(vars); err == nil {
			t.Errorf("%q: %+v", vars, id)
		}
	}
}

// FuzzConfig: no file makes the reader fail otherwise than in words, and one that
// it takes can be described.
func FuzzConfig(f *testing.F) {
	data, err := os.ReadFile("example.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(data))
	f.Add("state: s\nfiles:\n  - {paths: [/a/{app}.log], join: {start: a}}")
	f.Add("servers: &a [tcp://x:1]\ntags: {<<: *a}")
	f.Fuzz(func(t *testing.T, text string) {
		c, errs := parseConfig([]byte(text))
		if len(errs) > 0 {
			for _, err := range errs {
				if err.Error() == "" {
					t.Fatal("an error without words")
				}
			}
			return
		}
		if len(c.Servers) == 0 || c.Memory < 1<<20 {
			t.Fatalf("%+v", c)
		}
	})
}
