package vfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// newFile creates a file with that content and returns its path.
func newFile(t *testing.T, dir, name, content string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func mustStat(t *testing.T, path string) Info {
	t.Helper()
	info, err := Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

func TestStatOfRegularFile(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "")
	if err := os.Truncate(path, 1<<20); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, filepath.Join(dir, "again")); err != nil {
		t.Fatal(err)
	}
	got := mustStat(t, path)
	if got.Size != 1<<20 || got.Allocated != 0 || got.Links != 2 || got.Mode != 0o600 {
		t.Errorf("Stat = %+v", got)
	}
	if got.IsBlock || got.Rdev != 0 || got.UID != uint32(os.Getuid()) || got.ModTime.IsZero() {
		t.Errorf("Stat = %+v", got)
	}
	if again := mustStat(t, filepath.Join(dir, "again")); again.ID != got.ID {
		t.Errorf("hard link has ID %v, file %v", again.ID, got.ID)
	}
	if other := mustStat(t, newFile(t, dir, "other", "")); other.ID == got.ID {
		t.Errorf("two files have ID %v", got.ID)
	}
}

func TestOnlyStatFollowsSymlinks(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "x")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("disk", link); err != nil {
		t.Fatal(err)
	}
	if got := mustStat(t, link); got.ID != mustStat(t, path).ID {
		t.Errorf("Stat does not follow: %+v", got)
	}
	wantKind(t, second(Lstat(link)), link, "symbolic link")
	if got, err := Lstat(path); err != nil || got.ID != mustStat(t, path).ID {
		t.Errorf("Lstat = %+v, %v", got, err)
	}
}

func second[T any](_ T, err error) error { return err }

func wantKind(t *testing.T, err error, path, kind string) {
	t.Helper()
	var k *KindError
	if !errors.As(err, &k) || k.Path != path || k.Kind != kind {
		t.Errorf("got %v, want that %s is a %s", err, path, kind)
	}
}

func TestOtherKindsAreRefused(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe") // must not be opened: that would block
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, kind := range map[string]string{
		dir: "directory", pipe: "named pipe", "/dev/null": "character device",
	} {
		wantKind(t, second(Stat(path)), path, kind)
		wantKind(t, second(Lstat(path)), path, kind)
		wantKind(t, second(InUse(path)), path, kind)
	}
	for _, err := range []error{
		second(Stat(filepath.Join(dir, "none"))), second(Lstat(filepath.Join(dir, "none"))),
		second(InUse(filepath.Join(dir, "none"))),
	} {
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("missing file: %v", err)
		}
	}
}

func TestDeviceIsKnownByItsNumber(t *testing.T) {
	a := asDevice(Info{ID: ID{Dev: 5, Ino: 100}, Rdev: 0x700}, 4096)
	b := asDevice(Info{ID: ID{Dev: 6, Ino: 200}, Rdev: 0x700}, 4096)
	c := asDevice(Info{ID: ID{Dev: 5, Ino: 100}, Rdev: 0x701}, 4096)
	if a.ID != b.ID || a.ID == c.ID || !a.IsBlock || a.Size != 4096 || a.Allocated != 4096 {
		t.Errorf("%+v, %+v, %+v", a, b, c)
	}
}

// TestNodesOfOneBlockDevice needs the rights to set up a loop device and to make
// device nodes, which an ordinary user and most containers lack.
func TestNodesOfOneBlockDevice(t *testing.T) {
	const size = 3 << 20
	first := loopDevice(t, size)
	info := mustStat(t, first)
	if !info.IsBlock || info.Size != size || info.Allocated != size || info.ID.Ino != info.Rdev {
		t.Errorf("%+v", info)
	}
	node := filepath.Join(t.TempDir(), "node")
	must(t, unix.Mknod(node, unix.S_IFBLK|0o600, int(info.Rdev)))
	if again := mustStat(t, node); again.ID != info.ID || again.Size != size {
		t.Errorf("node %+v, device %+v", again, info)
	}
	if again, err := Lstat(node); err != nil || again != mustStat(t, node) {
		t.Errorf("Lstat = %+v, %v", again, err)
	}
	wantKind(t, second(SpaceAt(first)), first, "block device")
	wantUse(t, first, Use{})
}

// loopDevice makes a file of size bytes into a block device.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		if os.Geteuid() == 0 {
			t.Fatal("loop devices: ", err)
		}
		t.Skip("only root may use loop devices: ", err)
	}
	defer control.Close()
	f, err := os.OpenFile(newFile(t, t.TempDir(), "disk", ""), os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	must(t, f.Truncate(size))
	for { // others may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		must(t, err)
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		must(t, err)
		err = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(f.Fd()))
		if errors.Is(err, unix.EBUSY) {
			must(t, loop.Close())
			continue
		}
		must(t, err)
		t.Cleanup(func() {
			must(t, unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0))
			must(t, loop.Close())
		})
		return loop.Name()
	}
}

func TestIDInJSON(t *testing.T) {
	want := ID{Dev: math.MaxUint64, Ino: 1<<63 + 1}
	b, err := json.Marshal(want)
	if err != nil || string(b) != `{"dev":18446744073709551615,"ino":9223372036854775809}` {
		t.Fatalf("%s, %v", b, err)
	}
	var got ID
	if err := json.Unmarshal(b, &got); err != nil || got != want {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestSpaceAt(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "x")
	ofDir, err := SpaceAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	ofFile, err := SpaceAt(path)
	if err != nil {
		t.Fatal(err)
	}
	if ofDir.FS != mustStat(t, path).ID.Dev || ofDir.FS != ofFile.FS {
		t.Errorf("FS: directory %d, file %d", ofDir.FS, ofFile.FS)
	}
	if ofDir.Total <= 0 || ofDir.Free <= 0 || ofDir.Free > ofDir.Total {
		t.Errorf("%+v", ofDir)
	}
	wantKind(t, second(SpaceAt("/dev/null")), "/dev/null", "character device")
	if _, err := SpaceAt(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}

func TestSpaceOfOddFileSystems(t *testing.T) {
	for _, c := range []struct {
		name string
		st   unix.Statfs_t
		want int64
	}{
		{"reserve not counted", unix.Statfs_t{Frsize: 4096, Bfree: 20, Bavail: 10}, 40960},
		{"no f_frsize", unix.Statfs_t{Bsize: 512, Bfree: 10, Bavail: 10}, 5120},
		{"f_bsize is a hint", unix.Statfs_t{Bsize: 1 << 20, Frsize: 512, Bfree: 10, Bavail: 10}, 5120},
		{"negative count", unix.Statfs_t{Frsize: 4096, Bfree: 20, Bavail: math.MaxUint64 - 5}, 0},
		{"more than int64", unix.Statfs_t{Frsize: 1 << 30, Bfree: 1 << 62, Bavail: 1 << 62}, math.MaxInt64},
		{"more than half", unix.Statfs_t{Frsize: 2, Bfree: 1 << 62, Bavail: 1 << 62}, math.MaxInt64},
	} {
		if got := blockBytes(available(&c.st), blockSize(&c.st)); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
