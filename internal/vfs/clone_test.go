package vfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// btrfs is a file system with reflinks and with attribute C.
func btrfs(t *testing.T) string {
	t.Helper()
	return mounted(t, "btrfs", 300<<20, "mkfs.btrfs", "-q")
}

// onSharing runs a test on each kind of file system whose files can share extents.
func onSharing(t *testing.T, run func(t *testing.T, dir string)) {
	t.Helper()
	for kind, make := range map[string]func(*testing.T) string{"xfs": xfs, "btrfs": btrfs} {
		t.Run(kind, func(t *testing.T) { run(t, make(t)) })
	}
}

// cloneOf makes a clone of the file at path, beside it.
func cloneOf(t *testing.T, path, name string) string {
	t.Helper()
	to := newFile(t, filepath.Dir(path), name, "")
	must(t, CloneFile(path, to))
	return to
}

// sharedBytes counts what two files have in common at the same offsets, up to size.
func sharedBytes(t *testing.T, a, b string, size int64) int64 {
	t.Helper()
	f, g := openOS(t, a, false), openOS(t, b, false)
	total := int64(0)
	for off := int64(0); off < size; {
		n := f.Shares(off, g, off, size-off)
		total += n
		off += max(n, cloneAlign-off%cloneAlign)
	}
	return total
}

// extentsOf is where filefrag says that the data of a file lies. XFS allocates beyond
// the end what a clone does not get.
func extentsOf(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("filefrag", "-e", "-s", path).CombinedOutput()
	if err != nil {
		t.Fatalf("filefrag %s: %v\n%s", path, err, out)
	}
	var places []string
	for _, line := range strings.Split(string(out), "\n") {
		if f := strings.Split(line, ":"); len(f) > 3 && strings.Contains(f[1], "..") && !strings.Contains(line, "unwritten") {
			places = append(places, f[1]+":"+f[2])
		}
	}
	return strings.Join(places, "\n")
}

func TestCanCloneTellsWhichFileSystemsCan(t *testing.T) {
	dirs := map[string]func(*testing.T) string{
		"xfs": xfs, "btrfs": btrfs, "tmpfs": small,
		"ext4":                func(t *testing.T) string { return mounted(t, "ext4", 16<<20, "mkfs.ext4", "-q") },
		"xfs without reflink": func(t *testing.T) string { return mounted(t, "xfs", 300<<20, "mkfs.xfs", "-q", "-m", "reflink=0") },
	}
	for kind, where := range dirs {
		t.Run(kind, func(t *testing.T) {
			dir := filepath.Join(where(t), "images")
			must(t, os.Mkdir(dir, 0o755))
			err := CanClone(dir)
			if can := kind == "xfs" || kind == "btrfs"; can != (err == nil) {
				t.Fatalf("%s: %v", kind, err)
			}
			if err != nil && (!errors.Is(err, syscall.EOPNOTSUPP) || !strings.Contains(err.Error(), dir)) {
				t.Errorf("got %v, want one that names %s", err, dir)
			}
			wantNames(t, dir)
		})
	}
}

