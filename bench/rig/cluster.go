package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/engines"
)

// ClusterConfig says what a cluster on this machine is made of.
type ClusterConfig struct {
	Dir       string // for the data folder and logs; it exists
	Exe       string // the product's binary
	Each      int    // processes of each role
	Databases int    // each on a server of its own
	Groups    int
	Env       []string // more configuration for all processes
	Brief     bool     // the broker optimises nothing of what it does, which costs more than it gains in a minute or two at a low rate
	Linked    bool     // processes reach the databases over Links, which cost this process CPU
	// PostgresDirs are where servers keep their folders; without them, where the system
	// keeps temporary ones.
	PostgresDirs []string
}

// Cluster is the cluster profile on this machine: real engines, in folders and on
// ports of their own, and processes of each role.
type Cluster struct {
	Folder
	Kafka    *engines.Kafka
	Redis    *engines.Redis
	Postgres []*engines.Postgres
	Links    []*Link // to the databases, if it is Linked: processes go over these

	cfg     ClusterConfig
	members []*Member
}

// Member is one process of a cluster, under the same name when it is started again.
type Member struct {
	Name         string // role and number: core 1
	Role         app.Role
	Addr         string // of a gateway's public API
	OperatorAddr string

	cluster *Cluster
	starts  int
	mu      sync.Mutex
	p       *Process
	ended   time.Duration // CPU of those before
}

// NewCluster starts engines, makes the data folder, and the databases' schemas. No
// process is started yet. Close ends all of it, also when this fails.
func NewCluster(ctx context.Context, cfg ClusterConfig) (c *Cluster, err error) {
	for len(cfg.PostgresDirs) < cfg.Databases {
		cfg.PostgresDirs = append(cfg.PostgresDirs, "")
	}
	c = &Cluster{cfg: cfg}
	if c.Folder, err = MakeFolder(filepath.Join(cfg.Dir, "data")); err != nil {
		return c, err
	}
	for _, engine := range []string{"kafka", "redis"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, engine), 0o700); err != nil {
			return c, err
		}
	}
	if c.Redis, err = engines.StartRedis(ctx, filepath.Join(cfg.Dir, "redis")); err != nil {
		return c, err
	}
	startKafka := engines.StartSteadyKafka
	if cfg.Brief {
		startKafka = engines.StartKafka
	}
	if c.Kafka, err = startKafka(ctx, filepath.Join(cfg.Dir, "kafka")); err != nil {
		return c, err
	}
	var urls []string
	for i := range cfg.Databases {
		p, err := engines.StartPostgresWith(ctx, engines.PostgresOptions{Durable: true, Parent: cfg.PostgresDirs[i]})
		if err != nil {
			return c, err
		}
		c.Postgres = append(c.Postgres, p)
		if _, err := p.Query(ctx, "postgres", "CREATE DATABASE tallystick"); err != nil {
			return c, err
		}
		url := p.URL("tallystick")
		if cfg.Linked {
			link, err := NewLink(ctx, p.Addr())
			if err != nil {
				return c, err
			}
			c.Links = append(c.Links, link)
			url = strings.Replace(url, p.Addr(), link.Addr(), 1)
		}
		urls = append(urls, fmt.Sprintf("%d=%s", i+1, url))
	}
	if err := c.list(); err != nil {
		return c, err
	}
	var cores []string
	for _, m := range c.members {
		if m.Role == app.RoleCore {
			cores = append(cores, "http://"+m.OperatorAddr)
		}
	}
	c.Env = append([]string{"TALLYSTICK_BUS=kafka", "TALLYSTICK_KAFKA_BROKERS=" + c.Kafka.Addr, "TALLYSTICK_KAFKA_REPLICATION=1",
		"TALLYSTICK_KAFKA_MIN_IN_SYNC=1", "TALLYSTICK_KAFKA_NO_SYNC=true", "TALLYSTICK_KAFKA_START_TIMEOUT=60s", "TALLYSTICK_STORES=postgres", "TALLYSTICK_COORDINATION=redis", "TALLYSTICK_REDIS_ADDRESSES=" + c.Redis.Addr,
		"TALLYSTICK_POSTGRES_DATABASES=" + strings.Join(urls, " "), fmt.Sprintf("TALLYSTICK_GROUPS=%d", cfg.Groups), "TALLYSTICK_LOG_LEVEL=info",
		"TALLYSTICK_PUBLIC_URL=http://" + c.members[0].Addr, "TALLYSTICK_CORE_URL=" + strings.Join(cores, " ")}, cfg.Env...)
	d, err := c.Deps()
	if err != nil {
		return c, err
	}
	_, err = app.Migrate(ctx, d, "postgres", "")
	return c, err
}

