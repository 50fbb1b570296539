package main

import (
	"bytes"
	"fmt"
	"os"
	"time"
)

// cpuTime is what processes have used so far. The kernel counts it in hundredths
// of a second (proc(5), stat: utime and stime).
func cpuTime(pids []int) (sum time.Duration) {
	for _, pid := range pids {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, rest, _ := bytes.Cut(data, []byte(") "))
		fields := bytes.Fields(rest)
		if len(fields) < 13 {
			continue
		}
		var user, system int64
		fmt.Sscan(string(fields[11]), &user)
		fmt.Sscan(string(fields[12]), &system)
		sum += time.Duration(user+system) * 10 * time.Millisecond
	}
	return sum
}

// rss is the memory of processes that is resident, in bytes.
func rss(pids []int) (sum int64) {
	for _, pid := range pids {
		data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
		var size, resident int64
		fmt.Sscan(string(data), &size, &resident)
		sum += resident * int64(os.Getpagesize())
	}
	return sum
}
