package vfs

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// QEMU's image locks: QEMU block/file-posix.c. Byte usedBase+p is read-locked
// by who uses permission p, byte unsharedBase+p by who forbids it to others.
//
//	permission       used  not shared
//	CONSISTENT_READ   100   200
//	WRITE             101   201
//	WRITE_UNCHANGED   102   202
//	RESIZE            103   203
const (
	usedBase     = 100
	unsharedBase = 200

	permRead           = 0
	permWrite          = 1
	permWriteUnchanged = 2
	permResize         = 3
	permCount          = 4
)

// Use is what other open descriptors do with an image.
type Use struct {
	Read  bool // somebody has it open at all, as far as locks tell
	Write bool // somebody may write to it or resize it
}

// InUse asks who holds QEMU's locks on the image; it takes none. The answer may
// be outdated when it arrives. Locks that this process holds through another
// descriptor count. Not seen are users without locks (locking=off, the target
// of a migration before it runs, another host on a file system without lock
// service) and, for a device, those who opened it through another node.
//
// Path must be a regular file or a block device, else it is a *KindError.
func InUse(path string) (Use, error) {
	f, err := openImage(path)
	if err != nil {
		return Use{}, err
	}
	defer f.Close()
	var use Use
	for p := range int64(permCount) {
		used, err := locked(f, usedBase+p)
		if err != nil {
			return Use{}, err
		}
		unshared, err := locked(f, unsharedBase+p)
		if err != nil {
			return Use{}, err
		}
		use.Read = use.Read || used || unshared
		use.Write = use.Write || used && p != permRead
	}
	return use, nil
}

// openImage looks before it opens: opening a pipe or a tape has effects.
func openImage(path string) (*os.File, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() && !isBlock(fi) {
		return nil, kindError(path, fi)
	}
	return os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
}

// locked tells whether another open file description holds any lock on the
// byte at off. A query for a write lock conflicts with read locks too, and
// unlike taking one it needs no descriptor that can write.
func locked(f *os.File, off int64) (bool, error) {
	lk := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart, Start: off, Len: 1}
	err := retry(func() error { return unix.FcntlFlock(f.Fd(), unix.F_OFD_GETLK, &lk) })
	if err != nil {
		return false, &os.PathError{Op: "query lock of", Path: f.Name(), Err: err}
	}
	return lk.Type != unix.F_UNLCK, nil
}
