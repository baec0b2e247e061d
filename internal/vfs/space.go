package vfs

import (
	"errors"
	"math"
	"math/bits"
	"os"

	"golang.org/x/sys/unix"
)

// Space is the room on one file system, in bytes.
type Space struct {
	// FS identifies the file system (st_dev). Subvolumes of btrfs and data
	// sets of ZFS differ in it although they share their space.
	FS    uint64
	Total int64
	// Free is what an ordinary user can still allocate (f_bavail). It is so for
	// root as well: the reserve of a file system is not there to be planned with.
	Free int64
}

// SpaceAt returns the space of the file system that holds path, a file or a
// directory. Symbolic links are followed. A device node is a *KindError: the
// file system of /dev says nothing about the device.
func SpaceAt(path string) (Space, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return Space{}, err
	}
	if fi.Mode()&os.ModeDevice != 0 {
		return Space{}, kindError(path, fi)
	}
	var st unix.Statfs_t
	if err := retry(func() error { return unix.Statfs(path, &st) }); err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return Space{
		FS:    infoOf(fi).ID.Dev,
		Total: blockBytes(st.Blocks, blockSize(&st)),
		Free:  blockBytes(available(&st), blockSize(&st)),
	}, nil
}

// blockSize is the unit of the counts in st: f_frsize, which old file systems
// leave at 0 to mean f_bsize.
func blockSize(st *unix.Statfs_t) uint64 {
	if st.Frsize > 0 {
		return uint64(st.Frsize)
	}
	return uint64(st.Bsize)
}

// available is 0 where a server reports a negative count, as BSD ones do when
// the reserve is in use. Taken as unsigned it would be endless space.
func available(st *unix.Statfs_t) uint64 {
	if st.Bavail > math.MaxInt64 {
		return 0
	}
	return min(st.Bavail, st.Bfree)
}

// blockBytes stops at the largest int64.
func blockBytes(blocks, size uint64) int64 {
	hi, lo := bits.Mul64(blocks, size)
	if hi != 0 || lo > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(lo)
}

// retry repeats a system call that a signal interrupted: on network and FUSE
// file systems those of the Go runtime are enough for it.
func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
