package vfs

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// SharedKind is the kind of file system that path is on ("nfs4", …) if other hosts can have
// that, too; "" on one of this host alone. An export of this host is not looked for.
func SharedKind(path string) (string, error) { return sharedKind(path, linux()) }

func sharedKind(path string, sys kernel) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := retry(func() error { return sys.statfs(int(f.Fd()), &st) }); err != nil {
		return "", &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	if sharingOf(&st) == ofThisHost {
		return "", nil
	}
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	text, err := sys.mounts()
	if m, ok := mountOf(parseMounts(text), path, infoOf(fi).ID.Dev); ok && err == nil {
		return m.kind, nil
	}
	return "a network file system", err
}
