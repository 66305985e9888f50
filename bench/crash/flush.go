package crash

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/tallystick/tallystick/bench/judge"
	"github.com/tallystick/tallystick/bench/rig"
)

// kill -9 shows nothing about the disk: what a process wrote survives it in the
// page cache. So the calls that bring it to the disk are counted, by the kernel's
// account, and compared with what was promised.

// flushedArea is the store whose every commit is a promise to a client.
const flushedArea = "intake"

// areas have a store each.
func areas() []string { return []string{"intake", "core", "prepay", "accounting"} }

// flushFor is how long payments are offered while flushes are counted.
const flushFor = 3 * time.Second

// countFlushes runs a child under strace and wants at least one flush of the
// intake's files for each batch that was acknowledged, and about as many of each
// other area's for its transactions.
func (e *embedded) countFlushes(ctx context.Context) error {
	strace, err := exec.LookPath("strace")
	if err == nil {
		// Present, and forbidden, is as good as absent.
		err = exec.CommandContext(ctx, strace, "-f", "-o", os.DevNull, "true").Run()
	}
	if err != nil {
		e.print("\n!!! FLUSHES ARE NOT COUNTED: strace does not run here (%v). Whether a commit reaches the disk was NOT checked. !!!\n", err)
		return nil
	}
	trace := filepath.Join(e.dir, "flushes.trace")
	// -D: the child is the process that we start, and strace its grandchild.
	err = e.start(nil, strace, "-D", "-f", "-y", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", trace)
	if err != nil {
		return err
	}
	defer e.p.Kill()
	if err := e.p.Ready(ctx, e.folder.Addr, e.cfg.ReadyMax); err != nil {
		return fmt.Errorf("under strace: %w", err)
	}
	load, stop := context.WithTimeout(ctx, flushFor)
	defer stop()
	select {
	case <-e.shop.open(load, e.cfg):
	case <-e.p.Done():
		return fmt.Errorf("under strace: %w", e.p.Ended())
	case <-time.After(flushFor + e.cfg.DrainMax):
		return fmt.Errorf("under strace some merchants had no answer within %s", e.cfg.DrainMax)
	}
	commits, err := rig.ReadFigures(ctx, e.folder.OperatorAddr)
	if err != nil {
		return err
	}
	if err := e.stop(); err != nil {
		return err
	}
	res := &e.res
	if res.Flushes, err = readFlushes(ctx, trace, e.p.Pid()); err != nil {
		return err
	}
	res.Commits = map[string]int64{}
	for _, area := range areas() {
		n := int64(commits[`tallystick_store_commits_total{area="`+area+`"}`])
		res.Commits[area] = n
		least := n
		if area != flushedArea {
			least = n - n/10 // a look that found nothing to do commits nothing, and need not flush
		}
		switch {
		case n == 0:
			return fmt.Errorf("%s committed nothing while flushes were counted: this shows nothing", area)
		case res.Flushes[area] < least:
			res.Add(judge.Other, "%s committed %d transactions with %d flushes: a commit that is not flushed is a promise on paper", area, n, res.Flushes[area])
		}
		e.print("flushes of %-10s %5d, commits %5d", area, res.Flushes[area], n)
	}
	return nil
}

// flushCall is a line such as `123 fdatasync(12</tmp/x/stores/core.db-wal>) = 0`,
// or its beginning, when another thread's line came in between.
var flushCall = regexp.MustCompile(`(?:fsync|fdatasync)\(\d+<[^>]*/stores/([a-z]+)\.db[^>]*>`)

// Ended reports whether a trace says that a process has ended. A short pid has spaces
// behind it.
func Ended(trace string, pid int) bool {
	return regexp.MustCompile(fmt.Sprintf(`(?m)^%d +\+\+\+ exited`, pid)).MatchString(trace)
}

// readFlushes counts calls by area, once strace has seen the process end.
func readFlushes(ctx context.Context, path string, pid int) (map[string]int64, error) {
	for limit := time.Now().Add(10 * time.Second); ; {
		text, err := os.ReadFile(path) //nolint:gosec // ours
		if err != nil {
			return nil, err
		}
		if Ended(string(text), pid) {
			return FlushesIn(string(text)), nil
		}
		if ctx.Err() != nil || time.Now().After(limit) {
			return nil, errors.New("strace did not see the process end")
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// FlushesIn counts the flushes in a trace of strace by area.
func FlushesIn(trace string) map[string]int64 {
	out := map[string]int64{}
	for lines := bufio.NewScanner(strings.NewReader(trace)); lines.Scan(); {
		if m := flushCall.FindStringSubmatch(lines.Text()); m != nil {
			out[m[1]]++
		}
	}
	return out
}
