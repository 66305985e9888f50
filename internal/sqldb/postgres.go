package sqldb

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/tallystick/tallystick/internal/fault"
)

// Postgres says where an area's schema is in a PostgreSQL database.
type Postgres struct {
	// URL is a connection URL (postgres://user@host:port/database?sslmode=verify-full)
	// or a list of key=value, as in
	// https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING.
	URL string
	// User and Password take the place of those in the URL, unless they are empty.
	User, Password string
	// Schema has the area's tables; empty means the area's name.
	Schema string
	// Number of the database among those of the installation, 1 to NumberMax: its rows have
	// ids of their own, so that they can move to another one.
	Number int
	// ConnectTimeout, StatementTimeout and IdleTimeout (of a transaction in which
	// nothing is done) are at least a millisecond; 0 means 5 s, 30 s and 10 s.
	ConnectTimeout, StatementTimeout, IdleTimeout time.Duration
	// Guard runs first in each writing transaction, and refuses it by an error: a
	// process that has lost its lease writes nothing.
	Guard func(*Tx) error
}

// NumberMax is the highest number of a database.
const NumberMax = 127

// Ids are taken in blocks of idsBlock, and the databases have every idsDatabases-th
// block each: they share one line of numbers, on which a database can go ahead
// (RaiseIDs) to give only ids above those of rows that come to it. Up to idsMax, 10
// bits more for what is numbered by an id fit an int64.
const (
	idsBlock     = 64
	idsDatabases = NumberMax + 1
	idsMax       = 1 << 53
)

func (p *Postgres) check(op string) error {
	if p.Number < 1 || p.Number > NumberMax {
		return &fault.Error{Kind: fault.Invalid, Op: op, Field: "postgres.number", Code: "config_invalid", Fix: fmt.Sprintf("1 to %d", NumberMax)}
	}
	return nil
}

// config is how each connection is opened.
func (p *Postgres) config(area string, readOnly bool) (*pgx.ConnConfig, error) {
	c, err := pgx.ParseConfig(p.URL)
	if err != nil {
		// What the library says has the URL in it, and with it perhaps a password.
		return nil, &fault.Error{Kind: fault.Invalid, Op: "sqldb: " + area, Field: "postgres.url", Code: "config_invalid",
			Fix: "write postgres://host:port/database?sslmode=verify-full", Err: errors.New("not a connection URL")}
	}
	if p.User != "" {
		c.User = p.User
	}
	if p.Password != "" {
		c.Password = p.Password
	}
	or := func(d, std time.Duration) time.Duration {
		if d == 0 {
			return std
		}
		return d
	}
	millis := func(d time.Duration) string { return strconv.FormatInt(max(1, d.Milliseconds()), 10) }
	c.ConnectTimeout = or(p.ConnectTimeout, 5*time.Second)
	set := c.RuntimeParams
	set["search_path"] = p.schema(area)
	set["application_name"] = "tallystick " + area
	set["statement_timeout"] = millis(or(p.StatementTimeout, 30*time.Second))
	set["lock_timeout"] = set["statement_timeout"]
	set["idle_in_transaction_session_timeout"] = millis(or(p.IdleTimeout, 10*time.Second))
	set["default_transaction_isolation"] = "read committed"
	if readOnly {
		set["default_transaction_read_only"] = "on"
	}
	// What an area does all day finds a few rows by an index. Until a table is analysed
	// for the first time, the planner takes it for tiny and reads it whole.
	for _, way := range waysOfWholeTables {
		set[way] = "off"
	}
	return c, nil
}

// waysOfWholeTables are the planner's ways that pay where many rows are read.
var waysOfWholeTables = [...]string{"enable_seqscan", "enable_hashjoin", "enable_mergejoin", "jit"}

func (p *Postgres) schema(area string) string {
	if p.Schema != "" {
		return p.Schema
	}
	return area
}

// classifyPostgres gives an error of PostgreSQL its kind. It is false for what does
// not come from there.
func classifyPostgres(op string, err error) (error, bool) {
	var pe *pgconn.PgError
	if errors.As(err, &pe) {
		e := &fault.Error{Kind: fault.Internal, Op: op, Code: "sqlstate_" + pe.Code, Err: err}
		switch pe.Code[:2] {
		case "23": // integrity constraint violation
			e.Kind, e.Code = fault.Conflict, "constraint"
		case "53": // insufficient resources
			e.Kind, e.Fix = fault.Unavailable, "free disk space, memory or connections of the database server"
			if pe.Code == "53100" {
				e.Code = "disk_full"
			}
		case "08", "57", "40", "55", "25", "58": // connection, shutdown or timeout, rollback, lock, state, system
			e.Kind = fault.Unavailable
		case "28": // authorization
			e.Kind, e.Fix = fault.Unavailable, "check the user, its password and pg_hba.conf"
		}
		return e, true
	}
	var ce *pgconn.ConnectError
	if errors.As(err, &ce) || errors.Is(err, errNoConnection) || pgconn.Timeout(err) || pgconn.SafeToRetry(err) {
		return &fault.Error{Kind: fault.Unavailable, Op: op, Code: "database_unreachable", Err: err}, true
	}
	return nil, false
}

// checkDurable refuses a server that forgets what it said was committed.
func checkDurable(tx *Tx) error {
	for _, name := range []string{"fsync", "full_page_writes", "synchronous_commit"} {
		var value string
		err := tx.Query(`SELECT current_setting(?)`, []any{name}, func(scan Scan) error { return scan(&value) })
		if err != nil {
			return err
		}
		if value == "off" {
			return &fault.Error{Kind: fault.Invalid, Op: "sqldb", Field: name, Code: "not_durable", Fix: "turn it on in postgresql.conf",
				Err: fmt.Errorf("the database server has %s off: what was committed could be lost", name)}
		}
	}
	return nil
}
