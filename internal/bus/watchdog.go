package bus

import (
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Standing is how far someone has come in a group of the topic that he follows,
// and where it ends as far as he knows.
type Standing struct {
	Group    int
	At, Head Place
}

// behind reports whether there is something to read.
func (s *Standing) behind() bool {
	return s.Head.Epoch > s.At.Epoch || s.Head.Epoch == s.At.Epoch && s.Head.Seq > s.At.Seq
}

// Watchdog notices groups that stand still although there is something to read,
// whatever the reason: a gap, a message that nobody can read, a store that takes
// nothing, a broker that is gone, a bug. Safe for concurrent use.
type Watchdog struct {
	Who       string // the follower, for the log
	Topic     Topic
	Standings func() []Standing
	After     time.Duration // standing still for so long is an alarm
	Now       func() time.Time
	Log       *slog.Logger

	mu     sync.Mutex
	groups map[int]*watched
}

// watched is a group that is behind.
type watched struct {
	at      Place
	since   time.Time
	alarmed bool
}

// Step looks once. The alarm is logged once for each time that a group stands
// still, and its end as well.
func (w *Watchdog) Step() {
	now := w.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.groups == nil {
		w.groups = map[int]*watched{}
	}
	for _, s := range w.Standings() {
		g := w.groups[s.Group]
		switch {
		case !s.behind():
			w.moves(s, g)
			delete(w.groups, s.Group)
		case g == nil || g.at != s.At:
			w.moves(s, g)
			w.groups[s.Group] = &watched{at: s.At, since: now}
		case !g.alarmed && now.Sub(g.since) >= w.After:
			g.alarmed = true
			w.Log.Error("group stands still", "who", w.Who, "topic", string(w.Topic), "group", s.Group, "at_seq", s.At.Seq,
				"head_seq", s.Head.Seq, "for_seconds", int64(now.Sub(g.since).Seconds()))
		}
	}
}

func (w *Watchdog) moves(s Standing, g *watched) {
	if g != nil && g.alarmed {
		w.Log.Info("group moves again", "who", w.Who, "topic", string(w.Topic), "group", s.Group, "at_seq", s.At.Seq)
	}
}

// Stalled gives the groups that stood still at the last Step.
func (w *Watchdog) Stalled() []int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var out []int
	for g, s := range w.groups {
		if s.alarmed {
			out = append(out, g)
		}
	}
	slices.Sort(out)
	return out
}

// Standings are for a Watchdog.
func (c *Consumer) Standings() []Standing {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Standing, len(c.groups))
	for i, g := range c.groups {
		out[i] = Standing{Group: g, At: c.places[g], Head: c.Source.Head(g)}
	}
	return out
}
