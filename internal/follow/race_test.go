//go:build race

package follow

const raceEnabled = true // all is several times as slow then
