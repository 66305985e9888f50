package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/internal/engines"
)

// Process is a child. Its methods, but for Stop, may be called at any time.
type Process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error // of Wait, once done is closed
}

// Start starts a program with environment variables over our own, of which those that
// configure the product are left out. What it prints is dropped; its log goes to a file.
// On Linux it does not outlive us, however we end.
func Start(program string, env []string, logFile string, args ...string) (*Process, error) {
	log, err := os.Create(logFile) //nolint:gosec // a temporary folder
	if err != nil {
		return nil, err
	}
	p := &Process{cmd: exec.Command(program, args...), log: log, done: make(chan struct{})} //nolint:gosec,noctx // our own binary; Stop ends it
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "TALLYSTICK_") {
			p.cmd.Env = append(p.cmd.Env, kv)
		}
	}
	p.cmd.Env = append(p.cmd.Env, env...)
	p.cmd.Stderr = log
	// In a process group of its own: an interrupt from the terminal is ours, and we
	// stop the child after its clients.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = engines.StartChild(p.cmd, func(err error) {
		if err != nil {
			p.err = fmt.Errorf("%s: %w; the end of its log:\n%s", filepath.Base(program), err, tail(logFile))
		}
		_ = log.Close()
		close(p.done)
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), log.Close())
	}
	return p, nil
}

// tail is the end of a file.
func tail(path string) string {
	b, err := os.ReadFile(path) //nolint:gosec // a temporary folder
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// LoggedErrors counts the lines of the log that tell of an error. It is for after
// the end.
func (p *Process) LoggedErrors() int {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return 0
	}
	return strings.Count(string(b), `"level":"ERROR"`)
}

// Pid is the process's number.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill is kill -9, and waits until the process is gone. One that has ended stays as it is.
func (p *Process) Kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// Killed reports whether SIGKILL has ended it: where nobody sent it, it was the process
// itself, at its point.
func (p *Process) Killed() bool {
	select {
	case <-p.done:
		s, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
		return ok && s.Signaled() && s.Signal() == syscall.SIGKILL
	default:
		return false
	}
}

// Ended is how the process has ended; nil while it runs.
func (p *Process) Ended() error {
	select {
	case <-p.done:
		if p.err == nil {
			return errors.New("it ended by itself")
		}
		return p.err
	default:
		return nil
	}
}

// Signal sends the process a signal.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// LogSize is how long the log is by now.
func (p *Process) LogSize() int64 {
	info, err := os.Stat(p.log.Name())
	if err != nil {
		return 0
	}
	return info.Size()
}

// LogSince is what was logged since the log was so long.
func (p *Process) LogSince(size int64) string {
	b, err := os.ReadFile(p.log.Name())
	if err != nil {
		return ""
	}
	return string(b[min(size, int64(len(b))):])
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Stop asks the process to stop, and kills it after patience. A process that had
// to be killed, or that says by its exit code that it failed, is an error. A
// second call returns what the first did.
func (p *Process) Stop(patience time.Duration) error {
	select {
	case <-p.done:
		return p.err
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-p.done:
		return p.err
	case <-t.C:
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("process %d did not stop within %s", p.cmd.Process.Pid, patience)
	}
}

// ticksPerSecond is USER_HZ, which Linux fixes for /proc.
const ticksPerSecond = 100

// CPU is the processor time that the process has taken, user and system, to
// within 10 ms.
func (p *Process) CPU() (time.Duration, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field is the program's name in parentheses, and may hold anything.
	_, rest, ok := strings.Cut(string(b), ") ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 13 {
		return 0, fmt.Errorf("/proc/%d/stat has %d fields", p.cmd.Process.Pid, len(fields))
	}
	user, err1 := strconv.ParseInt(fields[11], 10, 64)
	system, err2 := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * time.Second / ticksPerSecond, errors.Join(err1, err2)
}

// RSS is the resident memory of the process in bytes, VmRSS in /proc.
func (p *Process) RSS() (int64, error) { return p.status("VmRSS:") }

// PeakRSS is the most resident memory that the process ever had, in bytes.
func (p *Process) PeakRSS() (int64, error) { return p.status("VmHWM:") }

func (p *Process) status(field string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kib << 10, err
		}
	}
	return 0, errors.New("no " + field + " the process is gone")
}

// SelfCPU is the processor time of this process: load and simulator.
func SelfCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot fail with these arguments
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// Build builds the product's binary into dir and gives its path.
func Build(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "tallystick")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/tallystick/tallystick/cmd/tallystick").CombinedOutput() //nolint:gosec // a temporary folder
	if err != nil {
		return "", fmt.Errorf("go build: %w\n%s", err, out)
	}
	return path, nil
}