// list gives the members their addresses.
func (c *Cluster) list() error {
	roles := []app.Role{app.RoleGateway, app.RoleCore, app.RolePrepay, app.RoleAccounting}
	free, err := quietAddresses(2 * len(roles) * c.cfg.Each)
	if err != nil {
		return err
	}
	for _, role := range roles {
		for n := range c.cfg.Each {
			c.members = append(c.members, &Member{Name: fmt.Sprintf("%s %d", role, n+1), Role: role, cluster: c, Addr: free[0], OperatorAddr: free[1]})
			free = free[2:]
		}
	}
	return nil
}

// Databases opens all databases, to be looked at.
func (c *Cluster) Databases(ctx context.Context) (*app.Databases, error) {
	d, err := c.Deps()
	if err != nil {
		return nil, err
	}
	return app.OpenDatabases(ctx, d)
}

// Members are the processes of some roles, in order; of all without any.
func (c *Cluster) Members(roles ...app.Role) (out []*Member) {
	for _, m := range c.members {
		if len(roles) == 0 || slices.Contains(roles, m.Role) {
			out = append(out, m)
		}
	}
	return out
}

// Addrs are the gateways, with spaces between them.
func (c *Cluster) Addrs() string {
	var out []string
	for _, m := range c.Members(app.RoleGateway) {
		out = append(out, m.Addr)
	}
	return strings.Join(out, " ")
}

// OperatorAddrs are the operator ports of some roles, in order; of all without any.
func (c *Cluster) OperatorAddrs(roles ...app.Role) (out []string) {
	for _, m := range c.Members(roles...) {
		out = append(out, m.OperatorAddr)
	}
	return out
}

// Start starts all members, and waits until they serve.
func (c *Cluster) Start(ctx context.Context) error {
	for _, m := range c.members {
		if err := m.Start(); err != nil {
			return err
		}
	}
	return c.Serve(ctx)
}

// Serve waits until all members serve.
func (c *Cluster) Serve(ctx context.Context) error {
	for _, m := range c.members {
		if err := m.Process().Serves(ctx, m.OperatorAddr, time.Minute); err != nil {
			return fmtErr(m.Name, err)
		}
	}
	return nil
}

// Sum adds up a figure of all members that answer within a second, and says how many
// did not.
func (c *Cluster) Sum(ctx context.Context, name string, roles ...app.Role) (total float64, silent int) {
	bounded, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	for _, m := range c.Members(roles...) {
		f, err := ReadFigures(bounded, m.OperatorAddr)
		if err != nil {
			silent++
			continue
		}
		total += f.Sum(name)
	}
	return total, silent
}

// Start starts the process. env is configuration of this start alone.
func (m *Member) Start(env ...string) error {
	c := m.cluster
	m.starts++
	log := filepath.Join(c.cfg.Dir, fmt.Sprintf("%s.%d.log", strings.ReplaceAll(m.Name, " ", "-"), m.starts))
	env = append(append(slices.Clone(c.Env), "TALLYSTICK_ROLES="+string(m.Role), "TALLYSTICK_LISTEN="+m.Addr, "TALLYSTICK_LISTEN_OPERATOR="+m.OperatorAddr), env...)
	p, err := Start(c.cfg.Exe, env, log, "serve", "--data", c.Dir)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.p = p
	return err
}

// Process is the one that runs, or ran last.
func (m *Member) Process() *Process {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.p
}

// Ready waits until the process answers.
func (m *Member) Ready(ctx context.Context) error {
	return fmtErr(m.Name, m.Process().Ready(ctx, m.OperatorAddr, time.Minute))
}

// CPU is the processor time of the member, those processes that have ended included.
func (m *Member) CPU() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now, err := m.p.CPU(); err == nil {
		return m.ended + now
	}
	return m.ended
}

// Stop asks the process to stop.
func (m *Member) Stop() error {
	cpu := m.CPU()
	err := m.Process().Stop(time.Minute)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = cpu
	return fmtErr(m.Name, err)
}

// Kill is kill -9.
func (m *Member) Kill() {
	cpu := m.CPU()
	m.Process().Kill()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = cpu
}

func fmtErr(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Stop stops all members, gateways first. The engines go on.
func (c *Cluster) Stop() error {
	var errs []error
	for _, m := range c.members {
		if m.Process() != nil {
			errs = append(errs, m.Stop())
		}
	}
	return errors.Join(errs...)
}

// Close ends everything.
func (c *Cluster) Close() error {
	errs := []error{c.Stop()}
	if c.Kafka != nil {
		errs = append(errs, c.Kafka.Kill())
	}
	if c.Redis != nil {
		errs = append(errs, c.Redis.Kill())
	}
	for _, l := range c.Links {
		errs = append(errs, l.Close())
	}
	for _, p := range c.Postgres {
		errs = append(errs, p.Close())
	}
	return errors.Join(errs...)
}
