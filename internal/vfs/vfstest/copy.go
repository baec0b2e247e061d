package vfstest

import (
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"syscall"

	"github.com/virt-rotate/virt-rotate/internal/vfs"
)

// Copy is one change. It shares where Reflink is set and the ranges are as
// FICLONERANGE wants them, which makes no difference but in the result.
func (f *file) Copy(off int64, src vfs.File, from, n int64) (shared bool, err error) {
	foreign, err := f.foreign(src, from, n)
	if err != nil {
		return false, err
	}
	err = f.step(step{
		op: "copy", detail: fmt.Sprintf("%d from %s %s", off, src.Path(), place(from, n)), change: true,
		run: func() error {
			in, err := f.source(src, foreign)
			if err != nil {
				return err
			}
			if !validRange(off, n) || !validRange(from, n) || in == f.ino && off < from+n && from < off+n {
				return f.fail("copy", syscall.EINVAL)
			}
			shared = f.shares(off, in, from, n)
			if f.ino.copyFrom(in.live, from, off, n, f.m.free) < n {
				return f.fail("copy", syscall.ENOSPC)
			}
			return nil
		},
		failed: func(_ error, rng *rand.Rand) {
			in, err := f.source(src, foreign)
			if err == nil && f.write && !f.closed && n > 0 && validRange(off, n) && validRange(from, n) {
				f.ino.copyFrom(in.live, from, off, rng.Int64N(n), f.m.free)
			}
		},
	})
	return shared && err == nil, err
}

// foreign reads a source that is no handle of the same Mem. It returns nil for
// one that is.
func (f *file) foreign(src vfs.File, from, n int64) (*inode, error) {
	if s, ok := src.(*file); ok && s.m == f.m {
		return nil, nil
	}
	b, err := io.ReadAll(io.NewSectionReader(src, from, n))
	i := newInode(0, 0)
	i.write(b, from, math.MaxInt64)
	return i, err
}

// source is the file to copy from. The caller holds mu.
func (f *file) source(src vfs.File, foreign *inode) (*inode, error) {
	if foreign != nil {
		return foreign, nil
	}
	s := src.(*file)
	if s.closed {
		return nil, s.fail("copy", os.ErrClosed)
	}
	return s.ino, nil
}

func (f *file) shares(off int64, in *inode, from, n int64) bool {
	if !f.m.Reflink || n == 0 || in.ino == 0 || off%pageSize != 0 || from%pageSize != 0 || from+n > in.live.size {
		return false
	}
	return n%pageSize == 0 || from+n == in.live.size && off+n >= f.ino.live.size
}
