// Package memory measures what an idle server holds in memory: the resident set
// of `tallystick serve` some time after its start on an empty folder. No PSP, no
// load, nothing tuned but the free addresses.
package memory

import (
	"context"
	"flag"
	"fmt"
	"io"
	"time"

	"github.com/tallystick/tallystick/bench/rig"
)

// bytesMax is what the server must stay within.
const bytesMax = 60 << 20

// Run is the bench.
func Run(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (map[string]any, error) {
	short := fs.Bool("short", false, "look after 5 s instead of 30")
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	after := 30 * time.Second
	if *short {
		after = 5 * time.Second
	}
	dir, remove, err := rig.TempDir("memory")
	if err != nil {
		return nil, err
	}
	defer remove()
	binary, err := rig.Build(ctx, dir)
	if err != nil {
		return nil, err
	}
	folder, err := rig.MakeFolder(dir + "/data")
	if err != nil {
		return nil, err
	}
	p, err := rig.Start(binary, folder.Env, dir+"/server.log", "serve", "--data", folder.Dir)
	if err != nil {
		return nil, err
	}
	defer p.Stop(10 * time.Second) //nolint:errcheck // told below, when it matters
	if err := p.Ready(ctx, folder.Addr, 30*time.Second); err != nil {
		return nil, err
	}
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(after):
	}
	rss, err := p.RSS()
	if err != nil {
		return nil, err
	}
	if err := p.Stop(30 * time.Second); err != nil {
		return nil, err
	}
	mib := float64(rss) / (1 << 20)
	_, _ = fmt.Fprintf(out, "VmRSS of serve %s after its start on an empty folder: %.1f MiB (at most %d)\n", after, mib, bytesMax>>20)
	figures := map[string]any{"rss_mib": mib, "rss_mib_max": bytesMax >> 20, "after_seconds": after.Seconds()}
	if rss > bytesMax {
		return figures, fmt.Errorf("%.1f MiB are over %d", mib, bytesMax>>20)
	}
	return figures, nil
}
