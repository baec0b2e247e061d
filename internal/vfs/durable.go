package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// TempPattern matches the names of the temporary files of WriteFile, in the
// sense of filepath.Match. One that no process writes is left from a crash and
// holds nothing that is needed.
const TempPattern = ".virt-rotate-*.tmp"

// fsync makes an open file or directory durable. Tests pass their own to see
// what is synced when, and to let it fail.
type fsync func(*os.File) error

// WriteFile replaces path by a file of that content and exactly that mode. At
// each instant, crashes included, path is either the old or the new file,
// whole. A symbolic link at path is replaced, not followed.
//
// When it fails after the rename (the sync of the directory), the new file is
// in place, but may not survive a crash.
func WriteFile(path string, data []byte, perm fs.FileMode) error {
	return writeFile(path, data, perm, (*os.File).Sync)
}

func writeFile(path string, data []byte, perm fs.FileMode, sync fsync) error {
	f, err := os.CreateTemp(parent(path), TempPattern)
	if err != nil {
		return err
	}
	err = fill(f, data, perm, sync)
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(parent(path), sync)
}

// fill writes, syncs and closes f.
func fill(f *os.File, data []byte, perm fs.FileMode, sync fsync) error {
	err := f.Chmod(perm)
	if err == nil {
		_, err = f.Write(data)
	}
	if err == nil {
		err = sync(f)
	}
	return errors.Join(err, f.Close())
}

// CreateExclusive creates an empty file with mode perm, whatever the umask. It
// fails with fs.ErrExist when there is anything at path, a dangling symbolic
// link included, and removes its file again when a sync fails.
func CreateExclusive(path string, perm fs.FileMode) (Info, error) {
	return createExclusive(path, perm, (*os.File).Sync)
}

func createExclusive(path string, perm fs.FileMode, sync fsync) (Info, error) {
	// The umask only takes bits away: before fchmod the mode is never wider.
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, perm)
	if err != nil {
		return Info{}, err
	}
	fi, err := f.Stat()
	if err != nil {
		return Info{}, errors.Join(err, f.Close())
	}
	err = fill(f, nil, perm, sync)
	if err == nil {
		err = syncDir(parent(path), sync)
	}
	if err != nil {
		return Info{}, errors.Join(err, removeExact(path, infoOf(fi).ID, sync))
	}
	return Lstat(path)
}

// Remove unlinks path, which may be anything but a directory.
func Remove(path string) error {
	return remove(path, (*os.File).Sync)
}

func remove(path string, sync fsync) error {
	if err := retry(func() error { return unix.Unlink(path) }); err != nil {
		return &os.PathError{Op: "unlink", Path: path, Err: err}
	}
	return syncDir(parent(path), sync)
}

// SyncDir makes the names in dir durable: creations, renames and removals.
func SyncDir(dir string) error {
	return syncDir(dir, (*os.File).Sync)
}

func syncDir(dir string, sync fsync) error {
	d, err := os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return errors.Join(sync(d), d.Close())
}

// parent is the directory that holds the name path. Unlike filepath.Dir it
// does not resolve "..": link/../x need not be beside link.
func parent(path string) string {
	dir, _ := split(path)
	return dir
}

func split(path string) (dir, name string) {
	dir, name = filepath.Split(path)
	if dir == "" {
		dir = "."
	}
	return dir, name
}
