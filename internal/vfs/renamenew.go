package vfs

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// RenameNew gives the file at oldpath the name newpath, which must be free, and
// makes that durable. It fails with fs.ErrExist when there is anything at newpath.
// A file system that cannot do it in one step is asked first whether the name
// is free.
func RenameNew(oldpath, newpath string) error {
	err := retry(func() error {
		return unix.Renameat2(unix.AT_FDCWD, oldpath, unix.AT_FDCWD, newpath, unix.RENAME_NOREPLACE)
	})
	if errors.Is(err, unix.EINVAL) || isUnsupported(err) {
		return renameFree(oldpath, newpath)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldpath, New: newpath, Err: err}
	}
	return syncDir(parent(newpath), (*os.File).Sync)
}

func (osFS) RenameNew(oldpath, newpath string) error { return RenameNew(oldpath, newpath) }

// RenameNewOn is RenameNew on a file system that may be simulated; one that does not tell how
// leaves it to the operating system, as those that add made-up files to it do.
func RenameNewOn(fsys FS, oldpath, newpath string) error {
	f, ok := fsys.(interface {
		RenameNew(oldpath, newpath string) error
	})
	if !ok {
		return RenameNew(oldpath, newpath)
	}
	return f.RenameNew(oldpath, newpath)
}

func renameFree(oldpath, newpath string) error {
	_, err := os.Lstat(newpath)
	if err == nil {
		return &os.LinkError{Op: "rename", Old: oldpath, New: newpath, Err: fs.ErrExist}
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Rename(oldpath, newpath); err != nil {
		return err
	}
	return syncDir(parent(newpath), (*os.File).Sync)
}
