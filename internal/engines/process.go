package engines

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// startMax is how long an engine may take to answer.
const startMax = 2 * time.Minute

// Where engines are that need not be installed; deploy/engines/install says more.
const (
	atPostgres = "TALLYSTICK_ENGINES_POSTGRES"
	atRedis    = "TALLYSTICK_ENGINES_REDIS"
)

// process is a running engine.
type process struct {
	cmd  *exec.Cmd
	done chan struct{}
	log  string
}

// start starts a program that logs to a file. as, if set, is the user it runs as.
func start(log string, as *syscall.Credential, name string, args ...string) (*process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600) //nolint:gosec // a test's own folder
	if err != nil {
		return nil, err
	}
	defer out.Close()                  //nolint:errcheck // the child has its own
	cmd := exec.Command(name, args...) //nolint:gosec,noctx // ends by Stop, Kill, or with this process
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as, Setpgid: true}
	p := &process{cmd: cmd, done: make(chan struct{}), log: log}
	if err := StartChild(cmd, func(error) { close(p.done) }); err != nil {
		return nil, err
	}
	return p, nil
}

// StartChild starts a command that has process attributes as a child that does not outlive
// us, however we end, where the kernel sees to that. ended is told what Wait gives.
func StartChild(cmd *exec.Cmd, ended func(error)) error {
	dieWithUs(cmd.SysProcAttr)
	started := make(chan error, 1)
	go func() {
		// The signal comes when the *thread* dies that started the child: this one lives
		// as long as the child does.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}

// signal sends a signal, and waits for the end unless the process is to live on.
func (p *process) signal(s syscall.Signal, wait time.Duration) error {
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	if err != nil || wait == 0 {
		return err
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(wait):
		_ = p.cmd.Process.Kill()
		<-p.done
		return fmt.Errorf("%s did not end within %s", filepath.Base(p.cmd.Path), wait)
	}
}

// freeze is SIGSTOP, and waits until all threads stand still: the kernel stops each
// of them a moment after the signal, and one may answer meanwhile.
func (p *process) freeze() error {
	if err := p.signal(syscall.SIGSTOP, 0); err != nil {
		return err
	}
	return awaitStopped(p.cmd.Process.Pid)
}

// freezeLooks is how often a process is looked at, a millisecond apart, until it
// stands still.
const freezeLooks = 10_000

func awaitStopped(pid int) error {
	for range freezeLooks {
		moving, err := movingThreads(pid)
		if err != nil || moving == 0 {
			return err
		}
		<-time.After(time.Millisecond)
	}
	return fmt.Errorf("process %d does not stand still", pid)
}

func movingThreads(pid int) (n int, err error) {
	tasks, err := filepath.Glob("/proc/" + itoa(pid) + "/task/*/stat")
	if err != nil {
		return 0, err
	}
	for _, path := range tasks {
		f := statOf(path)
		if len(f) > 0 && !strings.Contains("TtZX", f[0]) { // stopped or, if nobody has reaped it yet, ended
			n++
		}
	}
	return n, nil
}

// ready waits until an address answers.
func (p *process) ready(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	var last error
	for {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return conn.Close()
		}
		last = err
		select {
		case <-p.done:
			return fmt.Errorf("%s ended: %s", filepath.Base(p.cmd.Path), tailOf(p.log))
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer: %w; %s", filepath.Base(p.cmd.Path), last, tailOf(p.log))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func tailOf(path string) string {
	b, err := os.ReadFile(path) //nolint:gosec // a test's own folder
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b[max(0, len(b)-2000):]))
}

// freePorts gives ports of loopback that were free a moment ago.
func freePorts(n int) ([]int, error) {
	ports := make([]int, n)
	for i := range ports {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() //nolint:errcheck // all at the end, so that they differ
		ports[i] = ln.Addr().(*net.TCPAddr).Port
	}
	return ports, nil
}

// install runs deploy/engines/install and gives its last line.
func install(ctx context.Context, what string) (string, error) {
	root, err := moduleRoot()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(root, "deploy", "engines", "install"), what) //nolint:gosec // our own script
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("deploy/engines/install %s: %w", what, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// moduleRoot is the folder of go.mod, above where a test runs.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("engines are started from within the project's folder")
		}
		dir = up
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
