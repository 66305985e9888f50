package app

import (
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Where areas keep their rows.
const (
	StoresSQLite   = "sqlite"   // a file per area, in the data folder of one process
	StoresPostgres = "postgres" // a schema per area in each database
)

// PostgresConfig is for stores: postgres.
type PostgresConfig struct {
	// Databases are NUMBER=URL, with spaces between them. A number is its database's
	// for ever: the keys of its rows begin with it.
	Databases string `yaml:"databases"`
	// UserPrefix and the area are the user that an area logs in as; empty: that of
	// the URL.
	UserPrefix       string        `yaml:"user_prefix"`
	ConnectTimeout   time.Duration `yaml:"connect_timeout"`
	StatementTimeout time.Duration `yaml:"statement_timeout"`
	IdleTimeout      time.Duration `yaml:"idle_timeout"`
}

// LeaseConfig is how the groups of a database are divided among processes.
type LeaseConfig struct {
	TTL        time.Duration `yaml:"ttl"`         // not renewed for so long, a process counts as dead
	RenewEvery time.Duration `yaml:"renew_every"` // and looks whether the groups are divided fairly
	Patience   time.Duration `yaml:"patience"`    // how long what is under way may take before groups are given up
	// RefusedEvery is how long a group that was refused stands still before it is looked
	// at again.
	RefusedEvery time.Duration `yaml:"refused_every"`
}

// MoveConfig bounds `tallystick groups move`.
type MoveConfig struct {
	WaitMax     time.Duration `yaml:"wait_max"`     // for the holder of a group to give it up
	LookEvery   time.Duration `yaml:"look_every"`   // while it waits
	CopyTimeout time.Duration `yaml:"copy_timeout"` // of one statement over all rows of a group
}

func defaultMove() MoveConfig {
	return MoveConfig{WaitMax: time.Minute, LookEvery: 100 * time.Millisecond, CopyTimeout: time.Hour}
}

func defaultPostgres() PostgresConfig {
	return PostgresConfig{UserPrefix: "tallystick_", ConnectTimeout: 5 * time.Second, StatementTimeout: 10 * time.Second, IdleTimeout: 5 * time.Second}
}

func defaultLease() LeaseConfig {
	return LeaseConfig{TTL: 5 * time.Second, RenewEvery: 500 * time.Millisecond, Patience: 5 * time.Second, RefusedEvery: 15 * time.Second}
}

// database is one of PostgresConfig.Databases.
type database struct {
	number int
	url    string
}

func (p PostgresConfig) list() (out []database, err error) {
	bad := func(fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: "postgres.databases", Code: "config_invalid", Fix: fix}
	}
	seen := map[int]bool{}
	for _, text := range strings.Fields(p.Databases) {
		number, at, _ := strings.Cut(text, "=")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > sqldb.NumberMax || seen[n] {
			return nil, bad(fmt.Sprintf("write 1=postgres://host:5432/tallystick, with numbers of 1 to %d, each once, and spaces between databases", sqldb.NumberMax))
		}
		u, err := url.Parse(at)
		if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" || u.Host == "" {
			return nil, bad(fmt.Sprintf("give database %d a URL such as postgres://host:5432/tallystick?sslmode=verify-full", n))
		}
		if _, has := u.User.Password(); has {
			return nil, bad(fmt.Sprintf("leave the password of database %d out: it is a secret of its own (secrets/postgres-AREA.password)", n))
		}
		seen[n] = true
		out = append(out, database{number: n, url: at})
	}
	if len(out) == 0 {
		return nil, bad("give at least one, such as 1=postgres://host:5432/tallystick")
	}
	return out, nil
}

func (c Config) validatePostgres() error {
	bad := func(field, fix string) error {
		return &fault.Error{Kind: fault.Invalid, Op: "configuration", Field: field, Code: "config_invalid", Fix: fix}
	}
	if c.Stores != StoresSQLite && c.Stores != StoresPostgres {
		return bad("stores", "use sqlite or postgres")
	}
	if c.Stores == StoresSQLite {
		return nil
	}
	if _, err := c.Postgres.list(); err != nil {
		return err
	}
	p, l := c.Postgres, c.Lease
	switch {
	case c.Bus != BusKafka:
		return bad("stores", "use sqlite, or set bus: kafka: processes that share databases hear of each other there")
	case p.ConnectTimeout <= 0 || p.StatementTimeout <= 0 || p.IdleTimeout <= 0:
		return bad("postgres.statement_timeout", "give durations above 0 for connect_timeout, statement_timeout and idle_timeout")
	case l.TTL < time.Second || l.TTL > time.Minute:
		return bad("lease.ttl", "use 1s to 1m: it is how long a dead process's groups stand still")
	case p.IdleTimeout > 2*l.TTL:
		return bad("postgres.idle_timeout", "use at most twice lease.ttl: a process that stands still in a transaction keeps its groups for so long")
	case l.RenewEvery <= 0 || l.RenewEvery > l.TTL/4:
		return bad("lease.renew_every", "use at most a quarter of lease.ttl")
	case l.RefusedEvery < l.RenewEvery:
		return bad("lease.refused_every", "use at least lease.renew_every: each group that is put right costs the others a moment")
	case c.Move.WaitMax < l.TTL:
		return bad("move.wait_max", "use at least lease.ttl: a dead process's leases last so long")
	case c.Move.LookEvery <= 0 || c.Move.LookEvery > c.Move.WaitMax:
		return bad("move.look_every", "use at most move.wait_max")
	case c.Move.CopyTimeout <= 0:
		return bad("move.copy_timeout", "give a duration above 0, such as 1h")
	case l.Patience <= 0 || l.Patience > c.ShutdownTimeout:
		return bad("lease.patience", "use at most shutdown_timeout")
	}
	return nil
}

// place is where an area's schema is in a database.
func (d Deps) place(db database, role Role) *sqldb.Postgres {
	p := d.Config.Postgres
	out := &sqldb.Postgres{URL: db.url, Number: db.number, ConnectTimeout: p.ConnectTimeout, StatementTimeout: p.StatementTimeout, IdleTimeout: p.IdleTimeout}
	if p.UserPrefix != "" {
		out.User = p.UserPrefix + string(role)
		out.Password = d.Passwords[role]
	}
	return out
}
