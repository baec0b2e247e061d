package vfstest

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// file is a handle.
type file struct {
	m       *Mem
	ino     *inode
	path    string
	write   bool
	closed  bool
	syncErr error // of the first Sync that failed
}

func (f *file) Path() string { return f.path }

// step completes s with what holds for every use of a handle.
func (f *file) step(s step) error {
	run := s.run
	s.path = f.path
	s.run = func() error {
		if err := f.usable(s); err != nil {
			return err
		}
		if s.change && s.op != "sync" {
			f.ino.mtime = time.Unix(int64(f.m.changes), 0).UTC()
		}
		return run()
	}
	return f.m.do(s)
}

func (f *file) usable(s step) error {
	writes := s.change && s.op != "sync" || s.op == "reserve"
	switch {
	case f.closed:
		return f.fail(s.op, os.ErrClosed)
	case writes && !f.write:
		return f.fail(s.op, syscall.EBADF)
	}
	return nil
}

func (f *file) fail(op string, err error) error {
	return &os.PathError{Op: op, Path: f.path, Err: err}
}

func place(off, n int64) string { return fmt.Sprintf("%d+%d", off, n) }

func validRange(off, n int64) bool { return off >= 0 && n >= 0 && off+n >= 0 }

func (f *file) ReadAt(p []byte, off int64) (n int, err error) {
	err = f.step(step{op: "read", run: func() error {
		if off < 0 {
			return f.fail("read", syscall.EINVAL)
		}
		n = int(max(min(int64(len(p)), f.ino.live.size-off), 0))
		f.ino.live.read(p[:n], off)
		return nil
	}})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (n int, err error) {
	err = f.step(step{
		op: "write", detail: place(off, int64(len(p))), change: true,
		run: func() error {
			if !validRange(off, int64(len(p))) {
				return f.fail("write", syscall.EINVAL)
			}
			if n = f.m.write(f.ino, p, off); n < len(p) {
				return f.fail("write", syscall.ENOSPC)
			}
			return nil
		},
		failed: func(_ error, rng *rand.Rand) {
			if f.write && !f.closed && off >= 0 {
				n = f.m.write(f.ino, p[:wholeSectors(off, int64(rng.IntN(len(p)+1)))], off)
			}
		},
	})
	return n, err
}

// wholeSectors is the part of n bytes at off that ends with a sector: a write
// that fails in the middle stops between sectors or pages.
func wholeSectors(off, n int64) int64 { return max(0, (off+n)&^(sectorSize-1)-off) }

// write returns how many bytes fit on the disk. The caller holds mu.
func (m *Mem) write(i *inode, b []byte, off int64) int { return i.write(b, off, m.free()) }

func (f *file) Stat() (info vfs.Info, err error) {
	err = f.step(step{op: "stat", run: func() error {
		info = f.m.info(f.ino)
		return nil
	}})
	return info, err
}

func (f *file) Size() (int64, error) {
	info, err := f.Stat()
	return info.Size, err
}

func (f *file) Truncate(size int64) error {
	return f.step(step{op: "truncate", detail: fmt.Sprint(size), change: true, run: func() error {
		if size < 0 {
			return f.fail("truncate", syscall.EINVAL)
		}
		f.ino.truncate(size)
		return nil
	}})
}

// Sync fails for ever once it has failed on any handle that was open then.
func (f *file) Sync() error {
	return f.step(step{
		op: "sync", change: true,
		run: func() error {
			if f.syncErr == nil && !f.m.ignored(f.path) {
				f.ino.sync()
			}
			return f.syncErr
		},
		failed: func(err error, _ *rand.Rand) { f.m.syncFailed(f.ino, err) },
	})
}

// syncFailed tells all open handles. The caller holds mu.
func (m *Mem) syncFailed(i *inode, err error) {
	i.loseUnsynced()
	for f := range m.handles {
		if f.ino == i && f.syncErr == nil {
			f.syncErr = err
		}
	}
}

func (f *file) Reserve(off, n int64) error {
	return f.step(step{op: "reserve", run: func() error {
		if !validRange(off, n) {
			return f.fail("reserve", syscall.EINVAL)
		}
		if !f.ino.reserve(off, off+n, f.m.free()) {
			return f.fail("reserve", syscall.ENOSPC)
		}
		return nil
	}})
}

func (f *file) Punch(off, n int64) error {
	return f.step(step{op: "punch", detail: place(off, n), change: true, run: func() error {
		if !validRange(off, n) {
			return f.fail("punch", syscall.EINVAL)
		}
		f.ino.punch(off, off+n)
		return nil
	}})
}

func (f *file) NextData(off int64) (start, end int64, err error) {
	err = f.step(step{op: "nextdata", run: func() error {
		if off < 0 {
			return f.fail("nextdata", syscall.EINVAL)
		}
		start, end = f.ino.live.nextData(off)
		return nil
	}})
	return start, end, err
}

// Lock knows the handles of one Mem.
func (f *file) Lock(mode vfs.LockMode) error {
	return f.step(step{op: "lock", run: func() error {
		for other, theirs := range f.ino.locks {
			if other != f && (mode == vfs.LockWrite || theirs == vfs.LockWrite) {
				return &vfs.BusyError{Path: f.path, Mode: mode}
			}
		}
		if f.m.names.live[filepath.Clean(f.path)] != f.ino {
			return &vfs.ChangedError{Path: f.path, Reason: "it is not the open file"}
		}
		f.ino.locks[f] = max(f.ino.locks[f], mode)
		return nil
	}})
}

// Close never fails but for a second one.
func (f *file) Close() error {
	f.m.mu.Lock()
	defer f.m.mu.Unlock()
	if f.closed {
		return f.fail("close", os.ErrClosed)
	}
	f.closed = true
	delete(f.ino.locks, f)
	delete(f.m.handles, f)
	return nil
}
