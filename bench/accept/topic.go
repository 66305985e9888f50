package accept

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tallystick/tallystick/internal/bus"
	"github.com/tallystick/tallystick/internal/bus/kafka"
	"github.com/tallystick/tallystick/internal/engines"
	"github.com/tallystick/tallystick/internal/fault"
)

// intents is the topic in which gateways of a cluster keep what they accept.
type intents struct {
	cluster *kafka.Cluster
	source  *kafka.Source
	prefix  string
	broker  *engines.Kafka
	places  []bus.Place // up to which it was looked at
}

// readChunk is how many messages are asked for at once.
const readChunk = 4096

// openIntents opens the topic at its beginning.
func openIntents(broker *engines.Kafka, groups int) (*intents, error) {
	cfg := kafka.DefaultConfig()
	cfg.Brokers, cfg.Groups, cfg.Replication, cfg.MinInSync = []string{broker.Addr}, groups, 1, 1
	k, err := kafka.Connect(cfg)
	if err != nil {
		return nil, err
	}
	return &intents{cluster: k, source: kafka.NewSource(k, bus.Intents, slog.New(slog.DiscardHandler)), prefix: cfg.Prefix, broker: broker,
		places: make([]bus.Place, groups)}, nil
}

// Close ends the connections.
func (in *intents) Close() error { return in.cluster.Close() }

// news calls see for each intent that came since the last call, and gives how many
// there are in each batch that the broker keeps: what one partition got with one
// request.
func (in *intents) news(ctx context.Context, see func(*bus.Event) error) (perBatch float64, err error) {
	if err := patiently(ctx, in.source.Refresh); err != nil {
		return 0, err
	}
	records, batches := 0, 0
	for g := range in.places {
		n, err := in.batches(g, in.places[g].Seq)
		if err != nil {
			return 0, err
		}
		batches += n
		for head := in.source.Head(g); in.places[g].Seq < head.Seq; {
			var msgs []bus.Message
			if err := patiently(ctx, func(ctx context.Context) (err error) {
				msgs, err = in.source.Read(ctx, g, in.places[g], readChunk)
				return err
			}); err != nil {
				return 0, err
			}
			if len(msgs) == 0 {
				return 0, fmt.Errorf("group %d of %s gives nothing behind %d of %d", g, bus.Intents, in.places[g].Seq, head.Seq)
			}
			for i := range msgs {
				if err := see(&msgs[i].Event); err != nil {
					return 0, err
				}
			}
			in.places[g], records = msgs[len(msgs)-1].Place, records+len(msgs)
		}
	}
	return float64(records) / float64(max(1, batches)), nil
}

// brokerPatience is how long a broker may be away that had to wait for a processor.
const brokerPatience = 30 * time.Second

// patiently tries again while the broker is unavailable.
func patiently(ctx context.Context, try func(context.Context) error) error {
	for begun := time.Now(); ; {
		err := try(ctx)
		if !fault.Is(err, fault.Unavailable) || ctx.Err() != nil || time.Since(begun) > brokerPatience {
			return err
		}
		bus.Sleep(ctx, 200*time.Millisecond)
	}
}

// batchHeadBytes is what a batch begins with: the offset of its first record, and how
// many bytes follow.
const batchHeadBytes = 12

// batches counts those of a partition that begin at an offset or behind it, in the
// files that the broker keeps them in.
func (in *intents) batches(group int, offset int64) (n int, err error) {
	files, err := filepath.Glob(filepath.Join(in.broker.PartitionDir(in.prefix+string(bus.Intents), group), "*.log"))
	if err != nil {
		return 0, err
	}
	for _, name := range files {
		f, err := os.Open(name) //nolint:gosec // the bench's own broker
		if err != nil {
			return 0, err
		}
		for at, head := int64(0), make([]byte, batchHeadBytes); ; {
			if _, err = f.ReadAt(head, at); err != nil {
				break
			}
			if int64(binary.BigEndian.Uint64(head)) >= offset { //nolint:gosec // an offset
				n++
			}
			at += batchHeadBytes + int64(binary.BigEndian.Uint32(head[8:]))
		}
		if err := errors.Join(notEnd(err), f.Close()); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// notEnd is an error that is not the end of a file.
func notEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// checkTopic reads what came into the topic since the last time.
func checkTopic(ctx context.Context, in *intents, fates []fate) (c *check, perBatch float64, err error) {
	c = &check{fates: fates, found: make([]bool, len(fates))}
	if perBatch, err = in.news(ctx, c.intent); err != nil {
		return nil, 0, err
	}
	for n, f := range fates {
		if f.status == 202 && !c.found[n] {
			c.wrong("the payment of order %s was accepted, and is not in the topic as it was", orderIDOf(n))
		}
	}
	return c, perBatch, nil
}
