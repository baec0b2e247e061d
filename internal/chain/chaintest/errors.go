package chaintest

import (
	"context"
	"errors"
	"fmt"
	"testing"
)

// errInjected is what fails. It wraps what a full disk or a broken one says.
type errInjected struct{ error }

func (e errInjected) Unwrap() error { return e.error }

// Failures lets operation 1, 2, 3 … of op fail with err, once or from then on,
// until op gets through. A failure may never be taken for success; every image
// that stays reads as ever, at once and after a loss of power; and op, done
// again, gets to its end. Of the operations every stride-th fails. It returns
// how many failures there were.
func Failures(t testing.TB, base, above Kit, op Operation, seed uint64, err error, sticky bool, stride int) (failures int, _ error) {
	origin := newForest(t, base, above, op, seed)
	for n := 1 + int(seed)%stride; ; n += stride {
		f := origin.on(origin.mem.Crash(1))
		f.mem.FailAt(n, errInjected{err}, sticky)
		failure := op.Do(context.Background(), f.store())
		over := n > f.mem.Ops()
		f.mem.FailAt(1<<40, nil, false)
		if failure == nil && over {
			return failures, f.after(op)
		}
		failures++
		if bad := f.failed(op, failure); bad != nil {
			return failures, fmt.Errorf("seed %d, operation %d failed (%w): %w", seed, n, failure, bad)
		}
	}
}

// failed looks at what a failure has left.
func (f *forest) failed(op Operation, failure error) error {
	if failure != nil && !errors.As(failure, &errInjected{}) {
		return fmt.Errorf("the error does not say what failed")
	}
	if failure == nil {
		return f.after(op) // the failure did not matter, or was got around
	}
	for fate := range uint64(3) {
		lost := f.on(f.mem.Crash(fate))
		if err := lost.goesOn(op); err != nil {
			return fmt.Errorf("power lost then, fate %d: %w", fate, err)
		}
	}
	return f.during(op)
}

func (f *forest) goesOn(op Operation) error {
	if err := f.during(op); err != nil {
		return err
	}
	if err := op.Do(context.Background(), f.store()); err != nil {
		return fmt.Errorf("going on: %w", err)
	}
	return f.after(op)
}

// FullDisk does op with less and less room until it has enough: it fails before
// it has changed what is read, and goes on when there is room.
func FullDisk(t testing.TB, base, above Kit, op Operation, seed uint64) error {
	origin := newForest(t, base, above, op, seed)
	for room := int64(0); ; room += 32 << 10 {
		f := origin.on(origin.mem.Crash(1))
		f.mem.Limit(origin.used() + room)
		failure := op.Do(context.Background(), f.store())
		if failure == nil {
			return f.after(op)
		}
		if err := f.during(op); err != nil {
			return fmt.Errorf("seed %d, %d bytes of room (%w): %w", seed, room, failure, err)
		}
		f.mem.Limit(1 << 40)
		if err := f.goesOn(op); err != nil {
			return fmt.Errorf("seed %d, after %d bytes of room: %w", seed, room, err)
		}
		if room > 64<<20 {
			return fmt.Errorf("seed %d: no room is enough: %w", seed, failure)
		}
	}
}

// used is how much the images take.
func (f *forest) used() (n int64) {
	for p := range f.views {
		info, err := f.mem.Stat(p)
		f.must(err)
		n += info.Allocated
	}
	return n
}
