//go:build !unix

package loggregator

func cpuTime() int64 { return 0 }
