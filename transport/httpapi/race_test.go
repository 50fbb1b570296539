//go:build race

package httpapi_test

const raceEnabled = true // stacks are larger then
