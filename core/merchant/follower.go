package merchant

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// Board is where the directory is published for all processes. It keeps the last
// record at least; earlier ones may be there as well, and one may be there twice.
type Board interface {
	// Put appends a record. fault.TooLarge is that it can never be; behind any other
	// error it may be there.
	Put(ctx context.Context, record []byte) error
	// Next gives what was put since the last call, in order, and waits for it as long
	// as wait at most. all says that this is all there is now. fault.Conflict is that
	// the board is another one than before: Rewind.
	Next(ctx context.Context, wait time.Duration) (records [][]byte, all bool, err error)
	// Rewind lets Next begin with the first record again.
	Rewind()
}

// rewindAfter is how often a board is read anew: one that was lost and made anew can
// look as if nothing had happened.
const rewindAfter = time.Minute

// refusalsMax bounds the refused records that are remembered, so that each is told once.
const refusalsMax = 256

// FollowerDeps is what a Follower is made of.
type FollowerDeps struct {
	Board     Board
	Directory *Directory // in which newer versions are put in force
	// Snapshot is the file that this process keeps what is in force in, and starts with.
	Snapshot string
	// File is the directory file that this process publishes; empty for one that
	// publishes nothing.
	File string
	Now  func() time.Time
	Log  *slog.Logger
}

// Follower keeps a directory up to date with a Board, where the highest version wins,
// in whatever order records are there. A version that is in force already under
// another checksum, and what is damaged or not valid, is refused: the last good one
// stays in force. One that publishes puts on the board what it has when the board's
// last record is older: its file, or what is in force.
//
// Step and Run are for one goroutine; the rest is safe for concurrent use.
type Follower struct {
	FollowerDeps
	file    watched
	inForce *Record // nil for none yet
	board   *Record // the last one there; nil for none, or for one that is damaged
	pending *Record // of the file, neither published nor refused yet
	stale   bool    // pending is what the file had at the start: it may be older
	unfit   string  // the checksum of what the board will not take
	all     bool    // everything on the board was read
	ahead   int     // how often in a row what is in force was newer than the board
	unsaved bool    // what is in force is not in the snapshot
	begun   time.Time
	settled chan struct{}              // see Settled
	told    map[[sha256.Size]byte]bool // refused records
	failing bool

	refused   atomic.Int64
	confirmed atomic.Int64 // Unix nanoseconds
	mu        sync.Mutex
	failed    error // why the last step did not come to its end
	refusal   error // why the last thing that was refused was
}

// NewFollower puts the snapshot in force, if there is one. One that is damaged, or not
// valid, is refused and told, and takes no part: the board has another.
func NewFollower(d FollowerDeps) *Follower {
	_, err := os.Stat(d.File)
	f := &Follower{FollowerDeps: d, file: watched{path: d.File, missing: errors.Is(err, fs.ErrNotExist)}, settled: make(chan struct{}), told: map[[sha256.Size]byte]bool{}}
	f.note("what is published was not read", errors.New("it was not asked for yet"))
	f.confirmed.Store(d.Now().UnixNano())
	r, s, beyond, err := loadRecord(d.Snapshot)
	switch {
	case err == nil:
		f.inForce = r
		d.Directory.Replace(s)
		if about, err := os.Stat(d.Snapshot); err == nil { // it was in force then, who knows what came since
			f.confirmed.Store(about.ModTime().UnixNano())
		}
		f.inform("directory from the snapshot", r, beyond)
	case !errors.Is(err, fs.ErrNotExist):
		f.refuse("the snapshot is refused: the directory is fetched anew", err)
	}
	return f
}

// Refused counts what was refused since the start: files, snapshots and records. For a
// metric.
func (f *Follower) Refused() int64 { return f.refused.Load() }

// Age is how long ago it was last certain that nothing newer was published.
func (f *Follower) Age() time.Duration { return f.Now().Sub(time.Unix(0, f.confirmed.Load())) }

// Settled is closed once there is a directory that does not fall behind what there was at
// the start: all that was published was read, and the file is published and in force, or
// was refused.
func (f *Follower) Settled() <-chan struct{} { return f.settled }

