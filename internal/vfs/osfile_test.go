package vfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// noise is n bytes that are not zero and do not repeat soon.
func noise(n int64) []byte {
	rng := rand.New(rand.NewPCG(uint64(n), 1))
	var b []byte
	for int64(len(b)) < n {
		b = binary.NativeEndian.AppendUint64(b, rng.Uint64()|0x0101010101010101)
	}
	return b[:n]
}

// mounted makes a file system of that type on a loop device, for root only.
func mounted(t *testing.T, kind string, size int64, mkfs ...string) string {
	t.Helper()
	device := loopDevice(t, size)
	if out, err := exec.Command(mkfs[0], append(mkfs[1:], device)...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v\n%s", mkfs, err, out)
	}
	return mount(t, device, kind, "")
}

func mount(t *testing.T, device, kind, options string) string {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount(device, dir, kind, 0, options))
	t.Cleanup(func() { must(t, unix.Unmount(dir, 0)) })
	return dir
}

// small is a file system with 1 MiB of space.
func small(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root may mount")
	}
	return mount(t, "none", "tmpfs", "size=1m")
}

// wantBytes compares the whole file.
func wantBytes(t *testing.T, f File, want []byte) {
	t.Helper()
	info, err := f.Stat()
	must(t, err)
	got := make([]byte, info.Size)
	if n, err := f.ReadAt(got, 0); int64(n) != info.Size {
		t.Fatalf("read %d of %d bytes: %v", n, info.Size, err)
	}
	if bytes.Equal(got, want) {
		return
	}
	if len(got) != len(want) {
		t.Fatalf("%d bytes, want %d", len(got), len(want))
	}
	for i := range got {
		if got[i] != want[i] {
			t.Fatalf("byte %d is %#x, want %#x", i, got[i], want[i])
		}
	}
}

func TestFailedSyncIsNeverRepaired(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", nil)
	calls := 0
	f.sys.sync = func(*os.File) error {
		calls++
		if calls == 2 {
			return &os.PathError{Op: "sync", Path: f.Path(), Err: unix.EIO}
		}
		return nil
	}
	must(t, f.Sync())
	first := f.Sync()
	wantErr(t, first, unix.EIO)
	if again := f.Sync(); !errors.Is(again, first) || calls != 2 {
		t.Errorf("again: %v after %d calls", again, calls)
	}
}

// The kernel tells one fsync of an error: another that runs beside it succeeds.
func TestSyncsDoNotOvertakeEachOther(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", nil)
	var inside, failures atomic.Int32
	told := false
	f.sys.sync = func(*os.File) error {
		if inside.Add(1) > 1 {
			t.Error("two at once")
		}
		defer inside.Add(-1)
		time.Sleep(time.Millisecond)
		if told {
			return nil
		}
		told = true
		return unix.EIO
	}
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if f.Sync() != nil {
				failures.Add(1)
			}
		})
	}
	all.Wait()
	if failures.Load() != 8 {
		t.Errorf("%d of 8 failed", failures.Load())
	}
}

func TestSyncOfReadOnlyFile(t *testing.T) {
	must(t, openOS(t, newFile(t, t.TempDir(), "disk", "x"), false).Sync())
}

func TestReserveAllocatesAndKeepsTheLength(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", []byte("data"))
	must(t, f.Reserve(0, 1<<20))
	must(t, f.Reserve(0, 0))
	info, err := f.Stat()
	if err != nil || info.Size != 4 || info.Allocated < 1<<20 {
		t.Errorf("%+v, %v", info, err)
	}
	wantBytes(t, f, []byte("data"))
}

func TestReserveOnAFullDisk(t *testing.T) {
	f := createOS(t, small(t), "disk", nil)
	must(t, f.Reserve(0, 1<<19))
	wantErr(t, f.Reserve(0, 2<<20), syscall.ENOSPC)
}

func TestReserveComparesWhereThereIsNoFallocate(t *testing.T) {
	for _, lack := range []error{unix.EOPNOTSUPP, unix.ENOSYS} {
		f := createOS(t, t.TempDir(), "disk", nil)
		f.sys.fallocate = func(int, uint32, int64, int64) error { return lack }
		f.sys.statfs = func(_ int, st *unix.Statfs_t) error {
			*st = unix.Statfs_t{Frsize: 4096, Bfree: 20, Bavail: 10}
			return nil
		}
		must(t, f.Reserve(1<<30, 40960))
		wantErr(t, f.Reserve(0, 40961), syscall.ENOSPC)
	}
	f := createOS(t, t.TempDir(), "disk", nil)
	f.sys.fallocate = func(int, uint32, int64, int64) error { return unix.EIO }
	wantErr(t, f.Reserve(0, 1), unix.EIO)
}

