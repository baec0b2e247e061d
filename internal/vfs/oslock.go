package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// Lock takes QEMU's image locks in QEMU's way: first all are taken, then it is
// tested for those of others, so that of two who come at once both may fail, but
// never both succeed. A call that fails leaves the locks as they were.
//
// Locks of this process through another descriptor count as those of others.
// A user who shares everything and only reads, like qemu-io -U, is not noticed
// even by LockWrite, nor is one who opened a device through another node. A file
// system without locks is an error.
func (f *osFile) Lock(mode LockMode) error {
	f.lockMu.Lock()
	defer f.lockMu.Unlock()
	hold, test := imageLocks(mode)
	before := f.held
	err := f.take(mode, hold)
	if err == nil {
		err = f.testLocks(mode, test)
	}
	if err == nil {
		err = f.checkPath()
	}
	if err != nil {
		return errors.Join(err, f.release(before))
	}
	return nil
}

// imageLocks returns the bytes to read-lock and those that nobody else may have
// locked.
func imageLocks(mode LockMode) (hold, test []int64) {
	used := []int64{permRead}
	if mode == LockWrite {
		used = append(used, permWrite, permResize)
	}
	for _, p := range used {
		hold, test = append(hold, usedBase+p), append(test, unsharedBase+p)
	}
	for _, p := range []int64{permWrite, permResize} {
		hold, test = append(hold, unsharedBase+p), append(test, usedBase+p)
	}
	return hold, test
}

// take locks one byte after the other, and notes those that it has got. Only a
// write lock is in the way of a read lock; QEMU takes none.
func (f *osFile) take(mode LockMode, bytes []int64) error {
	for _, off := range bytes {
		if slices.Contains(f.held, off) {
			continue
		}
		err := f.setLock(unix.F_RDLCK, off)
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return &BusyError{Path: f.Path(), Mode: mode}
		}
		if err != nil {
			return f.wrap("lock", err)
		}
		f.held = append(slices.Clip(f.held), off)
	}
	return nil
}

// release gives back all but the locks in keep.
func (f *osFile) release(keep []int64) error {
	var err error
	for _, off := range f.held {
		if !slices.Contains(keep, off) {
			err = errors.Join(err, f.wrap("unlock", f.setLock(unix.F_UNLCK, off)))
		}
	}
	f.held = keep
	return err
}

func (f *osFile) setLock(kind int16, off int64) error {
	lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: off, Len: 1}
	return retry(func() error { return f.sys.lock(f.f.Fd(), unix.F_OFD_SETLK, &lk) })
}

func (f *osFile) testLocks(mode LockMode, bytes []int64) error {
	for _, off := range bytes {
		busy, err := locked(f.f, off)
		if err != nil {
			return err
		}
		if busy {
			return &BusyError{Path: f.Path(), Mode: mode}
		}
	}
	return nil
}

// checkPath tells whether path still leads to the open file: locks follow the
// inode, and others will lock what they find at path.
func (f *osFile) checkPath() error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	now, err := Stat(f.Path())
	var kind *KindError
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return &ChangedError{Path: f.Path(), Reason: "it is gone"}
	case errors.As(err, &kind):
		return &ChangedError{Path: f.Path(), Reason: "it is a " + kind.Kind}
	case err == nil && now.ID != mine.ID:
		return &ChangedError{Path: f.Path(), Reason: fmt.Sprintf(
			"it is device %d inode %d, the open file device %d inode %d",
			now.ID.Dev, now.ID.Ino, mine.ID.Dev, mine.ID.Ino)}
	}
	return err
}
