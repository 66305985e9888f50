package app

import (
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/gateway/api"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/obs"
	"github.com/tallystick/tallystick/prepay"
)

// Production reads a data folder and gives what an App is made of on a real
// machine: of the secrets those that its roles need. Logs go to logTo. Errors name the
// key, secret or field, and the fix.
func Production(dir string, environ []string, logTo io.Writer) (Deps, error) {
	d, secrets, err := prepare(dir, environ, logTo, (*Config).areas)
	if err != nil {
		return d, err
	}
	if d.Config.has(RoleGateway) {
		tokens, err := secrets.Tokens()
		if err != nil {
			return d, err
		}
		if d.Tokens, err = api.NewTokenRing(newestKey(tokens), tokens); err != nil {
			return d, err
		}
	}
	var snapshot *merchant.Snapshot // on Kafka it is published
	if d.Config.Bus == BusEmbedded {
		if snapshot, err = merchant.Load(filepath.Join(dir, DirectoryFile)); err != nil {
			return d, err
		}
	}
	d.Directory = merchant.NewDirectory(snapshot)
	if d.Coord, err = newCoordinator(&d, secrets); err != nil {
		return d, err
	}
	if d.Config.has(RoleGateway) || d.Config.has(RolePrepay) {
		d.Channels, err = NewChannelSet(d.Directory, secrets.pspKeys, d.Coord, d.Now, d.Random, d.Metrics, d.Log)
	}
	return d, err
}

// Outside is Production for a command that looks at all areas, whatever the roles of its
// folder: with the passwords of all, and without what only processes that serve need.
func Outside(dir string, environ []string, logTo io.Writer) (Deps, error) {
	d, _, err := prepare(dir, environ, logTo, func(*Config) []Role { return storedRoles() })
	return d, err
}

// prepare is what all have, with the passwords of some areas. The code secret is for all:
// its fingerprint is in every store.
func prepare(dir string, environ []string, logTo io.Writer, areas func(*Config) []Role) (d Deps, secrets Secrets, err error) {
	d = Deps{Dir: dir, Executor: prepay.Goroutines{}, Now: time.Now, Random: rand.Reader, Metrics: metrics.NewSet()}
	d.Rand = mathrand.New(mathrand.NewPCG(uint64(time.Now().UnixNano()), uint64(os.Getpid()))) //nolint:gosec // jitter
	if d.Config, err = LoadConfig(dir, environ); err != nil {
		return d, secrets, err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(d.Config.LogLevel)); err != nil {
		return d, secrets, err
	}
	d.Log = obs.NewLogger(logTo, level, d.Now)
	env := lookup(environ)
	spec, _ := env(EnvCrashAt)
	if d.Points, err = CrashPoints(spec, d.Log); err != nil {
		return d, secrets, err
	}
	secrets = NewSecrets(filepath.Join(dir, SecretsDir), env)
	if d.Secret, err = secrets.Code(); err != nil {
		return d, secrets, err
	}
	if d.Config.Stores == StoresPostgres {
		d.Passwords = map[Role]string{}
		for _, role := range areas(&d.Config) {
			if d.Passwords[role], err = secrets.Password(role); err != nil {
				return d, secrets, err
			}
		}
	}
	if d.Config.Bus == BusKafka && d.Config.Kafka.SASL.Mechanism != "" {
		d.KafkaPassword, err = secrets.KafkaPassword()
	}
	return d, secrets, err
}

// pspKeys are the keys of a key name: the one that signs, and its predecessor,
// if there still is one, that verifies as well.
func (s Secrets) pspKeys(keyName string) ([][]byte, error) {
	key, err := s.PSP(keyName)
	if err != nil {
		return nil, err
	}
	keys := [][]byte{key}
	old, err := s.PSP(keyName + "-old")
	switch {
	case err == nil:
		keys = append(keys, old)
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	}
	return keys, nil
}

func lookup(environ []string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for _, kv := range environ {
			if k, v, _ := strings.Cut(kv, "="); k == name {
				return v, true
			}
		}
		return "", false
	}
}

// Open is Production and New.
func Open(ctx context.Context, dir string, environ []string, logTo io.Writer) (*App, error) {
	d, err := Production(dir, environ, logTo)
	if err != nil {
		return nil, err
	}
	a, err := New(ctx, d)
	return a, fault.Wrap("open "+dir, err)
}
