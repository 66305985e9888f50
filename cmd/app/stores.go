package app

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	accountingstore "github.com/tallystick/tallystick/accounting/sqlstore"
	corestore "github.com/tallystick/tallystick/core/sqlstore"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/embedded"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
	prepaystore "github.com/tallystick/tallystick/prepay/sqlstore"
)

// Stores are the databases of the embedded profile: one SQLite file per area and
// one for the intake, in one folder that belongs to one process.
type Stores struct {
	Intake     *sqldb.DB
	Core       *corestore.Store
	Prepay     *prepaystore.Store
	Accounting *accountingstore.Store

	lock *os.File
}

// busStamp is the installation constant that says where the places of the stores
// are: a folder goes to one bus for good.
const busStamp = "bus"

// intakePageBytes is the page size of the intake, whose rows are whole batches.
const intakePageBytes = 16 << 10

// OpenStores opens or makes the stores of a data folder. Another process that has
// them open, another code secret or another number of groups is refused with
// fault.Conflict.
func OpenStores(ctx context.Context, d Deps) (s *Stores, err error) {
	dir := filepath.Join(d.Dir, StoresDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.Wrap("stores", err)
	}
	s = &Stores{}
	opened, done := s, false // a return sets s
	defer func() {
		if !done { // also when a crash point panics
			err = errors.Join(err, opened.Close())
		}
	}()
	if s.lock, err = lockFolder(dir); err != nil {
		return nil, err
	}
	options := func(file string) sqldb.Options {
		stamp := map[string]string{"code_secret": d.Secret.Fingerprint(), "groups": strconv.Itoa(d.Config.Groups)}
		if d.Config.Bus == BusEmbedded {
			stamp[busStamp] = BusEmbedded
		}
		return sqldb.Options{Path: filepath.Join(dir, file), NoSync: d.NoSync, Points: d.Points, CommitFault: d.CommitFault, CacheKiBMax: d.Config.StoreCacheKiBMax, Stamp: stamp}
	}
	for _, area := range []struct {
		here bool
		open func() error
	}{
		{d.Config.Bus == BusEmbedded, func() (err error) {
			o := options("intake.db")
			o.PageBytes, o.Area, o.Migrations = intakePageBytes, "intake", []string{embedded.IntakeSchema(bus.Intents, bus.Callbacks)}
			s.Intake, err = sqldb.Open(ctx, o)
			return err
		}},
		{d.Config.has(RoleCore), func() (err error) {
			s.Core, err = corestore.Open(ctx, options("core.db"), d.Config.Groups, d.Now)
			return err
		}},
		{d.Config.has(RolePrepay), func() (err error) {
			s.Prepay, err = prepaystore.Open(ctx, prepaystore.Config{Options: options("prepay.db"), Groups: d.Config.Groups,
				NowMillis: func() int64 { return d.Now().UnixMilli() }})
			return err
		}},
		{d.Config.has(RoleAccounting), func() (err error) {
			o := options("accounting.db")
			s.Accounting, err = accountingstore.Open(ctx, accountingstore.Options{Path: o.Path, Groups: d.Config.Groups, Stamp: o.Stamp, NoSync: o.NoSync,
				Points: o.Points, CommitFault: o.CommitFault, CacheKiBMax: o.CacheKiBMax})
			return err
		}},
	} {
		if !area.here {
			continue
		}
		if err = area.open(); err != nil {
			return nil, err
		}
	}
	done = true
	return s, nil
}

// lockFolder makes sure that one process has the stores: SQLite would let two in,
// but each believes to know all heads.
func lockFolder(dir string) (*os.File, error) {
	path := filepath.Join(dir, "lock")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600) //nolint:gosec // the operator's own folder
	if err != nil {
		return nil, fault.Wrap("stores: lock", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil { //nolint:gosec // a file descriptor fits
		_ = f.Close()
		return nil, &fault.Error{Kind: fault.Conflict, Op: "stores", Code: "folder_in_use", Fix: "stop the other process, or use another --data",
			Err: fmt.Errorf("%s is locked: %w", path, err)}
	}
	return f, nil
}

// Close closes what is open, and gives the folder free.
func (s *Stores) Close() error {
	var errs []error
	if s.Accounting != nil {
		errs = append(errs, s.Accounting.Close())
	}
	if s.Prepay != nil {
		errs = append(errs, s.Prepay.Close())
	}
	if s.Core != nil {
		errs = append(errs, s.Core.Close())
	}
	if s.Intake != nil {
		errs = append(errs, s.Intake.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Sources are the topics that the areas of this folder write.
func (s *Stores) Sources() (out []bus.Source) {
	if s.Core != nil {
		out = append(out, s.Core.Log().Source(bus.Dispatch), s.Core.Log().Source(bus.Payments))
	}
	if s.Prepay != nil {
		out = append(out, s.Prepay.Outcomes())
	}
	if s.Accounting != nil {
		out = append(out, s.Accounting.Source())
	}
	return out
}

// Parked are the messages that each area put aside, by area.
func (s *Stores) Parked() map[string]embedded.Places {
	out := map[string]embedded.Places{}
	if s.Core != nil {
		out["core"] = s.Core.Parked()
	}
	if s.Prepay != nil {
		out["prepay"] = s.Prepay.Places()
	}
	if s.Accounting != nil {
		out["accounting"] = s.Accounting.Places()
	}
	return out
}

// OpenParked opens only what the areas of a data folder put aside, beside the
// process that serves it: to list it, and to ask that process for a replay.
func OpenParked(ctx context.Context, dir string) (areas map[string]embedded.Places, closeAll func(), err error) {
	areas = map[string]embedded.Places{}
	closeAll = func() {
		for _, p := range areas {
			_ = p.DB.Close()
		}
	}
	for _, area := range []string{"core", "prepay", "accounting"} {
		path := filepath.Join(dir, StoresDir, area+".db")
		if _, err := os.Stat(path); err != nil {
			closeAll()
			return nil, nil, &fault.Error{Kind: fault.Invalid, Op: "parked", Field: "--data", Code: "no_stores", Fix: "give a folder that was served", Err: err}
		}
		db, err := sqldb.Open(ctx, sqldb.Options{Area: area, Path: path})
		if err != nil {
			closeAll()
			return nil, nil, err
		}
		areas[area] = embedded.Places{DB: db}
	}
	return areas, closeAll, nil
}
