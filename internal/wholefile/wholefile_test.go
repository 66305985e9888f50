package wholefile_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tallystick/tallystick/internal/wholefile"
)

// A file is replaced as a whole, is the owner's alone, and nothing is left beside it, also
// where it cannot be put.
func TestWrite(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	for _, content := range []string{"one, which is longer", "two"} {
		if err := wholefile.Write(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		have, err := os.ReadFile(path)
		if err != nil || string(have) != content {
			t.Fatalf("%q, %v, want %q", have, err, content)
		}
	}
	if i, err := os.Stat(path); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", i.Mode(), err)
	}
	folder := filepath.Join(dir, "folder")
	if err := os.Mkdir(folder, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if wholefile.Write(folder, []byte("x")) == nil {
		t.Error("a folder was replaced")
	}
	if wholefile.Write(filepath.Join(dir, "none", "f"), nil) == nil {
		t.Error("written into a folder that is not there")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 2 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
