package daemon

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// settings are flags of every type.
type settings struct {
	addr, secret, read string
	n                  int
	on                 bool
	wait               time.Duration
	size               int64
}

func newFlags(s *settings) *flag.FlagSet {
	fs := flag.NewFlagSet("test", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.StringVar(&s.addr, "addr", "127.0.0.1:1", "`address`")
	fs.StringVar(&s.secret, "client-secret", "", "what it says")
	fs.StringVar(&s.read, "read", "", "`URLs`")
	fs.IntVar(&s.n, "number", 3, "`number`")
	fs.BoolVar(&s.on, "turn-on", false, "whether")
	fs.DurationVar(&s.wait, "wait", time.Second, "how long")
	SizeVar(fs, &s.size, "size", 64<<20, "`bytes`")
	return fs
}

func file(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestConfigFile(t *testing.T) {
	base := settings{addr: "127.0.0.1:1", n: 3, wait: time.Second, size: 64 << 20}
	with := func(f func(*settings)) settings { s := base; f(&s); return s }
	for _, tc := range []struct {
		name, text, fails string
		want              settings
	}{
		{"empty", "", "", base},
		{"comments", "# nothing\n---\n", "", base},
		{"all types", "addr: 127.0.0.1:2\nnumber: 7\nturn-on: true\nwait: 5m\nsize: 1GiB\n", "", with(func(s *settings) {
			s.addr, s.n, s.on, s.wait, s.size = "127.0.0.1:2", 7, true, 5*time.Minute, 1<<30
		})},
		{"null is empty", "addr:\n", "", with(func(s *settings) { s.addr = "" })},
		{"list", "read:\n  - tcp://a:1\n  - tls://b:2\n", "", with(func(s *settings) { s.read = "tcp://a:1,tls://b:2" })},
		{"quoted", "addr: \"a b\"\n", "", with(func(s *settings) { s.addr = "a b" })},
		{"of another daemon", "elsewhere: 7\nnumber: 4\n", "", with(func(s *settings) { s.n = 4 })},
		{"unknown", "number: 4\nnonsense: 1\n", "line 2: nonsense: there is no flag", settings{}},
		{"wrong type", "number: many\n", "line 1: number:", settings{}},
		{"wrong size", "size: 3 apples\n", "like 67108864 or 64MiB", settings{}},
		{"twice", "number: 1\nnumber: 2\n", "is given twice", settings{}},
		{"nested", "addr: {host: a}\n", "line 1: addr: a plain value", settings{}},
		{"nested list", "read: [[a]]\n", "a list of plain values", settings{}},
		{"no mapping", "addr 127.0.0.1:2\n", "lines like", settings{}},
		{"no YAML", "a: [\n", "yaml", settings{}},
		{"too long", strings.Repeat("# x\n", maxConfig/4+1), "longer than 1024 KiB", settings{}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got settings
			err := Parse(newFlags(&got), []string{"-config", file(t, tc.text)}, "elsewhere")
			if tc.fails != "" {
				exit, ok := errors.AsType[*Exit](err)
				if !ok || exit.Code != StatusUsage || !strings.Contains(err.Error(), tc.fails) {
					t.Fatalf("%v; %q is wanted in it, and status %d", err, tc.fails, StatusUsage)
				}
				return
			}
			if err != nil || got != tc.want {
				t.Errorf("%+v %v, want %+v", got, err, tc.want)
			}
		})
	}
}

// TestPrecedence: flags before environment before file.
func TestPrecedence(t *testing.T) {
	t.Setenv("LOGGREGATOR_NUMBER", "20")
	t.Setenv("LOGGREGATOR_CLIENT_SECRET", "hush")
	t.Setenv("LOGGREGATOR_CONFIG", file(t, "number: 30\naddr: 127.0.0.1:30\nwait: 30s\n"))
	var got settings
	if err := Parse(newFlags(&got), []string{"-addr", "127.0.0.1:10"}); err != nil {
		t.Fatal(err)
	}
	if want := (settings{addr: "127.0.0.1:10", n: 20, wait: 30 * time.Second, secret: "hush", size: 64 << 20}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestShow: what is shown can be read again, and holds no secret.
func TestShow(t *testing.T) {
	var was settings
	fs := newFlags(&was)
	args := []string{"-client-secret", "hush", "-read", "https://joe:hush@a/?token=hush&x=1,tls://b", "-number", "9", "-turn-on", "-size", "96MiB"}
	if err := Parse(fs, args); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	Show(&out, fs)
	if strings.Contains(out.String(), "hush") || strings.Contains(out.String(), "joe") {
		t.Errorf("secrets are shown:\n%s", &out)
	}
	if !strings.Contains(out.String(), "addr: 127.0.0.1:1  # default\n") || !strings.Contains(out.String(), "\nnumber: 9\n") {
		t.Errorf("shown:\n%s", &out)
	}
	var again settings
	if err := Parse(newFlags(&again), []string{"-config", file(t, out.String())}); err != nil {
		t.Fatalf("%v in\n%s", err, &out)
	}
	was.secret, was.read = redacted, "https://REDACTED@a/?token=REDACTED&x=REDACTED,tls://b"
	if again != was {
		t.Errorf("%+v, want %+v, from\n%s", again, was, &out)
	}
	for _, s := range Given(fs) {
		if strings.Contains(s.(string), "hush") {
			t.Errorf("a secret for the log: %s", s)
		}
	}
}

func TestChanges(t *testing.T) {
	path := file(t, "number: 4\nclient-secret: old\n")
	var s settings
	fs := newFlags(&s)
	args := []string{"-config", path, "-addr", "127.0.0.1:9"}
	if err := Parse(fs, args); err != nil {
		t.Fatal(err)
	}
	if list, err := Changes(fs, args); len(list) != 0 || err != nil {
		t.Fatal(list, err)
	}
	rewrite := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rewrite("number: 4\nclient-secret: new\nwait: 2s\naddr: 127.0.0.1:5\n") // the address is a flag's
	list, err := Changes(fs, args)
	if err != nil || len(list) != 2 {
		t.Fatal(list, err)
	}
	if c := list[0]; c.Flag.Name != "client-secret" || c.Value != "new" || c.Was != redacted || c.Now != redacted {
		t.Errorf("%+v", c)
	}
	if c := list[1]; c.Flag.Name != "wait" || c.Was != "1s" || c.Now != "2s" {
		t.Errorf("%+v", c)
	}
	if s.wait != time.Second {
		t.Error("the flag itself has changed")
	}
	rewrite("number: x\n")
	if _, err := Changes(fs, args); err == nil {
		t.Error("a wrong file is no error")
	}
}

func TestSize(t *testing.T) {
	for text, want := range map[string]int64{"0": 0, "1": 1, "1KiB": 1024, "64MiB": 64 << 20, "3GiB": 3 << 30, "5B": 5} {
		var s Size
		if err := s.Set(text); err != nil || int64(s) != want {
			t.Errorf("%q is %d, %v", text, s, err)
		}
		var again Size
		if err := again.Set(s.String()); err != nil || again != s {
			t.Errorf("%q is shown as %q", text, s.String())
		}
	}
	for _, text := range []string{"", "x", "1kb", "1 MiB x", "9223372036854775807GiB", "1MiBs"} {
		var s Size
		if err := s.Set(text); err == nil {
			t.Errorf("%q is %d", text, s)
		}
	}
}

func TestCheckAddress(t *testing.T) {
	for addr, wrong := range map[string]string{
		"": "", "127.0.0.1:80": "", "localhost:80": "", "[::1]:80": "", "unix:///run/x": "",
		"0.0.0.0:80": "other machines", ":80": "other machines", "10.0.0.1:80": "other machines", "example.com:80": "other machines",
		"127.0.0.1": "not host:port", "127.0.0.1:99999": "not host:port", "unix://x": "not unix:///path",
	} {
		err := CheckAddress("http", addr, false)
		if (err == nil) != (wrong == "") || err != nil && (!strings.Contains(err.Error(), wrong) || !strings.Contains(err.Error(), "-http")) {
			t.Errorf("%q: %v", addr, err)
		}
		if err := CheckAddress("http", addr, true); err != nil && wrong == "other machines" {
			t.Errorf("%q, -insecure: %v", addr, err)
		}
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("number: 4\n")
	f.Add("read: [a, b]\n")
	f.Add("a: &x {b: *x}\n")
	f.Add("? [a]\n: b\n")
	f.Fuzz(func(t *testing.T, text string) {
		parseYAML(strings.NewReader(text), func(name, value string) error { return nil })
	})
}
