package app

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/tallystick/tallystick/internal/fault"
)

// EnvCrashAt names the variable by which a crash test kills the process at a
// named point: "core.before_commit:12" kills it at the twelfth passing.
const EnvCrashAt = "TALLYSTICK_CRASH_AT"

// CrashPoints gives the points that kill this process as EnvCrashAt says; nil,
// which does nothing, when it is not set.
func CrashPoints(spec string, log *slog.Logger) (fault.Points, error) {
	if spec == "" {
		return nil, nil
	}
	point, count, _ := strings.Cut(spec, ":")
	nth, err := strconv.ParseInt(count, 10, 64)
	if err != nil || nth < 1 {
		return nil, &fault.Error{Kind: fault.Invalid, Field: EnvCrashAt, Code: "bad_value", Fix: "write point:count, such as core.before_commit:1",
			Err: fmt.Errorf("%q", spec)}
	}
	log.Warn("this process kills itself at a named point: for crash tests only", "point", point, "passing", nth)
	var passed atomic.Int64
	return func(name string) {
		if name == point && passed.Add(1) == nth {
			_ = syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way: not one more instruction of ours
		}
	}, nil
}
