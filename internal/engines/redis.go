package engines

import (
	"cmp"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Redis is one server that keeps nothing on disk: started again, it is empty.
type Redis struct {
	Addr    string
	dir     string
	program string
	args    []string
	p       *process
}

// StartRedis starts a fresh server, which logs to a folder of its own. args are
// more of its options, such as "--requirepass", "secret"; @PORT@ is its port.
func StartRedis(ctx context.Context, dir string, args ...string) (*Redis, error) {
	program := cmp.Or(os.Getenv(atRedis), "redis-server")
	if _, err := exec.LookPath(program); err != nil {
		if _, err := install(ctx, "redis"); err != nil {
			return nil, err
		}
	}
	ports, err := freePorts(1)
	if err != nil {
		return nil, err
	}
	port := itoa(ports[0])
	r := &Redis{Addr: "127.0.0.1:" + port, dir: dir, program: program,
		args: []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", dir}}
	for _, a := range args {
		r.args = append(r.args, strings.ReplaceAll(a, "@PORT@", port))
	}
	return r, r.Start(ctx)
}

// Start starts the server again, empty and at the same address, and waits for it.
func (r *Redis) Start(ctx context.Context) (err error) {
	if r.p, err = start(filepath.Join(r.dir, "redis.log"), nil, r.program, r.args...); err != nil {
		return err
	}
	return r.p.ready(ctx, r.Addr)
}

// Stop asks it to end; Kill does not ask.
func (r *Redis) Stop() error { return r.p.signal(syscall.SIGTERM, 30*time.Second) }

// Kill is kill -9.
func (r *Redis) Kill() error { return r.p.signal(syscall.SIGKILL, 30*time.Second) }

// Freeze stops the process where it stands (SIGSTOP), Thaw lets it go on.
func (r *Redis) Freeze() error { return r.p.freeze() }

// Thaw is SIGCONT.
func (r *Redis) Thaw() error { return r.p.signal(syscall.SIGCONT, 0) }
