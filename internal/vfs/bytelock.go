package vfs

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// A LockFile is a small file that several hosts read and write, each under a lock on some
// byte of it. Over NFS a file is only sure to be read as another host has written it when
// it is read under a lock; and whether a byte is locked is only told rightly by taking it
// (F_OFD_SETLK): see docs/decisions/0015. Bytes far beyond the end of the file can be locked.
type LockFile struct {
	f     *os.File
	write bool
	sys   kernel
}

// OpenLockFile opens the file at path, which is made with mode 0600 if create says so. What
// is no regular file is a *KindError; a symbolic link is not followed. One that another host
// has just made is there.
func OpenLockFile(path string, write, create bool) (*LockFile, error) {
	return openLockFile(path, write, create, linux())
}

func openLockFile(path string, write, create bool, sys kernel) (*LockFile, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	if create {
		flag |= os.O_CREATE
	}
	var f *os.File
	err := sys.again(path, func() (err error) {
		f, err = os.OpenFile(path, flag|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	fi, err := f.Stat()
	if err == nil && !fi.Mode().IsRegular() {
		err = kindError(path, fi)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &LockFile{f, write, sys}, nil
}

// TryLock takes the byte, without waiting; it tells whether it has got it. Others that only
// read it may have it at the same time if exclusive is false. An exclusive lock needs a file
// that is open for writing.
func (l *LockFile) TryLock(off int64, exclusive bool) (bool, error) {
	kind := int16(unix.F_RDLCK)
	if exclusive {
		kind = unix.F_WRLCK
	}
	err := setLock(l.f, l.sys, kind, off)
	if isHeld(err) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "lock", Path: l.f.Name(), Err: err}
	}
	return true, nil
}

// lockPause is how long to wait between two attempts to get a lock.
const lockPause = 20 * time.Millisecond

// Lock waits for the byte until ctx ends.
func (l *LockFile) Lock(ctx context.Context, off int64, exclusive bool) error {
	for {
		got, err := l.TryLock(off, exclusive)
		if got || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return &os.PathError{Op: "lock", Path: l.f.Name(), Err: ctx.Err()}
		case <-time.After(lockPause):
		}
	}
}

// Unlock gives the byte back, after all that was written is on its way to other hosts.
func (l *LockFile) Unlock(off int64) error {
	if err := setLock(l.f, l.sys, unix.F_UNLCK, off); err != nil {
		return &os.PathError{Op: "unlock", Path: l.f.Name(), Err: err}
	}
	return nil
}

// Stat looks at the open file.
func (l *LockFile) Stat() (Info, error) {
	fi, err := l.f.Stat()
	if err != nil {
		return Info{}, err
	}
	return infoOf(fi), nil
}

// Content reads all of the file; more than most bytes are an error that wraps EFBIG.
func (l *LockFile) Content(most int64) ([]byte, error) {
	b, err := io.ReadAll(io.NewSectionReader(l.f, 0, most+1))
	if err == nil && int64(len(b)) > most {
		err = &os.PathError{Op: "read", Path: l.f.Name(), Err: unix.EFBIG}
	}
	return b, err
}

// ReadAt implements io.ReaderAt.
func (l *LockFile) ReadAt(b []byte, off int64) (int, error) { return l.f.ReadAt(b, off) }

// Put writes b at off, durably.
func (l *LockFile) Put(b []byte, off int64) error {
	if _, err := l.f.WriteAt(b, off); err != nil {
		return err
	}
	return l.f.Sync()
}

// Replace makes b all that is in the file, durably; it is no step that happens at once.
func (l *LockFile) Replace(b []byte) error {
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	return l.Put(b, 0)
}

// Writable tells whether the file is open for writing.
func (l *LockFile) Writable() bool { return l.write }

// Close gives all locks back.
func (l *LockFile) Close() error { return l.f.Close() }

// Name is the path under which it was opened.
func (l *LockFile) Name() string { return l.f.Name() }
