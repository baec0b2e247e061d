package vfs

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ChangedError says why a file was not removed or not locked: it is not the one that the
// caller meant.
type ChangedError struct {
	Path   string
	Reason string
}

func (e *ChangedError) Error() string {
	return fmt.Sprintf("%s: left alone: %s", e.Path, e.Reason)
}

// RemoveExact unlinks path only if it is a regular file with that identity and
// no second name; everything else is a *ChangedError. Both the look and the
// unlink go through one descriptor of the directory, so that a directory which
// is renamed or replaced meanwhile cannot lead to another file. Between the two
// the name itself can still change hands: the kernel cannot unlink by inode.
//
// A file that is not there is fs.ErrNotExist, which a repeated run may take
// for done after a SyncDir.
func RemoveExact(path string, id ID) error {
	return removeExact(path, id, (*os.File).Sync)
}

func removeExact(path string, id ID, sync fsync) error {
	dir, err := os.OpenFile(parent(path), os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	err = unlinkExact(dir, path, id)
	if err == nil {
		err = sync(dir)
	}
	return errors.Join(err, dir.Close())
}

func unlinkExact(dir *os.File, path string, id ID) error {
	fd := int(dir.Fd())
	_, name := split(path)
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstatat(fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	if err != nil {
		return &os.PathError{Op: "fstatat", Path: path, Err: err}
	}
	if reason := difference(&st, id); reason != "" {
		return &ChangedError{Path: path, Reason: reason}
	}
	if err := retry(func() error { return unix.Unlinkat(fd, name, 0) }); err != nil {
		return &os.PathError{Op: "unlinkat", Path: path, Err: err}
	}
	return nil
}

// difference is why st is not the only name of regular file id, or "".
func difference(st *unix.Stat_t, id ID) string {
	have := ID{Dev: uint64(st.Dev), Ino: uint64(st.Ino)}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return "not a regular file"
	case have != id:
		return fmt.Sprintf("it is device %d inode %d, not device %d inode %d",
			have.Dev, have.Ino, id.Dev, id.Ino)
	case st.Nlink != 1:
		return fmt.Sprintf("it has %d names (hard links)", st.Nlink)
	}
	return ""
}