func TestCanCloneWhereNothingCanBeWritten(t *testing.T) {
	dir := t.TempDir()
	file := newFile(t, dir, "disk", "")
	for path, want := range map[string]error{filepath.Join(dir, "none"): fs.ErrNotExist, file: syscall.ENOTDIR} {
		if err := CanClone(path); !errors.Is(err, want) || !strings.Contains(err.Error(), path) {
			t.Errorf("got %v, want %v and %s", err, want, path)
		}
	}
	if os.Geteuid() != 0 {
		must(t, os.Chmod(dir, 0o555))
		wantErr(t, CanClone(dir), fs.ErrPermission)
		t.Skip("only root may mount")
	}
	dir = xfs(t)
	must(t, unix.Mount("none", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	if err := CanClone(dir); !errors.Is(err, syscall.EROFS) || !strings.Contains(err.Error(), dir) {
		t.Errorf("got %v, want that %s is read-only", err, dir)
	}
}

// filefrag, too, says that the extents are the same, and the clone costs no space.
func TestAClonesExtentsAreThoseOfTheFile(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		data := noise(8<<20 + 777)
		f := createOS(t, dir, "disk", data)
		must(t, f.Truncate(20<<20)) // with a hole
		must(t, second(f.WriteAt([]byte("end"), 18<<20)))
		must(t, f.Sync())
		before := freeSpace(t, dir)
		clone := cloneOf(t, f.Path(), "clone")
		if used := before - freeSpace(t, dir); used > 1<<20 {
			t.Errorf("a clone costs %d bytes", used)
		}
		want := make([]byte, 20<<20)
		copy(want, data)
		copy(want[18<<20:], "end")
		wantBytes(t, openOS(t, clone, false), want)
		const whole = 8<<20 + cloneAlign + cloneAlign
		if n := sharedBytes(t, f.Path(), clone, 20<<20); n != whole {
			t.Errorf("%d bytes are shared, want %d", n, whole)
		}
		if a, b := extentsOf(t, f.Path()), extentsOf(t, clone); a != b || a == "" {
			t.Errorf("the file is at\n%s\nits clone at\n%s", a, b)
		}
	})
}

func freeSpace(t *testing.T, dir string) int64 {
	t.Helper()
	f, err := os.Open(dir)
	must(t, err)
	defer f.Close()
	must(t, unix.Syncfs(int(f.Fd()))) // what is allocated late counts
	var st unix.Statfs_t
	must(t, unix.Fstatfs(int(f.Fd()), &st))
	return blockBytes(available(&st), blockSize(&st))
}

const aclAccess = "system.posix_acl_access"

// acl lets user 1234 read and write: see linux/posix_acl_xattr.h.
func acl() []byte {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, perm uint16
		id        uint32
	}{{0x01, 6, ^uint32(0)}, {0x02, 6, 1234}, {0x04, 0, ^uint32(0)}, {0x10, 6, ^uint32(0)}, {0x20, 0, ^uint32(0)}} {
		b = binary.LittleEndian.AppendUint16(b, e.tag)
		b = binary.LittleEndian.AppendUint16(b, e.perm)
		b = binary.LittleEndian.AppendUint32(b, e.id)
	}
	return b
}

// rights says who may use a file.
func rights(t *testing.T, path string) string {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	st := info.Sys().(*syscall.Stat_t)
	var list [4096]byte
	n, err := unix.Getxattr(path, aclAccess, list[:])
	if err != nil && !errors.Is(err, unix.ENODATA) {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d %v % x", st.Uid, st.Gid, info.Mode(), list[:max(n, 0)])
}

func TestACloneHasTheOwnerAndTheACL(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		path := newFile(t, dir, "disk", "data")
		must(t, os.Chmod(path, 0o644))
		must(t, os.Chown(path, 4711, 815))
		want := "4711:815 -rw------- "
		if got := rights(t, cloneOf(t, path, "clone")); got != want { // the mode stays
			t.Errorf("got %s, want %s", got, want)
		}
		must(t, unix.Setxattr(path, aclAccess, acl(), 0))
		if got, want := rights(t, cloneOf(t, path, "with ACL")), rights(t, path); got != want || !strings.HasSuffix(want, fmt.Sprintf("% x", acl())) {
			t.Errorf("got %s, want %s", got, want)
		}
		other := newFile(t, dir, "other", "")
		must(t, LikeOwner(other, path))
		if got, want := rights(t, other), rights(t, path); got != want {
			t.Errorf("LikeOwner: got %s, want %s", got, want)
		}
	})
}

// A clone into a file that has data would lose it.
func TestATargetOfACloneMustBeEmpty(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		data := string(noise(2 * cloneAlign)) // whole blocks could be cloned over it
		from, to := newFile(t, dir, "disk", data), newFile(t, dir, "to", "precious")
		if err := CloneFile(from, to); err == nil || !strings.Contains(err.Error(), to) {
			t.Errorf("got %v", err)
		}
		wantContent(t, to, "precious")
	})
}

