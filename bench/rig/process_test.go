package rig_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
)

// parentEnv makes this test the parent that is killed, with a folder for its log.
const parentEnv = "RIG_TEST_PARENT"

// alive reports whether a process or thread is there, and not only unreaped.
func alive(path string) bool {
	text, err := os.ReadFile(path + "/stat") //nolint:gosec // the kernel's own
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// awaitEnd waits until a process or thread is gone.
func awaitEnd(t *testing.T, path string) {
	t.Helper()
	for begun := time.Now(); alive(path); time.Sleep(5 * time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatalf("%s is still there", path)
		}
	}
}

func sleeper(t *testing.T, dir string) *rig.Process {
	t.Helper()
	p, err := rig.Start("sleep", nil, filepath.Join(dir, "log"), "600")
	if err != nil {
		t.Error(err)
	}
	return p
}

// What we started ends with us, also when nobody could stop it any more.
func TestAProcessEndsWithItsParent(t *testing.T) {
	if dir := os.Getenv(parentEnv); dir != "" {
		fmt.Println("child", sleeper(t, dir).Pid())
		select {}
	}
	parent := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$")
	parent.Env = append(os.Environ(), parentEnv+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	child := 0
	for lines := bufio.NewScanner(out); child == 0 && lines.Scan(); {
		_, _ = fmt.Sscanf(lines.Text(), "child %d", &child)
	}
	_ = parent.Process.Kill()
	_ = parent.Wait()
	if child == 0 {
		t.Fatal("the parent started no child")
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	awaitEnd(t, fmt.Sprintf("/proc/%d", child))
}

// The kernel takes the thread for the parent: one that ends must take nothing with it.
func TestAProcessOutlivesTheThreadThatAskedForIt(t *testing.T) {
	type asked struct {
		p   *rig.Process
		tid int
	}
	for {
		started := make(chan asked)
		go func() {
			runtime.LockOSThread() // for good: the thread ends with this function
			started <- asked{sleeper(t, t.TempDir()), syscall.Gettid()}
		}()
		a := <-started
		if a.p == nil {
			return
		}
		if a.tid != os.Getpid() { // the first thread never ends
			awaitEnd(t, fmt.Sprintf("/proc/self/task/%d", a.tid))
		}
		_ = a.p.Stop(30 * time.Second)
		if a.p.Killed() {
			t.Error("the child was killed when the thread ended")
		}
		if a.tid != os.Getpid() {
			return
		}
	}
}