// ext4 without extents, as ext2 makes it, has no fallocate.
func TestReserveOnExt2(t *testing.T) {
	f := createOS(t, mounted(t, "ext4", 8<<20, "mkfs.ext2", "-q"), "disk", nil)
	wantErr(t, f.fallocate(unix.FALLOC_FL_KEEP_SIZE, 0, 1<<20), unix.EOPNOTSUPP)
	must(t, f.Reserve(0, 1<<20))
	wantErr(t, f.Reserve(0, 8<<20), syscall.ENOSPC)
}

func TestInterruptedCallsAreRepeated(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", nil)
	calls := 0
	f.sys.fallocate = func(fd int, mode uint32, off, n int64) error {
		if calls++; calls < 3 {
			return unix.EINTR
		}
		return unix.Fallocate(fd, mode, off, n)
	}
	must(t, f.Reserve(0, 4096))
	if calls != 3 {
		t.Errorf("%d calls", calls)
	}
}

// zeroed is b with n bytes at off, as far as there are any, cleared.
func zeroed(b []byte, off, n int64) []byte {
	b = bytes.Clone(b)
	if off < int64(len(b)) {
		clear(b[off:min(off+n, int64(len(b)))])
	}
	return b
}

func TestPunch(t *testing.T) {
	lacking := func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	content := noise(3<<20 + 700)
	for name, fallocate := range map[string]func(int, uint32, int64, int64) error{
		"hole": unix.Fallocate, "zeros": lacking,
	} {
		for _, r := range [][2]int64{
			{0, 4096}, {100, 5000}, {4096, 2 << 20}, {3 << 20, 700}, {3 << 20, 701}, {0, 1 << 30}, {5 << 20, 10}, {7, 0},
		} {
			f := createOS(t, t.TempDir(), "disk", content)
			f.sys.fallocate = fallocate
			if err := f.Punch(r[0], r[1]); err != nil {
				t.Errorf("%s %v: %v", name, r, err)
			}
			wantBytes(t, f, zeroed(content, r[0], r[1]))
		}
	}
}

func TestPunchGivesSpaceBack(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", noise(1<<20))
	must(t, f.Sync())
	must(t, f.Punch(0, 1<<20))
	if info, err := f.Stat(); err != nil || info.Allocated > 1<<19 {
		t.Errorf("%+v, %v", info, err)
	}
}

// Without punching, what is a hole already stays one.
func TestPunchFillsNoHoles(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", noise(4096))
	must(t, f.Truncate(64<<20))
	f.sys.fallocate = func(int, uint32, int64, int64) error { return unix.EOPNOTSUPP }
	must(t, f.Punch(0, 64<<20))
	if info, err := f.Stat(); err != nil || info.Allocated > 1<<16 || info.Size != 64<<20 {
		t.Errorf("%+v, %v", info, err)
	}
}

func TestPunchTellsErrors(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", noise(4096))
	f.sys.fallocate = func(int, uint32, int64, int64) error { return unix.EIO }
	wantErr(t, f.Punch(0, 4096), unix.EIO)
	f.sys.fallocate = func(int, uint32, int64, int64) error { return unix.EINVAL }
	wantErr(t, f.Punch(0, 4096), unix.EINVAL)
}

func TestImpossibleRangesAreRefused(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", noise(4096))
	for _, r := range [][2]int64{{-1, 1}, {1, -1}, {math.MaxInt64, 1}} {
		wantErr(t, f.Punch(r[0], r[1]), syscall.EINVAL)
		wantErr(t, f.Reserve(r[0], r[1]), syscall.EINVAL)
		wantErr(t, second(f.Copy(r[0], f, 0, r[1])), syscall.EINVAL)
		wantErr(t, second(f.Copy(0, f, r[0], r[1])), syscall.EINVAL)
	}
	_, _, err := f.NextData(-1)
	wantErr(t, err, syscall.EINVAL)
	wantBytes(t, f, noise(4096))
}

