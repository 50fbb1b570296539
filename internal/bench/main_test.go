package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestMain is the server, too.
func TestMain(m *testing.M) {
	if os.Getenv(serverEnv) != "" {
		runServer()
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestScenarios runs each for a moment, at a rate at which nothing may be lost.
func TestScenarios(t *testing.T) {
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	s := settings{
		inName: "doppler", outName: "reverselogproxy", scenarios: "one,ten-selectors,ten-full,idle-1000",
		during: 200 * time.Millisecond, rate: 10_000, senders: 2, apps: 20, run: 10,
	}
	if err := s.all(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	table, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(table)), "\n")
	if len(lines) != 1+len(scenarios) {
		t.Fatalf("%s", table)
	}
	for _, line := range lines[1:] {
		f := strings.Fields(line)
		if len(f) != 10 || f[3] != "0" || f[1] == "0" || f[2] == "0" {
			t.Errorf("%s", line)
		}
	}
}

// TestRecord: a record has the size that is told.
func TestRecord(t *testing.T) {
	if n := len(appendRecord(nil, 1)); n < 470 || n > 490 {
		t.Errorf("%d bytes", n)
	}
}
