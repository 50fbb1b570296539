package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestIdleCost says what a server costs that has nothing to do. A machine that is
// busy with other things, or collects late, is no failure.
func TestIdleCost(t *testing.T) {
	p := start(t, nil)
	read := func(name string) string {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.Pid(), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	ticks := func() (n int) { // of a hundredth of a second
		_, rest, _ := strings.Cut(read("stat"), ") ")
		var user, system int
		if f := strings.Fields(rest); len(f) > 12 {
			fmt.Sscan(f[11], &user)
			fmt.Sscan(f[12], &system)
		}
		return user + system
	}
	before := ticks()
	const wait = 2 * time.Second
	time.Sleep(wait) // what is measured is a stretch of time
	used := time.Duration(ticks()-before) * 10 * time.Millisecond
	var resident int
	_, rest, _ := strings.Cut(read("status"), "VmRSS:")
	fmt.Sscan(rest, &resident)
	t.Logf("%v of processor time in %v, %d KiB resident; 0.2 %% of a core and 25 MiB are wanted", used, wait, resident)
	if used > wait/10 || resident > 64<<10 || resident == 0 {
		t.Errorf("%v of processor time in %v, %d KiB resident", used, wait, resident)
	}
	if n := p.Metric("loggregator_ready"); n != 1 {
		t.Errorf("ready: %v", n)
	}
}
