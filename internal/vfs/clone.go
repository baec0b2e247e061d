package vfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A clone is a file that shares all extents of another one: FICLONE of Linux, which
// XFS, btrfs and others have. Whether a file system does is found out by doing it.

// CanClone tries in dir, with files that have no names, whether files there can share
// extents. It returns nil, or an error with the reason; nothing is left in dir.
func CanClone(dir string) error {
	from, err := unnamed(dir)
	if err != nil {
		return err
	}
	defer from.Close()
	if _, err := from.Write(make([]byte, cloneAlign)); err != nil {
		return err
	}
	to, err := unnamed(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	if err := retry(func() error { return unix.IoctlFileClone(int(to.Fd()), int(from.Fd())) }); err != nil {
		return fmt.Errorf("%s: its file system cannot share extents between files: %w", dir, err)
	}
	return nil
}

func unnamed(dir string) (*os.File, error) {
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("files without names, to try what the file system can do: %w", err)
	}
	return f, nil
}

// CloneFile makes the empty file at path to a clone of the one at path from, with the
// same owner, ACL and security label, and puts it on stable storage. Its mode stays.
// An image at from that somebody may be writing to is a *BusyError. The error wraps
// syscall.EOPNOTSUPP or EXDEV where extents cannot be shared.
func CloneFile(from, to string) error {
	src, err := OS().Open(from, false)
	if err != nil {
		return err
	}
	err = cloneInto(to, src.(*osFile))
	return errors.Join(err, src.Close())
}

func cloneInto(to string, src *osFile) error {
	if err := src.Lock(LockRead); err != nil {
		return err
	}
	dst, err := os.OpenFile(to, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = cloneOpen(dst, src.f)
	return errors.Join(err, dst.Close())
}

func cloneOpen(dst, src *os.File) error {
	if err := likeOwner(dst, src); err != nil {
		return err
	}
	if info, err := dst.Stat(); err != nil || info.Size() != 0 {
		return errors.Join(err, fmt.Errorf("%s: it is not empty", dst.Name()))
	}
	if err := copyInPlace(dst, src); err != nil {
		return err
	}
	if err := retry(func() error { return unix.IoctlFileClone(int(dst.Fd()), int(src.Fd())) }); err != nil {
		return &os.LinkError{Op: "clone", Old: src.Name(), New: dst.Name(), Err: err}
	}
	return dst.Sync()
}

// Attributes of linux/fs.h.
const (
	noCow    = 0x00800000 // FS_NOCOW_FL
	compress = 0x00000004 // FS_COMPR_FL
)

// copyInPlace gives an empty file the attribute by which btrfs writes in place: extents
// are shared only between files that are alike in that. A file may take the attribute
// for compression from its directory, and cannot have both.
func copyInPlace(dst, src *os.File) error {
	want, have := attributes(src), attributes(dst)
	if have&noCow == want&noCow {
		return nil
	}
	if want&noCow != 0 && have&compress != 0 { // btrfs wants one after the other
		have &^= compress
		if err := setAttributes(dst, have); err != nil {
			return err
		}
	}
	return setAttributes(dst, have&^noCow|want&noCow)
}

func setAttributes(f *os.File, flags int) error {
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags); err != nil {
		return fmt.Errorf("%s: attributes %#x (chattr; C is no copy on write): %w", f.Name(), flags, err)
	}
	return nil
}

// attributes are those of chattr; none where the file system has no such thing.
func attributes(f *os.File) int {
	flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return 0
	}
	return flags
}

// LikeOwner gives the file at path the owner, ACL and security label of the one at as.
func LikeOwner(path, as string) error {
	src, err := os.Open(as)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(likeOwner(dst, src), dst.Close())
}

// likeAttributes are the extended attributes that say who may use a file.
var likeAttributes = []string{"security.selinux", "system.posix_acl_access"}

func likeOwner(dst, src *os.File) error {
	want, err := src.Stat()
	if err != nil {
		return err
	}
	have, err := dst.Stat()
	if err != nil {
		return err
	}
	w, h := want.Sys().(*syscall.Stat_t), have.Sys().(*syscall.Stat_t)
	if w.Uid != h.Uid || w.Gid != h.Gid {
		if err := dst.Chown(int(w.Uid), int(w.Gid)); err != nil {
			return err
		}
	}
	for _, name := range likeAttributes {
		if err := copyAttribute(dst, src, name); err != nil {
			return err
		}
	}
	return nil
}

func copyAttribute(dst, src *os.File, name string) error {
	var value [4096]byte
	n, err := unix.Fgetxattr(int(src.Fd()), name, value[:])
	if errors.Is(err, unix.ENODATA) || isUnsupported(err) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "getxattr " + name, Path: src.Name(), Err: err}
	}
	var had [4096]byte
	if k, err := unix.Fgetxattr(int(dst.Fd()), name, had[:]); err == nil && bytes.Equal(had[:k], value[:n]) {
		return nil
	}
	if err := unix.Fsetxattr(int(dst.Fd()), name, value[:n], 0); err != nil {
		return &fs.PathError{Op: "setxattr " + name, Path: dst.Name(), Err: err}
	}
	return nil
}
