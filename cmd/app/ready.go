package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// probes are what /readyz asks for, on either port. Each is a look at a figure that is at hand:
// the path is public, and must not become a way to keep the stores busy.
func (a *App) probes() []api.Probe {
	var out []api.Probe
	for _, t := range entering() {
		if !a.Config.has(RoleGateway) {
			break
		}
		out = append(out, api.Probe{Name: string(t) + "_backlog", Check: func() error { return a.bus.full(t) }})
	}
	if a.Config.Bus == BusKafka {
		out = append(out, api.Probe{Name: "kafka", Check: a.bus.reachable}, api.Probe{Name: "directory", Check: a.directory.Missing})
	}
	for _, area := range slices.Sorted(maps.Keys(a.Stores.databases())) {
		out = append(out, api.Probe{Name: area + "_store", Check: func() error { return a.gauges.store(area) }})
	}
	if len(a.Stores.databases()) > 0 {
		out = append(out, api.Probe{Name: "disk", Check: func() error { return a.gauges.store("disk") }})
	}
	for _, c := range a.cells {
		out = append(out, api.Probe{Name: c.name(), Check: c.ready})
	}
	return append(append(out, a.stalled()...), api.Probe{Name: "stopped_groups", Check: func() error {
		for _, c := range a.cells {
			if refused := c.refusedGroups(); len(refused) > 0 {
				return fault.New(fault.Unavailable, "cell", "%s refuses groups %v: the log says why", c.name(), refused)
			}
		}
		for _, c := range a.consumers() {
			if stopped := c.Stopped(); len(stopped) > 0 {
				return fault.New(fault.Unavailable, "consumer", "%s has stopped in groups %v of %s: the log says why", c.Area, stopped, c.Source.Topic())
			}
		}
		return nil
	}})
}

// databases are the stores of this process, by area.
func (s *Stores) databases() map[string]*sqldb.DB {
	out := map[string]*sqldb.DB{}
	if s.Intake != nil {
		out["intake"] = s.Intake
	}
	if s.Core != nil {
		out["core"] = s.Core.DB()
	}
	if s.Prepay != nil {
		out["prepay"] = s.Prepay.DB()
	}
	if s.Accounting != nil {
		out["accounting"] = s.Accounting.DB()
	}
	return out
}

// storePatience is how long a store may keep a writer waiting before it counts as
// one that cannot write.
const storePatience = 2 * time.Second

// errLooked takes back the transaction of a look.
var errLooked = errors.New("only looked")

// checkStores begins a writing transaction on each store and takes it back, and
// looks for the space that the next ones need. A store that has stopped after a
// failed commit, is closed, or keeps writers waiting shows here, without a flush.
func (a *App) checkStores(ctx context.Context) map[string]error {
	out := map[string]error{}
	for area, db := range a.Stores.databases() {
		patient, cancel := context.WithTimeout(ctx, storePatience)
		if err := db.Write(patient, func(*sqldb.Tx) error { return errLooked }); !errors.Is(err, errLooked) {
			out[area] = err
		}
		cancel()
	}
	if free, err := freeBytes(filepath.Join(a.Dir, StoresDir)); err == nil && free < a.Config.DiskFreeBytesMin {
		out["disk"] = fmt.Errorf("%d bytes are free, disk_free_bytes_min is %d", free, a.Config.DiskFreeBytesMin)
	}
	return out
}

// freeBytes is what this user may still write where the folder is.
func freeBytes(dir string) (int64, error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil //nolint:gosec,unconvert // their types differ between systems
}
