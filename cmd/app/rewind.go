package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/lease"
	"github.com/tallystick/tallystick/internal/sqldb"
)

// Rewind makes the topics of the areas of a folder say again what their logs say,
// after its stores were restored from a copy that is older than the bus; see
// kafka.Rewind. Of the installation gateways alone may run.
func Rewind(ctx context.Context, d Deps) error {
	const op = "rewind"
	if d.Config.Bus != BusKafka {
		return &fault.Error{Kind: fault.Invalid, Op: op, Field: "bus", Code: "not_kafka", Fix: "only bus: kafka has topics beside the logs: there is nothing to do"}
	}
	cfg := d.Config.kafka()
	cfg.SASL.Password = d.KafkaPassword
	rewind := func(stores *Stores, groups []int) error {
		return fault.Wrap(op, kafka.Rewind(ctx, cfg, d.Config.Consumers.MessagesMax, d.Log, func(ctx context.Context, c *kafka.Cluster) error {
			if err := bindStores(ctx, stores, c, cfg.Prefix); err != nil {
				return err
			}
			return d.tellAgain(ctx, c, stores, groups)
		}, groups, stores.Sources()...))
	}
	if d.Config.Stores != StoresPostgres {
		stores, err := OpenStores(ctx, d)
		if err != nil {
			return err
		}
		defer stores.Close() //nolint:errcheck // nothing is written
		return rewind(stores, nil)
	}
	list, err := d.Config.Postgres.list()
	if err != nil {
		return err
	}
	for _, db := range list {
		for _, role := range d.Config.areas() {
			if err := d.nobodyServes(ctx, list); err != nil { // nor has anybody come meanwhile
				return err
			}
			if err := d.rewindCell(ctx, role, db, rewind); err != nil {
				return err
			}
		}
	}
	return nil
}

// nobodyServes refuses while a process works on an area of a database, whatever roles this
// folder has: it would publish between what is deleted and what is published anew, and read
// what has sequences that it has read.
func (d Deps) nobodyServes(ctx context.Context, list []database) error {
	var serves []string
	for _, db := range list {
		for _, role := range storedRoles() {
			stores, err := d.storesFor(ctx, role, db, nil, nil)
			if err != nil {
				return err
			}
			var live []string
			err = stores.db().Read(ctx, func(tx *sqldb.Tx) (err error) {
				live, err = lease.Live(tx)
				return err
			})
			if err := errors.Join(err, stores.Close()); err != nil {
				return err
			}
			for _, name := range live {
				serves = append(serves, fmt.Sprintf("%s of database %d: %s", role, db.number, name))
			}
		}
	}
	if len(serves) == 0 {
		return nil
	}
	return &fault.Error{Kind: fault.Conflict, Op: "rewind", Code: "still_serving",
		Fix: fmt.Sprintf("stop these processes; one that was killed counts for lease.ttl (%s)", d.Config.Lease.TTL),
		Err: errors.New(strings.Join(serves, "; "))}
}

// rewindCell rewinds the groups of one area that a database owns.
func (d Deps) rewindCell(ctx context.Context, role Role, db database, rewind func(*Stores, []int) error) error {
	stores, err := d.storesFor(ctx, role, db, nil, nil)
	if err != nil {
		return err
	}
	defer stores.Close() //nolint:errcheck // nothing is written
	owned, err := lease.Owned(ctx, stores.db())
	if err != nil || len(owned) == 0 {
		return err // nil would be all groups
	}
	return rewind(stores, owned)
}

// tellAgain tells the brokers how far the stores really are: what they were told of a
// past that is no more may be further on, and logs would be trimmed, and what is unread
// be counted, by that.
func (d Deps) tellAgain(ctx context.Context, c *kafka.Cluster, stores *Stores, groups []int) error {
	for area, places := range stores.Parked() {
		for _, topic := range reads()[Role(area)] {
			at, err := toTell(ctx, places, topic)
			if err != nil {
				return err
			}
			all := map[int]bus.Place{}
			for g := range d.Config.Groups {
				if groups == nil || slices.Contains(groups, g) {
					all[g] = at[g]
				}
			}
			// Brokers that have just started may not know yet who answers.
			if err := d.Config.Kafka.await(ctx, func(ctx context.Context) error { return c.Tell(ctx, area, topic, all) }); err != nil {
				return fault.Wrap("tell "+string(topic), err)
			}
		}
	}
	return nil
}

// bindStores binds stores to brokers and topics: places in others mean nothing.
func bindStores(ctx context.Context, s *Stores, c *kafka.Cluster, prefix string) error {
	id, err := busID(ctx, c, prefix)
	if err != nil {
		return err
	}
	for _, db := range s.databases() {
		err := db.Stamp(ctx, map[string]string{busStamp: id})
		if fault.Is(err, fault.Conflict) {
			return anotherBus(err)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// busID names brokers and topics.
func busID(ctx context.Context, c *kafka.Cluster, prefix string) (string, error) {
	id, err := c.ID(ctx)
	return "kafka " + id + " " + prefix, err
}

// anotherBus refuses brokers that something does not belong to.
func anotherBus(err error) error {
	return &fault.Error{Kind: fault.Conflict, Op: "kafka", Field: "kafka.brokers", Code: "another_bus",
		Fix: "connect to the cluster that was used before, with its topic_prefix", Err: err}
}
