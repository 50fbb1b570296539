//go:build !unix

package drain_test

func cpuTime() int64 { return 0 }
