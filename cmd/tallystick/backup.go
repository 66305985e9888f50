package main

import (
	"context"
	"fmt"
	"os"

	"github.com/tallystick/tallystick/cmd/app"
)

type backupCmd struct {
	Data    string `help:"Data folder; it may be served meanwhile." required:"" placeholder:"DIR" type:"path"`
	To      string `help:"Folder to make." required:"" placeholder:"COPY" type:"path"`
	Secrets bool   `help:"Copy secrets/ as well. Without the code secret the stores cannot be opened: keep it somewhere."`
}

// Run copies, and says what is left to do.
func (c *backupCmd) Run(ctx context.Context) error {
	m, err := app.Backup(ctx, c.Data, c.To, c.Secrets)
	if err != nil {
		return err
	}
	fmt.Printf("%s is %s as it was at %s: %d files, %.1f MiB\n", c.To, c.Data, m.MadeAt.Format("2006-01-02 15:04:05 MST"), len(m.Files), float64(m.Bytes())/(1<<20))
	if !c.Secrets {
		fmt.Println("Secrets are not in it (--secrets): back them up once, and apart.")
	}
	return nil
}

type restoreCmd struct {
	From string `help:"Folder that backup made." required:"" placeholder:"COPY" type:"path"`
	Data string `help:"Data folder to make: one that is not there, or has nothing but secrets/." required:"" placeholder:"DIR" type:"path"`
}

// Run restores, and says what to do next.
func (c *restoreCmd) Run(ctx context.Context) error {
	m, err := app.Restore(ctx, c.From, c.Data, os.Environ())
	if err != nil {
		return err
	}
	fmt.Printf(`%[1]s is as it was at %[2]s. What was accepted later is gone from here, but not from the PSPs: their callbacks
for it are parked.

Next:
  tallystick verify --data %[1]s    # core may be ahead of the ledger: what was on its way then
  tallystick serve --data %[1]s
`, c.Data, m.MadeAt.Format("2006-01-02 15:04:05 MST"))
	return nil
}
