package app_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/engines/pgtest"
)

// Engines that all tests share which do them no harm: each has topics, databases and
// roles of its own.
var (
	server pgtest.Server
	broker sharedBroker
	places atomic.Int64
)

// place is a prefix of names that no other test uses.
func place() string { return fmt.Sprintf("t%d", places.Add(1)) }

func TestMain(m *testing.M) {
	code := m.Run()
	if err := errors.Join(server.Close(), broker.close()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// sharedBroker is started when it is first asked for.
type sharedBroker struct {
	once   sync.Once
	engine *engines.Kafka
	dir    string
	err    error
}

func (b *sharedBroker) get(t *testing.T) *engines.Kafka {
	t.Helper()
	b.once.Do(func() {
		if b.dir, b.err = os.MkdirTemp("", "tallystick-kafka-"); b.err == nil {
			b.engine, b.err = engines.StartSecureKafka(context.WithoutCancel(t.Context()), b.dir)
		}
	})
	must(t, b.err)
	return b.engine
}

func (b *sharedBroker) close() error {
	if b.engine == nil {
		return nil
	}
	return errors.Join(b.engine.Kill(), os.RemoveAll(b.dir))
}

// ownBroker is for a test that stops, freezes or spoils it.
func ownBroker(t *testing.T) *engines.Kafka {
	t.Helper()
	k, err := engines.StartSecureKafka(t.Context(), t.TempDir())
	must(t, err)
	t.Cleanup(func() { _ = k.Kill() })
	return k
}

// ownServers are for a test that stops, freezes or spoils them.
func ownServers(t *testing.T, n int) (pgs []*engines.Postgres) {
	t.Helper()
	for range n {
		pg, err := engines.StartPostgres(t.Context(), false)
		must(t, err)
		t.Cleanup(func() { _ = pg.Close() })
		pgs = append(pgs, pg)
	}
	return pgs
}
