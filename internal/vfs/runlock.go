package vfs

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"
)

const (
	// maxHolder is how many bytes of a lock file are shown and written.
	maxHolder = 512
	// lockAttempts is how often a lock file may be replaced between open and
	// lock. Nobody replaces it in normal use.
	lockAttempts = 10
)

// RunLock is held by the one run of a host.
type RunLock struct{ f *os.File }

// HeldError says that another process holds the lock.
type HeldError struct {
	Path string
	// Holder is what the holder wrote about itself. It can be empty or that of
	// the holder before, for the instant between locking and writing.
	Holder string
}

func (e *HeldError) Error() string {
	return fmt.Sprintf("%s: another run holds the lock: %s", e.Path, e.Holder)
}

// AcquireRunLock locks path, which it creates if needed, without waiting: a
// *HeldError says who has it. The lock is an flock of the open file: it ends
// with Close or with the process, however that dies, and is not passed on to
// children. The file stays, and must not be removed by hand: a second one under
// the same name could be locked beside it.
func AcquireRunLock(path string) (*RunLock, error) {
	for range lockAttempts {
		l, err := tryRunLock(path)
		if l != nil || err != nil {
			return l, err
		}
	}
	return nil, fmt.Errorf("%s: lock file is replaced again and again", path)
}

// Close releases the lock.
func (l *RunLock) Close() error { return l.f.Close() }

// tryRunLock returns nil, nil when path was replaced before it was locked.
func tryRunLock(path string) (*RunLock, error) {
	// 0600: whoever can open the file can hold the lock.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	current, err := lockCurrent(f, path)
	if err == nil && current {
		err = sign(f)
	}
	if err != nil || !current {
		return nil, errors.Join(err, f.Close())
	}
	return &RunLock{f}, nil
}

// lockCurrent locks f and tells whether it is still the file at path.
func lockCurrent(f *os.File, path string) (bool, error) {
	fi, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !fi.Mode().IsRegular() {
		return false, kindError(path, fi)
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, &HeldError{Path: path, Holder: holder(f)}
	}
	if err != nil {
		return false, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	now, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil && os.SameFile(fi, now), err
}

// sign writes who holds the lock. It is for people, so it is not synced.
func sign(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return err
	}
	text := fmt.Sprintf("pid %d since %s: %q", os.Getpid(),
		time.Now().UTC().Format(time.RFC3339), os.Args)
	_, err := f.WriteAt([]byte(text[:min(len(text), maxHolder)]), 0)
	return err
}

// holder reads what sign wrote, best effort, without anything that could
// confuse a terminal.
func holder(f *os.File) string {
	b := make([]byte, maxHolder)
	n, _ := f.ReadAt(b, 0)
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, string(b[:n]))
}
