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

// PostgresOptions say what a server is like.
type PostgresOptions struct {
	Durable bool
	// Parent is where the server's folder is made, and its user must be able to pass
	// through; empty for where temporary ones are.
	Parent string
	// CertPEM and KeyPEM, if set, turn TLS on.
	CertPEM, KeyPEM []byte
	// HBA are lines of pg_hba.conf that take the place of initdb's, which trust everybody.
	HBA []string
	// Settings are "name=value", as in postgresql.conf.
	Settings []string
}

// StartPostgres makes a fresh server and starts it. One that is not durable is
// quicker.
func StartPostgres(ctx context.Context, durable bool) (*Postgres, error) {
	return StartPostgresWith(ctx, PostgresOptions{Durable: durable})
}

// StartPostgresWith is StartPostgres with more to choose.
func StartPostgresWith(ctx context.Context, o PostgresOptions) (_ *Postgres, err error) {
	if _, err := install(ctx, "postgres"); err != nil {
		return nil, err
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	p := &Postgres{port: ports[0], sets: []string{"listen_addresses=127.0.0.1", "max_connections=200", "shared_buffers=256MB", "max_wal_size=2GB"}}
	if !o.Durable {
		p.sets = append(p.sets, forgetful...)
	}
	p.sets = append(p.sets, o.Settings...)
	if p.bin, err = postgresBin(); err != nil {
		return nil, err
	}
	// Not in a test's own folder, which its user could not pass through.
	if p.dir, err = os.MkdirTemp(o.Parent, "tallystick-postgres-"); err != nil {
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
	if err := p.configure(&o); err != nil {
		return nil, err
	}
	return p, p.Start(ctx)
}

// configure writes the files that are not as initdb made them.
func (p *Postgres) configure(o *PostgresOptions) error {
	if len(o.HBA) > 0 {
		if err := p.write("pg_hba.conf", []byte(strings.Join(o.HBA, "\n")+"\n")); err != nil {
			return err
		}
	}
	if o.CertPEM == nil {
		return nil
	}
	p.sets = append(p.sets, "ssl=on", "ssl_cert_file=server.crt", "ssl_key_file=server.key")
	return errors.Join(p.write("server.crt", o.CertPEM), p.write("server.key", o.KeyPEM))
}

// write writes a file of the data folder that the server can read.
func (p *Postgres) write(name string, text []byte) error {
	path := filepath.Join(p.data(), name)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	if p.as == nil {
		return nil
	}
	return os.Chown(path, int(p.as.Uid), int(p.as.Gid))
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
	if given := os.Getenv(atPostgres); given != "" {
		return given, nil
	}
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

// Kill is kill -9 of the server and all its processes, of which one that is left
// keeps the server from starting again.
func (p *Postgres) Kill() error {
	pids, err := p.children()
	if err != nil {
		return err
	}
	if err := p.p.signal(syscall.SIGKILL, 30*time.Second); err != nil {
		return err
	}
	deadline := time.After(30 * time.Second)
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
		for f := procStat(pid); len(f) > 0 && f[0] != "Z"; f = procStat(pid) { // whoever adopted it may reap it late
			select {
			case <-deadline:
				return fmt.Errorf("process %d of the server did not end", pid)
			case <-time.After(5 * time.Millisecond):
			}
		}
	}
	return nil
}

// Freeze stops the server and all its processes where they stand (SIGSTOP), Thaw
// lets them go on.
func (p *Postgres) Freeze() error {
	if err := p.p.freeze(); err != nil { // first: it starts no more of them
		return err
	}
	if err := p.signalChildren(syscall.SIGSTOP); err != nil {
		return err
	}
	pids, err := p.children()
	for _, pid := range pids {
		if e := awaitStopped(pid); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Thaw is SIGCONT.
func (p *Postgres) Thaw() error {
	return errors.Join(p.signalChildren(syscall.SIGCONT), p.p.signal(syscall.SIGCONT, 0))
}

// children are the server's own processes, each of which leads a group of its own.
func (p *Postgres) children() (pids []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, path := range stats {
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		if f := procStat(pid); len(f) > 1 && f[1] == itoa(p.p.cmd.Process.Pid) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// procStat is what the kernel tells of a process, from its state on; empty when it
// is gone: pid (name) state ppid, where the name may have anything in it.
func procStat(pid int) []string { return statOf("/proc/" + itoa(pid) + "/stat") }

// statOf is procStat of a process's or a thread's file.
func statOf(path string) []string {
	text, err := os.ReadFile(path) //nolint:gosec // the kernel's own
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
}

func (p *Postgres) signalChildren(s syscall.Signal) error {
	pids, err := p.children()
	for _, pid := range pids {
		if e := syscall.Kill(pid, s); e != nil && !errors.Is(e, syscall.ESRCH) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// Logged is what the server has written to its log.
func (p *Postgres) Logged() (string, error) {
	text, err := os.ReadFile(p.log())
	return string(text), err
}

// Close ends the server, frozen or not, and removes its folder.
func (p *Postgres) Close() error {
	_ = p.Thaw()
	err := p.p.signal(syscall.SIGQUIT, 30*time.Second)
	return errors.Join(err, os.RemoveAll(p.dir))
}
