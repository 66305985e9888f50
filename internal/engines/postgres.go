package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Postgres is one PostgreSQL server, in a folder of its own.
type Postgres struct {
	port int
	dir  string
	bin  string
	as   *syscall.Credential
	sets []string
	p    *process
}

// forgetful are settings for tests that kill no machine; everything else keeps what
// it has committed.
var forgetful = []string{"fsync=off", "synchronous_commit=off", "full_page_writes=off"}

// StartPostgres makes a fresh server and starts it. One that is not durable is
// quicker.
func StartPostgres(ctx context.Context, durable bool) (*Postgres, error) {
	return StartPostgresIn(ctx, "", durable)
}

// StartPostgresIn makes the server's folder in another one, which its user must be
// able to pass through.
func StartPostgresIn(ctx context.Context, parent string, durable bool) (_ *Postgres, err error) {
	if _, err := install(ctx, "postgres"); err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	p := &Postgres{port: ports[0], sets: []string{"listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=256MB", "max_wal_size=2GB"}}
	if !durable {
		p.sets = append(p.sets, forgetful...)
	}
	if p.bin, err = postgresBin(); err != nil {
		return nil, err
	}
	// Not in a test's own folder, which its user could not pass through.
	if p.dir, err = os.MkdirTemp(parent, "tallystick-postgres-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(p.dir))
		}
	}()
	if os.Getuid() == 0 { // it refuses to run as root
		if err := p.runAs("postgres"); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "initdb"), "-D", p.data(), "-U", "postgres", "-A", "trust", "-E", "UTF8", //nolint:gosec // our own arguments
		"--locale=C.UTF-8", "--no-sync", "--no-instructions")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	return p, p.Start(ctx)
}

func (p *Postgres) runAs(name string) error {
	u, err := user.Lookup(name)
	if err != nil {
		return err
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return err
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return err
	}
	p.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(p.dir, int(uid), int(gid)) //nolint:gosec // 32 bits
}

// postgresBin is the folder of initdb and postgres, which Debian keeps off the path.
func postgresBin() (string, error) {
	found, err := filepath.Glob("/usr/lib/postgresql/*/bin/initdb")
	if err == nil && len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("initdb")
	if err == nil {
		path, err = filepath.EvalSymlinks(path)
	}
	if err != nil {
		return "", fmt.Errorf("PostgreSQL is not installed: %w", err)
	}
	return filepath.Dir(path), nil
}

func (p *Postgres) data() string { return filepath.Join(p.dir, "data") }

// Addr is its address.
func (p *Postgres) Addr() string { return "127.0.0.1:" + itoa(p.port) }

// URL is that of one of its databases, for its superuser.
func (p *Postgres) URL(database string) string {
	return "postgres://postgres@" + p.Addr() + "/" + database + "?sslmode=disable"
}

// Start starts the server again, with the data that it has, and waits until it
// takes connections.
func (p *Postgres) Start(ctx context.Context) (err error) {
	args := []string{"-D", p.data(), "-p", itoa(p.port), "-k", p.dir}
	for _, s := range p.sets {
		args = append(args, "-c", s)
	}
	// Its own program, not pg_ctl: the server is a child of this process.
	if p.p, err = start(p.log(), p.as, filepath.Join(p.bin, "postgres"), args...); err != nil {
		return err
	}
	if err := p.p.ready(ctx, p.Addr()); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, startMax)
	defer cancel()
	for { // the port is open before it has recovered
		out, err := exec.CommandContext(ctx, filepath.Join(p.bin, "pg_isready"), "-q", "-h", "127.0.0.1", "-p", itoa(p.port)).CombinedOutput() //nolint:gosec // our own arguments
		if err == nil {
			return nil
		}
		select {
		case <-p.p.done:
			return fmt.Errorf("postgres ended: %s", tailOf(p.log()))
		case <-ctx.Done():
			return fmt.Errorf("postgres does not answer: %w %s", err, out)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (p *Postgres) log() string { return filepath.Join(p.dir, "postgres.log") }

// Query runs SQL in a database with psql, and gives what it prints: bare rows.
func (p *Postgres) Query(ctx context.Context, database, sql string) (string, error) {
	cmd := exec.CommandContext(ctx, filepath.Join(p.bin, "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", p.URL(database), "-c", sql) //nolint:gosec // a test's own SQL
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", sql, err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// Stop is a fast shutdown: it breaks connections, and writes everything.
func (p *Postgres) Stop() error { return p.p.signal(syscall.SIGINT, 30*time.Second) }

// Alive reports whether the server runs.
func (p *Postgres) Alive() bool {
	select {
	case <-p.p.done:
		return false
	default:
		return true
	}
}

// Kill is kill -9 of the server; its own children end by themselves.
func (p *Postgres) Kill() error { return p.p.signal(syscall.SIGKILL, 30*time.Second) }

// Close ends the server and removes its folder.
func (p *Postgres) Close() error {
	err := p.p.signal(syscall.SIGQUIT, 30*time.Second)
	return errors.Join(err, os.RemoveAll(p.dir))
}
