package engines_test

import (
	"os/exec"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/engines"
)

// A process that has ended stands still, also while its parent cannot reap it.
func TestAProcessThatHasEndedStandsStill(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "true")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait() //nolint:errcheck // it has ended
	begun := time.Now()
	if err := engines.AwaitStopped(cmd.Process.Pid); err != nil {
		t.Errorf("after %s: %v", time.Since(begun), err)
	}
}
