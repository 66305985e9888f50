package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// ticksPerSecond is USER_HZ, which Linux fixes for /proc.
const ticksPerSecond = 100

// cpuOf is the processor time that a process has taken, and those of its children
// that have ended and were waited for.
func cpuOf(pid int) (time.Duration, error) { return cpuIn("/proc/" + itoa(pid) + "/stat") }

// cpuIn is cpuOf for a process's or a thread's file.
func cpuIn(path string) (time.Duration, error) {
	f := statOf(path)
	if len(f) < 15 {
		return 0, fmt.Errorf("%s: the process is gone", path)
	}
	var ticks int64
	for _, field := range f[11:15] { // utime, stime, cutime, cstime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	return time.Duration(ticks) * time.Second / ticksPerSecond, nil
}

// CPU is the processor time that the broker has taken.
func (k *Kafka) CPU() (time.Duration, error) { return cpuOf(k.p.cmd.Process.Pid) }

// CompilerCPU is the part of CPU that the JVM has taken to compile what it runs: much for
// a minute or two after its start, little later.
func (k *Kafka) CompilerCPU() (total time.Duration, err error) {
	tasks := filepath.Join("/proc", itoa(k.p.cmd.Process.Pid), "task")
	threads, err := os.ReadDir(tasks)
	for _, t := range threads {
		name, gone := os.ReadFile(filepath.Join(tasks, t.Name(), "comm")) //nolint:gosec // our own process
		if gone != nil || !strings.Contains(string(name), "CompilerThre") {
			continue
		}
		if cpu, gone := cpuIn(filepath.Join(tasks, t.Name(), "stat")); gone == nil {
			total += cpu
		}
	}
	return total, err
}

// CPU is the processor time that the server has taken.
func (r *Redis) CPU() (time.Duration, error) { return cpuOf(r.p.cmd.Process.Pid) }

// CPU is the processor time that the server and its processes have taken.
func (p *Postgres) CPU() (time.Duration, error) {
	total, err := cpuOf(p.p.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	pids, err := p.children()
	for _, pid := range pids {
		if cpu, gone := cpuOf(pid); gone == nil {
			total += cpu
		}
	}
	return total, err
}
