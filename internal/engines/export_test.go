package engines

// AwaitStopped waits until a process stands still.
func AwaitStopped(pid int) error { return awaitStopped(pid) }
