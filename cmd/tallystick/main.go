// Command tallystick is the payment gateway and core: `tallystick --help` lists
// what it can do, and `tallystick demo` shows it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/tallystick/tallystick/internal/fault"
)

// commands are the subcommands; each is a struct with its flags and a Run.
type commands struct {
	Init    initCmd    `cmd:"" help:"Make a data folder: secrets, a commented configuration and a directory with one merchant."`
	Serve   serveCmd   `cmd:"" help:"Run all roles in one process on a data folder."`
	Demo    demoCmd    `cmd:"" help:"Run everything in one process, with a PSP simulator and its faults, under load; then check every voucher and every cent."`
	Migrate migrateCmd `cmd:"" help:"Make the schemas of the cluster's PostgreSQL databases, or bring them up to date."`
	Verify  verifyCmd  `cmd:"" help:"Fold the logs of a data folder, compare them with its tables, and the areas with each other."`
	Backup  backupCmd  `cmd:"" help:"Copy a data folder, served or not, as it is at one moment."`
	Restore restoreCmd `cmd:"" help:"Make a data folder of a backup."`
	Rewind  rewindCmd  `cmd:"" help:"On Kafka, after stores were restored from an older copy: make the topics say again what the areas' logs say."`
	Parked  parkedCmd  `cmd:"" help:"List messages that were put aside because they could not be applied, and ask for their replay."`
	Groups  groupsCmd  `cmd:"" help:"List the groups of a cluster, or move them between its databases."`
	Version versionCmd `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

// errUnexplained ends a command with exit code 1 and no further message: what is
// wrong was printed.
var errUnexplained = errors.New("unexplained")

func run(ctx context.Context, args []string) int {
	var c commands
	code, left := 0, false
	k, err := kong.New(&c, kong.Name("tallystick"), kong.UsageOnError(), kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Description("A payment front gateway and core: a durable voucher at once, the PSP afterwards, every half matched in the end."),
		kong.Exit(func(n int) { code, left = n, true }))
	if err != nil {
		fmt.Fprintln(os.Stderr, err) // a bug in the declarations above
		return 2
	}
	parsed, err := k.Parse(args)
	switch {
	case left: // --help
		return code
	case err != nil:
		fmt.Fprintf(os.Stderr, "tallystick: %v\nRun `tallystick --help`, or `tallystick <command> --help`.\n", err)
		return 2
	}
	switch err := parsed.Run(ctx); {
	case errors.Is(err, errUnexplained):
		return 1
	case err != nil:
		fmt.Fprintf(os.Stderr, "tallystick: %v\n", err)
		if fault.Is(err, fault.Invalid) || fault.Is(err, fault.Conflict) {
			return 2
		}
		return 1
	}
	return 0
}

type versionCmd struct{}

// Run prints the version that the build was made from.
func (versionCmd) Run() error {
	version := "(unknown)"
	if info, ok := debug.ReadBuildInfo(); ok {
		version = info.Main.Version
	}
	fmt.Println("tallystick", version)
	return nil
}
