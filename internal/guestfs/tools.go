package guestfs

import (
	"os"
	"os/exec"
	"path/filepath"
)

// packages have the programs: of the Debian family, and of the Fedora family.
var packages = map[string][2]string{
	"debugfs":     {"e2fsprogs", "e2fsprogs"},
	"qemu-nbd":    {"qemu-utils", "qemu-img"},
	"guestfish":   {"guestfish", "libguestfs"},
	"nbdfuse":     {"libnbd-bin", "nbdfuse"},
	"fusermount3": {"fuse3", "fuse3"},
	"sfdisk":      {"fdisk", "util-linux"},
	"blkid":       {"util-linux", "util-linux"},
}

// A MissingError says that a program is not installed.
type MissingError struct{ Program string }

func (e *MissingError) Error() string {
	p := packages[e.Program]
	if p[0] == p[1] {
		return e.Program + " is not installed: the package is " + p[0]
	}
	return e.Program + " is not installed: the package is " + p[0] + " (Debian family) or " + p[1] + " (Fedora family)"
}

// find looks for a program, also where only root's path leads.
func find(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", &MissingError{name}
}
