package crash

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
)

// A member that cannot be started, or is lost for good, is told of at once: not when all
// others have waited for it in vain.
func TestAMemberThatIsLostIsSeen(t *testing.T) {
	healthy := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	defer healthy.Close()
	const long = time.Minute
	for name, tc := range map[string]struct {
		script string
		ready  time.Duration // that it has to become ready; it does if that is long
		dies   bool          // it is to die at a point
		leave  bool          // it is watched no more when it is killed
		want   string        // empty: all is well
	}{
		"cannot start":           {"exit 3", 10 * long, false, false, "exit status 3"},
		"cannot start to die":    {"exit 3", 10 * long, true, false, "exit status 3"},
		"ends":                   {"sleep 0.3; exit 3", long, false, false, "exit status 3"},
		"ends well":              {"sleep 0.3", long, false, false, "ended by itself"},
		"ends before its point":  {"sleep 0.3; exit 3", long, true, false, "exit status 3"},
		"killed by a stranger":   {"sleep 0.3; kill -9 $$", long, false, false, "signal: killed"},
		"dies at its point":      {"sleep 0.3; kill -9 $$", long, true, false, ""},
		"dies while it starts":   {"kill -9 $$", 10 * long, true, false, ""},
		"does not become ready":  {"exec sleep 600", 50 * time.Millisecond, false, false, "is not ready"},
		"nor where it is to die": {"exec sleep 600", 50 * time.Millisecond, true, false, "is not ready"},
		"killed by us":           {"exec sleep 600", long, false, true, ""},
		"killed while it starts": {"exec sleep 600", 10 * long, false, true, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sh, err := exec.LookPath("sh")
			if err != nil {
				t.Fatal(err)
			}
			p, err := rig.Start(sh, nil, filepath.Join(t.TempDir(), "log"), "-c", tc.script)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Kill()
			addr := "127.0.0.1:1"
			if tc.ready == long {
				addr = strings.TrimPrefix(healthy.URL, "http://")
			}
			b := &bench{cfg: Config{ReadyMax: tc.ready}}
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			seen := make(chan error, 1)
			go func() { seen <- b.watch(ctx, p, addr, time.Now(), tc.dies) }()
			if tc.leave {
				leave()
				p.Kill()
			}
			select {
			case err = <-seen:
			case <-time.After(20 * time.Second):
				t.Fatal("nobody was told")
			}
			if (err != nil) != (tc.want != "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want %s", err, tc.want)
			}
		})
	}
}
