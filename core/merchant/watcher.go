package merchant

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
	"github.com/tallystick/tallystick/internal/strictyaml"
)

// watched is a directory file that is looked at again and again.
type watched struct {
	path    string
	last    []byte // as last read
	missing bool
}

// look gives what the file has when it is another than the last time, and nil
// otherwise. One that cannot be read is an error once, until it changes again.
func (w *watched) look() (*Record, *Snapshot, error) {
	text, err := read(w.path)
	if err != nil {
		again := w.missing
		w.missing = true
		if again {
			return nil, nil, nil
		}
		return nil, nil, err
	}
	w.missing = false
	if bytes.Equal(text, w.last) {
		return nil, nil, nil
	}
	w.last = text
	s, err := parse(w.path, text, strictyaml.Decode)
	if err != nil {
		return nil, nil, err
	}
	return newRecord(s.Version, text), s, nil
}

// notRaised says that a file is another one, and its version no higher than what is in
// force.
func notRaised(path string, version, inForce int64) error {
	return &fault.Error{Kind: fault.Conflict, Op: path, Field: "version", Code: "not_raised", Fix: "raise it above what is in force",
		Err: fmt.Errorf("the file changed, but its version %d is not above %d", version, inForce)}
}

// Watcher puts a directory file in force again when it changes. A file that
// cannot be read, or whose version is not higher, changes nothing. Replace the
// file by a rename: one that is read half written may look complete.
type Watcher struct {
	file      watched
	directory *Directory
	log       *slog.Logger
	refused   atomic.Int64
}

// NewWatcher watches the file that the directory was loaded from.
func NewWatcher(path string, d *Directory, log *slog.Logger) *Watcher {
	return &Watcher{file: watched{path: path}, directory: d, log: log}
}

// Refused counts the files that were refused since the start: for a metric.
func (w *Watcher) Refused() int64 { return w.refused.Load() }

// Settled is closed: what is watched was in force from the beginning.
func (w *Watcher) Settled() <-chan struct{} {
	settled := make(chan struct{})
	close(settled)
	return settled
}

// Missing is nil, as well.
func (w *Watcher) Missing() error { return nil }

// Step looks once: worked is true when a newer version came into force. A file
// that is refused or missing is an error once, until it changes again.
func (w *Watcher) Step(context.Context) (worked bool, err error) {
	first := w.file.last == nil // the file that the directory was loaded from
	_, s, err := w.file.look()
	if err == nil && s != nil {
		worked = w.directory.Replace(s)
		if have := w.directory.Current().Version; !worked && !(first && s.Version == have) {
			err = notRaised(w.file.path, s.Version, have)
		}
	}
	if err != nil {
		w.refused.Add(1)
	}
	return worked, fault.Wrap("directory", err)
}

// Run looks every interval, until ctx ends.
func (w *Watcher) Run(ctx context.Context, every time.Duration) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		worked, err := w.Step(ctx)
		if err != nil {
			w.log.Error("directory not changed: the last good version stays in force", "error", err)
		} else if worked {
			w.log.Info("directory changed", "version", w.directory.Current().Version)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
