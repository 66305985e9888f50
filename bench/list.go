package main

import (
	"github.com/tallystick/tallystick/bench/accept"
	"github.com/tallystick/tallystick/bench/chaos"
	"github.com/tallystick/tallystick/bench/cluster"
	"github.com/tallystick/tallystick/bench/crash"
	"github.com/tallystick/tallystick/bench/e2e"
	"github.com/tallystick/tallystick/bench/memory"
	"github.com/tallystick/tallystick/bench/planted"
)

// benches is the list; a new one is a folder and a line here.
func benches() []bench {
	return []bench{
		{"crash", "kill -9 under load, again and again; nothing lost, nothing paid or booked twice", crash.Bench},
		{"planted", "bugs planted in copies of this tree: each must be caught", planted.Bench},
		{"accept", "cost of accepting a payment, against an echo of the same bytes", accept.Run},
		{accept.ServerBench, "", accept.Server},
		{"e2e", "settled payments per second, and the CPU of each by area", e2e.Run},
		{"chaos", "a cluster under load while engines die, processes stand still and disks fill", chaos.Run},
		{"cluster", "the cluster profile: how soon a voucher is ready, and CPU by role and engine", cluster.Run},
		{"memory", "resident memory of an idle server", memory.Run},
	}
}
