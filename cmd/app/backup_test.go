package app_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/load"
	"github.com/tallystick/tallystick/channels/sandbox/sim"
	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/prepay"
)

// Backups are made beside a process under load. Each is restored, finds every
// voucher that was promised before it began, and comes to an end in which every
// cent is explained: what was on its way is asked after at the PSP.
func TestABackupUnderLoadIsWhole(t *testing.T) {
	s := startSystem(t, sim.Faults{AutoPayShare: 1, LostReplyShare: .05, DuplicateCallbackShare: .1, EarlyCallbackShare: .1, LatencyBaseMillis: 3, LatencyTailMillis: 3, LatencyMaxMillis: 50})
	var mu sync.Mutex
	var promised []string
	stop := make(chan struct{})
	var clients sync.WaitGroup
	order := load.Orders(1)
	for c := range 4 {
		clients.Go(func() {
			for n := c; ; n += 4 {
				select {
				case <-stop:
					return
				default:
				}
				if a, status, _ := s.client.Pay(order(n)); status == 202 {
					mu.Lock()
					promised = append(promised, a.Voucher)
					mu.Unlock()
				} else {
					t.Errorf("pay beside a backup: %d", status)
				}
			}
		})
	}
	type made struct {
		dir    string
		before []string
	}
	var backups []made
	for i := range 3 {
		b := made{dir: filepath.Join(t.TempDir(), "copy")}
		for len(b.before) < 20*(i+1) { // each time there is more
			time.Sleep(time.Millisecond)
			mu.Lock()
			b.before = slices.Clone(promised)
			mu.Unlock()
		}
		if m, err := app.Backup(t.Context(), s.app.Dir, b.dir, i == 0); err != nil || len(m.Files) < 6 {
			t.Fatalf("backup: %+v %v", m, err)
		}
		backups = append(backups, b)
	}
	close(stop)
	clients.Wait()
	for i, b := range backups {
		dir := filepath.Join(t.TempDir(), "restored")
		if i > 0 {
			must(t, os.MkdirAll(dir, 0o700))
			must(t, os.CopyFS(filepath.Join(dir, app.SecretsDir), os.DirFS(filepath.Join(s.app.Dir, app.SecretsDir))))
			keys, err := filepath.Glob(filepath.Join(dir, app.SecretsDir, "*.key"))
			must(t, err)
			for _, k := range keys {
				must(t, os.Chmod(k, 0o600))
			}
		}
		_, err := app.Restore(t.Context(), b.dir, dir, nil)
		must(t, err)
		checkRestored(t, s, dir, b.before)
	}
}

// checkRestored serves a restored folder beside the process that it was copied
// from, with the same PSP, until nothing is on its way.
func checkRestored(t *testing.T, s *system, dir string, promised []string) {
	t.Helper()
	deps, err := app.Production(dir, []string{"TALLYSTICK_LISTEN=127.0.0.1:0", "TALLYSTICK_LISTEN_OPERATOR=127.0.0.1:0",
		"TALLYSTICK_PREPAY_BACKOFF_ASK_FIRST_MILLIS=20", "TALLYSTICK_PREPAY_BACKOFF_POLL_FIRST_MILLIS=20"}, io.Discard)
	must(t, err)
	snapshot := *s.app.Directory.Current() // its accounts are at the PSP of the test
	deps.Directory.Replace(&snapshot)
	r := &system{psp: s.psp, log: s.log}
	r.app, err = app.New(t.Context(), deps)
	must(t, err)
	must(t, r.app.Listen())
	stop := r.runApp(t)
	defer stop()
	calls, _, err := r.app.Prepay.List(t.Context(), prepay.Filter{}, 0, 1000)
	must(t, err)
	for _, c := range calls { // their polls are as far away as they were at the backup
		if err := r.app.Prepay.AskNow(t.Context(), c.OutTradeNo); err != nil && !fault.Is(err, fault.Conflict) {
			t.Error(err)
		}
	}
	r.drain(t)
	_, lost, err := r.app.Stores.CheckVouchers(t.Context(), promised)
	must(t, err)
	v, err := r.app.Stores.Verify(t.Context())
	must(t, err)
	if wrong := append(v.Violations, lost...); len(wrong) > 0 || v.Orders[0].InFlight != 0 {
		t.Errorf("violations %q, orders %+v", wrong, v.Orders)
	}
}

