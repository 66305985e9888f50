package app_test

import (
	"io"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/cmd/app"
	"github.com/tallystick/tallystick/internal/fault"
)

// A folder belongs to one process: another one is told so, and leaves it alone.
func TestStoresBelongToOneProcess(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := app.Init(dir); err != nil {
		t.Fatal(err)
	}
	deps, err := app.Production(dir, nil, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	first, err := app.OpenStores(t.Context(), deps)
	if err != nil {
		t.Fatal(err)
	}
	if s, err := app.OpenStores(t.Context(), deps); !fault.Is(err, fault.Conflict) {
		t.Errorf("opened while in use: %v, %v", s, err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := app.OpenStores(t.Context(), deps)
	if err != nil {
		t.Fatal("not given free:", err)
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}
