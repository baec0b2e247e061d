package vfs

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// kinds are the file systems that other hosts may have, too.
var kinds = map[string]int64{
	"NFS": 0x6969, "FUSE": 0x65735546, "CEPH": 0x00c36400, "GFS2": 0x01161970, "OCFS2": 0x7461636f,
	"9p": 0x01021997, "Lustre": 0x0BD00BD0,
}

const nfs = 0x6969

// overNFS is a kernel that answers as one does over NFSv3: queries say "free" whatever
// other descriptors have, and locks that are taken conflict. log gets what is taken.
func overNFS(kind int64, log *[]byteLock) kernel {
	k := linux()
	k.statfs = func(_ int, st *unix.Statfs_t) error {
		st.Type = kind
		return nil
	}
	k.lock = func(fd uintptr, cmd int, lk *unix.Flock_t) error {
		if cmd == unix.F_OFD_GETLK {
			lk.Type = unix.F_UNLCK
			return nil
		}
		if log != nil {
			*log = append(*log, byteLock{lk.Start, lk.Type})
		}
		return unix.FcntlFlock(fd, cmd, lk)
	}
	k.mounts = func() (string, error) { return "1 0 0:1 / / rw - nfs server:/ rw,vers=3,local_lock=none\n", nil }
	return k
}

func openOver(t *testing.T, path string, write bool, k kernel) *osFile {
	t.Helper()
	f := openOS(t, path, write)
	f.sys = k
	return f
}

// The same table as on a local file system, though queries tell nothing.
func TestLockOverANetworkIsRefusedByByte(t *testing.T) {
	read, write := []int64{101, 103, 200}, []int64{101, 103, 200, 201, 203}
	for name, kind := range kinds {
		for off := int64(99); off < 205; off++ {
			path := newFile(t, t.TempDir(), "disk", "")
			holdByte(t, path, unix.F_RDLCK, off)
			for mode, busy := range map[LockMode][]int64{LockRead: read, LockWrite: write} {
				f := openOver(t, path, mode == LockWrite, overNFS(kind, nil))
				err := f.Lock(mode)
				if slices.Contains(busy, off) {
					wantBusy(t, err, path, mode)
					wantLocked(t, path, off)
				} else if err != nil {
					t.Errorf("%s, byte %d, mode %d: %v", name, off, mode, err)
				}
				must(t, f.Close())
			}
		}
	}
}

// QEMU on another host takes read locks and asks for others in vain: a writer must be in
// the way of the locks themselves, of all but those who read and share everything.
func TestAWriterOverANetworkKeepsQEMUFromTakingItsLocks(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	f := openOver(t, path, true, overNFS(nfs, nil))
	must(t, f.Lock(LockWrite))
	other, err := os.Open(path)
	must(t, err)
	defer other.Close()
	var free []int64
	for off := int64(99); off < 205; off++ {
		err := setLock(other, linux(), unix.F_RDLCK, off)
		if err == nil {
			free = append(free, off)
			must(t, setLock(other, linux(), unix.F_UNLCK, off))
		} else if !isHeld(err) {
			t.Fatal(err)
		}
	}
	if want := []int64{99, 100, 102}; !slices.Equal(free[:3], want) || slices.Contains(free, 201) || slices.Contains(free, 203) {
		t.Errorf("free: %v", free)
	}
	must(t, f.Close())
	wantLocked(t, path)
}

// A reader leaves others who read in peace: after it has looked, it holds read locks.
func TestAReaderOverANetworkHoldsReadLocks(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	for _, write := range []bool{false, true} {
		a, b := openOver(t, path, write, overNFS(nfs, nil)), openOver(t, path, write, overNFS(nfs, nil))
		must(t, a.Lock(LockRead))
		must(t, b.Lock(LockRead))
		wantLocked(t, path, 100, 201, 203)
		must(t, a.Close())
		must(t, b.Close())
		wantLocked(t, path)
	}
}

// From read to write locks and back on failure: a lock that was there is never lost.
func TestLocksOverANetworkStayWhatTheyWere(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	a, b := openOver(t, path, true, overNFS(nfs, nil)), openOver(t, path, true, overNFS(nfs, nil))
	must(t, a.Lock(LockRead))
	must(t, b.Lock(LockRead))
	wantBusy(t, a.Lock(LockWrite), path, LockWrite)
	if want := []byteLock{{100, unix.F_RDLCK}, {201, unix.F_RDLCK}, {203, unix.F_RDLCK}}; !slices.Equal(a.held, want) {
		t.Errorf("held %v, want %v", a.held, want)
	}
	must(t, b.Lock(LockRead)) // a has no write lock left
	must(t, b.Close())
	wantLocked(t, path, 100, 201, 203)
	must(t, a.Lock(LockWrite))
	wantLocked(t, path, 100, 101, 103, 201, 203)
	must(t, a.Lock(LockRead)) // takes nothing away
	wantLocked(t, path, 100, 101, 103, 201, 203)
}

