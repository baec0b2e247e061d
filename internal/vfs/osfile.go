package vfs

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"golang.org/x/sys/unix"
)

// zeroPiece is how many zeros are written at once, in bytes.
const zeroPiece = 1 << 20

// kernel is what osFile asks of the kernel and not every file system has. Tests
// put their own in.
type kernel struct {
	sync      fsync
	fallocate func(fd int, mode uint32, off, n int64) error
	lock      func(fd uintptr, cmd int, lk *unix.Flock_t) error
	statfs    func(fd int, st *unix.Statfs_t) error
	seek      func(fd int, off int64, whence int) (int64, error)
	clone     func(fd int, r *unix.FileCloneRange) error
	copyRange func(rfd int, roff *int64, wfd int, woff *int64, n, flags int) (int, error)
	mounts    func() (string, error) // the text of mountinfo
	refresh   func(dir string, flag int)
}

func linux() kernel {
	return kernel{
		sync:      (*os.File).Sync,
		fallocate: unix.Fallocate,
		lock:      unix.FcntlFlock,
		statfs:    unix.Fstatfs,
		seek:      unix.Seek,
		clone:     unix.IoctlFileCloneRange,
		copyRange: unix.CopyFileRange,
		mounts:    readMounts,
		refresh:   refresh,
	}
}

// osFile is an open file. All but Close may be called concurrently; the file
// position, which SEEK_DATA moves, means nothing to anybody.
type osFile struct {
	f     *os.File
	dev   uint64 // st_dev
	block bool
	sys   kernel
	alone func(path string) bool // see Alone; nil: of no file

	syncMu  sync.Mutex // held through fsync: a descriptor is told of an error once
	syncErr error      // of the first Sync that failed

	copied atomic.Int64 // bytes since the kernel was last told to write

	noClone sync.Map // st_dev of the sources that cannot be cloned to here

	lookOnce sync.Once
	places   []place // where its extents are, as Shares first saw them

	lockMu sync.Mutex // guards held
	held   []byteLock // what Lock has locked
}

func (f *osFile) Path() string { return f.f.Name() }

func (f *osFile) ReadAt(p []byte, off int64) (int, error) { return f.f.ReadAt(p, off) }

func (f *osFile) WriteAt(p []byte, off int64) (int, error) { return f.f.WriteAt(p, off) }

func (f *osFile) Truncate(size int64) error { return f.f.Truncate(size) }

// Close gives the locks back itself: a process that is being started just now has
// a copy of the descriptor for a moment, with the locks.
func (f *osFile) Close() error {
	f.lockMu.Lock()
	defer f.lockMu.Unlock()
	return errors.Join(f.release(nil), f.f.Close())
}

func (f *osFile) fd() int { return int(f.f.Fd()) }

func (f *osFile) Stat() (Info, error) {
	fi, err := f.f.Stat()
	if err != nil {
		return Info{}, err
	}
	if !f.block {
		return infoOf(fi), nil
	}
	size, err := f.f.Seek(0, io.SeekEnd)
	return asDevice(infoOf(fi), size), err
}

// Size of a device is its capacity.
func (f *osFile) Size() (int64, error) {
	info, err := f.Stat()
	return info.Size, err
}

// Sync fails for ever once it has failed: the kernel marks the pages that it
// could not write as clean, so that the next fsync would succeed without them.
func (f *osFile) Sync() error {
	f.syncMu.Lock()
	defer f.syncMu.Unlock()
	if f.syncErr == nil {
		f.syncErr = f.sys.sync(f.f)
	}
	return f.syncErr
}

// Reserve allocates. Shared extents that are to be overwritten are not copied
// in advance, and a thin device promises more than it has: space can still run
// out there. Where there is no fallocate, what is allocated already is asked for
// once more.
func (f *osFile) Reserve(off, n int64) error {
	if err := checkRange(f.Path(), off, n); err != nil || n == 0 {
		return err
	}
	if f.block {
		return f.withinDevice(off, n)
	}
	err := f.fallocate(unix.FALLOC_FL_KEEP_SIZE, off, n)
	if isUnsupported(err) {
		return f.spaceFor(n)
	}
	return f.wrap("fallocate", err)
}

