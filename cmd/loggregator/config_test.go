package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/internal/daemon"
	"github.com/cloudfoundry/loggregator/internal/processtest"
)

// TestConfiguration: what is wrong is said before anything is opened, all of it,
// with the status for what starting again will not mend.
func TestConfiguration(t *testing.T) {
	ca := processtest.NewCA(t)
	cert, key := ca.Issue("server")
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	tokens := file("tokens.json", `{"tokens":[{"user":"ann","sha256":"`+strings.Repeat("ab", 32)+`","read":[{"app":"shop"}]}]}`)
	for _, tc := range []struct {
		name  string
		args  []string
		wrong []string // none: it is in order
	}{
		{"defaults", nil, nil},
		{"everything off", []string{"-ingest=", "-ingest-udp=", "-v1-udp=", "-http=", "-ops="}, nil},
		{"a file of all daemons", []string{"-config", file("all.yaml", "http: 127.0.0.1:8081\nbudget: 1GiB\ngrace: 3s\n")}, nil},
		{"several things", []string{"-ingest", "foo", "-budget", "3KiB", "-log-format", "xml", "-log-level", "loud", "-max-clients", "0", "-max-senders", "-1", "more"},
			[]string{`-ingest: "foo" is not host:port`, "-budget: at least 1MiB", `-log-level: "loud"`, "-max-clients", "-max-senders", `unexpected argument "more"`}},
		{"log format", []string{"-log-format", "xml"}, []string{`"xml" is neither text nor json`}},
		{"too little memory", []string{"-budget", "1GiB", "-memory", "1GiB"}, []string{"-memory: 1GiB is not enough"}},
		{"a flag that is none", []string{"-nonsense"}, []string{"nonsense"}},
		{"no number", []string{"-new-sources", "many"}, []string{"new-sources"}},
		{"no file", []string{"-config", filepath.Join(dir, "none.yaml")}, []string{"none.yaml"}},
		{"a key that is none", []string{"-config", file("bad.yaml", "http: 127.0.0.1:1\nhtpp: x\n")}, []string{"line 2: htpp: there is no flag of this name"}},
		{"no directory", []string{"-recent-dir", filepath.Join(dir, "a", "b")}, []string{"-recent-dir"}},
		{"ingest beyond loopback", []string{"-ingest", "0.0.0.0:3456"}, []string{"-ingest: 0.0.0.0:3456 can be reached"}},
		{"datagrams beyond loopback", []string{"-ingest-udp", ":3456", "-v1-udp", ":3457"}, []string{"-ingest-udp: ", "-v1-udp: "}},
		{"people beyond loopback", []string{"-http", ":8080"}, []string{"-http: :8080 can be reached"}},
		{"operators beyond loopback", []string{"-ops", ":6060"}, []string{"-ops: :6060 can be reached"}},
		{"insecure", []string{"-ingest", ":0", "-http", ":0", "-ops", ":0", "-insecure"}, nil},
		{"ingest over TLS", []string{"-ingest", ":0", "-ingest-cert", cert, "-ingest-key", key}, nil},
		{"people over TLS, unknown", []string{"-http", ":0", "-http-cert", cert, "-http-key", key}, []string{"-http: :0 can be reached"}},
		{"people with certificates", []string{"-http", ":0", "-http-cert", cert, "-http-key", key, "-http-clients", ca.File()}, nil},
		{"people with tokens", []string{"-http", ":0", "-http-cert", cert, "-http-key", key, "-auth-tokens", tokens}, nil},
		{"people with tokens in the clear", []string{"-http", ":0", "-auth-tokens", tokens}, []string{"-http: :0 can be reached"}},
		{"readers over gRPC, unknown", []string{"-grpc", ":0", "-grpc-cert", cert, "-grpc-key", key}, []string{"-grpc: :0 can be reached"}},
		{"daemons that read, unknown", []string{"-egress", ":0", "-egress-cert", cert, "-egress-key", key}, []string{"-egress: :0 can be reached"}},
		{"daemons that read, known", []string{"-egress", ":0", "-egress-cert", cert, "-egress-key", key, "-egress-clients", ca.File()}, nil},
		{"operators with certificates", []string{"-ops", ":0", "-ops-cert", cert, "-ops-key", key, "-ops-clients", ca.File(), "-ops-client-names", "prometheus"}, nil},
		{"drains", []string{"-drains", file("drains.json", `{"drains":[]}`)}, nil},
		{"drains that are none", []string{"-drains", file("bad.json", `{"drains":7}`), "-drains-ports", "x", "-drain-cert", cert}, []string{"-drains: ", "-drains-ports: ", "-drain-cert and -drain-key"}},
		{"no key", []string{"-ingest-cert", cert}, []string{"-ingest-cert, -ingest-key, -ingest-clients: "}},
		{"a key of another", []string{"-ingest-cert", cert, "-ingest-key", ca.File()}, []string{"-ingest-cert"}},
		{"names that nobody checks", []string{"-ingest-cert", cert, "-ingest-key", key, "-ingest-client-names", "agent"}, []string{"-ingest-client-names: nothing checks them without -ingest-clients"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			err := run(t.Context(), append([]string{"config", "check"}, tc.args...), &out, io.Discard)
			if tc.wrong == nil {
				if err != nil || !strings.Contains(out.String(), "is in order") {
					t.Errorf("%v, said %q", err, &out)
				}
				return
			}
			if exit, ok := errors.AsType[*daemon.Exit](err); !ok || exit.Code != daemon.StatusUsage {
				t.Fatalf("%v, said %q", err, &out)
			}
			for _, wrong := range tc.wrong {
				if !strings.Contains(err.Error(), wrong) {
					t.Errorf("it does not say %q, but %v", wrong, err)
				}
			}
		})
	}
}

func TestVersionAndHelp(t *testing.T) {
	for args, want := range map[string]string{
		"-version":         "loggregator ",
		"-help":            "LOGGREGATOR_HTTP",
		"config show":      "http: 127.0.0.1:8080  # default",
		"config show -x=y": "",
	} {
		var out bytes.Buffer
		err := run(t.Context(), strings.Fields(args), &out, io.Discard)
		if !strings.Contains(out.String(), want) || (want == "") != (err != nil && daemon.Status("x", err, io.Discard) == daemon.StatusUsage) {
			t.Errorf("%s: %v\n%s", args, err, &out)
		}
	}
}

// TestOneFileForAll: what one daemon shows as its configuration is a file for each
// of them.
func TestOneFileForAll(t *testing.T) {
	daemons := []string{"loggregator", "loggregator-server", "loggregator-sink", "loggregator-drain"}
	drains := filepath.Join(t.TempDir(), "drains.json")
	if err := os.WriteFile(drains, []byte(`{"drains":[]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, one := range daemons {
		shown, err := exec.Command(processtest.Build(t, one), "config", "show", "-drains", drains).Output()
		if one == "loggregator-server" || one == "loggregator-sink" { // they have no drains
			shown, err = exec.Command(processtest.Build(t, one), "config", "show").Output()
		}
		if err != nil {
			t.Fatalf("%s: %v", one, err)
		}
		path := filepath.Join(t.TempDir(), one)
		if err := os.WriteFile(path, shown, 0o600); err != nil {
			t.Fatal(err)
		}
		for _, other := range daemons {
			cmd := exec.Command(processtest.Build(t, other), "config", "check", "-config", path)
			cmd.Env = append(os.Environ(), "LOGGREGATOR_DRAINS="+drains)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s with the file of %s: %v\n%s", other, one, err, out)
			}
		}
	}
}
