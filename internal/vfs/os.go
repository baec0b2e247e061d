package vfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// maxSmall is the most bytes that ReadFile returns. State files have some
// kilobytes.
const maxSmall = 16 << 20

// osFS is the file system of the operating system.
type osFS struct {
	alone func(path string) bool // see Alone; nil: of no file
}

// OS is the file system of the operating system.
func OS() FS { return osFS{} }

// Alone is fsys for whoever knows by other means that no other host uses the images of which alone says so: those are locked for
// writing where locks do not reach other hosts, too. Of a file system that has no locks, it is fsys.
func Alone(fsys FS, alone func(path string) bool) FS {
	if f, ok := fsys.(interface {
		Alone(alone func(path string) bool) FS
	}); ok {
		return f.Alone(alone)
	}
	return fsys
}

// Alone is for the function of that name.
func (osFS) Alone(alone func(path string) bool) FS { return osFS{alone} }

// Open opens a regular file or a block device. Symbolic links are followed.
func (s osFS) Open(path string, write bool) (File, error) {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR
	}
	f, err := openChecked(path, flag)
	if err != nil {
		return nil, err
	}
	f.alone = s.alone
	return f, nil
}

// Create creates a file with exactly that mode, whatever the umask. The umask
// only takes bits away: before fchmod the mode is never wider.
func (s osFS) Create(path string, perm fs.FileMode) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, perm)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(perm); err != nil {
		return nil, errors.Join(err, f.Close(), os.Remove(path))
	}
	of, err := adopt(f)
	if err != nil {
		return nil, err
	}
	of.alone = s.alone
	return of, nil
}

func (osFS) Stat(path string) (Info, error) { return Stat(path) }

func (osFS) Lstat(path string) (Info, error) { return Lstat(path) }

func (osFS) ReadDir(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if t := e.Type(); t.IsRegular() || t == fs.ModeDevice || t == fs.ModeSymlink {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// ReadFile fails with EFBIG rather than return more than maxSmall bytes.
func (osFS) ReadFile(path string) ([]byte, error) {
	f, err := openChecked(path, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.NewSectionReader(f, 0, maxSmall+1))
	if err == nil && len(b) > maxSmall {
		return nil, &os.PathError{Op: "read", Path: path, Err: syscall.EFBIG}
	}
	return b, err
}

func (osFS) WriteFile(path string, data []byte, perm fs.FileMode) error {
	return WriteFile(path, data, perm)
}

func (osFS) Rename(oldpath, newpath string) error { return os.Rename(oldpath, newpath) }

func (osFS) RemoveExact(path string, id ID) error { return RemoveExact(path, id) }

func (osFS) SyncDir(dir string) error { return SyncDir(dir) }

// LocksStayLocal is the function of that name.
func (s osFS) LocksStayLocal(path string) (string, error) {
	if s.alone != nil && s.alone(path) {
		return "", nil
	}
	return LocksStayLocal(path)
}

// openChecked looks before it opens, as opening a pipe or a tape has effects,
// and again at what it has opened, as path may have changed in between.
func openChecked(path string, flag int) (*osFile, error) {
	fi, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if err := checkKind(path, fi); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, flag|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	return adopt(f)
}

// adopt makes f a File, or closes it.
func adopt(f *os.File) (*osFile, error) {
	fi, err := f.Stat()
	if err == nil {
		err = checkKind(f.Name(), fi)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &osFile{f: f, dev: infoOf(fi).ID.Dev, block: isBlock(fi), sys: linux()}, nil
}

func checkKind(path string, fi fs.FileInfo) error {
	if !fi.Mode().IsRegular() && !isBlock(fi) {
		return kindError(path, fi)
	}
	return nil
}

// checkRange refuses what no file has: negative numbers and ends beyond int64.
func checkRange(path string, off, n int64) error {
	if off < 0 || n < 0 || off+n < 0 {
		return fmt.Errorf("%s: %d bytes at %d: %w", path, n, off, syscall.EINVAL)
	}
	return nil
}