func (f *osFile) withinDevice(off, n int64) error {
	size, err := f.Size()
	if err == nil && off+n > size {
		return fmt.Errorf("%s: %d bytes needed, the device has %d: %w", f.Path(), off+n, size, syscall.ENOSPC)
	}
	return err
}

func (f *osFile) spaceFor(n int64) error {
	var st unix.Statfs_t
	if err := retry(func() error { return f.sys.statfs(f.fd(), &st) }); err != nil {
		return f.wrap("statfs", err)
	}
	if free := blockBytes(available(&st), blockSize(&st)); n > free {
		return fmt.Errorf("%s: %d bytes needed, %d free: %w", f.Path(), n, free, syscall.ENOSPC)
	}
	return nil
}

// Punch does not discard on devices: what is read after that may be anything.
// The kernel makes fallocate write zeros there, or it refuses.
func (f *osFile) Punch(off, n int64) error {
	if err := checkRange(f.Path(), off, n); err != nil || n == 0 {
		return err
	}
	err := f.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	// A device wants whole logical blocks that begin before its end.
	if isUnsupported(err) || f.block && errors.Is(err, unix.EINVAL) {
		return f.writeZeros(off, off+n)
	}
	return f.wrap("punch", err)
}

// GivesBack tells whether Punch gives space back: it writes zeros where the file system
// cannot, and on a device what is below may do as it likes. Nothing is changed: what is
// asked for is a hole behind the end.
func (f *osFile) GivesBack() (bool, error) {
	info, err := f.Stat()
	if err != nil || f.block {
		return false, err
	}
	const block = 64 << 10 // of a file system, at most
	err = f.fallocate(unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, (info.Size+block-1)/block*block, block)
	if isUnsupported(err) {
		return false, nil
	}
	return err == nil, f.wrap("punch", err)
}

// writeZeros zeroes [off, end) where there is data, and not beyond the length.
func (f *osFile) writeZeros(off, end int64) error {
	zeros := make([]byte, min(end-off, zeroPiece))
	for off < end {
		start, stop, err := f.NextData(off)
		if err != nil || start == stop {
			return err
		}
		off = start
		for stop = min(stop, end); off < stop; off += zeroPiece {
			if _, err := f.WriteAt(zeros[:min(stop-off, zeroPiece)], off); err != nil {
				return err
			}
		}
		off = stop
	}
	return nil
}

// NextData takes all of a device for data, and all of a file whose file system
// does not tell.
func (f *osFile) NextData(off int64) (start, end int64, err error) {
	if err := checkRange(f.Path(), off, 0); err != nil {
		return 0, 0, err
	}
	if f.block {
		return f.toEnd(off)
	}
	start, err = f.seek(off, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) { // there is none
		size, err := f.Size()
		return size, size, err
	}
	if err == nil {
		end, err = f.seek(start, unix.SEEK_HOLE)
	}
	if isUnsupported(err) || errors.Is(err, unix.EINVAL) {
		return f.toEnd(off)
	}
	return start, end, f.wrap("seek", err)
}

// toEnd takes all from off on for data.
func (f *osFile) toEnd(off int64) (start, end int64, err error) {
	size, err := f.Size()
	return min(off, size), size, err
}

func (f *osFile) seek(off int64, whence int) (at int64, err error) {
	err = retry(func() error {
		at, err = f.sys.seek(f.fd(), off, whence)
		return err
	})
	return at, err
}

func (f *osFile) fallocate(mode uint32, off, n int64) error {
	return retry(func() error { return f.sys.fallocate(f.fd(), mode, off, n) })
}

func (f *osFile) wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: f.Path(), Err: err}
}

// isUnsupported tells that a file system or the kernel lacks a call.
func isUnsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}
