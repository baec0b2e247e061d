package vfs

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// A mountEntry is a line of /proc/self/mountinfo: proc(5).
type mountEntry struct {
	dev     uint64 // st_dev, as a rule: btrfs has others
	point   string
	kind    string // "nfs4", …
	options []string
}

// LocksStayLocal tells why locks on the file at path do not reach other hosts: its file
// system is mounted so. The reason is "" if they do, and on file systems of this host
// alone. That a FUSE file system keeps them to itself cannot be seen.
func LocksStayLocal(path string) (reason string, err error) {
	return locksStayLocal(path, linux())
}

func locksStayLocal(path string, sys kernel) (string, error) {
	f, err := openImage(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	return localLocks(f, sys)
}

// localLocks is LocksStayLocal of an open file.
func localLocks(f *os.File, sys kernel) (string, error) {
	shared, err := sharedWith(f, sys)
	if err != nil || shared == ofThisHost {
		return "", err
	}
	fi, err := f.Stat()
	if err != nil {
		return "", err
	}
	path, err := filepath.EvalSymlinks(f.Name())
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return "", err
	}
	text, err := sys.mounts()
	if err != nil {
		return "", err
	}
	m, ok := mountOf(parseMounts(text), path, infoOf(fi).ID.Dev)
	if !ok {
		return "", fmt.Errorf("%s: /proc/self/mountinfo does not tell how it is mounted", path)
	}
	return m.localLocks(), nil
}

func readMounts() (string, error) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	return string(b), err
}

// localOptions are options by which locks of fcntl(2), QEMU's among them, stay on the
// host. Options for flock(2) alone do not matter.
func localOptions(kind string) []string {
	switch kind {
	case "nfs", "nfs4":
		return []string{"nolock", "local_lock=all", "local_lock=posix"}
	case "cifs", "smb3":
		return []string{"nobrl"}
	case "gfs2":
		return []string{"localflocks"}
	case "lustre":
		return []string{"localflock"}
	}
	return nil
}

func (m *mountEntry) localLocks() string {
	for _, o := range localOptions(m.kind) {
		if slices.Contains(m.options, o) {
			return fmt.Sprintf("%s is mounted with %s (%s)", m.point, o, m.kind)
		}
	}
	return ""
}

// parseMounts reads mountinfo. Lines that are not understood are left out.
func parseMounts(text string) (all []mountEntry) {
	for line := range strings.Lines(text) {
		if m, ok := parseMount(strings.TrimSuffix(line, "\n")); ok {
			all = append(all, m)
		}
	}
	return all
}

// parseMount reads
//
//	36 35 98:0 /root /mount/point rw,noatime shared:1 - ext3 /dev/root rw,errors=continue
//
// with any number of optional fields before the dash.
func parseMount(line string) (mountEntry, bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, rest := strings.Split(before, " "), strings.Split(after, " ")
	if !ok || len(fields) < 6 || len(rest) < 3 {
		return mountEntry{}, false
	}
	var major, minor uint32
	if _, err := fmt.Sscanf(fields[2], "%d:%d", &major, &minor); err != nil {
		return mountEntry{}, false
	}
	options := append(strings.Split(fields[5], ","), strings.Split(rest[len(rest)-1], ",")...)
	return mountEntry{unix.Mkdev(major, minor), unescape(fields[4]), rest[0], options}, true
}

// unescape turns \ooo, an octal number, into the byte that it stands for.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(c))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// mountOf finds the mount that the file at path, with that st_dev, is on: of those with
// that device the one that is the deepest on the way to it, and the last of these, which
// hides the others. Where none has the device (btrfs) the path decides.
func mountOf(all []mountEntry, path string, dev uint64) (found mountEntry, ok bool) {
	for _, sameDev := range []bool{true, false} {
		for _, m := range all {
			if (m.dev == dev || !sameDev) && isWithin(m.point, path) && len(m.point) >= len(found.point) {
				found, ok = m, true
			}
		}
		if ok {
			break
		}
	}
	return found, ok
}

func isWithin(dir, path string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// LocalLocksError says that an image is not locked for writing, because other hosts
// would not see it.
type LocalLocksError struct{ Path, Reason string }

func (e *LocalLocksError) Error() string {
	return fmt.Sprintf("%s: %s: a guest of another host would not be seen, nor see that it is written to; mount it without that option, or work on a copy on a file system of this host", e.Path, e.Reason)
}
