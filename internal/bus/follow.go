package bus

import (
	"context"
	"log/slog"
	"time"
)

// Follow calls step until ctx ends: again at once while it worked, else when
// source wakes it, or after idle with the heads asked for. Errors are logged, as
// those of who follows, and tried again with backoff up to backoffMax.
func Follow(ctx context.Context, source Source, who string, log *slog.Logger, idle, backoffMax time.Duration,
	step func(context.Context) (worked bool, err error)) {
	wake, cancel := source.Subscribe()
	defer cancel()
	tick := time.NewTicker(idle)
	defer tick.Stop()
	backoff, looked := time.Duration(0), looks{log: log.With("who", who)}
	for ctx.Err() == nil {
		worked, err := step(ctx)
		if err != nil && ctx.Err() == nil {
			backoff = min(max(2*backoff, 10*time.Millisecond), backoffMax)
			log.Error(who+" will retry", "error", Brief(err), "backoff_millis", backoff.Milliseconds())
			Sleep(ctx, backoff)
			continue
		}
		backoff = 0
		if worked {
			continue
		}
		select {
		case <-ctx.Done():
		case <-wake:
		case <-tick.C:
			if err := source.Refresh(ctx); ctx.Err() == nil {
				looked.tell(err)
			}
		}
	}
}
