package main

import (
	"context"
	"fmt"
	"os"

	"github.com/tallystick/tallystick/cmd/app"
)

type rewindCmd struct {
	Data string `help:"Data folder of a process that was stopped, with its stores restored." required:"" placeholder:"DIR" type:"path"`
}

// Run publishes anew what was published of a past that is no more.
func (c *rewindCmd) Run(ctx context.Context) error {
	deps, err := app.Outside(c.Data, os.Environ(), os.Stderr)
	if err != nil {
		return err
	}
	if err := app.Rewind(ctx, deps); err != nil {
		return err
	}
	fmt.Println("The topics say what the restored logs say. Serve when this was done for every folder.")
	return nil
}
