//go:build race

package api_test

// raceEnabled: the race detector allocates by itself.
const raceEnabled = true
