//go:build !unix

package machine

func cpuTime() int64 { return 0 }