func TestBackupAndRestoreRefuse(t *testing.T) {
	dir, _ := initialised(t)
	to := filepath.Join(t.TempDir(), "copy")
	refused := func(what string, err error, kind fault.Kind, words string) {
		t.Helper()
		if !fault.Is(err, kind) || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", what, err)
		}
	}
	backup := func() error { _, err := app.Backup(t.Context(), dir, to, false); return err }
	refused("a folder that was never served", backup(), fault.Invalid, "no_stores")
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	must(t, a.Close())
	must(t, backup())
	refused("a copy that is there", backup(), fault.Conflict, "exists")

	restore := func(from, dir string, env ...string) error {
		_, err := app.Restore(t.Context(), from, dir, env)
		return err
	}
	fresh := func() string { return filepath.Join(t.TempDir(), "restored") }
	refused("a folder that is there", restore(to, dir), fault.Conflict, "exists")
	refused("no backup", restore(t.TempDir(), fresh()), fault.Invalid, "no_backup")
	refused("no secrets", restore(to, fresh()), fault.Invalid, "no_secrets")
	other := "TALLYSTICK_SECRET_CODE=" + strings.Repeat("ab", 32)
	rest := []string{other, "TALLYSTICK_SECRET_TOKEN_1=" + strings.Repeat("cd", 32), "TALLYSTICK_SECRET_PSP_SANDBOX_A=" + strings.Repeat("cd", 32),
		"TALLYSTICK_SECRET_PSP_SANDBOX_B=" + strings.Repeat("cd", 32)}
	gone := fresh()
	refused("another code secret", restore(to, gone, rest...), fault.Conflict, "code_secret")
	if left, _ := os.ReadDir(gone); len(left) > 0 {
		t.Errorf("a refused restore left %v", left)
	}
	for name, change := range map[string]func([]byte) []byte{
		"damaged":             func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
		"manifest_unreadable": nil, "format": nil, "incomplete": nil,
	} {
		bad := filepath.Join(t.TempDir(), "bad")
		must(t, os.CopyFS(bad, os.DirFS(to)))
		path, edit := filepath.Join(bad, app.StoresDir, "core.db"), change
		if change == nil {
			path = filepath.Join(bad, app.ManifestFile)
			edit = map[string]func([]byte) []byte{
				"manifest_unreadable": func(b []byte) []byte { return append(b, "surprise: 1\n"...) },
				"format":              func(b []byte) []byte { return bytes.Replace(b, []byte("format: 1"), []byte("format: 2"), 1) },
				"incomplete": func(b []byte) []byte {
					return bytes.ReplaceAll(b, []byte("stores/prepay.db"), []byte("stores/none.db"))
				},
			}[name]
		}
		b, err := os.ReadFile(path)
		must(t, err)
		must(t, os.WriteFile(path, edit(b), 0o600))
		refused(name, restore(bad, fresh()), fault.Invalid, name)
	}
}

// A backup with its secrets has all of them, passwords as well; so have the secrets that
// a folder has already, which take the place of a backup's.
func TestABackupHasAllSecrets(t *testing.T) {
	dir, _ := initialised(t)
	a, err := app.Open(t.Context(), dir, nil, io.Discard)
	must(t, err)
	must(t, a.Close())
	password := filepath.Join(app.SecretsDir, "redis.password")
	must(t, os.WriteFile(filepath.Join(dir, password), []byte("theirs\n"), 0o600))
	to := filepath.Join(t.TempDir(), "copy")
	_, err = app.Backup(t.Context(), dir, to, true)
	must(t, err)
	if have, want := names(t, filepath.Join(to, app.SecretsDir)), names(t, filepath.Join(dir, app.SecretsDir)); !slices.Equal(have, want) {
		t.Errorf("the backup has the secrets %v, the folder %v", have, want)
	}
	holds := func(dir, want string) {
		t.Helper()
		if text, err := os.ReadFile(filepath.Join(dir, password)); err != nil || string(text) != want {
			t.Errorf("it has the password %q: %v", text, err)
		}
	}
	// The folder is opened once with the secrets that it will have: one that is none is
	// found then.
	env := []string{"TALLYSTICK_COORDINATION=redis", "TALLYSTICK_REDIS_ADDRESSES=127.0.0.1:1", "TALLYSTICK_REDIS_USERNAME=pay"}
	fresh, own := filepath.Join(t.TempDir(), "restored"), filepath.Join(t.TempDir(), "own")
	_, err = app.Restore(t.Context(), to, fresh, env)
	must(t, err)
	holds(fresh, "theirs\n")
	must(t, os.MkdirAll(own, 0o700))
	must(t, os.CopyFS(filepath.Join(own, app.SecretsDir), os.DirFS(filepath.Join(to, app.SecretsDir))))
	for _, name := range names(t, filepath.Join(own, app.SecretsDir)) {
		must(t, os.Chmod(filepath.Join(own, app.SecretsDir, name), 0o600))
	}
	must(t, os.WriteFile(filepath.Join(own, password), []byte("two\nlines\n"), 0o600))
	if _, err := app.Restore(t.Context(), to, own, env); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "redis") {
		t.Errorf("restored with a password that is none: %v", err)
	}
	must(t, os.WriteFile(filepath.Join(own, password), []byte("ours\n"), 0o600))
	_, err = app.Restore(t.Context(), to, own, env)
	must(t, err)
	holds(own, "ours\n")
}
