package vfs

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	cloneAlign  = 4096    // offsets of FICLONERANGE: the block of XFS and btrfs
	maxRange    = 1 << 30 // of one copy_file_range, in bytes
	copyBuffer  = 1 << 20
	writeBehind = 16 << 20 // bytes that are copied before the kernel is told to write them
)

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// Copy never fails for the lack of a fast way: each way carries on where the
// one before stopped. Source bytes beyond the source's end are zeros. A range
// that ends beyond the end of f extends it.
func (f *osFile) Copy(off int64, src File, from, n int64) (shared bool, err error) {
	c, err := f.newCopying(off, src, from, n)
	if err != nil || n == 0 {
		return false, err
	}
	end := off + n
	if s, ok := src.(*osFile); ok && !s.block && !f.block {
		c.clone(s)
		shared = c.off == end
		c.inKernel(s)
	}
	err = c.buffered()
	if err == nil {
		err = f.zero(c.off, end-c.off)
	}
	if err == nil && !shared {
		f.writeSoon(n)
	}
	return shared && err == nil, err
}

// writeSoon has the kernel begin to write what was copied, so that the disk is busy
// before Sync waits for it. It is no more than a hint: a write that fails is told
// by Sync.
func (f *osFile) writeSoon(n int64) {
	if f.copied.Add(n) < writeBehind {
		return
	}
	f.copied.Store(0)
	_ = unix.SyncFileRange(f.fd(), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

// copying is a copy under way. Bytes.
type copying struct {
	dst       *osFile
	src       File
	off, from int64 // where it goes on
	left      int64 // without what is beyond the source's end
	srcSize   int64
}

func (f *osFile) newCopying(off int64, src File, from, n int64) (*copying, error) {
	err := errors.Join(checkRange(f.Path(), off, n), checkRange(src.Path(), from, n))
	if err != nil {
		return nil, err
	}
	in, err := src.Stat()
	if err != nil {
		return nil, err
	}
	out, err := f.Stat()
	if err == nil && in.ID == out.ID && off < from+n && from < off+n {
		err = fmt.Errorf("%s: copy of %d bytes at %d to %d: ranges overlap: %w",
			f.Path(), n, from, off, syscall.EINVAL)
	}
	left := max(0, min(n, in.Size-from))
	return &copying{dst: f, src: src, off: off, from: from, left: left, srcSize: in.Size}, err
}

func (c *copying) advance(n int64) {
	c.off, c.from, c.left = c.off+n, c.from+n, c.left-n
}

// clone shares extents, as many as can be. The kernel takes a length that is
// no multiple of the block only at the end of the source, and only to the end
// of the target or beyond, which others may just be moving.
func (c *copying) clone(src *osFile) {
	if c.off%cloneAlign != 0 || c.from%cloneAlign != 0 || c.dst.cannotClone(src) {
		return
	}
	tail := c.left % cloneAlign
	if tail != 0 && c.from+c.left == c.srcSize && c.tryClone(src, c.left) == nil {
		return
	}
	if err := c.tryClone(src, c.left-tail); errors.Is(err, unix.EINVAL) {
		c.dst.noClone.Store(src.dev, true)
	}
}

// tryClone shares n bytes. A length of 0 would mean the whole file.
func (c *copying) tryClone(src *osFile, n int64) error {
	if n == 0 || c.dst.cannotClone(src) {
		return nil
	}
	r := unix.FileCloneRange{
		Src_fd: int64(src.fd()), Src_offset: uint64(c.from), Src_length: uint64(n),
		Dest_offset: uint64(c.off),
	}
	err := retry(func() error { return c.dst.sys.clone(c.dst.fd(), &r) })
	if err == nil {
		c.advance(n)
	}
	if isUnsupported(err) || errors.Is(err, unix.EXDEV) || errors.Is(err, unix.ENOTTY) {
		c.dst.noClone.Store(src.dev, true)
	}
	return err
}

func (f *osFile) cannotClone(src *osFile) bool {
	_, no := f.noClone.Load(src.dev)
	return no
}

// inKernel stops at any error, and where copy_file_range says that the source
// ends: some file systems say so of files that do not. The buffer finds out.
func (c *copying) inKernel(src *osFile) {
	for c.left > 0 {
		from, off := c.from, c.off
		n, err := c.dst.sys.copyRange(src.fd(), &from, c.dst.fd(), &off, int(min(c.left, maxRange)), 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n <= 0 {
			return
		}
		c.advance(int64(n))
	}
}

// buffered ends early where the source does.
func (c *copying) buffered() error {
	if c.left == 0 {
		return nil
	}
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	for c.left > 0 {
		n, err := c.src.ReadAt(buf[:min(c.left, copyBuffer)], c.from)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if n == 0 {
			return nil
		}
		if _, err := c.dst.WriteAt(buf[:n], c.off); err != nil {
			return err
		}
		c.advance(int64(n))
	}
	return nil
}

// zero makes a stretch read as zeros and the file reach its end. It writes the
// last byte for that: truncate could cut off what others write just now.
func (f *osFile) zero(off, n int64) error {
	if n == 0 {
		return nil
	}
	if err := f.Punch(off, n); err != nil {
		return err
	}
	size, err := f.Size()
	if err != nil || off+n <= size {
		return err
	}
	_, err = f.WriteAt([]byte{0}, off+n-1)
	return err
}
