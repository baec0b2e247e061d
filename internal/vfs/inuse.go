package vfs

import (
	"errors"
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
)

// Use is what other open descriptors do with an image.
type Use struct {
	Read  bool // somebody has it open at all, as far as locks tell
	Write bool // somebody may write to it or resize it
}

// InUse asks who holds QEMU's locks on the image. It takes none, but for a moment those
// of the bytes for use on a network file system. The answer may be outdated when it
// arrives. Locks that this process holds through another descriptor count. Not seen are users without locks (locking=off, the target
// of a migration before it runs, another host on a file system without lock
// service) and, for a device, those who opened it through another node.
//
// Path must be a regular file or a block device, else it is a *KindError.
func InUse(path string) (Use, error) { return inUse(path, linux(), (*prober).busy) }

// AskUse is InUse without taking any lock, also on a network file system: it disturbs
// nobody there, and over NFSv3 it does not see what other hosts have.
func AskUse(path string) (Use, error) { return inUse(path, linux(), (*prober).asked) }

// inUse tests the bytes for use by test.
func inUse(path string, sys kernel, test func(*prober, int64) (bool, error)) (Use, error) {
	f, err := openImage(path)
	if err != nil {
		return Use{}, err
	}
	defer f.Close()
	p, err := newProber(f, sys)
	if err != nil {
		return Use{}, err
	}
	use, err := p.use(test)
	return use, errors.Join(err, p.Close())
}

// use begins with the locks that only writers have, so that the others need not be
// probed where there is one. Who does not share a permission uses one as well.
func (p *prober) use(test func(*prober, int64) (bool, error)) (use Use, err error) {
	for _, perm := range []int64{permWrite, permResize, permWriteUnchanged, permRead} {
		unshared, err := p.asked(unsharedBase + perm)
		if err != nil {
			return Use{}, err
		}
		used, err := test(p, usedBase+perm)
		if err != nil {
			return Use{}, err
		}
		use.Read = use.Read || used || unshared
		if used && perm != permRead {
			return Use{Read: true, Write: true}, nil
		}
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
