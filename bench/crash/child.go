package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// life is one child process from start to end.
type life struct {
	cmd     *exec.Cmd
	started time.Time
	ended   chan struct{} // closed when it is reaped
}

// start runs `tallystick serve` on the folder; before is a command that runs it,
// in the child's own process.
func (r *rig) start(environ []string, before ...string) (*life, error) {
	args := append(before, r.exe, "serve", "--data", r.data)
	l := &life{cmd: exec.Command(args[0], args[1:]...), ended: make(chan struct{})} //nolint:gosec // our own build
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "TALLYSTICK_") {
			l.cmd.Env = append(l.cmd.Env, kv)
		}
	}
	l.cmd.Env = append(l.cmd.Env, environ...)
	l.cmd.Stderr = r.log
	l.started = time.Now()
	if err := l.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	go func() {
		defer close(l.ended)
		_ = l.cmd.Wait() // its state tells
	}()
	return l, nil
}

func (l *life) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// kill is SIGKILL, and waits until the process is gone. A second call does nothing.
func (l *life) kill() {
	if l.alive() {
		_ = l.cmd.Process.Kill()
		<-l.ended
	}
}

// killed reports whether SIGKILL ended it: where we did not send it, it was the
// child itself at its point.
func (l *life) killed() bool {
	if l.alive() {
		return false
	}
	s, ok := l.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && s.Signaled() && s.Signal() == syscall.SIGKILL
}

func (l *life) fate() string {
	if l.alive() {
		return "it runs"
	}
	return l.cmd.ProcessState.String()
}

// stopGracefully asks it to end, as an operator would.
func (l *life) stopGracefully(within time.Duration) error {
	if err := l.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-l.ended:
	case <-time.After(within):
		l.kill()
		return fmt.Errorf("asked to stop, it did not within %s", within)
	}
	if code := l.cmd.ProcessState.ExitCode(); code != 0 {
		return fmt.Errorf("asked to stop, it ended with %s", l.fate())
	}
	return nil
}

// awaitReady waits for the first healthy answer and gives how long it took; 0 if
// the child ended before.
func (l *life) awaitReady(ctx context.Context, r *rig) time.Duration {
	client := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for time.Since(l.started) < r.cfg.ReadyMax && ctx.Err() == nil {
		res, err := client.Get("http://" + r.listen + "/healthz") //nolint:noctx // has a time-out
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return time.Since(l.started)
			}
		}
		select {
		case <-l.ended:
			return 0
		case <-time.After(5 * time.Millisecond):
		}
	}
	return 0
}

// metrics reads all metrics whose name begins with prefix, by name and labels.
func (r *rig) metrics(prefix string) (map[string]float64, error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + r.operator + "/metrics") //nolint:noctx // has a time-out
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // read
	out := map[string]float64{}
	lines := bufio.NewScanner(res.Body)
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if !ok || !strings.HasPrefix(name, prefix) {
			continue
		}
		if out[name], err = strconv.ParseFloat(value, 64); err != nil {
			return nil, fmt.Errorf("metric %s: %w", name, err)
		}
	}
	return out, lines.Err()
}

// drain waits until every merchant was answered and nothing is under way: no open
// payment order, nothing unread, no payer and no callback to come. What is still
// open when DrainMax has passed is left to the comparison: it must have a next
// action then.
func (r *rig) drain(ctx context.Context, l *life, answered <-chan struct{}) error {
	limit := time.NewTimer(r.cfg.DrainMax)
	defer limit.Stop()
	select {
	case <-answered:
	case <-l.ended:
		return fmt.Errorf("the child ended while it drained: %s", l.fate())
	case <-limit.C:
		return fmt.Errorf("some merchants still had no answer after %s", r.cfg.DrainMax)
	}
	for quiet := 0; quiet < 4; { // the figures of open orders may be two seconds old
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-l.ended:
			return fmt.Errorf("the child ended while it drained: %s", l.fate())
		case <-limit.C:
			return nil
		case <-time.After(time.Second):
		}
		if r.quiet() {
			quiet++
		} else {
			quiet = 0
		}
	}
	return nil
}

func (r *rig) quiet() bool {
	for _, prefix := range []string{"tallystick_core_open_payments{", "tallystick_consumer_lag{"} {
		m, err := r.metrics(prefix)
		if err != nil || len(m) == 0 {
			return false
		}
		for _, v := range m {
			if v != 0 {
				return false
			}
		}
	}
	for _, psp := range r.psps {
		if _, more := psp.NextAt(); more {
			return false
		}
	}
	return true
}