// The last byte that is looked at is in use: those that had become write locks by then are
// read locks again.
func TestALockThatFailsLateIsAReadLockAgain(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	f := openOver(t, path, true, overNFS(nfs, nil))
	must(t, f.Lock(LockRead))
	holdByte(t, path, unix.F_RDLCK, 200)
	wantBusy(t, f.Lock(LockWrite), path, LockWrite)
	wantLocked(t, path, 100, 200, 201, 203)
	for _, off := range []int64{101, 103, 201, 203} {
		holdByte(t, path, unix.F_RDLCK, off)
	}
}

// What is probed is given back before the next byte, and no byte of our own is.
func TestProbesAreShortAndNeverOfOwnBytes(t *testing.T) {
	for mode, want := range map[LockMode][]byteLock{
		LockRead: {
			{100, unix.F_RDLCK}, {201, unix.F_RDLCK}, {203, unix.F_RDLCK},
			{200, unix.F_WRLCK}, {200, unix.F_UNLCK}, {101, unix.F_WRLCK}, {101, unix.F_UNLCK}, {103, unix.F_WRLCK}, {103, unix.F_UNLCK},
		},
		LockWrite: {
			{100, unix.F_RDLCK}, {101, unix.F_WRLCK}, {103, unix.F_WRLCK}, {201, unix.F_WRLCK}, {203, unix.F_WRLCK},
			{200, unix.F_WRLCK}, {200, unix.F_UNLCK},
		},
	} {
		var log []byteLock
		f := openOver(t, newFile(t, t.TempDir(), "disk", ""), true, overNFS(nfs, &log))
		must(t, f.Lock(mode))
		if !slices.Equal(log, want) {
			t.Errorf("mode %d: %v, want %v", mode, log, want)
		}
	}
}

// On a file system of this host alone nothing is probed.
func TestLocalLocksAreOnlyAskedFor(t *testing.T) {
	var log []byteLock
	f := openOver(t, newFile(t, t.TempDir(), "disk", ""), true, overNFS(unix.XFS_SUPER_MAGIC, &log))
	must(t, f.Lock(LockWrite))
	for _, l := range log {
		if l.kind != unix.F_RDLCK {
			t.Errorf("%v", log)
		}
	}
	if use, err := inUse(f.Path(), overNFS(unix.XFS_SUPER_MAGIC, &log), (*prober).busy); err != nil || use != (Use{}) {
		t.Errorf("%+v, %v: it is to believe the answers", use, err)
	}
}

// AskUse believes the answers on a network file system, too, and takes no lock there.
func TestAskUseTakesNoLock(t *testing.T) {
	var log []byteLock
	path := newFile(t, t.TempDir(), "disk", "")
	if use, err := inUse(path, overNFS(nfs, &log), (*prober).asked); err != nil || use != (Use{}) || len(log) > 0 {
		t.Errorf("%+v, %v, locks %v", use, err, log)
	}
	if _, err := inUse(path, overNFS(nfs, &log), (*prober).busy); err != nil || len(log) == 0 {
		t.Errorf("%v, locks %v", err, log)
	}
}

// SMB has mandatory locks: a write lock on the header's bytes would keep us from reading it.
func TestNoWriteLockStaysOnSMB(t *testing.T) {
	for _, kind := range []int64{0x517B, 0xFF534D42, 0xFE534D42} {
		f := openOver(t, newFile(t, t.TempDir(), "disk", ""), true, overNFS(kind, nil))
		must(t, f.Lock(LockWrite))
		for _, l := range f.held {
			if l.kind != unix.F_RDLCK {
				t.Errorf("%#x: %v", kind, f.held)
			}
		}
		wantLocked(t, f.Path(), 100, 101, 103, 201, 203) // in particular, nothing was probed away
		holdByte(t, f.Path(), unix.F_RDLCK, 200)
		g := openOver(t, f.Path(), false, overNFS(kind, nil))
		wantBusy(t, g.Lock(LockRead), f.Path(), LockRead)
	}
}

