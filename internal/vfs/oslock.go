package vfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"
)

// A byteLock is the lock of a descriptor on one byte.
type byteLock struct {
	off  int64
	kind int16 // unix.F_RDLCK or F_WRLCK
}

// Lock takes QEMU's image locks in QEMU's way: first all are taken, then it is
// tested for those of others, so that of two who come at once both may fail, but
// never both succeed. A call that fails leaves the locks as they were.
//
// Locks of this process through another descriptor count as those of others.
// A user who shares everything and only reads, like qemu-io -U, is not noticed
// even by LockWrite, nor is one who opened a device through another node. A file
// system without locks is an error, and so is LockWrite where locks do not reach other
// hosts that have the file, too: a *LocalLocksError, but for what Alone is told of.
func (f *osFile) Lock(mode LockMode) error {
	f.lockMu.Lock()
	defer f.lockMu.Unlock()
	p, err := newProber(f.f, f.sys)
	if err != nil {
		return err
	}
	before := slices.Clone(f.held)
	if err := f.lock(mode, p); err != nil {
		return errors.Join(err, f.release(before), p.Close())
	}
	return p.Close()
}

func (f *osFile) lock(mode LockMode, p *prober) error {
	if mode == LockWrite && p.shared != ofThisHost && (f.alone == nil || !f.alone(f.Path())) {
		if err := f.reachOthers(); err != nil {
			return err
		}
	}
	hold, test := imageLocks(mode)
	err := f.take(mode, hold, p.shared)
	if err == nil {
		err = f.testLocks(mode, test, p)
	}
	if err == nil {
		err = f.checkPath()
	}
	return err
}

// reachOthers refuses locks that other hosts do not see.
func (f *osFile) reachOthers() error {
	reason, err := localLocks(f.f, f.sys)
	if err == nil && reason != "" {
		return &LocalLocksError{f.Path(), reason}
	}
	return err
}

// imageLocks returns the bytes to lock and those that nobody else may have locked.
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

// kindToHold is a read lock, as QEMU's are, but on a network file system for writing: there
// QEMU on another host may not see a read lock, but cannot take one of its own beside
// a write lock. All who are kept out by that would be refused otherwise, had they seen
// the read lock. The byte of those who only read stays free for those who share all.
func kindToHold(mode LockMode, off int64, shared sharing) int16 {
	if shared == ofOthers && mode == LockWrite && off != usedBase+permRead {
		return unix.F_WRLCK
	}
	return unix.F_RDLCK
}

// take locks one byte after the other, and notes those that it has got. A read lock
// becomes a write lock at once, without a moment between, or stays what it was.
func (f *osFile) take(mode LockMode, bytes []int64, shared sharing) error {
	for _, off := range bytes {
		kind := kindToHold(mode, off, shared)
		if kind == unix.F_WRLCK && !isWritable(f.f) {
			kind = unix.F_RDLCK // no more can be had
		}
		if has := f.kindHeld(off); has == kind || has == unix.F_WRLCK {
			continue
		}
		err := f.setLock(kind, off)
		if isHeld(err) {
			return &BusyError{Path: f.Path(), Mode: mode}
		}
		if err != nil {
			return f.wrap("lock", err)
		}
		f.note(byteLock{off, kind})
	}
	return nil
}

// kindHeld is F_UNLCK for a byte that this descriptor has not locked.
func (f *osFile) kindHeld(off int64) int16 { return kindIn(f.held, off) }

func kindIn(locks []byteLock, off int64) int16 {
	for _, l := range locks {
		if l.off == off {
			return l.kind
		}
	}
	return unix.F_UNLCK
}

// note remembers what a byte is locked with now.
func (f *osFile) note(l byteLock) {
	f.held = slices.DeleteFunc(f.held, func(h byteLock) bool { return h.off == l.off })
	if l.kind != unix.F_UNLCK {
		f.held = append(f.held, l)
	}
}

// release puts the locks back to those in keep. None of them becomes stronger by that,
// so nobody can be in the way.
func (f *osFile) release(keep []byteLock) error {
	var err error
	for _, l := range slices.Clone(f.held) {
		was := kindIn(keep, l.off)
		if was == l.kind {
			continue
		}
		err = errors.Join(err, f.wrap("unlock", f.setLock(was, l.off)))
		f.note(byteLock{l.off, was})
	}
	return err
}

func (f *osFile) setLock(kind int16, off int64) error { return setLock(f.f, f.sys, kind, off) }

// testLocks looks for the locks of others. Nobody else has one on a byte that this
// descriptor has a write lock on; on its read locks it only asks.
func (f *osFile) testLocks(mode LockMode, bytes []int64, p *prober) error {
	for _, off := range bytes {
		look := p.busy
		switch f.kindHeld(off) {
		case unix.F_WRLCK:
			continue
		case unix.F_RDLCK:
			look = p.asked
		}
		busy, err := look(off)
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
