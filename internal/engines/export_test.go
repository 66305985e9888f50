package engines

// AwaitStopped waits until a process stands still.
func AwaitStopped(pid int) error { return awaitStopped(pid) }

// PostgresBin is where PostgreSQL's programs are.
func PostgresBin() (string, error) { return postgresBin() }
