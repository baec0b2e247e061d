package vfs

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func newImage(t *testing.T, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	qemuImg(t, "create", "-q", "-f", "qcow2", path, "1M")
	return path
}

func wantBusy(t *testing.T, err error, path string, mode LockMode) {
	t.Helper()
	var busy *BusyError
	if !errors.As(err, &busy) || busy.Path != path || busy.Mode != mode {
		t.Errorf("got %v, want that %s is busy", err, path)
	}
}

func wantChanged(t *testing.T, err error, path string) {
	t.Helper()
	var changed *ChangedError
	if !errors.As(err, &changed) || changed.Path != path {
		t.Errorf("got %v, want that %s has changed", err, path)
	}
}

// lockedBytes lists the bytes on which somebody has a lock.
func lockedBytes(t *testing.T, path string) []int64 {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	p := &prober{f: f, sys: linux()}
	var all []int64
	for off := range int64(300) {
		held, err := p.asked(off)
		must(t, err)
		if held {
			all = append(all, off)
		}
	}
	return all
}

func wantLocked(t *testing.T, path string, want ...int64) {
	t.Helper()
	if got := lockedBytes(t, path); !slices.Equal(got, want) {
		t.Errorf("locked %v, want %v", got, want)
	}
}

// holdByte has another descriptor lock one byte until the test ends.
func holdByte(t *testing.T, path string, kind int16, off int64) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { f.Close() })
	lk := unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: off, Len: 1}
	must(t, unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &lk))
}

func TestLockTakesTheBytesOfQEMU(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	f := openOS(t, path, true)
	must(t, f.Lock(LockRead))
	wantLocked(t, path, 100, 201, 203)
	must(t, f.Lock(LockWrite))
	wantLocked(t, path, 100, 101, 103, 201, 203)
	must(t, f.Lock(LockRead)) // takes nothing away
	wantLocked(t, path, 100, 101, 103, 201, 203)
	must(t, f.Close())
	wantLocked(t, path)
}

// Every byte of the protocol as another's lock, and what it is in the way of.
func TestLockIsRefusedByByte(t *testing.T) {
	read, write := []int64{101, 103, 200}, []int64{101, 103, 200, 201, 203}
	for off := range int64(300) {
		path := newFile(t, t.TempDir(), "disk", "")
		holdByte(t, path, unix.F_RDLCK, off)
		for mode, busy := range map[LockMode][]int64{LockRead: read, LockWrite: write} {
			f := openOS(t, path, true)
			err := f.Lock(mode)
			if slices.Contains(busy, off) {
				wantBusy(t, err, path, mode)
				wantLocked(t, path, off)
			} else if err != nil {
				t.Errorf("byte %d, mode %d: %v", off, mode, err)
			}
			must(t, f.Close())
		}
	}
}

func TestLockIsRefusedByWriteLocks(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	holdByte(t, path, unix.F_WRLCK, 203)
	wantBusy(t, openOS(t, path, false).Lock(LockRead), path, LockRead)
	wantBusy(t, openOS(t, path, true).Lock(LockWrite), path, LockWrite)
	wantLocked(t, path, 203)
}

func TestLocksOfThisProcessCount(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	a, b, c := openOS(t, path, true), openOS(t, path, false), openOS(t, path, true)
	must(t, a.Lock(LockRead))
	must(t, b.Lock(LockRead))
	wantBusy(t, c.Lock(LockWrite), path, LockWrite)
	wantBusy(t, a.Lock(LockWrite), path, LockWrite) // still has its read locks
	must(t, b.Close())
	wantLocked(t, path, 100, 201, 203)
	wantBusy(t, c.Lock(LockWrite), path, LockWrite)
	must(t, a.Lock(LockWrite))
	wantBusy(t, c.Lock(LockRead), path, LockRead)
}

// Between fork and exec a child has a copy of every descriptor.
func TestCloseUnlocksInSpiteOfACopy(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	f := openOS(t, path, true)
	must(t, f.Lock(LockWrite))
	child, err := unix.Dup(f.fd())
	must(t, err)
	defer unix.Close(child)
	must(t, f.Close())
	wantLocked(t, path)
}

func TestLockWithoutLocksFails(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	for _, lack := range []error{unix.ENOLCK, unix.EINVAL, unix.EOPNOTSUPP} {
		f := openOS(t, path, true)
		f.sys.lock = func(uintptr, int, *unix.Flock_t) error { return lack }
		wantErr(t, f.Lock(LockRead), lack)
	}
}

// A lock that fails half way leaves nothing behind.
func TestLockThatFailsReleases(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	f := openOS(t, path, true)
	f.sys.lock = func(fd uintptr, cmd int, lk *unix.Flock_t) error {
		if lk.Type == unix.F_RDLCK && lk.Start == 203 {
			return unix.EIO
		}
		return unix.FcntlFlock(fd, cmd, lk)
	}
	wantErr(t, f.Lock(LockWrite), unix.EIO)
	wantLocked(t, path)
}

func TestLockOfAPathThatHasChanged(t *testing.T) {
	for name, change := range map[string]func(t *testing.T, path string){
		"replaced": replaceFile, "directory": toDirectory,
		"gone": func(t *testing.T, path string) { must(t, os.Rename(path, path+".moved")) },
	} {
		t.Run(name, func(t *testing.T) {
			path := newFile(t, t.TempDir(), "disk", "")
			second := path + ".second"
			must(t, os.Link(path, second))
			f := openOS(t, path, true)
			change(t, path)
			wantChanged(t, f.Lock(LockWrite), path)
			wantLocked(t, second)
		})
	}
}

