// Package wholefile writes small files that a crash leaves as they were or as they are to
// be.
package wholefile

import (
	"errors"
	"os"
	"path/filepath"
)

// Write puts a file of mode 0600 in the place of one that may be there, durably: the
// content is flushed before it gets its name, and the name after it. Several processes
// may write it at once: one of theirs is there in the end.
func Write(path string, content []byte) error {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, filepath.Base(path)+".*.new") // 0600
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return SyncFolder(dir)
}

// SyncFolder makes the names in a folder durable.
func SyncFolder(dir string) error {
	d, err := os.Open(dir) //nolint:gosec // the operator's own folder
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
