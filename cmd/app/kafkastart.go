package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/core/merchant"
	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/wholefile"
)

// directoryTopic is where the directory is published.
const directoryTopic bus.Topic = "directory"

// BusFile says, in a data folder, which brokers and topics it belongs to.
const BusFile = "kafka-cluster"

// ensure makes topics and checks them.
func (k *kafkaBus) ensure(ctx context.Context) error {
	id, err := k.known(ctx)
	if err == nil {
		err = k.cluster.EnsureTopics(ctx, topics()...)
	}
	if err == nil {
		err = k.board.Ensure(ctx)
	}
	if err == nil && id != "" {
		if err := wholefile.Write(filepath.Join(k.app.Dir, BusFile), []byte(id)); err != nil {
			k.app.Log.Error("not written: only stores, if there are any, know which brokers this folder belongs to", "file", BusFile, "error", err)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil && k.unfit != nil {
		close(k.checked)
	}
	k.unfit = err
	return err
}

// known refuses brokers that the folder does not belong to, before anything is made
// there: a gateway has no store that knows them, and would accept what nobody reads. It
// gives what is to be remembered in a folder that belongs to none yet.
func (k *kafkaBus) known(ctx context.Context) (remember string, err error) {
	id, err := busID(ctx, k.cluster, k.app.Config.Kafka.TopicPrefix)
	if err != nil {
		return "", err
	}
	path := filepath.Join(k.app.Dir, BusFile)
	have, err := os.ReadFile(path) //nolint:gosec // the operator's own folder
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return id, nil
	case err != nil:
		return "", fault.Wrap("kafka", err)
	case string(have) != id:
		return "", anotherBus(fmt.Errorf("%s belongs to %q, and this is %q: if it really is to serve another installation, remove it", path, have, id))
	}
	return "", nil
}

// firstTry checks the topics before anything is listened to: a process that takes over
// from another refuses nobody meanwhile. Without brokers it goes on, and runTopics tries
// again; but stores in files are held against the brokers before they are used, and
// wait for them.
func (k *kafkaBus) firstTry(ctx context.Context) error {
	c := k.app.Config
	if c.Stores == StoresSQLite && len(c.areas()) > 0 {
		return c.Kafka.await(ctx, k.ensure)
	}
	if err := k.try(ctx); !fault.Is(err, fault.Unavailable) {
		return err
	}
	return nil // it is told when it is still so
}

// try checks the topics, within the time that a request to append may take.
func (k *kafkaBus) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, k.app.Config.Kafka.ProduceTimeout)
	defer cancel()
	return k.ensure(ctx)
}

// runTopics checks the topics, as soon as the brokers answer. Those that do not fit end
// the process.
func (k *kafkaBus) runTopics(ctx context.Context) error {
	for pause := time.Duration(0); ; {
		select {
		case <-k.checked:
			<-ctx.Done()
			return nil
		default:
		}
		switch err := k.try(ctx); {
		case ctx.Err() != nil:
			return nil
		case err != nil && !fault.Is(err, fault.Unavailable):
			return err
		case err != nil:
			pause = min(max(2*pause, 200*time.Millisecond), k.app.Config.Consumers.Idle) // gateways take again soon after brokers are back
			k.app.Log.Error("topics not checked: nothing is taken and nothing read", "error", err)
			bus.Sleep(ctx, pause)
		}
	}
}

func (k *kafkaBus) ready() <-chan struct{} { return k.checked }

// directory follows the topic; core publishes its file.
func (k *kafkaBus) directory() directorySource {
	a, file := k.app, ""
	if a.Config.has(RoleCore) {
		file = filepath.Join(a.Dir, DirectoryFile)
	}
	k.follows = merchant.NewFollower(merchant.FollowerDeps{Board: k.board, Directory: a.Directory, Snapshot: filepath.Join(a.Dir, SnapshotFile), File: file, Now: a.Now, Log: a.Log})
	a.Metrics.GetOrCreateGauge(`tallystick_directory_age_seconds`, func() float64 { return k.follows.Age().Seconds() })
	return k.follows
}

// admit refuses what a topic that was not checked would not keep.
func (k *kafkaBus) admit(t bus.Topic, group int) error {
	select {
	case <-k.checked:
		return k.unread.Admit(t, group)
	default:
		return fault.New(fault.Unavailable, "kafka", "the topics are not checked yet")
	}
}

// await tries again while brokers are unavailable, for StartTimeout at most.
func (c KafkaConfig) await(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, c.StartTimeout)
	defer cancel()
	for {
		err := try(ctx)
		if !fault.Is(err, fault.Unavailable) || ctx.Err() != nil {
			return err
		}
		if bus.Sleep(ctx, 200*time.Millisecond); ctx.Err() != nil {
			return err // it says more than that the time is over
		}
	}
}

// brokersPatience is how long brokers may be silent before a process is not ready.
const brokersPatience = 3 * time.Second

// reachable is about the start; then about what is asked again and again: by a gateway the
// backlog, by all others the directory.
func (k *kafkaBus) reachable() error {
	k.mu.Lock()
	unfit := k.unfit
	k.mu.Unlock()
	if unfit != nil {
		return unfit
	}
	silent, every := k.follows.Age(), k.app.Config.DirectoryPoll
	if k.app.Config.has(RoleGateway) {
		silent, every = k.app.Now().Sub(k.unread.Seen()), k.app.Config.Intake.MeasureEvery
	}
	if silent > brokersPatience+2*every {
		return fault.New(fault.Unavailable, "kafka", "the brokers do not answer")
	}
	return nil
}