func TestLockThroughSymlinks(t *testing.T) {
	dir := t.TempDir()
	path, other := newFile(t, dir, "disk", ""), newFile(t, dir, "other", "")
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(path, link))
	f := openOS(t, link, true)
	must(t, f.Lock(LockWrite))
	wantLocked(t, path, 100, 101, 103, 201, 203)
	must(t, f.Close())
	f = openOS(t, link, true)
	must(t, os.Remove(link))
	must(t, os.Symlink(other, link))
	wantChanged(t, f.Lock(LockWrite), link)
	wantLocked(t, path)
}

// What Stat cannot tell is no change.
func TestLockTellsErrorsOfStat(t *testing.T) {
	dir := t.TempDir()
	path := newFile(t, dir, "disk", "")
	link := filepath.Join(dir, "link")
	must(t, os.Symlink(path, link))
	f := openOS(t, link, true)
	must(t, os.Remove(link))
	must(t, os.Symlink("link", link))
	var pathErr *fs.PathError
	if err := f.Lock(LockRead); !errors.Is(err, unix.ELOOP) || !errors.As(err, &pathErr) {
		t.Errorf("got %v", err)
	}
	wantLocked(t, path)
}

func TestLockAgainstQEMU(t *testing.T) {
	path := newImage(t, "disk")
	for _, c := range []struct {
		name        string
		args        []string
		read, write bool // our lock is refused
	}{
		{"writer", []string{"-f", "qcow2", path}, true, true},
		{"reader", []string{"-r", "-f", "qcow2", path}, false, true},
		{"raw writer", []string{"-f", "raw", path}, true, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := startQemuIO(t, c.args...)
			for mode, refused := range map[LockMode]bool{LockRead: c.read, LockWrite: c.write} {
				f := openOS(t, path, mode == LockWrite)
				if err := f.Lock(mode); refused {
					wantBusy(t, err, path, mode)
				} else {
					must(t, err)
				}
				must(t, f.Close())
			}
			must(t, p.in.Close())
			must(t, p.Wait())
			must(t, openOS(t, path, true).Lock(LockWrite))
		})
	}
}

// A running guest uses its base as a strict reader.
func TestLockOfTheBaseOfARunningGuest(t *testing.T) {
	base := newImage(t, "base")
	top := base + ".top"
	qemuImg(t, "create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
	guest := start(t, exec.Command("qemu-storage-daemon",
		"--blockdev", "driver=qcow2,node-name=disk,file.driver=file,file.filename="+top,
		"--nbd-server", "addr.type=unix,addr.path="+base+".sock",
		"--export", "type=nbd,id=e,node-name=disk,writable=on",
		"--chardev", "stdio,id=s", "--monitor", "chardev=s"))
	guest.waitFor(t, "QMP")
	wantUse(t, top, Use{Read: true, Write: true})
	must(t, openOS(t, base, false).Lock(LockRead))
	wantBusy(t, openOS(t, base, true).Lock(LockWrite), base, LockWrite)
	wantBusy(t, openOS(t, top, true).Lock(LockWrite), top, LockWrite)
	wantBusy(t, openOS(t, top, false).Lock(LockRead), top, LockRead)
}

// refused runs a program of QEMU and tells whether it was refused by a lock.
func refused(t *testing.T, args ...string) bool {
	t.Helper()
	out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
	busy := strings.Contains(string(out), "Failed to get")
	if err != nil && !busy {
		t.Fatalf("%q: %v\n%s", args, err, out)
	}
	return busy
}

func wantRefused(t *testing.T, path string, reader, writer bool) {
	t.Helper()
	if got := refused(t, "qemu-img", "check", "-q", "-f", "qcow2", path); got != reader {
		t.Errorf("qemu-img check refused: %v", got)
	}
	if got := refused(t, "qemu-io", "-r", "-f", "qcow2", "-c", "read 0 512", path); got != reader {
		t.Errorf("reader refused: %v", got)
	}
	if got := refused(t, "qemu-io", "-f", "qcow2", "-c", "write 0 512", path); got != writer {
		t.Errorf("writer refused: %v", got)
	}
}

func TestQEMUAgainstLock(t *testing.T) {
	path := newImage(t, "disk")
	for _, c := range []struct {
		mode           LockMode
		reader, writer bool
	}{{LockRead, false, true}, {LockWrite, true, true}} {
		f := openOS(t, path, c.mode == LockWrite)
		must(t, f.Lock(c.mode))
		wantRefused(t, path, c.reader, c.writer)
		must(t, f.Close())
		wantRefused(t, path, false, false)
	}
}

func TestLockOfABlockDevice(t *testing.T) {
	path := loopDevice(t, 1<<20)
	f := openOS(t, path, true)
	must(t, f.Lock(LockWrite))
	if !refused(t, "qemu-io", "-f", "raw", "-c", "write 0 512", path) {
		t.Error("writer not refused")
	}
	must(t, f.Close())
	startQemuIO(t, "-f", "raw", path)
	wantBusy(t, openOS(t, path, true).Lock(LockWrite), path, LockWrite)
}
