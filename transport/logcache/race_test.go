//go:build race

package logcache

const raceEnabled = true // stacks are larger then
