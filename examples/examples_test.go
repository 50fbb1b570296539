// Package examples runs the example programs.
package examples

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
	"time"
)

// outputs are what the programs print, as regular expressions.
var outputs = map[string]string{
	"inprocess": `^shop \S+ \[\] OUT order 17 accepted\n` +
		`shop \S+ \[\] ERR order 18 refused: no such article\n$`,
	"slog": `^\{.*"stream":"OUT","text":"\{\\"level\\":\\"INFO\\",\\"msg\\":\\"accepted\\",\\"order\\":17,\\"customer\\":\{\\"name\\":\\"Ada\\",\\"city\\":\\"London\\"\}\}","tags":\{"severity":"INFO"\}\}\n` +
		`\{.*"stream":"ERR","text":"\{\\"level\\":\\"ERROR\\",.*\\"err\\":\\"card expired\\"\}\}","tags":\{"severity":"ERROR"\}\}\n` +
		`\{.*"stream":"OUT","text":"slow answer","tags":\{"route":"/orders","severity":"WARN"\}\}\n` +
		`\{.*"stream":"ERR","text":"old code: still here","tags":\{\}\}\n` +
		`accepted 4, refused 0\n$`,
	"tail": `^1000 lines in order, none missing, none twice\n$`,
	"drain": `^\d+ <14>1 \S+ acme\.prod\.shop shop-guid \[APP/PROC/WEB/0\] - \[tags@47450 .*\] logged before there was a drain\n` +
		`\d+ <11>1 \S+ acme\.prod\.shop shop-guid \[APP/PROC/WEB/0\] - \[tags@47450 .*\] order 18 refused: no such article\n\n` +
		`delivered 2, missed 0\n$`,
}

func TestExamples(t *testing.T) {
	dirs, err := filepath.Glob("*/main.go")
	dirs = slices.DeleteFunc(dirs, func(main string) bool { return main == "cf/main.go" || main == "cluster/main.go" }) // they serve, and have tests of their own
	if err != nil || len(dirs) != len(outputs) {
		t.Fatalf("%d programs, %d outputs, %v", len(dirs), len(outputs), err)
	}
	for _, main := range dirs {
		name := filepath.Dir(main)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source, err := os.ReadFile(main)
			if err != nil {
				t.Fatal(err)
			}
			if lines := slices.Collect(bytes.Lines(source)); len(lines) >= 80 {
				t.Errorf("%d lines are no example any more", len(lines))
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute) // the compiler's time included
			defer cancel()
			var out, errs bytes.Buffer
			cmd := exec.CommandContext(ctx, "go", "run", "./"+name)
			cmd.Stdout, cmd.Stderr = &out, &errs
			if err := cmd.Run(); err != nil {
				t.Fatalf("%v\n%s%s", err, out.String(), errs.String())
			}
			if !regexp.MustCompile(outputs[name]).MatchString(out.String()) {
				t.Errorf("printed:\n%swant:\n%s", out.String(), outputs[name])
			}
		})
	}
}
