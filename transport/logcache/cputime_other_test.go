//go:build !unix

package logcache

func cpuTime() int64 { return 0 }
