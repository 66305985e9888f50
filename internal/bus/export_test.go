package bus

import "context"

// Look is what Run does now and then.
func (c *Consumer) Look(ctx context.Context) { c.look(ctx) }
