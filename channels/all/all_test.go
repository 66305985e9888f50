package all_test

import (
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tallystick/tallystick/channels/all"
	"github.com/tallystick/tallystick/internal/fault"
)

func TestBuild(t *testing.T) {
	good := all.Args{Channel: "sandbox", Account: "a", Endpoint: "http://127.0.0.1:1", Keys: [][]byte{[]byte("0123456789abcdef")},
		Now: time.Now, Random: rand.Reader}
	ch, err := all.Build(good)
	if err != nil || ch.Name != "sandbox" || ch.Account != "a" || ch.Pay == nil || ch.Callback == nil {
		t.Fatalf("%+v, %v", ch, err)
	}
	if !slices.Equal(all.Names(), []string{"sandbox"}) {
		t.Error(all.Names())
	}
	bad := good
	bad.Channel = "nobody"
	if _, err := all.Build(bad); !fault.Is(err, fault.Invalid) || !strings.Contains(err.Error(), "sandbox") {
		t.Error(err)
	}
	bad = good
	bad.Keys = nil
	if _, err := all.Build(bad); !fault.Is(err, fault.Invalid) {
		t.Error(err)
	}
}
