package redis

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/redis/go-redis/v9"
)

// listen hears what others publish, over one connection, until ctx ends. It opens
// another one when that breaks, or answers no ping.
func (c *Coordinator) listen(ctx context.Context) {
	for ctx.Err() == nil {
		err := c.subscription(ctx)
		if c.metrics.listening.Swap(false) && ctx.Err() == nil {
			c.log.Warn("redis: other replicas are not heard any more", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(c.cfg.HeartbeatEvery / 4):
		}
	}
}

// subscription is the life of one connection.
func (c *Coordinator) subscription(ctx context.Context) error {
	sub := c.client.Subscribe(ctx)
	defer context.AfterFunc(ctx, func() { _ = sub.Close() })() // ends a read that waits
	defer sub.Close()                                          //nolint:errcheck // it is given up
	opening, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	if err := sub.Subscribe(opening, c.hintsChannel(), c.wakesChannel()); err != nil {
		return err
	}
	asked := false // a ping is out
	for {
		m, err := sub.ReceiveTimeout(ctx, c.cfg.HeartbeatEvery)
		switch m := m.(type) {
		case *redis.Message:
			c.heard(m.Channel, m.Payload)
		case *redis.Subscription:
			if m.Count == 2 && !c.metrics.listening.Swap(true) {
				c.log.Info("redis: other replicas are heard")
				c.subs.WakeAll() // whatever was said before
			}
		}
		switch {
		case err == nil:
			asked = false
		case ctx.Err() != nil || asked || !isTimeout(err):
			return err
		default:
			asked = true
			if err := sub.Ping(ctx); err != nil {
				return err
			}
		}
	}
}

func isTimeout(err error) bool {
	var e net.Error
	return errors.As(err, &e) && e.Timeout()
}
