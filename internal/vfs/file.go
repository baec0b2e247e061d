package vfs

import (
	"fmt"
	"io"
	"io/fs"
)

// A Plain file is the least that an image can be written to: anything that has bytes.
// Full makes a File of it. Offsets and lengths are bytes.
type Plain interface {
	io.ReaderAt
	// WriteAt grows the file where need be; what it leaves out reads as zeros.
	io.WriterAt
	// Size is the length of the file.
	Size() (int64, error)
	// Truncate sets the length; what is new reads as zeros.
	Truncate(size int64) error
	// Sync puts all data and the length on stable storage. After it has failed
	// nothing that was written before is to be trusted, and it fails for ever.
	Sync() error
}

// A File is an open regular file or block device, with all that the engine asks of
// one. Only regular files can be truncated.
type File interface {
	Plain
	io.Closer
	// Path is the name under which it was opened.
	Path() string
	// Stat looks at the open file.
	Stat() (Info, error)
	// Reserve sees to it that n bytes at off can be written without running out
	// of space; the length stays. Where a file system cannot do that, free space
	// is compared. It returns an error that wraps syscall.ENOSPC.
	Reserve(off, n int64) error
	// Punch makes n bytes at off read as zeros and gives their space back where
	// that can be done; the length stays.
	Punch(off, n int64) error
	// Copy copies n bytes of src at from to off of this file: as shared extents,
	// within the kernel, or through a buffer, whichever goes first. It tells
	// whether no data was moved. The two may be one file, if ranges are disjoint.
	Copy(off int64, src File, from, n int64) (shared bool, err error)
	// NextData returns the first stretch [start, end) at or after off that may
	// hold other than zeros; start is the length of the file when there is none.
	NextData(off int64) (start, end int64, err error)
	// Lock takes QEMU's image locks; Close gives them back. A holder of other
	// locks is a *BusyError, a path that has become another file a *ChangedError.
	Lock(mode LockMode) error
}

// GivesBack tells whether Punch gives space back; of a File that does not tell, that it does.
func GivesBack(f File) (bool, error) {
	if f, ok := f.(interface{ GivesBack() (bool, error) }); ok {
		return f.GivesBack()
	}
	return true, nil
}

// LockMode says what an image is opened for. See QEMU block/file-posix.c.
type LockMode int

// The lock modes.
const (
	LockRead  LockMode = iota // others may read, nobody may write
	LockWrite                 // others may not even read
)

// BusyError says that another process uses the image.
type BusyError struct {
	Path string
	Mode LockMode
}

func (e *BusyError) Error() string {
	if e.Mode == LockRead {
		return fmt.Sprintf("%s: another process writes to it", e.Path)
	}
	return fmt.Sprintf("%s: another process has it open", e.Path)
}

// FS is the file system as the image engine sees it: OS, or a simulated one
// that loses power.
type FS interface {
	Lister
	// Open opens a regular file or a block device; everything else is a
	// *KindError. Symbolic links are followed.
	Open(path string, write bool) (File, error)
	// Create creates a file for reading and writing, with exactly that mode. It
	// fails with fs.ErrExist when there is anything at path. The name is durable
	// after SyncDir.
	Create(path string, perm fs.FileMode) (File, error)
	// Stat follows symbolic links, Lstat refuses them.
	Stat(path string) (Info, error)
	Lstat(path string) (Info, error)
	// ReadDir lists the names of regular files, devices and links in dir, sorted.
	ReadDir(dir string) ([]string, error)
	// ReadFile returns a small file.
	ReadFile(path string) ([]byte, error)
	// WriteFile replaces path, durably and at once; see the function of that name.
	WriteFile(path string, data []byte, perm fs.FileMode) error
	// Rename replaces newpath by oldpath. It is durable after SyncDir.
	Rename(oldpath, newpath string) error
	// RemoveExact unlinks the file if it is that one, durably; see the function
	// of that name.
	RemoveExact(path string, id ID) error
	// SyncDir makes the names in dir durable.
	SyncDir(dir string) error
}
