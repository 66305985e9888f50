package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
)

type groupsCmd struct {
	List groupsListCmd `cmd:"" help:"Show where each group is, who works on it, and how far behind it is."`
	Move groupsMoveCmd `cmd:"" help:"Move groups to another database, one after the other. Interrupted anywhere, the same command goes on."`
}

type groupsListCmd struct {
	Data string `help:"Data folder with the cluster's configuration." required:"" placeholder:"DIR" type:"path"`
	JSON bool   `help:"Print JSON." name:"json"`
}

// Run lists; exit code 1 when something could not be asked.
func (c *groupsListCmd) Run(ctx context.Context) error {
	d, err := app.Outside(c.Data, os.Environ(), os.Stderr)
	if err != nil {
		return err
	}
	list, err := app.ListGroups(ctx, d)
	if err != nil {
		return err
	}
	if c.JSON {
		if err := json.MarshalWrite(os.Stdout, list, jsontext.WithIndent("  ")); err != nil {
			return err
		}
		fmt.Println()
	} else if err := printGroups(os.Stdout, list); err != nil {
		return err
	}
	if len(list.Unreachable) > 0 {
		return errUnexplained
	}
	return nil
}

// printGroups prints a line for each area of each group.
func printGroups(out io.Writer, list *app.GroupList) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) } // Flush says what failed
	p("GROUP\tSLOTS\tAREA\tDATABASE\tSTATE\tHOLDER\tRENEWED\tEPOCH\tLAG\tROWS\tPARKED")
	for _, g := range list.Groups {
		for _, a := range g.Areas {
			holder, renewed, lag := "-", "-", "?"
			if a.Holder != "" {
				holder, renewed = a.Holder, a.Renewed().Round(10*time.Millisecond).String()
			}
			if a.Lag >= 0 {
				lag = fmt.Sprint(a.Lag)
			}
			databases := strings.Trim(fmt.Sprint(a.Databases), "[]")
			if databases == "" {
				databases = "-"
			}
			p("%d\t%d-%d\t%s\t%s\t%s\t%s\t%s\t%d\t%s\t%d\t%d", g.Group, g.FirstSlot, g.LastSlot, a.Area, databases, a.State, holder, renewed, a.Epoch, lag, a.Rows, a.Parked)
		}
	}
	for _, u := range list.Unreachable {
		p("database %d, %s: cannot be asked: %s", u.Database, u.Area, u.Reason)
	}
	return w.Flush()
}

type groupsMoveCmd struct {
	Groups   []int  `arg:"" help:"Groups to move."`
	To       int    `help:"Number of the database." required:"" placeholder:"NUMBER"`
	Data     string `help:"Data folder with the cluster's configuration." required:"" placeholder:"DIR" type:"path"`
	As       string `help:"User who may act as the owner of the schemas: who ran migrate. Without it, the one in the URLs. Its password is read from the environment variable PGPASSWORD, if it needs one." placeholder:"USER"`
	Unserved bool   `help:"Also to a database on which no process works yet."`
}

// Run moves, and says each step.
func (c *groupsMoveCmd) Run(ctx context.Context) error {
	d, err := app.Outside(c.Data, os.Environ(), os.Stderr)
	if err != nil {
		return err
	}
	o := app.MoveOptions{As: c.As, Password: os.Getenv("PGPASSWORD"), Unserved: c.Unserved, Did: func(s app.MoveStep) {
		rows := ""
		if s.Rows > 0 {
			rows = fmt.Sprintf(" (%d rows)", s.Rows)
		}
		fmt.Printf("group %d, %s: %s in database %d%s\n", s.Group, s.Area, s.Name, s.Database, rows)
	}}
	slices.Sort(c.Groups)
	for _, g := range slices.Compact(c.Groups) {
		moved, err := app.MoveGroup(ctx, d, g, c.To, o)
		switch {
		case err != nil && moved && !fault.Is(err, fault.Invalid):
			return errors.Join(err, fmt.Errorf("group %d has come half-way: run the command again", g))
		case err != nil:
			return err
		case moved:
			fmt.Printf("group %d is in database %d\n", g, c.To)
		default:
			fmt.Printf("group %d is in database %d already\n", g, c.To)
		}
	}
	return nil
}