// The name could have been put there to have another file overwritten.
func TestATargetOfACloneMustNotBeALink(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		from, other, to := newFile(t, dir, "disk", "data"), newFile(t, dir, "other", ""), filepath.Join(dir, "to")
		must(t, os.Symlink(other, to))
		wantErr(t, CloneFile(from, to), syscall.ELOOP)
		wantErr(t, LikeOwner(to, from), syscall.ELOOP)
		wantContent(t, other, "")
		wantErr(t, CloneFile(from, filepath.Join(dir, "none")), fs.ErrNotExist)
		wantErr(t, CloneFile(filepath.Join(dir, "none"), other), fs.ErrNotExist)
	})
}

func TestAFileThatIsWrittenToIsNotCloned(t *testing.T) {
	onSharing(t, func(t *testing.T, dir string) {
		from, to := newFile(t, dir, "disk", "data"), newFile(t, dir, "to", "")
		f := openOS(t, from, true)
		must(t, f.Lock(LockWrite))
		wantBusy(t, CloneFile(from, to), from, LockRead)
		wantContent(t, to, "")
		must(t, f.Close())
		reader := openOS(t, from, false)
		must(t, reader.Lock(LockRead))
		must(t, CloneFile(from, to)) // readers are welcome
		wantContent(t, to, "data")
		wantLocked(t, to)
		must(t, reader.Close())
		wantLocked(t, from)
	})
}

func TestACloneThatCannotBeTellsBothFiles(t *testing.T) {
	a, b, tmp := xfs(t), xfs(t), small(t)
	from := newFile(t, a, "disk", "data")
	for _, c := range []struct {
		from, to string
		want     error
	}{
		{from, newFile(t, b, "to", ""), syscall.EXDEV},
		{newFile(t, tmp, "disk", "data"), newFile(t, tmp, "to", ""), syscall.EOPNOTSUPP},
	} {
		err := CloneFile(c.from, c.to)
		if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.from) || !strings.Contains(err.Error(), c.to) {
			t.Errorf("got %v, want %v with %s and %s", err, c.want, c.from, c.to)
		}
		wantContent(t, c.to, "")
	}
}

func chattr(t *testing.T, flag, path string) {
	t.Helper()
	if out, err := exec.Command("chattr", flag, path).CombinedOutput(); err != nil {
		t.Fatalf("chattr %s %s: %v\n%s", flag, path, err, out)
	}
}

// On btrfs a file that is written in place can share extents with such files only. A
// new file takes the attribute, and that for compression, from its directory.
func TestACloneIsWrittenInPlaceAsTheFileIs(t *testing.T) {
	for _, c := range []struct {
		name      string
		file, dir string // what chattr gives the file, and later the directory
		inPlace   bool
	}{
		{"in place", "+C", "", true},
		{"in place, in such a directory", "+C", "+C", true},
		{"in place, in a directory with compression", "+C", "+c", true},
		{"plain, in a directory of files in place", "", "+C", false},
		{"with compression, in a directory of files in place", "+c", "+C", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := btrfs(t)
			path := newFile(t, dir, "disk", "")
			if c.file != "" {
				chattr(t, c.file, path)
			}
			data := noise(1 << 20)
			must(t, os.WriteFile(path, data, 0o600))
			if c.dir != "" {
				chattr(t, c.dir, dir)
			}
			clone := openOS(t, cloneOf(t, path, "clone"), true)
			wantBytes(t, clone, data)
			if got := attributes(clone.f)&noCow != 0; got != c.inPlace {
				t.Errorf("written in place: %v, want %v", got, c.inPlace)
			}
			must(t, second(clone.WriteAt(make([]byte, 8192), 4096)))
			must(t, clone.Sync())
			wantBytes(t, openOS(t, path, false), data) // the first write to what is shared copies
		})
	}
}