func TestInUseOverANetwork(t *testing.T) {
	for off, want := range map[int64]Use{
		100: {Read: true}, 101: {Read: true, Write: true}, 102: {Read: true, Write: true}, 103: {Read: true, Write: true}, 99: {}, 104: {},
	} {
		path := newFile(t, t.TempDir(), "disk", "")
		holdByte(t, path, unix.F_RDLCK, off)
		if got, err := inUse(path, overNFS(nfs, nil), (*prober).busy); err != nil || got != want {
			t.Errorf("byte %d: %+v, %v; want %+v", off, got, err, want)
		}
		wantLocked(t, path, off)
	}
}

// What cannot be opened for writing cannot be probed: the answers have to do.
func TestWithoutADescriptorThatCanWriteTheAnswersDo(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	dir := small(t)
	path := newFile(t, dir, "disk", "")
	must(t, unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	f := openOver(t, path, false, overNFS(nfs, nil))
	must(t, f.Lock(LockRead))
	if use, err := inUse(path, overNFS(nfs, nil), (*prober).busy); err != nil || use != (Use{}) {
		t.Errorf("%+v, %v", use, err)
	}
	must(t, f.Close())
}

func TestProbesThatFailAreErrors(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	for _, kind := range []int16{unix.F_WRLCK, unix.F_UNLCK} {
		k := overNFS(nfs, nil)
		take := k.lock
		k.lock = func(fd uintptr, cmd int, lk *unix.Flock_t) error {
			if cmd == unix.F_OFD_SETLK && lk.Type == kind && lk.Start == 101 {
				return unix.EIO
			}
			return take(fd, cmd, lk)
		}
		wantErr(t, openOver(t, path, false, k).Lock(LockRead), unix.EIO)
		_, err := inUse(path, k, (*prober).busy)
		wantErr(t, err, unix.EIO)
	}
	k := linux()
	k.statfs = func(int, *unix.Statfs_t) error { return unix.EIO }
	wantErr(t, openOver(t, path, false, k).Lock(LockRead), unix.EIO)
	wantLocked(t, path)
}

func TestLockForWritingIsRefusedWhereLocksStayLocal(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	k := overNFS(nfs, nil)
	k.mounts = func() (string, error) { return "1 0 0:1 / / rw - nfs server:/ rw,vers=3,nolock\n", nil }
	f := openOver(t, path, true, k)
	var local *LocalLocksError
	if err := f.Lock(LockWrite); !errors.As(err, &local) || local.Path != path {
		t.Errorf("%v", err)
	}
	wantLocked(t, path)
	must(t, f.Lock(LockRead)) // harms nobody
}

func TestMagicsAreThoseOfTheKernel(t *testing.T) {
	if _, err := os.Stat("/proc/self"); err != nil {
		t.Fatal(err)
	}
	for name, kind := range kinds {
		if sharingOf(&unix.Statfs_t{Type: kind}) != ofOthers {
			t.Error(name)
		}
	}
	for _, kind := range []int64{unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC} {
		if sharingOf(&unix.Statfs_t{Type: kind}) != ofThisHost {
			t.Errorf("%#x", kind)
		}
	}
	if reason, err := LocksStayLocal(newFile(t, t.TempDir(), "disk", "")); reason != "" || err != nil {
		t.Errorf("%q, %v", reason, err)
	}
	if reason, err := LocksStayLocal(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%q, %v", reason, err)
	}
}

// Who knows by other means that no other host has an image locks it where locks stay on this host; other programs on this one are
// seen all the same.
func TestAnImageThatNoOtherHostHasIsLockedWhereLocksStay(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "")
	k := overNFS(nfs, nil)
	k.mounts = func() (string, error) { return "1 0 0:1 / / rw - nfs server:/ rw,vers=3,nolock\n", nil }
	var local *LocalLocksError
	for alone, refused := range map[string]bool{path: false, path + "x": true} {
		f := openOver(t, path, true, k)
		f.alone = func(p string) bool { return p == alone }
		if err := f.Lock(LockWrite); errors.As(err, &local) != refused || (err != nil) != refused {
			t.Errorf("%s: %v", alone, err)
		}
		must(t, f.Close())
	}
	f, err := Alone(OS(), func(string) bool { return true }).Open(path, true)
	must(t, err)
	must(t, f.Lock(LockWrite))
	other := openOver(t, path, true, k)
	other.alone = func(string) bool { return true }
	wantBusy(t, other.Lock(LockWrite), path, LockWrite)
	must(t, f.Close())
}
