package coordtest

import (
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/tallystick/tallystick/internal/coord"
	"github.com/tallystick/tallystick/internal/ids"
)

// patience is how long something may take that need not happen at once.
const patience = 20 * time.Second

// eventually waits for something.
func eventually(tb testing.TB, what string, ok func() bool) {
	tb.Helper()
	for end := time.Now().Add(patience); !ok(); {
		if time.Now().After(end) {
			tb.Fatalf("not within %v: %s", patience, what)
		}
		time.Sleep(time.Millisecond)
	}
}

// hintOf makes a hint that differs from all others in all its parts.
func hintOf(n uint64) coord.Hint {
	h := coord.Hint{Key: n * 0x9e3779b97f4a7c15}
	y := []byte("r00000000000000000000000000")
	for i, rest := 1, n; rest > 0; i++ {
		y[i] = ids.Alphabet[rest%32]
		rest /= 32
	}
	h.Y = ids.Code(y)
	binary.BigEndian.PutUint64(h.Fingerprint[:], n)
	binary.BigEndian.PutUint64(h.Fingerprint[24:], ^n)
	return h
}

func hints(tb testing.TB, a Adapter) {
	const n, each = 3, 600
	var mu sync.Mutex
	heard := make([]map[coord.Hint]int, n)
	hear := make([]func(coord.Hint), n)
	for i := range hear {
		heard[i] = map[coord.Hint]int{}
		hear[i] = func(h coord.Hint) {
			mu.Lock()
			defer mu.Unlock()
			heard[i][h]++
		}
	}
	rs := a.Open(tb, n, hear)
	told := make([]map[coord.Hint]bool, n)
	for i, r := range rs {
		told[i] = map[coord.Hint]bool{}
		for k := range each {
			h := hintOf(uint64(i*each + k + 1)) //nolint:gosec // small
			told[i][h] = true
			r.Tell(h)
		}
	}
	eventually(tb, "every replica hears every other", func() bool {
		mu.Lock()
		defer mu.Unlock()
		for i := range heard {
			if len(heard[i]) < (n-1)*each {
				return false
			}
		}
		return true
	})
	mu.Lock()
	defer mu.Unlock()
	for i := range heard {
		for h, times := range heard[i] {
			from := -1
			for j := range told {
				if told[j][h] {
					from = j
				}
			}
			switch {
			case from < 0:
				tb.Fatalf("replica %d heard %+v, which nobody told", i, h)
			case from == i:
				tb.Fatalf("replica %d heard itself", i)
			case times > 1:
				tb.Fatalf("replica %d heard one hint %d times", i, times)
			}
		}
	}
}
