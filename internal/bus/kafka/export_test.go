package kafka

import (
	"context"

	"github.com/segmentio/kafka-go/protocol"

	"github.com/tallystick/tallystick/internal/bus"
)

// Stirred tells whether something that was appended is to be sent now, and forgets it.
// Nothing else must Run the intake.
func (in *Intake) Stirred() bool {
	select {
	case <-in.ship.wake:
		return true
	default:
		return false
	}
}

// DeleteUpTo deletes a partition's records before an offset, as brokers do when their
// time has come.
func (c *Cluster) DeleteUpTo(ctx context.Context, topic bus.Topic, group int, offset int64) error {
	protocol.Register(&deleteRecords{}, &deletedRecords{})
	return c.deleteUpTo(ctx, topic, group, offset)
}
