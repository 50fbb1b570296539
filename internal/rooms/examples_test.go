package rooms

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cloudfoundry/loggregator/internal/daemon"
)

const units = "../../examples/systemd"

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no %s: %v", pattern, err)
	}
	return files
}

// TestExampleConfigs: the config files have flags that there are.
func TestExampleConfigs(t *testing.T) {
	for _, file := range glob(t, units+"/*.yaml") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// What is commented out is to be uncommented.
		text = regexp.MustCompile(`(?m)^# ([a-z-]+: )`).ReplaceAll(text, []byte("$1"))
		text = regexp.MustCompile(`(?m)^read: \[tcp.*\n`).ReplaceAll(text, nil)
		whole := filepath.Join(t.TempDir(), "whole.yaml")
		if err := os.WriteFile(whole, text, 0o600); err != nil {
			t.Fatal(err)
		}
		fs := flag.NewFlagSet("", flag.ContinueOnError)
		if err := daemon.Parse(fs, []string{"-config", whole}, everyFlag()...); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestExampleUnits: systemd understands the units, and sockets have the names of
// flags.
func TestExampleUnits(t *testing.T) {
	for _, file := range glob(t, units+"/*.socket") {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		name := regexp.MustCompile(`FileDescriptorName=(.*)`).FindSubmatch(text)
		if name == nil || !slices.Contains(everyFlag(), string(name[1])) {
			t.Errorf("%s: its name is no flag: %s", file, name)
		}
	}
	analyze, err := exec.LookPath("systemd-analyze")
	if err != nil {
		if os.Getenv("LOGGREGATOR_PEERS") == "required" {
			t.Fatal(err)
		}
		t.Skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
	}
	dir := t.TempDir()
	args := []string{"verify", "--man=no"}
	for _, file := range slices.Concat(glob(t, units+"/*.service"), glob(t, units+"/*.socket")) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text = regexp.MustCompile(`/usr/local/bin/\S+`).ReplaceAll(text, []byte("/bin/true")) // it looks for it
		copied := filepath.Join(dir, filepath.Base(file))
		if err := os.WriteFile(copied, text, 0o644); err != nil {
			t.Fatal(err)
		}
		args = append(args, copied)
	}
	out, err := exec.Command(analyze, args...).CombinedOutput()
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, dir) { // of ours, not of the machine's own units
			t.Error(line)
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
