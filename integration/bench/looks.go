package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// looks are the medians of what a command took that only looks at the host, and how much memory it had at most.
type looks struct {
	took, busy time.Duration // busy is its own processor time: the rest is libvirtd's
	peak       int64         // KiB
}

// lookRounds is how often each is measured.
const lookRounds = 5

// looks measures a command as it is the first time, when nothing is known of earlier looks, or later on.
func (b *bench) looks(ctx context.Context, first bool, args ...string) (looks, error) {
	var took, busy []time.Duration
	var all looks
	state := filepath.Join(b.host.Dir(), "state")
	if err := os.MkdirAll(state, 0o700); err != nil { // as after a run
		return all, err
	}
	for range lookRounds {
		if first {
			if err := os.Remove(filepath.Join(state, "snapshots.cache")); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return all, err
			}
		}
		t, cmd, err := b.timed(ctx, b.binary, args...)
		if err != nil {
			return all, err
		}
		took, busy = append(took, t), append(busy, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
			all.peak = max(all.peak, usage.Maxrss)
		}
	}
	all.took, all.busy = median(took), median(busy)
	return all, nil
}
