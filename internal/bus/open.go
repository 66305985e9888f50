package bus

import (
	"context"
	"fmt"

	"github.com/tallystick/tallystick/internal/fault"
)

// Open reads the stored places, so that a log which ends before one of them, or
// begins behind it, is refused, with fault.Conflict, before anything runs: as soon as
// something is appended to it, the place is no longer behind its end, and what came in
// between would be skipped as known. Step does the same if nobody has. Not safe beside Step.
func (c *Consumer) Open(ctx context.Context) error {
	if c.loaded {
		return nil
	}
	return fault.Wrap(fmt.Sprintf("%s: open %s", c.Area, c.Source.Topic()), c.load(ctx))
}
