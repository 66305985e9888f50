package app

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tallystick/tallystick/internal/fault"
)

// runner is something that runs until its context ends.
type runner struct {
	name string
	run  func(ctx context.Context) error
}

// after holds a runner back until something is there.
func after(there <-chan struct{}, r runner) runner {
	return runner{r.name, func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-there:
			return r.run(ctx)
		}
	}}
}

// runAll starts runners in order. When ctx ends, or one of them does, they are
// stopped in reverse order, each before the next; one that does not stop within
// patience is named in the error and left behind. The first failure is returned.
func runAll(ctx context.Context, runners []runner, patience time.Duration) error {
	type running struct {
		runner
		cancel context.CancelFunc
		done   chan error
	}
	failed := make(chan error, len(runners))
	var started []running
	for _, r := range runners {
		own, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s := running{runner: r, cancel: cancel, done: make(chan error, 1)}
		started = append(started, s)
		go func() {
			err := fault.Wrap(s.name, s.run(own))
			if err == nil && own.Err() == nil {
				err = fmt.Errorf("%s ended by itself", s.name)
			}
			s.done <- err
			if err != nil {
				failed <- err
			}
		}()
	}
	var first error
	select {
	case <-ctx.Done():
	case first = <-failed:
	}
	errs := []error{first}
	for i := len(started) - 1; i >= 0; i-- {
		s := started[i]
		s.cancel()
		t := time.NewTimer(patience)
		select {
		case err := <-s.done:
			if first == nil && err != nil {
				first = err
				errs = append(errs, err)
			}
		case <-t.C:
			errs = append(errs, fmt.Errorf("%s did not stop within %s", s.name, patience))
		}
		t.Stop()
	}
	return errors.Join(errs...)
}
