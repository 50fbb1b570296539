package rooms

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const monitoring = "../../examples/monitoring/"

// TestMonitoringNames: rules and dashboard speak of figures that some daemon has.
func TestMonitoringNames(t *testing.T) {
	known := map[string]bool{"loggregator_ready": true}
	calls := regexp.MustCompile(`(figure\(|figure\(add, |ops\.Metric\{Name: )"([a-z0-9_]+)"`)
	for _, dir := range []string{".", "../drains", "../../cmd/loggregator-agent", "../../cmd/loggregator-drain"} {
		prefix := "loggregator_"
		if strings.HasSuffix(dir, "agent") {
			prefix += "agent_"
		}
		for _, file := range glob(t, filepath.Join(dir, "*.go")) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range calls.FindAllStringSubmatch(string(text), -1) {
				known[prefix+m[2]] = true
			}
		}
	}
	name := regexp.MustCompile(`\bloggregator_[a-z0-9_]+`)
	for _, file := range []string{"alerts.yml", "dashboard.json"} {
		text, err := os.ReadFile(monitoring + file)
		if err != nil {
			t.Fatal(err)
		}
		found := name.FindAllString(string(text), -1)
		if len(found) < 10 {
			t.Errorf("%s speaks of %q alone", file, found)
		}
		for _, n := range found {
			if !known[n] {
				t.Errorf("%s: there is no figure %s", file, n)
			}
		}
	}
}

// TestMonitoringRules: Prometheus understands the rules, its configuration, and
// what the dashboard asks for.
func TestMonitoringRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		if os.Getenv("LOGGREGATOR_PEERS") == "required" {
			t.Fatal(err)
		}
		t.Skip("promtool is not installed (Debian: apt-get install prometheus)")
	}
	text, err := os.ReadFile(monitoring + "dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	asked := 0
	rules := &strings.Builder{} // the dashboard's expressions, as rules
	rules.WriteString("groups: [{name: dashboard, rules: [")
	for _, p := range dashboard.Panels {
		for _, target := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$job", "j", "$instance", "i").Replace(target.Expr)
			quoted, err := json.Marshal(expr)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(rules, "{record: x%d, expr: %s},\n", asked, quoted)
			asked++
		}
	}
	if asked < 20 {
		t.Errorf("the dashboard asks for %d things", asked)
	}
	rules.WriteString("]}]\n")
	file := filepath.Join(t.TempDir(), "dashboard.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"check", "rules", monitoring + "alerts.yml"},
		{"check", "config", monitoring + "prometheus.yml"},
		{"test", "rules", monitoring + "alerts_test.yml"},
		{"check", "rules", "--lint=none", file},
	} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}