// settle looks whether it has settled.
func (f *Follower) settle() {
	select {
	case <-f.settled:
	default:
		if f.all && f.pending == nil && f.inForce != nil {
			close(f.settled)
		}
	}
}

// Missing is why there is no directory yet, or, for one that publishes, why it has not
// settled; nil otherwise.
func (f *Follower) Missing() error {
	select {
	case <-f.settled:
		return nil
	default:
	}
	known := f.Directory.Current().Version > 0
	if known && f.File == "" {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	err := &fault.Error{Kind: fault.Unavailable, Op: "directory", Code: "not_published", Fix: "start a process of role core that has a directory.yaml",
		Err: errors.New("there is no snapshot, and nothing is published")}
	switch {
	case known && f.failed != nil:
		err.Code, err.Fix, err.Err = "not_settled", "", fmt.Errorf("the one of the start may be old, and %w", f.failed)
	case known:
		err.Code, err.Fix, err.Err = "not_settled", "", errors.New("what is published is being read")
	case f.failed != nil:
		err.Code, err.Fix, err.Err = "not_read", "", fmt.Errorf("there is no snapshot, and %w", f.failed)
	case f.refusal != nil:
		err.Code, err.Fix, err.Err = "refused", "", fmt.Errorf("what there is was refused: %w", f.refusal)
	}
	return err
}

// note takes note of how a step ended.
func (f *Follower) note(what string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed = nil; err != nil {
		f.failed = fmt.Errorf("%s: %w", what, err)
	}
}

// refuse counts and tells.
func (f *Follower) refuse(what string, err error) {
	f.refused.Add(1)
	f.mu.Lock()
	f.refusal = err
	f.mu.Unlock()
	f.Log.Error(what, "error", err)
}

// inform tells what is in force now.
func (f *Follower) inform(what string, r *Record, beyond error) {
	f.Log.Info(what, "version", r.Version, "sha256", r.Sum)
	if beyond != nil {
		f.Log.Warn("the directory has what this build does not know, and passes over", "error", beyond)
	}
}

// Run steps until ctx ends, with a pause of every after an error, which is told once.
func (f *Follower) Run(ctx context.Context, every time.Duration) error {
	for ctx.Err() == nil {
		err := f.Step(ctx, every)
		if ctx.Err() != nil {
			break
		}
		if failing := err != nil; failing != f.failing {
			f.failing = failing
			if failing {
				f.Log.Error("directory not confirmed: the last one stays in force", "error", err)
			} else {
				f.Log.Info("directory confirmed again", "version", f.Directory.Current().Version)
			}
		}
		if err != nil {
			select {
			case <-ctx.Done():
			case <-time.After(every):
			}
		}
	}
	return nil
}

// Step waits for news, for wait at most, puts them in force and into the snapshot, and
// publishes. An error is tried again by the next one; what is refused is none.
func (f *Follower) Step(ctx context.Context, wait time.Duration) error {
	if f.Now().Sub(f.begun) > rewindAfter {
		f.compare()
		f.rewind()
	}
	if !f.all {
		wait = 0 // there may be no news
	}
	records, all, err := f.Board.Next(ctx, wait)
	if err != nil {
		f.note("what is published was not read", err)
		if fault.Is(err, fault.Conflict) {
			f.rewind()
		}
		return fault.Wrap("directory", err)
	}
	for _, raw := range records {
		f.take(raw)
	}
	if f.all = all; all {
		f.confirmed.Store(f.Now().UnixNano())
	}
	var errs []error
	if f.unsaved {
		err := f.inForce.save(f.Snapshot)
		f.unsaved = err != nil
		errs = append(errs, fault.Wrap(f.Snapshot, err))
	}
	if f.File != "" {
		f.look()
		err = f.publish(ctx)
		errs = append(errs, fault.Wrap("directory: publish", err))
	}
	f.note("the file was not published", err)
	f.settle()
	return errors.Join(errs...)
}

// aheadMax is for how many looks at the whole board it may be behind what is in force:
// whoever publishes puts it right long before.
const aheadMax = 2

// compare tells when what is in force is not what others have, and stays so: nobody who
// publishes knows of it.
func (f *Follower) compare() {
	switch {
	case f.File != "" || !f.all:
		return
	case f.board == nil || f.inForce == nil || f.board.Version >= f.inForce.Version:
		f.ahead = 0
		return
	}
	if f.ahead++; f.ahead == aheadMax {
		f.refuse("what is published is passed over: it is older than what is in force here", &fault.Error{Kind: fault.Conflict, Op: "directory",
			Field: "version", Code: "version_behind", Fix: fmt.Sprintf("raise it above %d in core's directory.yaml", f.inForce.Version),
			Err: fmt.Errorf("version %d is published, %d is in force", f.board.Version, f.inForce.Version)})
	}
}

func (f *Follower) rewind() {
	f.Board.Rewind()
	f.begun, f.all, f.board = f.Now(), false, nil
}

// take puts a record in force if it is newer.
func (f *Follower) take(raw []byte) {
	r, err := parseRecord(raw)
	f.board = r
	if err == nil {
		switch {
		case r.same(f.inForce) || f.inForce != nil && r.Version < f.inForce.Version:
			return
		case f.inForce != nil && r.Version == f.inForce.Version:
			err = taken("what is published", r, f.inForce)
		default:
			var s *Snapshot
			var beyond error
			if s, beyond, err = r.snapshot("what is published"); err == nil {
				f.Directory.Replace(s)
				f.inForce, f.unsaved = r, true
				f.inform("directory changed", r, beyond)
				return
			}
		}
	}
	sum := sha256.Sum256(raw)
	if f.told[sum] {
		return
	}
	if len(f.told) == refusalsMax {
		clear(f.told)
	}
	f.told[sum] = true
	f.refuse("a published directory is refused: the last good one stays in force", err)
}

// taken says that a version is in force already, and is another directory.
func taken(what string, r, have *Record) error {
	return &fault.Error{Kind: fault.Conflict, Op: what, Field: "version", Code: "version_taken", Fix: "raise it above all that were published",
		Err: fmt.Errorf("version %d with sha256 %s is there, this one has %s", r.Version, have.Sum, r.Sum)}
}

// look takes note of a file that has changed.
func (f *Follower) look() {
	first := f.file.last == nil
	r, _, err := f.file.look()
	switch {
	case err != nil:
		f.refuse("directory file refused: the last good one stays in force", err)
	case r != nil:
		f.pending, f.stale = r, first
	}
}

// publish puts the newest that this process has on the board, when everything there is
// known and the last one there is older.
func (f *Follower) publish(ctx context.Context) error {
	if !f.all {
		return nil
	}
	best := f.judge()
	if best == nil || best.Sum == f.unfit || f.board != nil && best.Version <= f.board.Version {
		return nil
	}
	err := f.Board.Put(ctx, best.bytes)
	switch {
	case fault.Is(err, fault.TooLarge):
		f.unfit = best.Sum
		if best == f.pending {
			f.pending = nil
		}
		f.refuse("a directory cannot be published", err)
		return nil
	case err != nil:
		return err
	}
	f.board = best
	f.Log.Info("directory published", "version", best.Version, "sha256", best.Sum, "bytes", len(best.bytes))
	return nil
}

// judge gives what is to be on the board: what is in force, or the file, if its version
// is higher than all that is known.
func (f *Follower) judge() *Record {
	have := f.inForce
	if have == nil || f.board != nil && f.board.Version > have.Version {
		have = f.board
	}
	switch p := f.pending; {
	case p == nil:
		return f.inForce
	case have == nil || p.Version > have.Version:
		return p
	case p.Version == have.Version && !p.same(have):
		f.refuse("directory file refused: the last good one stays in force", taken(f.File, p, have))
	case p.Version < have.Version && !f.stale:
		f.refuse("directory file refused: the last good one stays in force", notRaised(f.File, p.Version, have.Version))
	case p.Version < have.Version:
		f.Log.Warn("the directory file is older than what is in force", "file", f.File, "version", p.Version, "in_force", have.Version)
	}
	f.pending = nil
	return f.inForce
}
