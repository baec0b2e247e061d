package vfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// A client of NFS goes by what it knows of a directory for a minute as a rule (acdirmax of nfs(5)): to it a name that
// another host has just made is not there, and a listing is the old one. What is asked of the server about the
// directory itself ends that. See docs/decisions/0055.

// LstatFresh is as os.Lstat, but a file is not there only if it is not on the server.
func LstatFresh(path string) (os.FileInfo, error) { return lstatFresh(path, linux()) }

func lstatFresh(path string, sys kernel) (fi os.FileInfo, err error) {
	err = sys.again(path, func() error {
		fi, err = os.Lstat(path)
		return err
	})
	return fi, err
}

// again looks anew where the file at path is not there.
func (k kernel) again(path string, look func() error) error {
	err := look()
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	k.refresh(filepath.Dir(path), 0)
	return look()
}

// refresh has the server asked about dir. Where that fails, what comes next does as well, or has to do with what is
// known. flag is AT_SYMLINK_NOFOLLOW, or 0.
func refresh(dir string, flag int) {
	var st unix.Statx_t
	_ = retry(func() error {
		return unix.Statx(unix.AT_FDCWD, dir, unix.AT_STATX_FORCE_SYNC|unix.AT_NO_AUTOMOUNT|flag, unix.STATX_BASIC_STATS, &st)
	})
}
