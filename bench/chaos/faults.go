package chaos

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/cmd/app"
)

// trouble is one thing that goes wrong, for a while.
type trouble struct {
	name string
	// begin makes it go wrong, end puts it right.
	begin, end func(ctx context.Context) error
	// over: it is when it has begun, and does not last.
	over    bool
	promise promise
	// after, if set, looks for what must have happened.
	after func(ctx context.Context) error
}

// troubles are all of them, in the order of their coming.
func (b *bench) troubles() []trouble {
	c := b.cluster
	list := []trouble{
		{name: "PostgreSQL killed", promise: goesOn(),
			begin: func(context.Context) error { return c.Postgres[0].Kill() }, end: func(ctx context.Context) error { return c.Postgres[0].Start(ctx) }},
		{name: "PostgreSQL stands still", promise: goesOn(),
			begin: func(context.Context) error { return c.Postgres[0].Freeze() }, end: func(context.Context) error { return c.Postgres[0].Thaw() }},
		{name: "Redis killed", promise: unseen(),
			begin: func(context.Context) error { return c.Redis.Kill() }, end: func(ctx context.Context) error { return c.Redis.Start(ctx) }},
		{name: "Redis stands still", promise: unseen(),
			begin: func(context.Context) error { return c.Redis.Freeze() }, end: func(context.Context) error { return c.Redis.Thaw() }},
		{name: "Kafka killed", promise: saysNo(),
			begin: func(context.Context) error { return c.Kafka.Kill() }, end: func(ctx context.Context) error { return c.Kafka.Start(ctx) }},
	}
	list = append(list, b.standstill(c.Members(app.RoleCore)[0], "consumer"), b.lateCalls(c.Members(app.RolePrepay)[0]), b.standstill(c.Members(app.RoleAccounting)[0], "consumer"),
		trouble{name: "link to PostgreSQL cut", promise: goesOn(),
			begin: func(context.Context) error { c.Links[0].Cut(); return nil }, end: func(context.Context) error { c.Links[0].Mend(); return nil }},
		trouble{name: "link to PostgreSQL slow", promise: goesOn(),
			begin: func(context.Context) error { c.Links[0].Slow(50 * time.Millisecond); return nil },
			end:   func(context.Context) error { c.Links[0].Mend(); return nil }})
	if b.disk != "" {
		list = append(list, b.fullDisk())
	}
	return append(list, b.rollingRestart())
}

// diskFull is for machines alone where a file system can be mounted.
const diskFull = "disk of PostgreSQL full"

// fullDisk fills the disk of the database server, to the last byte.
func (b *bench) fullDisk() trouble {
	filler := filepath.Join(b.disk, "filler")
	return trouble{name: diskFull, promise: goesOn(),
		begin: func(context.Context) error {
			f, err := os.Create(filler) //nolint:gosec // a temporary folder
			if err != nil {
				return err
			}
			defer f.Close()                                            //nolint:errcheck // it is full, as it should be
			for size := int64(1 << 28); size >= 1<<12 && err == nil; { // in ever smaller pieces
				at, e := f.Seek(0, io.SeekEnd)
				if err = e; err != nil {
					return err
				}
				switch err = syscall.Fallocate(int(f.Fd()), 0, at, size); { //nolint:gosec // a descriptor fits
				case errors.Is(err, syscall.ENOSPC):
					size, err = size/2, nil
				}
			}
			return err
		},
		end: func(ctx context.Context) error {
			if err := os.Remove(filler); err != nil {
				return err
			}
			if b.cluster.Postgres[0].Alive() {
				return nil
			}
			return b.cluster.Postgres[0].Start(ctx) // it ends by itself when its log cannot be written
		}}
}

// rollingRestart stops and starts every process, one after the other. No request may
// fail: a client goes to the other gateway when a connection is refused.
func (b *bench) rollingRestart() trouble {
	restart := func(ctx context.Context) error {
		for _, m := range b.cluster.Members() {
			if err := m.Stop(); err != nil {
				return err
			}
			if err := m.Start(); err != nil {
				return err
			}
			if err := m.Ready(ctx); err != nil {
				return err
			}
		}
		return nil
	}
	return trouble{name: "rolling restart", over: true, promise: unseen(), begin: restart, end: func(context.Context) error { return nil }}
}
