package vfs

import (
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openOS opens path until the test ends.
func openOS(t *testing.T, path string, write bool) *osFile {
	t.Helper()
	f, err := OS().Open(path, write)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f.(*osFile)
}

// createOS creates a file with that content, open until the test ends.
func createOS(t *testing.T, dir, name string, content []byte) *osFile {
	t.Helper()
	f, err := OS().Create(filepath.Join(dir, name), 0o600)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	_, err = f.WriteAt(content, 0)
	must(t, err)
	return f.(*osFile)
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
	}
}

func TestOpenFollowsSymlinks(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "guest data")
	link := filepath.Join(dir, "link")
	must(t, os.Symlink("disk", link))
	f := openOS(t, link, false)
	info, err := f.Stat()
	if err != nil || info != mustStat(t, path) || f.Path() != link {
		t.Errorf("%s: %+v, %v", f.Path(), info, err)
	}
	b := make([]byte, 20)
	if n, err := f.ReadAt(b, 6); string(b[:n]) != "data" || !errors.Is(err, io.EOF) {
		t.Errorf("read %q, %v", b[:n], err)
	}
}

// A pipe that is opened waits for its other end, or wakes it up.
func TestOpenRefusesOtherKinds(t *testing.T) {
	dir := t.TempDir()
	pipe, socket := filepath.Join(dir, "pipe"), filepath.Join(dir, "socket")
	must(t, unix.Mkfifo(pipe, 0o600))
	l, err := net.Listen("unix", socket)
	must(t, err)
	defer l.Close()
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(pipe, link))
	for path, kind := range map[string]string{
		dir: "directory", pipe: "named pipe", link: "named pipe", socket: "socket", "/dev/null": "character device",
	} {
		wantKind(t, second(OS().Open(path, false)), path, kind)
		wantKind(t, second(OS().Open(path, true)), path, kind)
		wantKind(t, second(OS().ReadFile(path)), path, kind)
	}
	wantErr(t, second(OS().Open(filepath.Join(dir, "none"), false)), fs.ErrNotExist)
}

// What is opened counts, not what was there a moment before.
func TestOpenLooksAtWhatItHasOpened(t *testing.T) {
	pipe := filepath.Join(t.TempDir(), "pipe")
	must(t, unix.Mkfifo(pipe, 0o600))
	f, err := os.OpenFile(pipe, os.O_RDWR|unix.O_NONBLOCK, 0)
	must(t, err)
	wantKind(t, second(adopt(f)), pipe, "named pipe")
	wantErr(t, f.Close(), os.ErrClosed)
}

func TestOpenIsForReadingUnlessAsked(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "guest data")
	f := openOS(t, path, false)
	wantErr(t, second(f.WriteAt([]byte("x"), 0)), unix.EBADF)
	wantErr(t, second(openOS(t, path, true).WriteAt([]byte("G"), 0)), nil)
	wantContent(t, path, "Guest data")
}

func TestDescriptorsAreNotInherited(t *testing.T) {
	dir := t.TempDir()
	for _, f := range []*osFile{createOS(t, dir, "new", nil), openOS(t, newFile(t, dir, "old", ""), false)} {
		flags, err := unix.FcntlInt(f.f.Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v", flags, err)
		}
	}
}

// A pipe that has taken the file's place just now does not make open wait.
func TestOpenDoesNotWait(t *testing.T) {
	f := openOS(t, newFile(t, t.TempDir(), "disk", ""), true)
	flags, err := unix.FcntlInt(f.f.Fd(), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_NONBLOCK == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func TestCreateHasThatModeInSpiteOfUmask(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	dir := t.TempDir()
	for _, perm := range []fs.FileMode{0o600, 0o660, 0o666, 0o444} {
		f, err := OS().Create(filepath.Join(dir, perm.String()), perm)
		must(t, err)
		info, err := f.Stat()
		if err != nil || info.Mode != perm || info.ID != mustStat(t, f.Path()).ID {
			t.Errorf("%v: %+v, %v", perm, info, err)
		}
		wantErr(t, second(f.WriteAt([]byte("x"), 0)), nil)
		must(t, f.Close())
	}
}

func TestCreateLeavesWhatIsThere(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "guest data")
	must(t, os.Symlink("none", filepath.Join(dir, "dangling")))
	must(t, os.Symlink("disk", filepath.Join(dir, "link")))
	for _, name := range []string{"disk", "dangling", "link", "."} {
		wantErr(t, second(OS().Create(filepath.Join(dir, name), 0o600)), fs.ErrExist)
	}
	wantContent(t, path, "guest data")
	wantNames(t, dir, "dangling", "disk", "link")
}

func TestReadDirListsWhatMayBeAnImage(t *testing.T) {
	dir := t.TempDir()
	newFile(t, dir, "b", "")
	must(t, os.Symlink("b", filepath.Join(dir, "a")))
	must(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "sub"), 0o700))
	if got, err := OS().ReadDir(dir); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("%q, %v", got, err)
	}
	wantErr(t, second(OS().ReadDir(filepath.Join(dir, "none"))), fs.ErrNotExist)
}

func TestReadFileIsForSmallFiles(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "state", strings.Repeat("x", 10000))
	if b, err := OS().ReadFile(path); err != nil || len(b) != 10000 {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	must(t, os.Truncate(path, maxSmall+1))
	wantErr(t, second(OS().ReadFile(path)), syscall.EFBIG)
}

func TestOSUsesTheFunctionsOfThisPackage(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	must(t, OS().WriteFile(a, []byte("state"), 0o640))
	must(t, OS().Rename(a, b))
	must(t, OS().SyncDir(dir))
	info, err := OS().Stat(b)
	if err != nil || info.Mode != 0o640 {
		t.Errorf("%+v, %v", info, err)
	}
	must(t, os.Symlink("b", a))
	wantKind(t, second(OS().Lstat(a)), a, "symbolic link")
	var changed *ChangedError
	if err := OS().RemoveExact(b, ID{}); !errors.As(err, &changed) {
		t.Error(err)
	}
	must(t, OS().RemoveExact(b, info.ID))
	wantNames(t, dir, "a")
}
