package main

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/tallystick/tallystick/cmd/app"
)

type migrateCmd struct {
	Data string `help:"Data folder with the configuration and secrets of the installation." required:"" placeholder:"DIR" type:"path"`
	As   string `help:"User that may create schemas and roles; without it the one in the URLs. Its password is read from the environment variable PGPASSWORD, if it needs one." placeholder:"USER"`
}

// Run migrates, and says who may use what.
func (c *migrateCmd) Run(ctx context.Context) error {
	d, err := app.Outside(c.Data, os.Environ(), io.Discard)
	if err != nil {
		return err
	}
	done, err := app.Migrate(ctx, d, c.As, os.Getenv("PGPASSWORD"))
	for _, m := range done {
		user := "the user of its URL"
		if m.User != "" {
			user = m.User
		}
		fmt.Printf("database %d: schema %s is up to date, for %s; it owns %d groups, %d of them new\n", m.Database, m.Area, user, m.Owns, m.Given)
	}
	return err
}
