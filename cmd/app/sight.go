package app

import "time"

// sight is what was last seen of the groups that a database owns. The moments are this
// process's own: they tell what was looked at before what, and nothing else.
type sight struct {
	groups []int             // in order; nil before the first look
	begun  time.Time         // when the last look began
	since  map[int]time.Time // by when each of them was there
}

// next is the sight after a look that has ended now. One that began before the last one
// says nothing new.
func (s sight) next(owned []int, begun, now time.Time) sight {
	if begun.Before(s.begun) {
		return s
	}
	out := sight{groups: owned, begun: begun, since: map[int]time.Time{}}
	for _, g := range owned {
		out.since[g] = now
		if at, ok := s.since[g]; ok {
			out.since[g] = at
		}
	}
	return out
}

// both are the groups that two databases own: each was looked at after the other one had
// the group. A group that moves is seen in both as well, for as long as its source
// has not been looked at again.
func (s sight) both(o sight) (out []int) {
	for _, g := range s.groups {
		if at, ok := o.since[g]; ok && !s.begun.Before(at) && !o.begun.Before(s.since[g]) {
			out = append(out, g)
		}
	}
	return out
}

// undecided are the groups that have come, after a moment, since the other database, which
// had them, was looked at.
func (s sight) undecided(o sight, after time.Time) (out []int) {
	for _, g := range o.groups {
		if at, ok := s.since[g]; ok && o.begun.Before(at) && at.After(after) {
			out = append(out, g)
		}
	}
	return out
}

// see takes note of a look at the groups that the database owns.
func (c *cell) see(owned []int, begun time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sight = c.sight.next(owned, begun, c.app.Now())
}

// seen is what was last seen of the groups that the database owns.
func (c *cell) seen() sight {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sight
}