func wantNext(t *testing.T, f File, off, start, end int64) {
	t.Helper()
	if s, e, err := f.NextData(off); s != start || e != end || err != nil {
		t.Errorf("from %d: [%d, %d), %v; want [%d, %d)", off, s, e, err, start, end)
	}
}

func TestNextDataFindsStretches(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", nil)
	must(t, f.Truncate(1<<20))
	for _, off := range []int64{64 << 10, 512 << 10} {
		must(t, second(f.WriteAt(noise(8192), off)))
	}
	wantNext(t, f, 0, 64<<10, 72<<10)
	wantNext(t, f, 65<<10, 65<<10, 72<<10)
	wantNext(t, f, 72<<10, 512<<10, 520<<10)
	wantNext(t, f, 520<<10, 1<<20, 1<<20)
	wantNext(t, f, 1<<20, 1<<20, 1<<20)
	wantNext(t, f, 2<<20, 1<<20, 1<<20)
}

func TestNextDataIsAllWhereItCannotBeTold(t *testing.T) {
	f := createOS(t, t.TempDir(), "disk", nil)
	must(t, f.Truncate(1<<20))
	for _, lack := range []error{unix.EINVAL, unix.EOPNOTSUPP, unix.ENOSYS} {
		f.sys.seek = func(int, int64, int) (int64, error) { return -1, lack }
		wantNext(t, f, 100, 100, 1<<20)
		wantNext(t, f, 1<<20, 1<<20, 1<<20)
	}
	f.sys.seek = func(int, int64, int) (int64, error) { return -1, unix.EIO }
	_, _, err := f.NextData(0)
	wantErr(t, err, unix.EIO)
}

func TestBlockDeviceAsFile(t *testing.T) {
	const size = 4 << 20
	f := openOS(t, loopDevice(t, size), true)
	content := noise(size)
	must(t, second(f.WriteAt(content, 0)))
	info, err := f.Stat()
	if err != nil || info != mustStat(t, f.Path()) || info.Size != size {
		t.Errorf("%+v, %v", info, err)
	}
	must(t, f.Reserve(0, size))
	wantErr(t, f.Reserve(1, size), syscall.ENOSPC)
	wantNext(t, f, 100, 100, size)
	wantNext(t, f, size, size, size)
	for _, r := range [][2]int64{{4096, 8192}, {100, 300}, {size - 1000, 5000}, {size, 4096}, {2 << 20, 4 << 20}} {
		must(t, f.Punch(r[0], r[1]))
		content = zeroed(content, r[0], r[1])
		wantBytes(t, f, content)
	}
	must(t, f.Sync())
}

func TestClosedFile(t *testing.T) {
	path := newFile(t, t.TempDir(), "disk", "x")
	f := openOS(t, path, true)
	must(t, f.Close())
	wantErr(t, f.Sync(), os.ErrClosed)
	wantErr(t, second(f.ReadAt(make([]byte, 1), 0)), os.ErrClosed)
	wantErr(t, f.Close(), os.ErrClosed)
	for _, err := range []error{f.Reserve(0, 1), f.Punch(0, 1), f.Lock(LockRead)} {
		var busy *BusyError
		if err == nil || errors.As(err, &busy) {
			t.Errorf("got %v", err)
		}
	}
	if filepath.Base(f.Path()) != "disk" {
		t.Error(f.Path())
	}
}

// A file system without holes is told from one that has them, and nothing is changed for it.
func TestFileSystemsThatGiveNothingBackAreKnown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(path, noise(100), 0o600))
	opened, err := OS().Open(path, true)
	must(t, err)
	defer opened.Close()
	if yes, err := GivesBack(opened); err != nil || !yes {
		t.Errorf("%v, %v", yes, err)
	}
	wantBytes(t, opened, noise(100))
	f := opened.(*osFile)
	for lack, want := range map[error]error{unix.EOPNOTSUPP: nil, unix.ENOSYS: nil, unix.EIO: unix.EIO} {
		f.sys.fallocate = func(int, uint32, int64, int64) error { return lack }
		if yes, err := GivesBack(f); yes || !errors.Is(err, want) {
			t.Errorf("%v: %v, %v", lack, yes, err)
		}
	}
	if yes, err := GivesBack(Full(readOnly{nothing{}, 0})); err != nil || !yes {
		t.Errorf("of a file that does not tell: %v, %v", yes, err)
	}
}
