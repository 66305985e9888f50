// Command bench measures and proves: `go run ./bench NAME [flags]`. Each bench
// prints what it does and, as its last line, one JSON object with every figure
// and ratio that it measured. bench/README.md explains them and keeps the table.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"github.com/go-json-experiment/json"
)

// bench is one of them. run declares its own flags on fs, parses args, and gives
// the figures of the last line. It fails when what it is to show does not hold.
// One without help is a part of another, started by it as a process.
type bench struct {
	name, help string
	run        func(ctx context.Context, fs *flag.FlagSet, args []string, out io.Writer) (figures map[string]any, err error)
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:])
	stop()
	os.Exit(code)
}

func run(ctx context.Context, args []string) int {
	all := benches()
	i := -1
	if len(args) > 0 {
		i = slices.IndexFunc(all, func(b bench) bool { return b.name == args[0] })
	}
	if i < 0 {
		fmt.Fprintln(os.Stderr, "usage: go run ./bench NAME [-short] [-json] [flags]; `NAME -h` lists the flags of one")
		for _, b := range all {
			if b.help == "" {
				continue
			}
			fmt.Fprintf(os.Stderr, "  %-8s %s\n", b.name, b.help)
		}
		return 2
	}
	b := all[i]
	fs := flag.NewFlagSet(b.name, flag.ContinueOnError)
	onlyJSON := fs.Bool("json", false, "print nothing but the last line")
	start := time.Now()
	out := &maybe{only: onlyJSON}
	figures, err := b.run(ctx, fs, args[1:], out)
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench %s: %v\n", b.name, err)
	}
	if figures == nil {
		figures = map[string]any{}
	}
	figures["bench"], figures["ok"], figures["seconds"] = b.name, err == nil, time.Since(start).Seconds()
	line, jsonErr := json.Marshal(figures, json.Deterministic(true))
	if jsonErr != nil {
		fmt.Fprintln(os.Stderr, jsonErr)
		return 1
	}
	fmt.Println(string(line))
	if err != nil {
		return 1
	}
	return 0
}

// maybe prints unless -json was given.
type maybe struct{ only *bool }

func (m *maybe) Write(p []byte) (int, error) {
	if *m.only {
		return len(p), nil
	}
	return os.Stdout.Write(p)
}
