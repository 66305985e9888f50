package local_test

import (
	"testing"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/coord/coordtest"
	"github.com/tallystick/tallystick/internal/coord/local"
)

// adapter gives exactly what a rate says.
func adapter() coordtest.Adapter {
	return coordtest.Adapter{
		Open: func(_ testing.TB, n int, hear []func(coord.Hint)) []coordtest.Replica {
			hub := local.New()
			var out []coordtest.Replica
			for i := range n {
				r := hub.Replica()
				if hear[i] != nil {
					r.Hear(hear[i])
				}
				out = append(out, r)
			}
			return out
		},
		MoreMax: func(int, int) int { return 0 },
	}
}

func TestLocal(t *testing.T) { coordtest.Run(t, adapter()) }
