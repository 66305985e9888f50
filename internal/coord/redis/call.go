package redis

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

// call is one pipeline: every draw, hint and wake-up that waited, and a heartbeat.
type call struct {
	c     *Coordinator
	batch batch
	beat  bool
	asks  []ask
	draws []*redis.Cmd // like batch.draws
	beats []*redis.Cmd // like Config.Roles
	sent  []*redis.IntCmd
}

func (c *Coordinator) newCall(b batch, beat bool) *call {
	p := &call{c: c, batch: b, beat: beat}
	now := c.now()
	for _, bucket := range b.draws {
		p.asks = append(p.asks, bucket.ask(now))
	}
	return p
}

// run makes the call. An error is one that says that Redis is not to be relied on;
// each command has its own beside it.
func (p *call) run(ctx context.Context) error {
	c := p.c
	ctx, cancel := context.WithTimeout(ctx, c.cfg.CallTimeout)
	defer cancel()
	cmds, err := c.client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i, b := range p.batch.draws {
			a := p.asks[i]
			p.draws = append(p.draws, c.drawScript.eval(ctx, pipe, b.key, a.rate.PerSecond, a.rate.Burst, a.used, a.want))
		}
		if p.beat {
			for _, role := range c.cfg.Roles {
				p.beats = append(p.beats, c.beatScript.eval(ctx, pipe, c.replicasKey(role), string(c.id[:]), c.cfg.ReplicaTTL.Milliseconds()))
			}
		}
		if len(p.batch.hints) > 0 {
			p.sent = append(p.sent, pipe.Publish(ctx, c.hintsChannel(), c.packHints(p.batch.hints)))
		}
		if len(p.batch.wakes) > 0 {
			p.sent = append(p.sent, pipe.Publish(ctx, c.wakesChannel(), c.packNames(p.batch.wakes)))
		}
		return nil
	})
	c.drawScript.learn(p.draws)
	c.beatScript.learn(p.beats)
	if !noScript(err) {
		return err
	}
	// That Redis does not know a script is an answer. The first error hides others.
	for _, cmd := range cmds {
		if e := cmd.Err(); e != nil && !noScript(e) {
			return e
		}
	}
	return nil
}

// settle gives each part its answer.
func (p *call) settle() {
	c, now := p.c, p.c.now()
	for i, b := range p.batch.draws {
		give, wait, err := drawn(p.draws, i)
		switch {
		case noScript(err): // once more, with its text
			c.queue.draw(b)
			continue
		case err != nil:
			b.failed(now, c.cfg.PauseMin)
			continue
		}
		b.answered(p.asks[i], give, wait, now)
		c.metrics.tokensDrawn.Add(give)
		c.metrics.tokensOwn.Add(max(0, p.asks[i].used))
	}
	for i, cmd := range p.beats {
		n, err := cmd.Int()
		if err != nil {
			c.beatAt = time.Time{} // with the next call
			continue
		}
		c.counted(c.cfg.Roles[i], n, now)
	}
	lost := false
	for _, cmd := range p.sent {
		lost = lost || cmd.Err() != nil
	}
	switch {
	case lost || len(p.sent) == 0:
		p.drop()
	default:
		c.metrics.hintsSent.Add(len(p.batch.hints))
	}
}

// refused is a call that the breaker did not let through.
func (p *call) refused(pause time.Duration) {
	now := p.c.now()
	for _, b := range p.batch.draws {
		b.failed(now, pause)
	}
	p.drop()
}

// drop counts what nobody will hear.
func (p *call) drop() {
	p.c.metrics.hintsDropped.Add(len(p.batch.hints))
	p.c.metrics.wakesDropped.Add(len(p.batch.wakes))
}

var errNoAnswer = errors.New("no answer")

// drawn reads the answer of one draw.
func drawn(cmds []*redis.Cmd, i int) (give int, wait time.Duration, err error) {
	if i >= len(cmds) {
		return 0, 0, errNoAnswer
	}
	n, err := cmds[i].Int64Slice()
	switch {
	case err != nil:
		return 0, 0, err
	case len(n) != 2 || n[0] < 0 || n[1] < 0:
		return 0, 0, errNoAnswer
	}
	return int(n[0]), time.Duration(min(n[1], time.Hour.Milliseconds())) * time.Millisecond, nil
}
