package app

import (
	"context"

	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/fault"
)

// Rewind makes the topics of the areas of a folder say again what their logs say,
// after its stores were restored from a copy that is older than the bus; see
// kafka.Rewind. Nothing of the installation may run.
func Rewind(ctx context.Context, d Deps) error {
	const op = "rewind"
	if d.Config.Bus != BusKafka {
		return &fault.Error{Kind: fault.Invalid, Op: op, Field: "bus", Code: "not_kafka", Fix: "only bus: kafka has topics beside the logs: there is nothing to do"}
	}
	stores, err := OpenStores(ctx, d)
	if err != nil {
		return err
	}
	defer stores.Close() //nolint:errcheck // nothing is written
	cfg := d.Config.kafka()
	cfg.SASL.Password = d.KafkaPassword
	return fault.Wrap(op, kafka.Rewind(ctx, cfg, d.Config.Consumers.MessagesMax, d.Log, func(ctx context.Context, c *kafka.Cluster) error {
		return bindStores(ctx, stores, c, cfg.Prefix)
	}, stores.Sources()...))
}

// bindStores binds stores to brokers and topics: places in others mean nothing.
func bindStores(ctx context.Context, s *Stores, c *kafka.Cluster, prefix string) error {
	id, err := c.ID(ctx)
	if err != nil {
		return err
	}
	for _, db := range s.databases() {
		err := db.Stamp(ctx, map[string]string{busStamp: "kafka " + id + " " + prefix})
		if fault.Is(err, fault.Conflict) {
			return &fault.Error{Kind: fault.Conflict, Op: "kafka", Field: "kafka.brokers", Code: "another_bus",
				Fix: "connect to the cluster that these stores were read from, with its topic_prefix", Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
