package app

import (
	"os"
	"runtime/debug"
)

// gcPercent is how much garbage may pile up before it is collected, in percent of
// what is alive. A payment leaves a few hundred objects behind and little that
// lives: at the default of 100 the collector was measured to take 7 % of all CPU,
// here 4 %. More saves little, and takes memory: what lives under load is about
// 100 MiB, and 400 made it peak at 560 MiB instead of 350.
const gcPercent = 200

// TuneGC sets the garbage collector of this process for a server. What the
// operator says in GOGC counts more; GOMEMLIMIT bounds both.
func TuneGC() {
	if _, told := os.LookupEnv("GOGC"); !told {
		debug.SetGCPercent(gcPercent)
	}
}
