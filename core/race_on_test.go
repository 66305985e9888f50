//go:build race

package core_test

// slower is how much less is asked of a test that runs in both ways.
const slower = 10
